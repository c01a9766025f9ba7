"""Segmentation covering: how well the best predicted segment covers each true one (mSC, BSDS covering)."""

import numpy as np

from common.metrics.confusion import Counts, Scores, iou_matrix


def covering_sums(counts: Counts, weighted: bool = False) -> tuple[Scores, Scores]:
    """Numerator and denominator of the covering of each table.

    Args:
        counts: Tables (..., K, C) of predicted by true labels. For the foreground form (mSC-FG) leave the background's
            pixels in and mask its column with :func:`covering`'s ``background``.
        weighted: Weight each true label by its area (BSDS; "scaled" in AST), else equally.

    Returns:
        Two float64 arrays (..., C): best IoU times weight, and weight; 0 for labels without pixels.
    """
    area = counts.sum(-2)
    weight = (area if weighted else area > 0).astype(np.float64)
    return iou_matrix(counts).max(-2) * weight, weight


def covering(counts: Counts, weighted: bool = False, background: int | None = None) -> Scores:
    """Mean over true labels of the best IoU with any predicted label (AST, section 7).

    Args:
        counts: Tables (..., K, C) of predicted by true labels.
        weighted: See :func:`covering_sums`.
        background: A true label to leave out (mSC-FG); None counts all.

    Returns:
        float64 (...); 0 where an image has no label to cover.

    >>> covering(np.array([[4, 0], [0, 2]]))
    array(1.)
    """
    best, weight = covering_sums(counts, weighted)
    if background is not None:
        best, weight = np.delete(best, background, axis=-1), np.delete(weight, background, axis=-1)
    total = weight.sum(-1)
    return np.where(total > 0, best.sum(-1) / np.maximum(total, 1.0), 0.0)
