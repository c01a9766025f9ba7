"""The published evaluation of a batch: reconstruction error, IoU, covering and ARI per image, active slots.

All label scores come from one contingency table per image. True labels above K fit no slot: they are left out of the
IoU's labels and count as background in the ARI, while the covering takes them as they are (arXiv 2205.13271 and its
code).
"""

from dataclasses import dataclass, fields

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ast_seg.model.rendering import strongest_layer
from common.metrics.ari import adjusted_rand_index, adjusted_rand_index_foreground, has_foreground
from common.metrics.confusion import Counts, Scores, iou_matrix
from common.metrics.covering import covering
from common.metrics.hungarian import mean_matched_iou
from common.metrics.meters import contingency_batch

ACTIVE_FROM = 1e-3
"""A layer is active where its weight reaches this."""


@dataclass(frozen=True)
class ImageScores:
    """Scores of each image of a batch, float64 (B,)."""

    mse: Scores
    """Squared error summed over channels and pixels, of images in [0, 1]."""
    miou: Scores
    """Mean IoU of the best one-to-one matching, background included."""
    msc: Scores
    """Covering, all true labels equal."""
    scaled_sc: Scores
    """Covering, true labels weighted by area."""
    msc_fg: Scores
    scaled_sc_fg: Scores
    ari: Scores
    ari_fg: Scores
    has_foreground: NDArray[np.bool_]
    """Images without a true object, whose ``*_fg`` scores mean nothing, have False."""


def image_scores(
    images: Tensor, reconstruction: Tensor, weights: Tensor, targets: Tensor, void: int | None = 255
) -> ImageScores:
    """Score a batch.

    Args:
        images: (B, 3, H, W) in [0, 1].
        reconstruction: (B, 3, H, W) in [0, 1].
        weights: (K+1, B, 1, H, W), background first.
        targets: True labels (B, H, W), 0 for background.
        void: True label of pixels that count for nothing in the label scores; None: there is no such label.
    """
    num_labels = len(weights)
    predicted = strongest_layer(weights[:, :, 0])
    counts = label_counts(predicted, targets, num_labels, void)
    folded = fold_excess(counts, num_labels)
    return ImageScores(
        mse=(images - reconstruction).square().sum((1, 2, 3), dtype=torch.float64).cpu().numpy(),
        miou=matched_iou(counts, num_labels),
        msc=covering(counts),
        scaled_sc=covering(counts, weighted=True),
        msc_fg=covering(counts, background=0),
        scaled_sc_fg=covering(counts, weighted=True, background=0),
        ari=adjusted_rand_index(folded),
        ari_fg=adjusted_rand_index_foreground(folded),
        has_foreground=has_foreground(counts),
    )


def label_counts(predicted: Tensor, targets: Tensor, num_labels: int, void: int | None = 255) -> Counts:
    """Contingency tables (B, K+1, G) of label maps (B, H, W), with at least K+1 true labels."""
    if void is not None and not bool((targets == void).any()):
        void = None  # picking pixels takes longer than counting them
    known = targets if void is None else targets[targets != void]
    num_targets = max(num_labels, int(known.max()) + 1 if known.numel() else 0)
    tables = contingency_batch(predicted, targets, num_predicted=num_labels, num_classes=num_targets, ignore_index=void)
    return tables.cpu().numpy()


def fold_excess(counts: Counts, num_labels: int) -> Counts:
    """Tables (B, K+1, G) with true labels above K counted as background: (B, K+1, K+1)."""
    folded = counts[..., :num_labels].copy()
    folded[..., 0] += counts[..., num_labels:].sum(-1)
    return folded


def matched_iou(counts: Counts, num_labels: int) -> Scores:
    """Mean matched IoU (B,) of tables (B, K+1, G), over the true labels up to K."""
    iou = iou_matrix(counts)[..., :num_labels]
    predicted, target = counts.sum(2) > 0, counts.sum(1)[:, :num_labels] > 0
    return np.array([mean_matched_iou(*image, "solver") for image in zip(iou, predicted, target, strict=True)])


def published_batch(scores: ImageScores) -> dict[str, Scores]:
    """What the published code reports for a batch (``--legacy_eval``).

    The scores of each image, except for a batch without any true object: the mean squared error of the batch as one
    number, and 0 for all else.
    """
    names = [field.name for field in fields(scores) if field.name != "has_foreground"]
    if scores.has_foreground.any():
        return {name: getattr(scores, name) for name in names}
    return {name: np.array(scores.mse.mean() if name == "mse" else 0.0) for name in names}


def active_slots(weights: Tensor) -> tuple[float, float]:
    """How many slots show.

    Args:
        weights: (K+1, B, 1, H, W), background first.

    Returns:
        Active layers less one in the batch, and the mean over images of the same count per image.
    """
    active = weights.amax((2, 3, 4)) >= ACTIVE_FROM
    return float(active.any(1).sum() - 1), float(active.sum(0).to(torch.float64).mean() - 1)
