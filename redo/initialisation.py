"""Initial weights as in the published runs.

The original asks for orthogonal weights (gain 0.8) in every layer, but on a GPU that call misses the layers with
spectral norm, which keep PyTorch's default. The published numbers were made so, and so is the default here; on a CPU
the original's call does reach them.
"""

import torch
from torch import nn

from redo.model.generators import RegionGenerator
from redo.model.layers import SelfAttention, SpectralConv2d
from redo.options import SpectralInit


def initialise(
    network: nn.Module,
    gain: float = 0.8,
    spectral: SpectralInit = "default",
    generator: torch.Generator | None = None,
) -> None:
    """Draw all weights anew, in place.

    Args:
        network: One of the four networks, or all of them.
        gain: Gain of the orthogonal weights.
        spectral: Weights of layers with spectral norm: PyTorch's uniform ones, or orthogonal like all others.
        generator: Source of the random numbers, on the network's device; None: PyTorch's own.
    """
    for module in network.modules():
        if isinstance(module, SpectralConv2d):
            module.reset_parameters(generator)
            if spectral == "orthogonal":
                nn.init.orthogonal_(module.weight, gain, generator)
        elif isinstance(module, (nn.Conv2d, nn.Linear)):
            nn.init.orthogonal_(module.weight, gain, generator)
            if module.bias is not None:
                bound = module.weight[0].numel() ** -0.5
                nn.init.uniform_(module.bias, -bound, bound, generator)
        elif isinstance(module, nn.InstanceNorm2d):
            module.reset_parameters()
        elif isinstance(module, SelfAttention):
            nn.init.zeros_(module.gamma)
    for module in network.modules():
        if isinstance(module, RegionGenerator):
            # one matrix here, but a layer of its own per norm in the original
            for rows in module.modulation.weight.detach().split(module.norm_widths * 2):
                nn.init.orthogonal_(rows, gain, generator)
