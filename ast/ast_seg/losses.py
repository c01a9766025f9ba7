"""The losses of both stages, as functions of tensors.

Sources: the background's loss is that of arXiv 2112.08001; the foreground's is that of arXiv 2205.13271, whose first
version (v1) has a threshold in the reconstruction and an entropy of whole objects besides.
"""

import math

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d, smooth_l1_loss

from ast_seg.model.rendering import TINY

HINT_CLAMP = 1e-12
"""Smallest weight that the foreground hint looks at."""


def background_loss(
    prediction: Tensor, images: Tensor, *, beta: float = 6.0, r: float = 75.0, tau_1: float = 0.25
) -> Tensor:
    """Robust reconstruction and error prediction; pixels around large errors count less.

    The error of a pixel is a sum of smoothed absolute differences. Its weight falls with the share of large errors in
    the pixel's neighbourhood, of W / r pixels to either side; below W = r the neighbourhood is the pixel itself.

    Args:
        prediction: (B, 4, H, W) in 0..255, RGB and predicted error.
        images: (B, 3, H, W) in 0..255.
        beta: How fast weights fall with errors.
        r: Divisor of the image's width that gives the neighbourhood.
        tau_1: Error, of a range 0..3, from which on a pixel counts as wrong.

    Returns:
        Scalar.
    """
    error = smooth_l1_loss(prediction[:, :3], images, beta=3.0, reduction="none").sum(1, keepdim=True) / 255
    noise = smooth_l1_loss(prediction[:, 3:] / 255, error.detach() / 3, beta=3 / 255, reduction="none")
    with torch.no_grad():
        reach = math.floor(images.shape[-1] / r)
        wrong = torch.tanh(error / tau_1)
        if reach:
            wrong = avg_pool2d(wrong, 2 * reach + 1, stride=1, padding=reach, count_include_pad=False)
        weights = torch.exp(-beta * wrong)
    return ((error + noise) * weights).mean()


def reconstruction_loss(reconstruction: Tensor, images: Tensor, threshold: float = 0.0) -> Tensor:
    """Mean over pixels of the squared sum of absolute differences, as far as the sum exceeds a threshold.

    Args:
        reconstruction: (B, 3, H, W) in [0, 1].
        images: (B, 3, H, W) in [0, 1].
        threshold: 0, as in v2; in v1 0.02 for fixed backgrounds, 0.21 for dynamic ones, 0.10 for real videos.
    """
    return ((reconstruction - images).abs().sum(1) - threshold).relu().square().mean()


def pixel_entropy_loss(entropy: Tensor) -> Tensor:
    """Mean over pixels of the squared entropy of the layers' weights: see ``model.rendering.pixel_entropy``."""
    return entropy.square().mean()


def object_entropy_loss(weights: Tensor) -> Tensor:
    """Mean over images of the squared entropy of the layers' areas (v1), from weights (K+1, B, 1, H, W)."""
    shares = weights.mean((2, 3, 4))
    return (shares * (shares + TINY).log()).sum(0).square().mean()


def soft_difference(images: Tensor, background: Tensor, tau_1: float = 0.25) -> Tensor:
    """How far each pixel is from the background: (B, 1, H, W) in [0, 1), from two (B, 3, H, W) in [0, 1]."""
    return torch.tanh((images - background).abs().sum(1, keepdim=True) / tau_1)


def foreground_hint_loss(log_weights: Tensor, difference: Tensor) -> Tensor:
    """Cross-entropy between the slots' total weight and a soft foreground: a help to get slots started.

    It acts on log-weights, so that slots of weight e^-11 get a gradient of order one all the same.

    Args:
        log_weights: (K+1, B, 1, H, W), background first.
        difference: (B, 1, H, W) in [0, 1]; see :func:`soft_difference`.
    """
    smallest = math.log(HINT_CLAMP)
    slots = log_weights[1:].logsumexp(0).clamp(min=smallest)
    background = log_weights[0].clamp(min=smallest)
    return -(difference * slots + (1 - difference) * background).mean()
