"""Boxes: [x, y, w, h] and [x0, y0, x1, y1] in pixels, on continuous coordinates (no + 1)."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

EPSILON = 1e-8


def box_iou(box: ArrayLike, boxes: ArrayLike) -> NDArray[np.float32]:
    """IoU of one box with many, in float32.

    Args:
        box: (4,) x0, y0, x1, y1.
        boxes: (M, 4) likewise; M may be 0.

    Returns:
        (M,).
    """
    first = np.asarray(box, dtype=np.float32)
    others = np.asarray(boxes, dtype=np.float32).reshape(-1, 4)
    sides = np.minimum(first[2:], others[:, 2:]) - np.maximum(first[:2], others[:, :2])
    intersection = np.prod(np.maximum(sides, 0), axis=1)
    union = np.prod(first[2:] - first[:2]) + np.prod(others[:, 2:] - others[:, :2], axis=1) - intersection
    iou: NDArray[np.float32] = (intersection / (union + np.float32(EPSILON))).astype(np.float32)
    return iou


def corners(box: Sequence[float]) -> tuple[float, float, float, float]:
    """[x, y, w, h] as (x0, y0, x1, y1)."""
    x, y, w, h = box
    return x, y, x + w, y + h


def rounded_corners(box: Sequence[float]) -> tuple[int, int, int, int]:
    """[x, y, w, h] as (x0, y0, x1, y1), each number rounded to an integer, halves to even."""
    x0, y0, x1, y1 = corners(box)
    return round(x0), round(y0), round(x1), round(y1)


def fill_box(box: Sequence[float], size: tuple[int, int]) -> NDArray[np.bool_]:
    """The mask (H, W) of a box [x, y, w, h]: rounded sides, with one row and one column more than they span."""
    x, y, w, h = box
    mask = np.zeros(size, dtype=np.bool_)
    mask[max(round(y), 0) : max(round(y + h) + 1, 0), max(round(x), 0) : max(round(x + w) + 1, 0)] = True
    return mask
