"""Contingency tables of label maps, and the pooled scores that follow from them.

Every table here has predicted labels as rows and true labels as columns: ``counts[k, c]`` is the number of pixels with
predicted label ``k`` and true label ``c``. Leading dimensions are images. Tables add up, over images and over
processes, which is what makes a score of a whole data set.
"""

from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from common.errors import InputError

Counts = NDArray[np.int64]
Scores = NDArray[np.float64]


def contingency(
    predicted: NDArray[Any],
    target: NDArray[Any],
    *,
    num_predicted: int | None = None,
    num_classes: int | None = None,
    ignore_index: int | None = 255,
) -> Counts:
    """The table of two label maps.

    Args:
        predicted: Labels 0..K-1, any shape.
        target: Labels 0..C-1 or ``ignore_index``, same shape.
        num_predicted: K; None takes the largest label seen plus one.
        num_classes: C; None takes the largest label seen plus one.
        ignore_index: True label of void pixels, which count for nothing. None: there is no such label.

    Returns:
        int64 (K, C).

    Raises:
        InputError: A label lies outside its range.
    """
    if predicted.shape != target.shape:
        raise ValueError(f"label maps of shapes {predicted.shape} and {target.shape} cannot be compared")
    if ignore_index is not None:
        valid = target != ignore_index
        predicted, target = predicted[valid], target[valid]
    rows = checked_size("num_predicted", *_span(predicted, num_predicted), num_predicted)
    columns = checked_size("num_classes", *_span(target, num_classes), num_classes)
    index = predicted.astype(np.int64).ravel() * columns + target.astype(np.int64).ravel()
    return np.bincount(index, minlength=rows * columns).reshape(rows, columns).astype(np.int64, copy=False)


def checked_size(option: str, low: int, high: int, size: int | None) -> int:
    """The number of labels of one side whose values span ``low`` to ``high``; ``InputError`` if they go beyond it."""
    if low < 0:
        raise InputError(f"label {low} is negative: labels start at 0, void pixels need ignore_index={low}")
    if size is not None and high >= size:
        raise InputError(f"label {high} is outside 0..{size - 1}: pass {option}={high + 1} or mark void pixels")
    return high + 1 if size is None else size


def _span(labels: NDArray[Any], size: int | None) -> tuple[int, int]:
    return (int(labels.min()), int(labels.max())) if labels.size else (0, (size or 1) - 1)


def areas(counts: Counts) -> tuple[Counts, Counts, Counts]:
    """Intersections, predicted areas and true areas of tables (..., K, C), broadcastable to them."""
    return counts, counts.sum(-1, keepdims=True), counts.sum(-2, keepdims=True)


def iou_matrix(counts: Counts, empty: float = 0.0) -> Scores:
    """IoU of every predicted label with every true label.

    Args:
        counts: Tables (..., K, C).
        empty: The IoU of two labels that both have no pixel.

    Returns:
        float64 (..., K, C).
    """
    intersection, predicted, target = areas(counts)
    union = predicted + target - intersection
    return np.where(union > 0, intersection / np.maximum(union, 1), empty)


def class_iou(confusion: Counts) -> Scores:
    """IoU of each class (C,), NaN where a class is neither predicted nor true.

    Args:
        confusion: (K, C) with K >= C and row ``c`` meaning class ``c``; further rows are predictions of no class,
            which count as missed pixels.
    """
    intersection, predicted, target = _diagonal(confusion)
    return _ratio(intersection, predicted + target - intersection)


def class_accuracy(confusion: Counts) -> Scores:
    """Share of each class's true pixels that got its label (C,), NaN where a class has none; see :func:`class_iou`."""
    intersection, _, target = _diagonal(confusion)
    return _ratio(intersection, target)


def pixel_accuracy(confusion: Counts) -> float:
    """Share of all pixels with the right label; NaN without any pixel."""
    return float(_ratio(np.asarray(_diagonal(confusion)[0].sum()), np.asarray(confusion.sum())))


def mean_over_classes(values: Scores, absent: Literal["left_out", "zero"] = "left_out") -> float:
    """Mean of per-class scores.

    Args:
        values: (C,), NaN for undefined classes.
        absent: Undefined classes are left out (Segmenter, section 7.1) or count as 0 (MaskDistill, section 7.1).

    Returns:
        The mean; NaN when no class is defined.
    """
    defined = values[~np.isnan(values)]
    if defined.size == 0:
        return float("nan")
    return float(defined.sum() / (values.size if absent == "zero" else defined.size))


def grow(counts: Counts, rows: int, columns: int) -> Counts:
    """The table with zeros appended up to at least (rows, columns)."""
    extra = (max(rows - counts.shape[-2], 0), max(columns - counts.shape[-1], 0))
    return np.pad(counts, [(0, 0)] * (counts.ndim - 2) + [(0, extra[0]), (0, extra[1])])


def add(first: Counts, second: Counts) -> Counts:
    """The sum of two tables whose numbers of labels may differ."""
    return grow(first, *second.shape) + grow(second, *first.shape)


def _diagonal(confusion: Counts) -> tuple[Counts, Counts, Counts]:
    K, C = confusion.shape
    if K < C:
        raise ValueError(f"a confusion matrix of {C} classes has {K} rows: give every class a row, empty if need be")
    return np.diagonal(confusion).copy(), confusion.sum(1)[:C], confusion.sum(0)


def _ratio(part: Counts, whole: Counts) -> Scores:
    return np.where(whole > 0, part / np.maximum(whole, 1), np.nan)
