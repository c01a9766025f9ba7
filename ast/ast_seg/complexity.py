"""Does a scene need the wide background networks? Decided from a first training of the narrow ones (AE-NE)."""

import torch
from torch import Tensor

TAU_0 = 0.24
TAU_1 = 0.25
MAX_BATCHES = 15


def frames_used(num_frames: int, batch_size: int) -> int:
    """Frames that the decision looks at: up to 15 full batches, or all frames when there is no full batch."""
    return min(MAX_BATCHES, num_frames // batch_size) * batch_size or num_frames


def background_motion(backgrounds: Tensor, tau_1: float = TAU_1) -> float:
    """How much the predicted backgrounds differ from their median.

    Args:
        backgrounds: (B, 3, H, W) in 0..255.
        tau_1: Difference, of a range 0..3, from which on a pixel counts as moved.

    Returns:
        A share of pixels in [0, 1).
    """
    median = backgrounds.median(dim=0).values
    total = 0.0
    for background in backgrounds:  # one at a time: no second tensor of the size of all backgrounds
        difference = (background - median).abs().sum(0) / 255
        total += float(torch.tanh(difference / tau_1).double().mean())
    return total / len(backgrounds)


def is_complex(motion: float, tau_0: float = TAU_0) -> bool:
    """Whether the motion of :func:`background_motion` asks for the wide networks."""
    return motion > tau_0


def training_steps(
    complexity: bool,
    num_frames: int,
    batch_size: int,
    *,
    n_simple: int = 2500,
    n_complex: int = 24_000,
    e_complex: int = 20,
) -> int:
    """Updates of the unsupervised mode: in all for a simple scene, from scratch for a complex one.

    Args:
        complexity: The decision.
        num_frames: Training images.
        batch_size: Images per update.
        n_simple: Updates of a simple scene.
        n_complex: Least updates of a complex scene.
        e_complex: Least epochs of a complex scene.
    """
    return max(n_complex, num_frames // batch_size * e_complex) if complexity else n_simple
