"""Stage A on one image: from pixels to the object's entry in the mask file."""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F

from common.errors import InputError
from maskdistill.annotations import MaskResize, patches_to_pixels, resize_mask
from maskdistill.mask_generator import ObjectMask, Ties, object_mask
from maskdistill.model.vit import VisionTransformer
from maskdistill.transforms import normalise


def resize_shorter(image: NDArray[np.uint8], shorter_px: int) -> NDArray[np.uint8]:
    """An image (H, W, 3) whose shorter side is ``shorter_px``, aspect kept; Pillow's bilinear filter, antialiased."""
    height, width = image.shape[:2]
    shorter, longer = sorted((height, width))
    if shorter == shorter_px:
        return image
    longer_px = int(shorter_px * longer / shorter)
    size = (shorter_px, longer_px) if width <= height else (longer_px, shorter_px)
    return np.asarray(Image.fromarray(image).resize(size, Image.Resampling.BILINEAR))


def pad_to_patches(image: Tensor, patch_size: int) -> Tensor:
    """A normalised image (..., H, W) with zeros, the mean colour, right and below up to multiples of the patch."""
    H, W = image.shape[-2:]
    return F.pad(image, (0, -W % patch_size, 0, -H % patch_size))


@torch.no_grad()
def distill(
    network: VisionTransformer,
    image: NDArray[np.uint8],
    *,
    resize: int = 640,
    heads: int = 5,
    topk: float = 0.4,
    share: float = 0.5,
    ties: Ties = "strict",
    mask_resize: MaskResize = "legacy",
) -> tuple[NDArray[np.bool_], ObjectMask]:
    """The object of one image.

    Args:
        network: In eval mode.
        image: RGB (H, W, 3).
        resize: The shorter side of the network's input in pixels.
        heads: See :func:`~maskdistill.mask_generator.object_mask`.
        topk: Likewise.
        share: Likewise.
        ties: Likewise.
        mask_resize: See :func:`~maskdistill.annotations.resize_mask`; ``nearest`` goes from the patches to the image
            in one step, the others by way of the network's input.

    Returns:
        The mask (H, W) and the mask on patches.

    Raises:
        InputError: The image is empty.
    """
    if min(image.shape[:2]) < 1:
        raise InputError(f"image of size {image.shape[1]} x {image.shape[0]}: nothing to see")
    size, patch = image.shape[:2], network.patch_size
    pixels = normalise(resize_shorter(image, resize))
    padded = pad_to_patches(pixels, patch)
    grid = (padded.shape[-2] // patch, padded.shape[-1] // patch)
    queries, keys = network.queries_keys(padded[None].to(_device(network)))
    found = object_mask(queries[0, :, 0], keys[0], grid, heads=heads, topk=topk, share=share, ties=ties)
    height, width = pixels.shape[-2:]
    if mask_resize == "nearest":
        return patches_to_image(found.mask, patch, (height, width), (size[0], size[1])), found
    mask = patches_to_pixels(found.mask, patch, (height, width))
    return resize_mask(mask, (size[0], size[1]), mask_resize), found


def patches_to_image(
    patches: NDArray[Any], patch_size: int, input_size: tuple[int, int], size: tuple[int, int]
) -> NDArray[np.bool_]:
    """A mask on patches at the image's size, by the patch under each pixel's centre.

    Args:
        patches: (h, w).
        patch_size: In pixels of the network's input.
        input_size: (rows, columns) of that input without padding.
        size: (H, W) of the image.
    """
    rows, columns = (
        ((np.arange(length) + 0.5) * resized / length // patch_size).astype(np.int64)
        for length, resized in zip(size, input_size, strict=True)
    )
    return np.asarray(patches, dtype=np.bool_)[np.ix_(rows, columns)]


def _device(network: nn.Module) -> torch.device:
    return next(iter(network.state_dict().values())).device
