"""The BSDS region benchmark: covering, probabilistic Rand index and variation of information.

A segmentation is compared with all annotations of its image (Arbeláez et al., PAMI 2011, section 2). With several
segmentations per image (thresholds of a hierarchy), ODS takes the threshold that is best for the whole set and OIS the
best one of each image.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from common.metrics.confusion import Counts, contingency
from common.metrics.covering import covering_sums

Labels = NDArray[np.integer]
Scores = NDArray[np.float64]


@dataclass(frozen=True)
class RegionScores:
    """Scores of the T segmentations of one image.

    Attributes:
        cover_num: Best IoU of each annotated region times its area, summed over regions and annotations (T,).
        cover_den: Sum of those areas (T,).
        rand_index: Probabilistic Rand index (T,): the mean over annotations.
        information: Variation of information in bits (T,): the mean over annotations; 0 is best.
    """

    cover_num: Scores
    cover_den: Scores
    rand_index: Scores
    information: Scores

    @property
    def covering(self) -> Scores:
        """Segmentation covering (T,)."""
        return self.cover_num / self.cover_den


def region_scores(segmentations: Sequence[Labels], annotations: Sequence[Labels]) -> RegionScores:
    """Scores of T segmentations (H, W) of one image against its annotations (H, W), labels from 0 on."""
    truths = [_dense(truth) for truth in annotations]
    rows = []
    for segmentation in segmentations:
        dense = _dense(segmentation)
        tables = [contingency(dense, truth, ignore_index=None) for truth in truths]
        sums = [covering_sums(table, weighted=True) for table in tables]
        rows.append(
            (
                sum(best.sum() for best, _ in sums),
                sum(area.sum() for _, area in sums),
                np.mean([rand_index(table) for table in tables]),
                np.mean([variation_of_information(table) for table in tables]),
            )
        )
    return RegionScores(*np.array(rows, dtype=np.float64).T)


def _dense(labels: Labels) -> Labels:
    """The labels renumbered from 0 on."""
    return np.unique(labels, return_inverse=True)[1].reshape(np.shape(labels))


def rand_index(counts: Counts) -> float:
    """Share of the pixel pairs on which two segmentations agree, from their contingency table; 1 for a single pixel."""
    total = int(counts.sum())
    pairs = total * (total - 1) / 2
    together, rows, columns = (_pairs(table) for table in (counts, counts.sum(-1), counts.sum(-2)))
    return 1.0 if pairs == 0 else float((pairs + 2 * together - rows - columns) / pairs)


def variation_of_information(counts: Counts) -> float:
    """H(a | b) + H(b | a) in bits, from a contingency table (Meilă 2005)."""
    joint, rows, columns = (_entropy(table) for table in (counts, counts.sum(-1), counts.sum(-2)))
    return 2 * joint - rows - columns


def _pairs(counts: Counts) -> float:
    return float((counts.astype(np.float64) * (counts - 1) / 2).sum())


def _entropy(counts: Counts) -> float:
    share = counts[counts > 0] / counts.sum()
    return float(-(share * np.log2(share)).sum())


@dataclass(frozen=True)
class Optimum:
    """A score at the best threshold of the set (ODS) and at the best one of each image (OIS)."""

    ods: float
    ois: float


def benchmark(images: Sequence[RegionScores]) -> dict[str, Optimum]:
    """ODS and OIS of ``covering``, ``rand_index`` and ``information`` over images with the same T thresholds.

    Coverings are pooled, numerators and denominators apart; the two others are means over images.
    """
    number = np.stack([image.cover_num for image in images])  # images, T
    area = np.stack([image.cover_den for image in images])
    best = (number / area).argmax(1)[:, None]
    rand = np.stack([image.rand_index for image in images])
    information = np.stack([image.information for image in images])
    return {
        "covering": Optimum(
            float((number.sum(0) / area.sum(0)).max()),
            float(np.take_along_axis(number, best, 1).sum() / np.take_along_axis(area, best, 1).sum()),
        ),
        "rand_index": Optimum(float(rand.mean(0).max()), float(rand.max(1).mean())),
        "information": Optimum(float(information.mean(0).min()), float(information.min(1).mean())),
    }
