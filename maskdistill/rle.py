"""Masks as COCO stores them: run-length codes, boxes, areas.

Runs go down the columns and start with the run of zeros, which is 0 when the first pixel is set.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco_mask

from common.errors import InputError

Mask = NDArray[np.bool_]
Size = tuple[int, int]


def encode(mask: NDArray[Any]) -> dict[str, Any]:
    """The compressed code of a mask (H, W): ``{"size": [H, W], "counts": str}``, ready for JSON."""
    code = coco_mask.encode(np.asfortranarray(mask, dtype=np.uint8))
    return {"size": [int(side) for side in code["size"]], "counts": code["counts"].decode("ascii")}


def runs(mask: NDArray[Any]) -> list[int]:
    """The lengths of the runs of a mask (H, W): the uncompressed form of its code."""
    pixels = np.asarray(mask, dtype=np.bool_).ravel(order="F")
    changes = np.flatnonzero(pixels[1:] != pixels[:-1]) + 1
    bounds = [0, *changes.tolist(), pixels.size]
    lengths = np.diff(bounds).tolist()
    return [0, *lengths] if pixels.size and pixels[0] else lengths


def decode(segmentation: Mapping[str, Any] | list[list[float]], size: Size) -> Mask:
    """The mask (H, W) of a code, compressed or not, or of the union of polygons ``[x0, y0, x1, y1, ...]``.

    Args:
        segmentation: The ``segmentation`` field of a COCO entry.
        size: (H, W) of the image.

    Raises:
        InputError: The code is of another size, or a polygon has fewer than three points.
    """
    mask: Mask = coco_mask.decode(code_of(segmentation, size)).astype(np.bool_)
    return mask


def code_of(segmentation: Mapping[str, Any] | list[list[float]], size: Size) -> dict[str, Any]:
    """The compressed code of a segmentation field, as pycocotools takes it; see :func:`decode`."""
    height, width = size
    code: dict[str, Any]
    if isinstance(segmentation, Mapping):
        found = tuple(segmentation.get("size", ()))
        if found != (height, width):
            raise InputError(f"segmentation size {list(found)} differs from the image's {[height, width]}")
        counts = segmentation["counts"]
        if isinstance(counts, list):
            code = coco_mask.frPyObjects({"size": [height, width], "counts": counts}, height, width)
            return code
        return {"size": [height, width], "counts": counts}
    short = [len(polygon) for polygon in segmentation if len(polygon) < 6 or len(polygon) % 2]
    if short:
        raise InputError(f"polygon of {short[0]} numbers: it needs x and y of at least 3 points")
    if segmentation:
        code = coco_mask.merge(coco_mask.frPyObjects(segmentation, height, width))
    else:
        code = coco_mask.encode(np.zeros((height, width), dtype=np.uint8, order="F"))
    return code


def bounding_box(mask: NDArray[Any]) -> list[float]:
    """The tight box [x, y, w, h] of a mask (H, W) in pixels; zeros when it is empty."""
    rows, columns = np.flatnonzero(np.any(mask, axis=1)), np.flatnonzero(np.any(mask, axis=0))
    if not len(rows):
        return [0.0, 0.0, 0.0, 0.0]
    x, y = columns[0], rows[0]
    return [float(x), float(y), float(columns[-1] - x + 1), float(rows[-1] - y + 1)]
