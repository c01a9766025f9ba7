"""Exponential moving averages of a network's weights."""

import copy

import torch
from torch import nn


class AveragedNetwork:
    """A copy whose weights trail the trained network's; it is what is validated and saved.

    Buffers such as batch norm statistics, averages themselves, are copied.

    Args:
        network: The network in training.
        alpha: How much of the average stays at each step.
    """

    def __init__(self, network: nn.Module, alpha: float = 0.99):
        self.alpha = alpha
        self.network = copy.deepcopy(network).requires_grad_(False).eval()

    @torch.no_grad()
    def update(self, network: nn.Module) -> None:
        """Take in the network after an optimiser step."""
        for average, weight in zip(self.network.parameters(), network.parameters(), strict=True):
            average.lerp_(weight, 1 - self.alpha)
        for kept, value in zip(self.network.buffers(), network.buffers(), strict=True):
            kept.copy_(value)


class LegacyAveragedNetwork(AveragedNetwork):
    """The published average, written back into the trained network after every step, its first buffers included.

    In effect the learning rate is scaled by 1 - alpha and batch norm statistics never move.
    """

    @torch.no_grad()
    def update(self, network: nn.Module) -> None:
        """Take in the network after an optimiser step, then overwrite it."""
        for average, weight in zip(self.network.parameters(), network.parameters(), strict=True):
            average.lerp_(weight, 1 - self.alpha)
        network.load_state_dict(self.network.state_dict())
