"""Resizing of flow, images and masks as tensors: bilinear, pixel centres aligned (``align_corners=False``).

Antialiasing is off by default: the published motion-segmentation results were made without. It matters when shrinking.
"""

import torch
from torch import Tensor
from torch.nn import functional as F


def _bilinear(values: Tensor, size: tuple[int, int], antialias: bool) -> Tensor:
    """Resize the last two axes of a floating-point tensor of any number of axes."""
    *lead, height, width = values.shape
    if len(size) != 2 or min(size) < 1:
        raise ValueError(f"size must be two positive integers (rows, columns), got {size}")
    if (height, width) == tuple(size):
        return values
    flat = values.reshape(1, -1, height, width)
    resized = F.interpolate(flat, size=tuple(size), mode="bilinear", align_corners=False, antialias=antialias)
    return resized.reshape(*lead, *size)


def resize_image(image: Tensor, size: tuple[int, int], antialias: bool = False) -> Tensor:
    """An image, floating point (..., H, W), at ``size`` (rows, columns)."""
    return _bilinear(image, size, antialias)


def resize_flow(flow: Tensor, size: tuple[int, int], antialias: bool = False) -> Tensor:
    """A flow field, floating point (..., 2, H, W), at ``size``; its values stay in pixels of the original size."""
    return _bilinear(flow, size, antialias)


def resize_mask(mask: Tensor, size: tuple[int, int], antialias: bool = False) -> Tensor:
    """A binary mask, integer or bool (..., H, W), at ``size``: interpolated in float32, rounded, cast back.

    Meant for {0, 1}: between ids a and b other ids appear. Object ids are resized by nearest neighbour instead.
    """
    return _bilinear(mask.to(torch.float32), size, antialias).round().to(mask.dtype)
