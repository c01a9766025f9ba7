"""Pixel-wise clusters against ground truth, from one table of the whole data set."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from common.metrics.ari import adjusted_rand_index
from common.metrics.confusion import Counts, Scores, class_iou, mean_over_classes, pixel_accuracy
from common.metrics.hungarian import match_majority, match_one_to_one, relabel


@dataclass(frozen=True)
class PixelClusteringScores:
    """All of them in 0..1, but for ``ari``, which may be negative."""

    classes: NDArray[np.int64]
    """Class of each cluster (K,), -1 for none."""
    iou: Scores
    """(C,), 0 for an absent class."""
    miou: float
    accuracy: float
    nmi: float
    """Of the matched labels, not of the raw clusters."""
    ari: float
    """Likewise."""


def score_pixel_clusters(counts: Counts) -> PixelClusteringScores:
    """Match clusters to classes and score them (section 4.9).

    As many clusters as classes: one-to-one with the largest sum of IoU. Otherwise each cluster takes the class with
    which its IoU is highest.

    Args:
        counts: Table (K, C) of pixels by cluster and class, void left out.
    """
    K, C = counts.shape
    classes = match_one_to_one(counts, "iou") if K == C else match_majority(counts, "iou")
    confusion = relabel(counts, classes)
    iou = class_iou(confusion)
    return PixelClusteringScores(
        classes=classes,
        iou=np.nan_to_num(iou),
        miou=mean_over_classes(iou, absent="zero"),
        accuracy=pixel_accuracy(confusion),
        nmi=normalised_mutual_information(confusion),
        ari=float(adjusted_rand_index(confusion)),
    )


def normalised_mutual_information(counts: Counts) -> float:
    """Mutual information over the mean of the two entropies, from a table; 1 when both sides are one single label."""
    joint = counts / counts.sum()
    entropies = [_entropy(joint.sum(axis)) for axis in (0, 1)]
    if sum(entropies) == 0:
        return 1.0
    information = sum(entropies) - _entropy(joint.ravel())
    return float(max(information, 0.0) / np.mean(entropies))


def _entropy(probabilities: Scores) -> float:
    positive = probabilities[probabilities > 0]
    return float(-(positive * np.log(positive)).sum())
