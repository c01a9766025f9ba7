"""Masks from attention, and their score against object masks (arXiv 2104.14294, section 4.2.2).

Symbols: A heads, N = h w tokens, P patch size, G objects.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

BACKGROUND, VOID = 0, 255


def mass_masks(attention: Tensor, fraction: float = 0.6) -> Tensor:
    """The fewest patches that hold more than a fraction of the attention.

    Args:
        attention: (..., N), not negative; it need not sum to one.
        fraction: Of the mass, in (0, 1].

    Returns:
        bool (..., N)
    """
    if not 0 < fraction <= 1:
        raise ValueError(f"fraction {fraction} is outside (0, 1]")
    values, order = attention.sort(dim=-1, stable=True)  # on ties the later patch is kept
    share = (values / values.sum(dim=-1, keepdim=True)).cumsum(dim=-1)
    return torch.zeros_like(order, dtype=torch.bool).scatter_(-1, order, share > 1 - fraction)


@dataclass(frozen=True)
class AttentionScore:
    """How well heads find the objects of an image.

    Attributes:
        iou: Of every object with every head's mask (G, A).
        score: Mean over objects of the best head; NaN without an object.
    """

    iou: Tensor
    score: Tensor


def attention_score(masks: Tensor, labels: Tensor, patch_size: int) -> AttentionScore:
    """Score of one image.

    Objects are the labels other than 0 and 255; void pixels are not left out.

    Args:
        masks: bool (A, h, w), one patch an element.
        labels: int64 (P h, P w).
        patch_size: P.
    """
    A, h, w = masks.shape
    if labels.shape != (h * patch_size, w * patch_size):
        raise ValueError(f"labels of {tuple(labels.shape)} pixels for a grid of {h} x {w} patches of {patch_size}")
    objects = [label for label in labels.unique().tolist() if label not in (BACKGROUND, VOID)]
    found = torch.stack([labels == label for label in objects]) if objects else labels.new_zeros(0, *labels.shape)
    # Counting each object's pixels per patch once replaces upsampled masks.
    per_patch = found.reshape(len(objects), h, patch_size, w, patch_size).sum(dim=(2, 4)).flatten(1)
    intersection = per_patch @ masks.flatten(1).long().T
    area = masks.flatten(1).sum(dim=1) * patch_size**2
    iou = intersection / (per_patch.sum(dim=1)[:, None] + area - intersection)
    best = iou.amax(dim=1) if A else iou.new_zeros(len(objects))
    return AttentionScore(iou, best.mean())
