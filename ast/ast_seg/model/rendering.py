"""What a renderer draws, in two forms: whole layers, or only the pixels that each slot's glimpse covers.

Layer 0 is the background, layers 1..K are the slots. Symbols: B batch, K slots, H, W image.
"""

from abc import ABC, abstractmethod
from functools import cached_property

import torch
from torch import Tensor

NO_WEIGHT = -1e30
"""Log-weight of a slot outside its glimpse; finite, because the gradient of an infinite one is NaN."""
TINY = 1e-20
"""Added to weights inside the entropy's logarithm."""


class Rendering(ABC):
    """A rendered batch.

    Args:
        reconstruction: (B, 3, H, W).
        background: (B, 3, H, W).
    """

    def __init__(self, reconstruction: Tensor, background: Tensor) -> None:
        self.reconstruction, self.background = reconstruction, background

    @abstractmethod
    def _log_weights(self) -> Tensor: ...

    @abstractmethod
    def _colours(self) -> Tensor: ...

    @cached_property
    def log_weights(self) -> Tensor:
        """(K+1, B, 1, H, W); the weights sum to one over layers."""
        return self._log_weights()

    @cached_property
    def colours(self) -> Tensor:
        """(K, B, 3, H, W), unweighted; 0 outside the glimpse."""
        return self._colours()

    @cached_property  # the losses and the scores all ask for them
    def weights(self) -> Tensor:
        """(K+1, B, 1, H, W) in [0, 1]."""
        return self.log_weights.exp()

    @cached_property
    def entropy(self) -> Tensor:
        """See :func:`pixel_entropy`."""
        return pixel_entropy(self.weights)

    @property
    def peaks(self) -> Tensor:
        """Largest weight of each slot (K, B)."""
        return self.log_weights[1:].amax((2, 3, 4)).exp()

    @property
    def foreground(self) -> Tensor:
        """Weight of all slots together: (B, 1, H, W) in [0, 1]."""
        return 1 - self.weights[0]

    @property
    def labels(self) -> Tensor:
        """The layer with the largest weight: int64 (B, H, W), 0 for background."""
        return strongest_layer(self.log_weights.squeeze(2))

    def layers(self) -> Tensor:
        """Colours times weights (K+1, B, 3, H, W); their sum is the reconstruction. Not needed in training."""
        return self.weights * torch.cat([self.background[None], self.colours])


class DenseRendering(Rendering):
    """Whole layers.

    Args:
        log_weights: (K+1, B, 1, H, W).
        colours: (K, B, 3, H, W).
        background: (B, 3, H, W).
    """

    def __init__(self, log_weights: Tensor, colours: Tensor, background: Tensor) -> None:
        self._given = log_weights, colours
        super().__init__(composite(self.weights, colours, background), background)

    def _log_weights(self) -> Tensor:
        return self._given[0]

    def _colours(self) -> Tensor:
        return self._given[1]


def pixel_entropy(weights: Tensor) -> Tensor:
    """Minus the entropy of each pixel's weights: (K+1, B, 1, H, W) to (B, 1, H, W)."""
    return (weights * (weights + TINY).log()).sum(0)


def composite(weights: Tensor, colours: Tensor, background: Tensor) -> Tensor:
    """The weighted sum of layers (B, 3, H, W).

    Args:
        weights: (K+1, B, 1, H, W), background first.
        colours: (K, B, 3, H, W).
        background: (B, 3, H, W).
    """
    return weights[0] * background + (weights[1:] * colours).sum(0)


def strongest_layer(weights: Tensor) -> Tensor:
    """The index of the largest value of (N, ...) along the first axis: int64 (...), the first one of equal values.

    On a CPU one comparison per layer takes a tenth of what ``argmax`` along a strided axis does.
    """
    if weights.device.type != "cpu":
        return weights.argmax(0)
    largest, labels = weights[0], torch.zeros(weights.shape[1:], dtype=torch.int64)
    for layer in range(1, len(weights)):
        labels = torch.where(weights[layer] > largest, layer, labels)
        largest = torch.maximum(largest, weights[layer])
    return labels
