"""From files' pixels to what the networks see: the square crop, the value range.

Pure functions on uint8 arrays, after ReDO's code.
"""

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Pixels = NDArray[np.uint8]


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


def network_input(image: Pixels) -> NDArray[np.float32]:
    """uint8 (..., H, W, 3) to float32 (..., 3, H, W) in [-1, 1]."""
    return np.moveaxis(image.astype(np.float32) / np.float32(127.5) - 1, -1, -3)
