"""Learning rates, weights of losses and phases as functions of the 0-based index of the update.

Functions of the index rather than of a counter: a run that is resumed at any update, the switch of phases included,
goes on as if it had never stopped.
"""

from typing import Literal

from common.errors import InputError

Scene = Literal["fixed", "lighting", "moving", "synthetic"]


def background_iterations(scene: Scene, num_frames: int, batch_size: int) -> int:
    """Updates of the background stage.

    Args:
        scene: ``fixed`` background and light; ``lighting``: a fixed camera, changing light; ``moving`` camera: at least
            20 epochs; ``synthetic``: images that are no video, each with its background.
        num_frames: Training images.
        batch_size: Images per update.

    Raises:
        InputError: Unknown scene.
    """
    if scene == "moving":
        return max(24_000, 20 * (num_frames // batch_size))
    known = {"fixed": 2_500, "lighting": 10_000, "synthetic": 500_000}
    if scene not in known:
        raise InputError(f"--scene {scene}: unknown, choose fixed, lighting, moving or synthetic")
    return known[scene]


def background_rate(update: int, num_updates: int, rate: float = 2e-3) -> float:
    """Learning rate of the background stage: a tenth in the last fifth of the updates."""
    return rate if update < 4 * num_updates // 5 else 0.1 * rate


def foreground_rate(update: int, num_updates: int, rate: float, warmup: int) -> float:
    """Learning rate of the foreground stage: quadratic warm-up, constant, a tenth in the last tenth of the updates."""
    step = update + 1
    if step < warmup:
        return rate * (step / warmup) ** 2
    return rate if step < 0.9 * num_updates else 0.1 * rate


def entropy_weight(update: int, full_step: int, weight: float = 1e-2) -> float:
    """Weight of an entropy loss: it grows quadratically up to ``full_step``, then stays.

    Args:
        update: Index of the update.
        full_step: First update with the full weight.
        weight: The full weight: 1e-2 for the pixel entropy, 3e-4 for v1's object entropy.
    """
    return weight * min(1.0, update / full_step) ** 2 if full_step > 0 else weight


def hint_weight(update: int, num_steps: int, weight: float = 1.0) -> float:
    """Weight of the foreground hint: it falls linearly to 0 at ``num_steps``."""
    return weight * max(0.0, 1 - update / num_steps) if num_steps > 0 else 0.0


def background_is_live(update: int, freeze_duration: int) -> bool:
    """Whether curriculum training uses the trainable background network, and no more the stored backgrounds."""
    return update >= freeze_duration


def ramp(update: int, num_steps: int) -> float:
    """From 0 at the first update to 1 at ``num_steps``, linearly; 1 throughout without steps."""
    return min(1.0, update / num_steps) if num_steps > 0 else 1.0
