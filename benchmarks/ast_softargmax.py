"""Pooling of slots: the product of attention and maps written out, beside `soft_argmax`; forward and backward."""

import torch
from ceilings import num_bytes
from measuring import Benchmark
from torch import Tensor

from ast_seg.model.slots import num_feature_maps, position_map, soft_argmax


def build(tiny: bool) -> Benchmark:
    """Four images of 128 x 128, ten slots, 32 appearance latents, two scales."""
    batch, slots, what, side = (2, 3, 4, 16) if tiny else (4, 10, 32, 128)
    maps = torch.randn(batch, num_feature_maps(slots, what, False), side, side, requires_grad=True)
    positions = position_map(side, side)

    def textbook() -> tuple[Tensor, Tensor]:
        return _with_gradient(textbook_pooling(maps, positions, slots), maps)

    def ours() -> tuple[Tensor, Tensor]:
        return _with_gradient(soft_argmax(maps, positions, slots), maps)

    def check(textbook: tuple[Tensor, Tensor], ours: tuple[Tensor, Tensor]) -> None:
        for expected, found in zip(textbook, ours, strict=True):
            torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)

    step = f"soft-argmax of {tuple(maps.shape)}, {slots} slots, with gradient"
    return Benchmark(step, textbook, ours, check, least_bytes=2 * num_bytes(maps))


def textbook_pooling(maps: Tensor, positions: Tensor, slots: int) -> Tensor:
    """(K, B, L): attention times maps, summed over positions, as the formula says."""
    attention = maps[:, :slots].flatten(2).softmax(-1).view(*maps[:, :slots].shape)
    values = torch.cat([positions.expand(len(maps), -1, -1, -1), maps[:, slots:]], dim=1)
    return (attention[:, :, None] * values[:, None]).sum((-2, -1)).transpose(0, 1)


def _with_gradient(pooled: Tensor, maps: Tensor) -> tuple[Tensor, Tensor]:
    (gradient,) = torch.autograd.grad(pooled.square().sum(), maps)
    return pooled.detach(), gradient
