"""From files' pixels to what the networks see: the square crop, the value range.

Pure functions on uint8 arrays, after ReDO's code.
"""

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Pixels = NDArray[np.uint8]


def square(pixels: NDArray[np.generic], size: int) -> NDArray[np.generic]:
    """The image or mask, uint8 or bool (H, W) or (H, W, 3), as a centred square of side ``size``.

    The shorter side is resized to ``size`` by nearest neighbour (Pillow's), the longer one in proportion, rounded down,
    and cut. Offsets of half a pixel go to the even side.
    """
    H, W = pixels.shape[:2]
    short = min(H, W)
    rows, columns = (size if side == short else int(size * side / short) for side in (H, W))
    values = pixels.astype(np.uint8) if pixels.dtype == np.bool_ else pixels
    if (rows, columns) != (H, W):
        values = np.asarray(Image.fromarray(values).resize((columns, rows), Image.Resampling.NEAREST))
    top, left = round((rows - size) / 2), round((columns - size) / 2)
    return values[top : top + size, left : left + size].astype(pixels.dtype, copy=False)


def network_input(image: Pixels) -> NDArray[np.float32]:
    """uint8 (..., H, W, 3) to float32 (..., 3, H, W) in [-1, 1]."""
    return np.moveaxis(image.astype(np.float32) / np.float32(127.5) - 1, -1, -3)
