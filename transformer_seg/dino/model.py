"""The network that DINO trains: a vision transformer and a projection head (arXiv 2104.14294, section 3).

Attribute names are those of published state dicts. Symbols: B images, V crops, D width, K dimensions of the output.
"""

from collections.abc import Sequence
from itertools import groupby
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.init import trunc_normal_

from transformer_seg.vit import initialise

EPS = 1e-6  # of the backbone's normalisations


class WeightNormLinear(nn.Module):
    """A linear map without bias whose rows are ``weight_g`` times ``weight_v`` at unit length."""

    def __init__(self, inputs: int, outputs: int):
        super().__init__()
        self.weight_g = nn.Parameter(torch.ones(outputs, 1))
        self.weight_v = nn.Parameter(torch.empty(outputs, inputs))
        trunc_normal_(self.weight_v, std=0.02)

    def forward(self, x: Tensor) -> Tensor:
        """(..., inputs) to (..., outputs)."""
        # Scaling the few outputs instead of the many rows makes no second copy of the weight.
        return F.linear(x, self.weight_v) * (self.weight_g / self.weight_v.norm(dim=1, keepdim=True)).squeeze(1)


class DinoHead(nn.Module):
    """An MLP to a bottleneck of unit length, and a weight-normed linear layer.

    Args:
        inputs: D.
        outputs: K.
        use_bn: Batch normalisation after every hidden layer.
        norm_last_layer: Keep the rows of the last layer at length one, which steadies the training.
        num_layers: Layers of the MLP; 1 makes it a single linear map.
        hidden: Width of hidden layers.
        bottleneck: Width of the bottleneck.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        *,
        use_bn: bool = False,
        norm_last_layer: bool = True,
        num_layers: int = 3,
        hidden: int = 2048,
        bottleneck: int = 256,
    ):
        super().__init__()
        if num_layers == 1:
            self.mlp: nn.Module = nn.Linear(inputs, bottleneck)
        else:
            layers: list[nn.Module] = []
            for width in [inputs] + [hidden] * (num_layers - 2):
                layers += [nn.Linear(width, hidden), *([nn.BatchNorm1d(hidden)] if use_bn else []), nn.GELU()]
            self.mlp = nn.Sequential(*layers, nn.Linear(hidden, bottleneck))
        self.mlp.apply(initialise)
        self.last_layer = WeightNormLinear(bottleneck, outputs)
        self.last_layer.weight_g.requires_grad_(not norm_last_layer)

    def forward(self, features: Tensor) -> Tensor:
        """(B, D) to (B, K)."""
        return self.last_layer(F.normalize(self.mlp(features), dim=-1))


class DinoNetwork(nn.Module):
    """Backbone and head, student and teacher alike.

    Args:
        backbone: A `VisionTransformer`, or another network that gives tokens (B, E + N, D), the class token first.
        head: See `DinoHead`.
    """

    def __init__(self, backbone: Any, head: DinoHead):
        super().__init__()
        self.backbone = backbone
        self.head = head

    def forward(self, crops: Sequence[Tensor]) -> Tensor:
        """Outputs (V B, K) of V batches of crops (B, 3, H, W), all images of the first crop first.

        Neighbouring crops of one size go through the backbone together, all features through the head at once.
        """
        batches = [torch.cat(list(same)) for _, same in groupby(crops, key=lambda crop: crop.shape[-2:])]
        return self.head(torch.cat([self.backbone(batch)[:, 0] for batch in batches]))
