"""The sample sheet: a fixed handful of images, their masks, and each region redrawn from several noises."""

import torch
from torch import Tensor
from torchvision.utils import make_grid

from redo.losses import composite


def sheet_tiles(images: Tensor, objects: Tensor, masks: Tensor, drawings: Tensor, shared_drawings: Tensor) -> Tensor:
    """The tiles of the sheet, in the layout of ReDO's code.

    Rows: per region a blank one, then one per image. Columns: input, ground truth, hard mask, soft mask, the region
    redrawn from the image's own noise, then from each shared noise.

    Args:
        images: (T, 3, S, S) in [-1, 1].
        objects: Ground truth (T, 1, S, S), 0 or more; each is scaled to a maximum of 1.
        masks: (T, n, S, S).
        drawings: Regions cut out (T, n, 3, S, S), from a noise per image.
        shared_drawings: Regions cut out (n, V, T, 3, S, S), from V noises that all images share.

    Returns:
        (n, T+1, 5+V, 3, S, S) in [-1, 1].
    """
    T, n, S = masks.shape[:3]
    V = shared_drawings.shape[1]
    tiles = torch.full((n, T + 1, 5 + V, 3, S, S), -1.0, dtype=torch.float32, device=images.device)
    rows = tiles[:, 1:]
    soft = masks.transpose(0, 1).unsqueeze(2) * 2 - 1  # (n,T,1,S,S)
    peak = objects.amax(dim=(1, 2, 3), keepdim=True)
    rows[:, :, 0] = images
    rows[:, :, 1] = objects / torch.where(peak > 0, peak, 1.0) * 2 - 1
    rows[:, :, 2] = soft.sign()
    rows[:, :, 3] = soft
    rows[:, :, 4] = _redrawn_tiles(drawings, masks, images)
    for v in range(V):
        rows[:, :, 5 + v] = _redrawn_tiles(shared_drawings[:, v].transpose(0, 1), masks, images)
    return tiles


def sheet_picture(tiles: Tensor) -> Tensor:
    """The tiles of `sheet_tiles` in one picture (3, H, W) in [0, 1], with gaps of two pixels."""
    columns = tiles.shape[2]
    return make_grid(tiles.flatten(0, 2), nrow=columns, padding=2, normalize=True, value_range=(-1, 1))


def _redrawn_tiles(drawings: Tensor, masks: Tensor, images: Tensor) -> Tensor:
    """The images with one region redrawn, by region first: (n, T, 3, S, S)."""
    return composite(drawings, masks, images).unflatten(0, masks.shape[:2]).transpose(0, 1)
