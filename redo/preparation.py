"""From files' pixels to what the networks see: the square crop, the value range.

Pure functions, after ReDO's code.
"""

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor


def square(pixels: NDArray[np.generic], size: int) -> NDArray[np.generic]:
    """The image or mask, uint8 or bool (H, W) or (H, W, C), as a centred square of side ``size``.

    The shorter side is resized to ``size`` and the longer one cut. Offsets of half a pixel go to the even side.
    """
    values = with_short_side(pixels, size)
    top, left = centre_offsets(values.shape[:2], size)
    return values[top : top + size, left : left + size]


def with_short_side(pixels: NDArray[np.generic], size: int) -> NDArray[np.generic]:
    """The whole image or mask with the shorter side resized to ``size``, the longer one in proportion, rounded down.

    By nearest neighbour (Pillow's).
    """
    H, W = pixels.shape[:2]
    short = min(H, W)
    rows, columns = (size if side == short else int(size * side / short) for side in (H, W))
    if (rows, columns) == (H, W):
        return pixels
    grey = pixels.ndim == 3 and pixels.shape[2] == 1
    values = pixels.astype(np.uint8) if pixels.dtype == np.bool_ else pixels
    picture = Image.fromarray(values[..., 0] if grey else values)
    resized = np.asarray(picture.resize((columns, rows), Image.Resampling.NEAREST)).astype(pixels.dtype, copy=False)
    return resized[..., None] if grey else resized


def centre_offsets(shape: tuple[int, ...], size: int) -> tuple[int, int]:
    """Row and column where the centred square begins."""
    return round((shape[0] - size) / 2), round((shape[1] - size) / 2)


def network_images(images: Tensor) -> Tensor:
    """uint8 (B, S, S, C) to float32 (B, C, S, S) in [-1, 1], on the device of the images."""
    return images.permute(0, 3, 1, 2).float().div(127.5).sub(1).contiguous()


def in_colour(images: Tensor) -> Tensor:
    """Three channels (..., 3, S, S) of one or three."""
    return images if images.shape[-3] == 3 else images.expand(*images.shape[:-3], 3, *images.shape[-2:])
