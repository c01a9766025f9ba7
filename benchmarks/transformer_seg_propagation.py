"""One frame's labels from its sources: one affinity of all pairs of patches, beside `propagate`, tile by tile."""

import torch
from ceilings import num_bytes
from measuring import Benchmark
from torch import Tensor
from torch.nn import functional as F

from transformer_seg.dino.propagation import PropagationOptions, neighbourhood, propagate


def build(tiny: bool) -> Benchmark:
    """A grid of 60 x 104 patches, as of 480p video with patches of 8; eight sources of width 384, three labels."""
    sources, width, h, w = (3, 16, 8, 10) if tiny else (8, 384, 60, 104)
    options = PropagationOptions()
    features = F.normalize(torch.randn(sources + 1, width, h, w), dim=1)
    labels = torch.rand(sources, 3, h, w)
    near = neighbourhood(range(h), range(w), range(h), range(w), options.radius)  # the same for all frames: not timed
    return Benchmark(
        f"labels of {h} x {w} patches from {sources} frames, width {width}",
        lambda: textbook_propagate(features[0], features[1:], labels, near, options),
        lambda: propagate(features[0], features[1:], labels, options),
        lambda a, b: torch.testing.assert_close(b, a, rtol=1e-3, atol=1e-4),
        least_bytes=num_bytes(features, labels, labels[0]),
    )


def textbook_propagate(
    target: Tensor, sources: Tensor, labels: Tensor, near: Tensor, options: PropagationOptions
) -> Tensor:
    """Affinities of all targets with all sources, those of strangers and all but the largest set to zero."""
    _, C, h, w = labels.shape
    keys = sources.flatten(2).transpose(1, 2)  # S, N, D
    affinity = (keys @ target.flatten(1) / options.temperature).exp()  # S, N sources, N targets
    affinity = (affinity * near.T.float()).flatten(0, 1)
    least = affinity.topk(options.top, dim=0).values[-1]
    affinity = torch.where(affinity < least, 0, affinity)
    affinity = affinity / affinity.sum(dim=0)
    return (labels.transpose(0, 1).flatten(1) @ affinity).reshape(C, h, w)
