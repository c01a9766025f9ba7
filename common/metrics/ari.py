"""Adjusted Rand index of label maps, from one contingency table per image.

The papers average the index over images. torchmetrics' ``AdjustedRandScore`` pools the pixels of all images: another
number.
"""

from typing import Any

import numpy as np

from common.metrics.confusion import Counts, Scores


def adjusted_rand_index(counts: Counts) -> Scores:
    """The index of each table (Hubert and Arabie 1985), equal to ``sklearn.metrics.adjusted_rand_score``.

    It is undefined (0/0) only where both sides are one single cluster, where every pixel is a cluster of its own on
    both sides, and where there is at most one pixel. The two partitions are then equal, and the index is 1.

    Args:
        counts: Tables (..., K, C) of predicted by true labels.

    Returns:
        float64 (...), at most 1, around 0 for chance, negative below it.

    >>> adjusted_rand_index(np.array([[0, 3], [3, 0]]))
    array(1.)
    """
    pairs = _pairs(counts).sum((-2, -1)).astype(np.float64)
    predicted = _pairs(counts.sum(-1)).sum(-1).astype(np.float64)
    target = _pairs(counts.sum(-2)).sum(-1).astype(np.float64)
    total = _pairs(counts.sum((-2, -1))).astype(np.float64)
    expected = predicted * target / np.maximum(total, 1.0)
    # Equal pair counts of 0 or of all pairs: the only cases of 0/0, tested on integers rather than on a difference.
    undefined = (predicted == target) & ((target == 0) | (target == total))
    span = np.where(undefined, 1.0, (predicted + target) / 2 - expected)
    return np.where(undefined, 1.0, (pairs - expected) / span)


def adjusted_rand_index_foreground(counts: Counts, background: int = 0) -> Scores:
    """ARI-FG: the index over pixels whose true label is not ``background``; no such pixel gives 1.

    Args:
        counts: Tables (..., K, C) of predicted by true labels.
        background: The true label to leave out.
    """
    return adjusted_rand_index(np.delete(counts, background, axis=-1))


def has_foreground(counts: Counts, background: int = 0) -> np.ndarray[Any, np.dtype[np.bool_]]:
    """Which tables (..., K, C) hold a pixel whose true label is not ``background`` (...)."""
    return np.delete(counts, background, axis=-1).sum((-2, -1)) > 0


def _pairs(counts: Counts) -> Counts:
    return counts * (counts - 1) // 2
