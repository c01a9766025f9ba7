"""Forward pass of a trunk in training, its first stages frozen: with their graph kept, or without."""

import copy

import torch
from measuring import Benchmark
from torch import Tensor

from maskdistill.model.deeplab import DilatedResNet50


def build(tiny: bool) -> Benchmark:
    """One image of 256 x 256; look at the memory."""
    images = torch.randn(1, 3, *((32, 32) if tiny else (256, 256)))
    network = DilatedResNet50().eval()
    kept = copy.deepcopy(network)  # a common way to freeze: the optimiser is not given the stages' weights
    network.freeze(2)
    network.eval()

    def textbook() -> Tensor:
        return kept(images)

    def ours() -> Tensor:
        return network(images)

    def check(expected: Tensor, found: Tensor) -> None:
        torch.testing.assert_close(found, expected)
        assert found.grad_fn is not None

    return Benchmark(f"trunk on {tuple(images.shape)}, two stages frozen: their graph", textbook, ours, check)
