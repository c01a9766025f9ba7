"""The sample sheet: a fixed handful of images, their masks, and each region redrawn from several noises."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torchvision.utils import make_grid

from redo.losses import composite
from redo.model import Networks
from redo.preparation import in_colour


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


def draw_sheet(networks: Networks, images: Tensor, objects: Tensor, noise: Tensor, shared: Tensor) -> NDArray[np.uint8]:
    """The sample sheet as a picture, uint8 (H, W, 3).

    Args:
        networks: In evaluation mode.
        images: (T, nx, S, S) in [-1, 1].
        objects: (T, 1, S, S), 0 where nothing is known.
        noise: One per image (T, n, nz, 1, 1).
        shared: One per column (V, n, nz, 1, 1).
    """
    with torch.no_grad():
        masks = networks.mask(images)
        drawings = networks.generators(masks, noise)
        columns = [networks.generators(masks, one.expand(len(images), *one.shape)) for one in shared]
        shared_drawings = torch.stack(columns).permute(2, 0, 1, 3, 4, 5)  # (n,V,T,nx,S,S)
        tiles = sheet_tiles(in_colour(images), objects, masks, in_colour(drawings), in_colour(shared_drawings))
        picture = sheet_picture(tiles)
    return (picture * 255 + 0.5).clamp(0, 255).byte().permute(1, 2, 0).cpu().numpy()
