"""Has a run collapsed? One region has taken the whole image: watched by the mean size of the smallest region."""

from enum import IntEnum

from torch import Tensor

LAST_RESTART = 7000  # the published bound: runs collapse early or not at all


class Collapse(IntEnum):
    """What a checkpoint should do about the run's health."""

    HEALTHY = 0
    WARN = 1
    RESTART = 2


def min_region_size(masks: Tensor) -> float:
    """Mean share of the image that the smallest region covers, in [0, 1/n], of soft masks (B, n, S, S)."""
    return float(masks.float().mean(dim=(0, 2, 3)).min())


def collapse_decision(
    threshold: float, train_size: float, val_size: float, iteration: int, last_restart: int = LAST_RESTART
) -> Collapse:
    """What to do with a smallest region of these sizes.

    Args:
        threshold: A smaller region counts as collapsed, in training and validation data both; 0 switches this off.
        train_size: `min_region_size` on training data.
        val_size: On validation data.
        iteration: Iterations done.
        last_restart: Last iteration at which a collapse restarts.
    """
    if not (train_size < threshold and val_size < threshold):
        return Collapse.HEALTHY
    return Collapse.RESTART if iteration <= last_restart else Collapse.WARN
