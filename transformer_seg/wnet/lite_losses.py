"""The losses of the ``lite`` variant: an approximate cut by class means, and smoothness by grey opening.

They are kept to continue published runs. On simple scenes the approximation collapses to one segment, which is why
`transformer_seg.wnet.losses.soft_ncut` is the default.

Symbols: B images, C channels, K segments, H W pixels.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F


@dataclass(frozen=True)
class ClassMeanKernel:
    """Neighbourhood of `class_mean_ncut`.

    Attributes:
        radius_px: Half the side of the square window.
        sigma_space: Scale of the distance in pixels.
        sigma_colour: Scale of the squared distance of a pixel's colour from its class's mean.
    """

    radius_px: int = 4
    sigma_space: float = 5.0
    sigma_colour: float = 1.0

    def profile(self, like: Tensor) -> Tensor:
        """The window along one axis (2 radius + 1,), 1 in the middle; the window is its outer product."""
        steps = torch.arange(-self.radius_px, self.radius_px + 1, dtype=like.dtype, device=like.device)
        return torch.exp(-steps.square() / (2 * self.sigma_space**2))


def class_mean_ncut(image: Tensor, probabilities: Tensor, kernel: ClassMeanKernel | None = None) -> Tensor:
    """K minus the association of every class, with edge weights that depend on one end only.

    A pixel weighs exp(-(q / sigma)^2), q the squared distance of its colour from the mean colour of the class. The
    ratios are of sums over the whole batch, so that the loss of a batch is not the mean of its images' losses.

    Args:
        image: (B, C, H, W), in the range of the network's input.
        probabilities: (B, K, H, W).
        kernel: None takes the published one.
    """
    kernel = kernel or ClassMeanKernel()
    K = probabilities.shape[1]
    p = probabilities[:, :, None]  # B K 1 H W
    means = (image[:, None] * p).mean(dim=(3, 4)) / (p.mean(dim=(3, 4)) + 1e-5)  # B K C
    squared_distance = (image[:, None] - means[..., None, None]).square().sum(dim=2)
    weights = torch.exp(-squared_distance.square() / kernel.sigma_colour**2)
    association = (probabilities * blur(probabilities * weights, kernel)).sum(dim=(0, 2, 3))
    mass = (probabilities * blur(weights, kernel)).sum(dim=(0, 2, 3))
    return K - (association / (mass + 1e-6)).abs().sum()


def blur(maps: Tensor, kernel: ClassMeanKernel) -> Tensor:
    """Each map (B, K, H, W) summed over the window, rows and then columns; zeros outside."""
    B, K, H, W = maps.shape
    profile, radius = kernel.profile(maps), kernel.radius_px
    flat = maps.reshape(B * K, 1, H, W)
    flat = F.conv2d(flat, profile.view(1, 1, -1, 1), padding=(radius, 0))
    return F.conv2d(flat, profile.view(1, 1, 1, -1), padding=(0, radius)).view(B, K, H, W)


def grey_opening(maps: Tensor, size: int = 2) -> Tensor:
    """Erosion, then dilation of every map (B, K, H, W) by a flat square of ``size`` pixels.

    Pixels outside are ignored. Equal to ``scipy.ndimage.grey_opening`` with its default border.
    """
    before, after = size // 2, size - 1 - size // 2
    outside = float("-inf")
    eroded = -F.max_pool2d(F.pad(-maps, (before, after, before, after), value=outside), size, stride=1)
    return F.max_pool2d(F.pad(eroded, (after, before, after, before), value=outside), size, stride=1)


def opening_loss(probabilities: Tensor, size: int = 2) -> Tensor:
    """Mean squared difference of the probabilities from their grey opening, which is a constant for the gradient."""
    return F.mse_loss(probabilities, grey_opening(probabilities.detach(), size))


@dataclass(frozen=True)
class JointWeights:
    """Weights of the three terms of `joint_loss`."""

    ncut: float = 1e-3
    reconstruction: float = 1.0
    opening: float = 0.1


def joint_loss(
    image: Tensor,
    logits: Tensor,
    reconstruction: Tensor,
    *,
    kernel: ClassMeanKernel | None = None,
    opening_size: int = 2,
    weights: JointWeights | None = None,
) -> Tensor:
    """The weighted sum of cut, reconstruction error and opening.

    Args:
        image: (B, C, H, W).
        logits: (B, K, H, W).
        reconstruction: (B, C, H, W).
        kernel: See `class_mean_ncut`.
        opening_size: See `grey_opening`.
        weights: None takes the published ones.
    """
    weights = weights or JointWeights()
    probabilities = logits.softmax(dim=1)
    return (
        weights.ncut * class_mean_ncut(image, probabilities, kernel)
        + weights.reconstruction * F.mse_loss(reconstruction, image)
        + weights.opening * opening_loss(probabilities, opening_size)
    )
