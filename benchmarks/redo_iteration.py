"""A complete iteration of ReDO (forward and backward of all four networks, four Adam steps), networks as in the paper.

The textbook form follows the description literally: nearest doubling in front of every convolution, pooling behind, an
attention map that is stored, a convolution per modulation, and weight gradients of the discriminator in both steps.
"""

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any
from unittest.mock import patch

import torch
import torch.nn.functional as F
from measuring import Benchmark
from torch import Tensor

from redo.initialisation import initialise
from redo.iteration import make_optimisers, training_iteration
from redo.model import NetworkOptions, Networks
from redo.model.generators import GeneratorBlock, RegionGenerator, modulated


def build(tiny: bool) -> Benchmark:
    """Four images of 128 x 128, all widths 16, attention in D and X, noise of 32."""
    sizes = NetworkOptions(sizex=32 if tiny else 128, nz=4 if tiny else 32, nf=4 if tiny else 16, useSelfAttD=True)
    sizes = NetworkOptions(**{**vars(sizes), "useSelfAttG": True})
    networks = Networks(sizes)
    initialise(networks, generator=torch.Generator().manual_seed(0))
    B = 2 if tiny else 4
    draw = torch.Generator().manual_seed(1)
    images, real = torch.rand(2, B, 3, sizes.sizex, sizes.sizex, generator=draw) * 2 - 1
    noise = torch.randn(B, sizes.nMasks, sizes.nz, 1, 1, generator=draw)

    def iteration_of(own: Networks) -> Callable[[], list[Tensor]]:
        optimisers = make_optimisers(own)

        def step() -> list[Tensor]:
            played, judged = training_iteration(own, optimisers, images, real, noise)
            assert played is not None
            assert judged is not None
            return [played.loss.detach(), judged.loss.detach()]

        return step

    ours, plain = iteration_of(networks), iteration_of(copy.deepcopy(networks))

    def textbook() -> list[Tensor]:
        with textbook_layers():
            return plain()

    def check(textbook_losses: list[Tensor], our_losses: list[Tensor]) -> None:
        torch.testing.assert_close(our_losses, textbook_losses, rtol=1e-3, atol=1e-3)

    return Benchmark(f"iteration of {B} images of {sizes.sizex}, width {sizes.nf}", textbook, ours, check, frames=B)


@contextmanager
def textbook_layers() -> Iterator[None]:
    """The networks compute as the description reads, with the same weights."""
    with (
        patch("redo.model.generators.double_then_conv", doubled_conv),
        patch("redo.model.mask_network.double_then_conv", doubled_conv),
        patch("redo.model.encoders.conv_then_halve", pooled_conv),
        patch("redo.model.layers.attend", stored_attention),
        patch("redo.iteration.frozen", lambda network: nullcontext()),
        patch.object(GeneratorBlock, "forward", block_forward),
        patch.object(RegionGenerator, "forward", region_forward),
    ):
        yield


def doubled_conv(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Nearest doubling, then the convolution."""
    return F.conv2d(F.interpolate(x, scale_factor=2.0), weight, bias, padding=1)


def pooled_conv(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """The convolution, then average pooling."""
    return F.avg_pool2d(F.conv2d(x, weight, bias, padding=1), 2)


def stored_attention(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """The attention map as a matrix."""
    return (query @ key.transpose(1, 2)).softmax(dim=2) @ value


def block_forward(
    self: GeneratorBlock, x: Tensor, mask: Tensor, modulations: Iterator[tuple[Tensor, Tensor]]
) -> Tensor:
    """Both paths are doubled before they are convolved."""
    y = doubled_conv(torch.cat([modulated(x, *next(modulations)), mask], dim=1), self.conv_a.normalised_weight())
    y = self.conv_b(modulated(y, *next(modulations)))
    return y + self.shortcut(F.interpolate(x, scale_factor=2.0))


def region_forward(self: RegionGenerator, mask: Tensor, noise: Tensor) -> Tensor:
    """Each scale and shift is a 1x1 convolution of its own."""
    widths = self.norm_widths * 2
    rows = zip(self.modulation.weight.split(widths), self.modulation.bias.split(widths), strict=True)
    maps = [F.conv2d(noise[:, :, None, None], w[:, :, None, None], b)[:, :, 0, 0] for w, b in rows]
    modulations: Any = iter(zip(maps[: len(maps) // 2], maps[len(maps) // 2 :], strict=True))
    x = self.dense(noise).unflatten(1, (-1, 4, 4))
    for level, block in enumerate(self.blocks):
        if level == len(self.blocks) - 1 and self.attention is not None:
            x = self.attention(x)
        x = block(x, F.avg_pool2d(mask, mask.shape[-1] // x.shape[-1]), modulations)
    x = torch.cat([modulated(x, *next(modulations)), mask], dim=1)
    return self.head(x).tanh() * mask
