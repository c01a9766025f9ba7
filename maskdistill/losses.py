"""Losses of the semantic stage on logits (B, C, H, W) and label maps (B, H, W) with 255 for void.

All are means of per-pixel cross-entropies and return 0 with a zero gradient when no pixel counts, where the mean would
be NaN. Hard example mining is the published default. With noisy pseudo-labels the hardest pixels are the wrongly
labelled ones: there plain or trimmed cross-entropy is the safer choice.
"""

from torch import Tensor
from torch.nn import functional as F

VOID = 255
"""Label of pixels that count for nothing."""


def cross_entropy(logits: Tensor, target: Tensor) -> Tensor:
    """The mean over all valid pixels."""
    return _mean(_valid_losses(logits, target), logits)


def ohem_cross_entropy(logits: Tensor, target: Tensor, share: float = 0.2) -> Tensor:
    """The mean over the hardest pixels (online hard example mining; section 4.1).

    Args:
        logits: (B, C, H, W).
        target: (B, H, W) class indices or 255, any integer type.
        share: How many of ALL pixels, void ones included, are kept; at most the valid ones.
    """
    losses = _valid_losses(logits, target)
    count = min(int(share * target.numel()), len(losses))
    return _mean(losses.topk(count, sorted=False).values, logits)


def trimmed_cross_entropy(logits: Tensor, target: Tensor, share: float = 0.2) -> Tensor:
    """The mean over all valid pixels but the hardest ones, which are taken for wrong labels.

    Args:
        logits: (B, C, H, W).
        target: (B, H, W) class indices or 255, any integer type.
        share: How many of the valid pixels are dropped.
    """
    losses = _valid_losses(logits, target)
    count = len(losses) - int(share * len(losses))
    return _mean(losses.topk(count, largest=False, sorted=False).values, logits)


def _valid_losses(logits: Tensor, target: Tensor) -> Tensor:
    target = target.long()
    losses = F.cross_entropy(logits.float(), target, ignore_index=VOID, reduction="none")
    return losses[target != VOID]


def _mean(losses: Tensor, logits: Tensor) -> Tensor:
    return losses.mean() if len(losses) else (logits * 0.0).sum()
