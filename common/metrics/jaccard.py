"""Intersection over union of binary masks, and the score of bounding boxes.

The empty rule holds everywhere: two empty masks agree, so 0/0 is 1 and never NaN. Functions take numpy arrays or
tensors and answer in kind.
"""

from typing import TYPE_CHECKING, Any, TypeVar

import cv2
import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from torch import Tensor

Array = TypeVar("Array", NDArray[Any], "Tensor")


def mask_counts(predicted: Array, target: Array, void: Array | None = None) -> tuple[Array, Array]:
    """Intersection and union of masks, in pixels.

    Args:
        predicted: Boolean masks (..., H, W).
        target: Boolean masks of the same shape.
        void: Boolean, True where a pixel counts for nothing.

    Returns:
        Two int64 arrays (...): the intersections and the unions.
    """
    if predicted.shape != target.shape:
        raise ValueError(f"masks of shapes {tuple(predicted.shape)} and {tuple(target.shape)} cannot be compared")
    intersection, union = predicted & target, predicted | target
    if void is not None:
        intersection, union = intersection & ~void, union & ~void
    return intersection.sum(-1).sum(-1), union.sum(-1).sum(-1)


def jaccard(intersection: Array, union: Array) -> Array:
    """Intersection over union from counts of the same shape; 0/0 is 1.

    >>> jaccard(np.array([1, 0]), np.array([4, 0]))
    array([0.25, 1.  ])
    """
    empty = union == 0
    return (intersection + empty) / (union + empty)


def binary_jaccard(predicted: Array, target: Array, void: Array | None = None) -> Array:
    """The IoU of each mask (..., H, W) -> (...); see :func:`mask_counts` and :func:`jaccard`.

    This is ``db_eval_iou`` of DAVIS. numpy gives float64, tensors float32.
    """
    return jaccard(*mask_counts(predicted, target, void))


def largest_box(mask: NDArray[np.bool_]) -> tuple[int, int, int, int] | None:
    """Box (x, y, width, height) in pixels of the 8-connected component whose box has the largest area.

    On ties OpenCV's contour order decides, as in the published code. None for an empty mask.
    """
    contours, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
    if not contours:
        return None
    x, y, width, height = max((cv2.boundingRect(contour) for contour in contours), key=lambda box: box[2] * box[3])
    return int(x), int(y), int(width), int(height)


def box_mask(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """The mask (H, W) replaced by its :func:`largest_box`; an empty mask stays empty."""
    filled = np.zeros(mask.shape, dtype=np.bool_)
    box = largest_box(mask)
    if box is not None:
        x, y, width, height = box
        filled[y : y + height, x : x + width] = True
    return filled


def bounding_box_jaccard(
    predicted: NDArray[np.bool_], target: NDArray[np.bool_], void: NDArray[np.bool_] | None = None
) -> NDArray[np.float64]:
    """The IoU of the prediction's largest box with the target, each image on its own (stflow, section 7.2).

    For data whose ground truth is boxes (MoCA). The arguments stay untouched.

    Args:
        predicted: Boolean masks (..., H, W).
        target: Boolean masks of the same shape, usually filled boxes.
        void: Boolean, True where a pixel counts for nothing.

    Returns:
        float64 (...).
    """
    frames = predicted.reshape(-1, *predicted.shape[-2:])
    boxes = np.array([box_mask(frame) for frame in frames], dtype=np.bool_).reshape(predicted.shape)
    return binary_jaccard(boxes, target, void)
