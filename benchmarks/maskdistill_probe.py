"""Logits of a linear probe: features upsampled and then classified, or classified and then upsampled."""

import torch
from ceilings import num_bytes
from measuring import Benchmark
from torch import Tensor, nn

from maskdistill.model.deeplab import upsample


def build(tiny: bool) -> Benchmark:
    """Features of two images of 512 x 512: 256 x 64 x 64, 21 classes."""
    C, side = (8, 4) if tiny else (256, 64)
    features = torch.randn(2, C, side, side)
    classifier = nn.Conv2d(C, 21, 1)
    size = (8 * side, 8 * side)

    @torch.no_grad()
    def textbook() -> Tensor:
        return classifier(upsample(features, size))

    @torch.no_grad()
    def ours() -> Tensor:
        return upsample(classifier(features), size)

    def check(expected: Tensor, found: Tensor) -> None:
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)

    step = f"probe logits of {tuple(features.shape)} at {size}"
    moved = num_bytes(features) + 4 * 2 * 21 * size[0] * size[1]
    return Benchmark(step, textbook, ours, check, frames=2, least_bytes=moved)
