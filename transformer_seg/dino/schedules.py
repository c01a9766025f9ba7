"""Tables of DINO's rates: one value per iteration, and teacher temperatures per epoch."""

import numpy as np
from numpy.typing import NDArray

Table = NDArray[np.float64]


def cosine_table(
    base: float, final: float, epochs: int, iterations_per_epoch: int, *, warmup_epochs: int = 0, start: float = 0.0
) -> Table:
    """A linear warm-up to ``base``, then a cosine towards ``final``, which the last value does not reach.

    The value ``base`` comes twice, as the last of the warm-up and the first of the cosine.

    Returns:
        (epochs * iterations_per_epoch,)
    """
    warm = warmup_epochs * iterations_per_epoch
    rest = epochs * iterations_per_epoch - warm
    if rest < 0:
        raise ValueError(f"a warm-up of {warmup_epochs} epochs does not fit into {epochs} epochs")
    cosine = final + 0.5 * (base - final) * (1 + np.cos(np.pi * np.arange(rest) / max(rest, 1)))
    return np.concatenate([np.linspace(start, base, warm), cosine])


def teacher_temperatures(start: float, final: float, warmup_epochs: int, epochs: int) -> Table:
    """A linear warm-up that ends at ``final``, then constant (epochs,)."""
    warm = np.linspace(start, final, warmup_epochs)
    return np.concatenate([warm, np.full(max(epochs - warmup_epochs, 0), final)])[:epochs]
