"""The exact soft N-cut with its gradient: all neighbours stacked by unfold, beside `soft_ncut`."""

import torch
from ceilings import num_bytes
from measuring import Benchmark
from torch import Tensor
from torch.nn import functional as F

from transformer_seg.wnet.losses import soft_ncut

RADIUS, SIGMA_INTENSITY, SIGMA_SPACE = 5, 10.0, 4.0


def build(tiny: bool) -> Benchmark:
    """One picture of 112 x 112, 64 segments."""
    side, K = (16, 4) if tiny else (112, 64)
    image = F.interpolate(torch.rand(1, 3, 8, 8), (side, side), mode="bilinear") + 0.05 * torch.rand(1, 3, side, side)
    logits = torch.randn(1, K, side, side)

    def with_gradient(loss: object) -> tuple[Tensor, Tensor]:
        assert callable(loss)
        leaf = logits.clone().requires_grad_()
        value = loss(image, leaf.softmax(dim=1)).mean()
        value.backward()
        assert leaf.grad is not None
        return value.detach(), leaf.grad

    def check(textbook: tuple[Tensor, Tensor], ours: tuple[Tensor, Tensor]) -> None:
        torch.testing.assert_close(ours[0], textbook[0], rtol=2e-5, atol=0)
        torch.testing.assert_close(ours[1], textbook[1], rtol=0, atol=2e-6 * float(textbook[1].abs().max() + 1))

    return Benchmark(
        f"soft N-cut and gradient, {side} x {side}, K {K}, r {RADIUS}",
        lambda: with_gradient(stacked_ncut),
        lambda: with_gradient(soft_ncut),
        check,
        frames=1,
        least_bytes=2 * num_bytes(logits) + num_bytes(image),
    )


def stacked_ncut(image: Tensor, probabilities: Tensor) -> Tensor:
    """The formula with every neighbour of every pixel in one tensor (B, K, (2r - 1)^2, H W)."""
    B, K, H, W = probabilities.shape
    side = 2 * RADIUS - 1
    steps = torch.arange(side) - (RADIUS - 1)
    squared = (steps[:, None] ** 2 + steps[None] ** 2).flatten()

    def neighbours(maps: Tensor) -> Tensor:
        return F.unfold(maps, side, padding=RADIUS - 1).view(B, maps.shape[1], side * side, H * W)

    colour = (neighbours(255 * image) - 255 * image.flatten(2)[:, :, None]).square().sum(1)
    weight = torch.exp(-colour / SIGMA_INTENSITY**2) * torch.exp(-squared / SIGMA_SPACE**2)[None, :, None]
    weight = weight * (squared < RADIUS**2)[None, :, None] * neighbours(torch.ones(B, 1, H, W))[:, 0]
    inner = (probabilities.flatten(2) * (weight[:, None] * neighbours(probabilities)).sum(2)).sum(2)
    mass = (probabilities.flatten(2) * weight.sum(1)[:, None]).sum(2)
    return K - (inner / mass).sum(1)
