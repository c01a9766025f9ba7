"""Per-pixel cross-entropy over labelled pixels, and the same without ever holding the logits of all pixels.

Symbols: B images, K classes, H W pixels, P patch size, h w token grid.
"""

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

VOID = 255


def pixel_cross_entropy(logits: Tensor, target: Tensor, ignore_index: int = VOID) -> Tensor:
    """Mean cross-entropy over the labelled pixels of the batch.

    Without a labelled pixel it is 0 and has a gradient of zeros, where the published code gives NaN; whoever trains
    should skip such a batch, because momentum would still move the weights.

    Args:
        logits: (B, K, H, W).
        target: Classes 0..K-1, or ``ignore_index`` (B, H, W).
        ignore_index: Label of void pixels.
    """
    total = F.cross_entropy(logits.float(), target, ignore_index=ignore_index, reduction="sum")
    return total / (target != ignore_index).sum().clamp(min=1)


def upsampled_cross_entropy(
    token_logits: Tensor, target: Tensor, patch_size: int, *, rows: int = 64, ignore_index: int = VOID
) -> Tensor:
    """`pixel_cross_entropy` of bilinearly upsampled logits, a strip of pixel rows at a time.

    The logits of a strip are made again in the backward pass. With 150 classes at 512 x 512 the logits of one image
    are 157 MB, several times over; here an eighth of one copy is held.

    Args:
        token_logits: (B, K, h, w).
        target: (B, H, W), at most P h x P w pixels, from the top left corner.
        patch_size: P.
        rows: Pixel rows of a strip.
        ignore_index: Label of void pixels.
    """
    logits = token_logits.float()
    H, W = target.shape[-2:]
    h, w = logits.shape[-2:]
    vertical = bilinear_matrix(h, patch_size, H, logits)
    horizontal = bilinear_matrix(w, patch_size, W, logits)
    wide = logits @ horizontal.T  # B K h W

    def strip(wide: Tensor, start: int) -> Tensor:
        part = vertical[start : start + rows] @ wide
        return F.cross_entropy(part, target[:, start : start + rows], ignore_index=ignore_index, reduction="sum")

    sums = [checkpoint(strip, wide, start, use_reentrant=False) for start in range(0, H, rows)]
    return torch.stack(sums).sum() / (target != ignore_index).sum().clamp(min=1)


def bilinear_matrix(length: int, scale: int, samples: int, like: Tensor) -> Tensor:
    """The matrix (samples, length) of bilinear upsampling by a factor, pixel centres aligned, ends repeated."""
    place = (torch.arange(samples, device=like.device, dtype=like.dtype) + 0.5) / scale - 0.5
    place = place.clamp(0, length - 1)
    columns = torch.arange(length, device=like.device, dtype=like.dtype)
    return (1 - (place[:, None] - columns).abs()).clamp(min=0)
