"""Cross-entropy of 150 classes at full size with its gradient: all logits at once beside strips of rows."""

import torch
from ceilings import num_bytes
from measuring import Benchmark
from torch import Tensor
from torch.nn import functional as F

from transformer_seg.segmenter.losses import upsampled_cross_entropy


def build(tiny: bool) -> Benchmark:
    """Two crops of 512 x 512, patches of 16."""
    side, K, P = (32, 5, 8) if tiny else (512, 150, 16)
    logits = torch.randn(2, K, side // P, side // P)
    target = torch.randint(0, K, (2, side, side))
    target[:, : side // 8] = 255

    def whole(leaf: Tensor) -> Tensor:
        full = F.interpolate(leaf, size=(side, side), mode="bilinear", align_corners=False)
        return F.cross_entropy(full, target, ignore_index=255)

    def with_gradient(strips: bool) -> tuple[Tensor, Tensor]:
        leaf = logits.clone().requires_grad_()
        loss = upsampled_cross_entropy(leaf, target, P) if strips else whole(leaf)
        loss.backward()
        assert leaf.grad is not None
        return loss.detach(), leaf.grad

    def check(textbook: tuple[Tensor, Tensor], ours: tuple[Tensor, Tensor]) -> None:
        torch.testing.assert_close(ours[0], textbook[0], rtol=1e-5, atol=0)
        torch.testing.assert_close(ours[1], textbook[1], rtol=1e-3, atol=1e-7)

    return Benchmark(
        f"cross-entropy and gradient, 2 x {side} x {side}, K {K}",
        lambda: with_gradient(False),
        lambda: with_gradient(True),
        check,
        frames=2,
        least_bytes=2 * num_bytes(logits) + num_bytes(target),
    )
