"""Where a fixed camera's background networks may start: at the median image of their frames.

The networks must otherwise learn to draw the scene from noise, which takes thousands of updates before the edges of a
road are sharp. Starting at the median, they only learn what departs from it: light, moving leaves, the error.
"""

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import smooth_l1_loss

MOST_FRAMES = 200
"""Frames, evenly spaced, that the median is taken over."""
FRAMES_AT_ONCE = 16


def median_start(images: Tensor) -> Tensor:
    """The median image and each pixel's median error against it.

    Args:
        images: uint8 (N, 3, H, W), all frames.

    Returns:
        float32 (1, 4, H, W) in 0..255: RGB, then the error in the unit that the networks predict it in, the mean over
        channels of the loss' smoothed absolute difference.
    """
    chosen = np.unique(np.linspace(0, len(images) - 1, min(len(images), MOST_FRAMES)).round().astype(int))
    frames = images[chosen]
    median = torch.from_numpy(np.median(frames.numpy(), axis=0)).float()
    errors = [
        smooth_l1_loss(part.float(), median.expand(len(part), -1, -1, -1), beta=3.0, reduction="none").mean(1)
        for part in frames.split(FRAMES_AT_ONCE)
    ]
    error = torch.from_numpy(np.median(torch.cat(errors).numpy(), axis=0)).float()
    return torch.cat([median, error[None]])[None]
