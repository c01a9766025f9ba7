"""The learning rate of an epoch."""

from collections.abc import Sequence


def step_rate(lr: float, epoch: int, *, lr_decay_epochs: Sequence[int], lr_decay_rate: float = 0.1) -> float:
    """A rate that falls in steps.

    Args:
        lr: Base rate.
        epoch: From 0.
        lr_decay_epochs: The rate falls in the epoch AFTER each of these: with 40, epoch 41 is the first.
        lr_decay_rate: Factor of each step.
    """
    steps = sum(epoch > decay for decay in lr_decay_epochs)
    rate: float = lr * lr_decay_rate**steps
    return rate


def poly_rate(lr: float, epoch: int, num_epochs: int, power: float = 0.9) -> float:
    """A rate that falls to 0 over ``num_epochs`` epochs, ``epoch`` counting from 0."""
    rate: float = lr * (1 - epoch / num_epochs) ** power
    return rate
