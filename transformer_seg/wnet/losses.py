"""The losses of W-Net: the exact soft normalised cut and the reconstruction error (arXiv 1711.08506, section 3).

Symbols: B images, C channels, K segments, H W pixels; p the probability that a pixel belongs to a segment, w the weight
of the edge between two pixels.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

SMALLEST_MASS = 1e-12  # below it a segment is empty and has no association


@dataclass(frozen=True)
class NcutKernel:
    """Which pixels are neighbours, and how strongly they are tied.

    Attributes:
        radius: Neighbours are closer than this, in pixels (strictly: 5 makes 68 of them).
        sigma_intensity: Scale of the colour difference, for values in 0..255.
        sigma_space: Scale of the distance in pixels.
        value_scale: Factor that brings the image to 0..255.
    """

    radius: float = 5.0
    sigma_intensity: float = 10.0
    sigma_space: float = 4.0
    value_scale: float = 255.0

    def offsets(self) -> list[tuple[int, int]]:
        """One (rows, columns) of each pair of opposite offsets."""
        reach = math.ceil(self.radius)
        return [
            (dy, dx)
            for dy in range(reach + 1)
            for dx in range(-reach, reach + 1)
            if (dy > 0 or dx > 0) and dy * dy + dx * dx < self.radius * self.radius
        ]


@dataclass(frozen=True)
class NcutParts:
    """What the cut is made of.

    Attributes:
        association: Weight of the edges inside each segment (B, K).
        mass: Weight of all edges from each segment (B, K).
        degree: Weight of all edges of each pixel, itself included (B, 1, H, W).
    """

    association: Tensor
    mass: Tensor
    degree: Tensor

    def per_image(self) -> Tensor:
        """K - sum of association / mass (B,), between 0 and K; an empty segment adds 1."""
        return self.mass.shape[1] - (self.association / self.mass.clamp(min=SMALLEST_MASS)).sum(dim=1)


def soft_ncut(image: Tensor, probabilities: Tensor, kernel: NcutKernel | None = None) -> Tensor:
    """The soft normalised cut of each image, exact (equation 2 of the paper): average it over the batch.

    0 when no edge crosses between segments, K - 1 when one segment takes every pixel. The gradient flows through the
    probabilities only. Sums are in float32 at least, also under autocast; a second derivative does not exist.

    Args:
        image: Values in [0, 1] (B, C, H, W).
        probabilities: Sum to one over K (B, K, H, W).
        kernel: Neighbourhood; None takes the paper's.

    Returns:
        (B,)
    """
    return ncut_parts(image, probabilities, kernel).per_image()


def ncut_parts(image: Tensor, probabilities: Tensor, kernel: NcutKernel | None = None) -> NcutParts:
    """Associations, masses and degrees; see `soft_ncut`."""
    dtype = torch.promote_types(probabilities.dtype, torch.float32)
    probabilities = probabilities.to(dtype)
    association, degree = _Association.apply(image.detach().to(dtype), probabilities, kernel or NcutKernel())
    mass = (probabilities * degree).sum(dim=(2, 3))
    return NcutParts(association, mass, degree)


class _Association(torch.autograd.Function):
    """sum_ij w_ij p_ik p_jk and sum_j w_ij, in one pass over the offsets.

    w is symmetric, so the gradient is twice the smoothed probabilities that the forward pass makes anyway: nothing of
    the size of the neighbourhood is ever stored.
    """

    @staticmethod
    def forward(ctx: Any, image: Tensor, probabilities: Tensor, kernel: NcutKernel) -> tuple[Tensor, Tensor]:
        smoothed = probabilities.clone()  # the edge of a pixel with itself weighs 1
        degree = torch.ones_like(probabilities[:, :1])
        for weight, here, there in edges(image, kernel):
            smoothed[here].addcmul_(weight, probabilities[there])
            smoothed[there].addcmul_(weight, probabilities[here])
            degree[here] += weight
            degree[there] += weight
        ctx.save_for_backward(smoothed)
        ctx.mark_non_differentiable(degree)
        return (probabilities * smoothed).sum(dim=(2, 3)), degree

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor, _: Tensor) -> tuple[None, Tensor, None]:
        (smoothed,) = ctx.saved_tensors
        return None, smoothed * (2 * grad[:, :, None, None]), None


Region = tuple[Any, slice, slice]


def edges(image: Tensor, kernel: NcutKernel) -> Iterator[tuple[Tensor, Region, Region]]:
    """Each edge between two pixels once, offset by offset; a pixel outside the image is no neighbour.

    Yields:
        Weights (B, 1, h, w) and the two regions of a (B, C, H, W) tensor that they connect.
    """
    H, W = image.shape[-2:]
    scaled = image * (kernel.value_scale / kernel.sigma_intensity)
    for dy, dx in kernel.offsets():
        if dy >= H or abs(dx) >= W:
            continue
        here = (..., slice(0, H - dy), slice(max(-dx, 0), W - max(dx, 0)))
        there = (..., slice(dy, H), slice(max(dx, 0), W - max(-dx, 0)))
        difference = (scaled[here] - scaled[there]).square_().sum(dim=1, keepdim=True)
        distance = (dy * dy + dx * dx) / kernel.sigma_space**2
        yield difference.add_(distance).neg_().exp_(), here, there


def reconstruction_loss(image: Tensor, reconstruction: Tensor) -> Tensor:
    """Mean squared error over all elements.

    The paper's squared norm is larger by the constant number of elements of an image.
    """
    return F.mse_loss(reconstruction, image)
