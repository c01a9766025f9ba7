"""Stochastic depth whose draws depend on seed, step and sample alone: on no process, and on no interruption.

Symbols: B images of a process, P processes, V crops.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from timm.layers import DropPath
from torch import Tensor, nn


class KeyedDropPath(nn.Module):
    """Leaves out a branch for some of the crops, and scales the others up; draws as `keyed_draws` says.

    Args:
        rate: Share of crops without the branch.
    """

    def __init__(self, rate: float):
        super().__init__()
        self.rate = rate
        self.source: tuple[torch.Generator, int, int, int] | None = None

    def forward(self, x: Tensor) -> Tensor:
        """(V B, ...) to the same."""
        if not self.training or self.source is None:
            return x
        generator, B, rank, processes = self.source
        # Every process draws for all images of the step and keeps its own: the sampler deals them out in turn.
        draws = torch.rand(len(x) // B, B * processes, generator=generator)[:, rank::processes]
        kept = (draws >= self.rate).reshape(-1, *[1] * (x.ndim - 1)).to(x)
        return x * kept / (1 - self.rate)


def replace_drop_path(network: nn.Module) -> list[KeyedDropPath]:
    """Put `KeyedDropPath` in the place of timm's; gives them in the order of the network."""
    found = []
    for module in network.modules():
        for name, child in module.named_children():
            if isinstance(child, DropPath) and child.drop_prob:
                setattr(module, name, KeyedDropPath(child.drop_prob))
                found.append(getattr(module, name))
    return found


@contextmanager
def keyed_draws(
    layers: list[KeyedDropPath], generator: torch.Generator, images: int, rank: int, processes: int
) -> Iterator[None]:
    """Within, the layers leave branches out.

    Args:
        layers: Of a network that sees crops crop by crop, all images of the first crop first.
        generator: On the CPU; a new one for every step, the same in all processes.
        images: B.
        rank: Of this process.
        processes: P.
    """
    for layer in layers:
        layer.source = (generator, images, rank, processes)
    try:
        yield
    finally:
        for layer in layers:
            layer.source = None
