"""Clusters to classes: one-to-one (Hungarian) and many-to-one (majority) matching on contingency tables.

A matching is an int64 array ``classes`` (K,): the class of each cluster, or :data:`UNMATCHED`. It is computed once on
the table of a whole data set (``miou_dataset_hungarian``) or per image (``miou_image_hungarian``); the two are other
numbers and have other names.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment

from common.errors import InputError
from common.metrics.confusion import (
    Counts,
    Scores,
    class_accuracy,
    class_iou,
    iou_matrix,
    mean_over_classes,
    pixel_accuracy,
)

Criterion = Literal["iou", "count"]
Unmatched = Literal["error", "background", "missed"]
Ties = Literal["most_pairs", "solver"]

UNMATCHED = -1
"""The class of a cluster that got none."""


def match_one_to_one(
    counts: Counts, criterion: Criterion = "iou", *, fixed_background: bool = False
) -> NDArray[np.int64]:
    """The one-to-one matching with the largest sum, by ``scipy.optimize.linear_sum_assignment``.

    The solver is given classes as rows and clusters as columns, the order of the published AST evaluation: it decides
    which of several equally good matchings is returned.

    Args:
        counts: Table (K, C), clusters by classes.
        criterion: What to sum: the IoU of the pairs, or their common pixels.
        fixed_background: Cluster 0 is class 0 and only the others are matched.

    Returns:
        Class of each cluster (K,); with K > C, K - C clusters are :data:`UNMATCHED`.
    """
    gain = _gain(counts, criterion)
    first = 1 if fixed_background else 0
    columns, rows = linear_sum_assignment(gain[first:, first:].T, maximize=True)
    classes = np.full(len(counts), UNMATCHED, dtype=np.int64)
    classes[:first] = 0
    classes[rows + first] = columns + first
    return classes


def match_majority(counts: Counts, criterion: Criterion = "count") -> NDArray[np.int64]:
    """Each cluster's best class, so that several clusters may share one; on a tie the lowest class.

    Args:
        counts: Table (K, C), clusters by classes.
        criterion: The class with most common pixels, or with the highest IoU.

    Returns:
        Class of each cluster (K,); a cluster without a pixel is :data:`UNMATCHED`.
    """
    classes = _gain(counts, criterion).argmax(1).astype(np.int64)
    classes[counts.sum(1) == 0] = UNMATCHED
    return classes


def _gain(counts: Counts, criterion: Criterion) -> Scores:
    return iou_matrix(counts) if criterion == "iou" else counts.astype(np.float64)


def relabel(
    counts: Counts, classes: NDArray[np.int64], *, unmatched: Unmatched = "error", background: int = 0
) -> Counts:
    """The confusion matrix of the classes that the clusters stand for.

    Args:
        counts: Table (K, C), clusters by classes.
        classes: Class of each cluster (K,).
        unmatched: What the pixels of a cluster without a class become. ``error``: they must not exist;
            ``background``: they join class ``background``; ``missed``: they are of no class, in a further row.
        background: See ``unmatched``.

    Returns:
        int64 (C, C), with ``missed`` (C + 1, C).

    Raises:
        InputError: ``unmatched`` is ``error`` and such a cluster has pixels.
    """
    C = counts.shape[1]
    lost = np.flatnonzero((classes == UNMATCHED) & (counts.sum(1) > 0))
    if lost.size and unmatched == "error":
        raise InputError(
            f"{lost.size} of {len(counts)} clusters match none of the {C} classes (first: {lost[0]}): "
            "use --matching majority, or --unmatched background or missed"
        )
    rows = np.where(classes == UNMATCHED, background if unmatched == "background" else C, classes)
    confusion = np.zeros((C + 1, C), dtype=np.int64)
    np.add.at(confusion, rows, counts)
    return confusion if unmatched == "missed" else confusion[:C]


@dataclass(frozen=True)
class ClusterScores:
    """The pooled scores of a matched table."""

    classes: NDArray[np.int64]
    """Class of each cluster (K,), -1 for none."""
    class_iou: Scores
    """(C,), NaN for a class that is neither predicted nor true."""
    miou: float
    pixel_accuracy: float
    mean_accuracy: float


def score_clusters(
    counts: Counts,
    matching: Literal["none", "hungarian", "majority"] = "hungarian",
    *,
    criterion: Criterion | None = None,
    unmatched: Unmatched = "error",
    background: int = 0,
    fixed_background: bool = False,
    absent: Literal["left_out", "zero"] = "left_out",
) -> ClusterScores:
    """Match the clusters of a table to classes and score the result, pooled over whatever the table covers.

    Args:
        counts: Table (K, C), clusters by classes.
        matching: ``none`` takes labels as classes; see :func:`match_one_to_one` and :func:`match_majority`.
        criterion: What the matching maximises; None: IoU for ``hungarian``, common pixels for ``majority``.
        unmatched: See :func:`relabel`.
        background: See :func:`relabel`.
        fixed_background: See :func:`match_one_to_one`.
        absent: See :func:`~common.metrics.confusion.mean_over_classes`.
    """
    K, C = counts.shape
    if matching == "none":
        classes = np.where(np.arange(K) < C, np.arange(K), UNMATCHED)
    elif matching == "hungarian":
        classes = match_one_to_one(counts, criterion or "iou", fixed_background=fixed_background)
    else:
        classes = match_majority(counts, criterion or "count")
    confusion = relabel(counts, classes, unmatched=unmatched, background=background)
    iou, accuracy = class_iou(confusion), class_accuracy(confusion)
    return ClusterScores(
        classes=classes,
        class_iou=iou,
        miou=mean_over_classes(iou, absent),
        pixel_accuracy=pixel_accuracy(confusion),
        mean_accuracy=mean_over_classes(accuracy),
    )


def miou_hungarian_dataset(counts: Counts, unmatched: Unmatched = "error") -> float:
    """Mean IoU over classes of a data set's table (K, C) after one Hungarian matching on IoU.

    >>> miou_hungarian_dataset(np.array([[0, 6], [2, 0]]))
    1.0
    """
    return score_clusters(counts, "hungarian", unmatched=unmatched).miou


def mean_matched_iou(
    iou: Scores, predicted: NDArray[np.bool_], target: NDArray[np.bool_], ties: Ties = "most_pairs"
) -> float:
    """Mean IoU over the pairs of one image's Hungarian matching in which at least one label has a pixel.

    The sum of the matched IoUs is unique, the number of pairs is not: a missed object and a spurious segment are one
    pair when matched with each other and two when each is matched with an empty label.

    Args:
        iou: (K, C) with 0 for empty labels.
        predicted: (K,) which predicted labels have pixels.
        target: (C,) which true labels have pixels.
        ties: ``most_pairs`` pairs whatever is left over, so the number of pairs is the larger number of non-empty
            labels and the score does not depend on how labels are numbered. ``solver`` counts the pairs that the
            solver returns on the square table with true labels as rows (AST, section 7).

    Returns:
        The mean, 1 when neither side has a pixel.
    """
    side = max(iou.shape)
    square = np.zeros((side, side))
    square[: iou.shape[1], : iou.shape[0]] = iou.T
    rows, columns = linear_sum_assignment(square, maximize=True)
    if ties == "solver":
        present = np.zeros((2, side), dtype=np.bool_)
        present[0, : len(target)], present[1, : len(predicted)] = target, predicted
        pairs = int((present[0, rows] | present[1, columns]).sum())
    else:
        pairs = max(int(predicted.sum()), int(target.sum()))
    return float(square[rows, columns].sum() / pairs) if pairs else 1.0


def miou_hungarian_image(counts: Counts, ties: Ties = "most_pairs") -> Scores:
    """Mean matched IoU of each image, background included like any label; see :func:`mean_matched_iou`.

    Args:
        counts: Tables (..., K, C).
        ties: See :func:`mean_matched_iou`.

    Returns:
        float64 (...).
    """
    tables = counts.reshape(-1, *counts.shape[-2:])
    iou, predicted, target = iou_matrix(tables), tables.sum(2) > 0, tables.sum(1) > 0
    values = [mean_matched_iou(*image, ties) for image in zip(iou, predicted, target, strict=True)]
    return np.array(values).reshape(counts.shape[:-2])
