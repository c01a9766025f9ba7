"""Textured layers under known poses, painted with their exact optical flow and occlusion.

A layer is a texture with an outline in its own coordinates s. Its pose at frame k maps s to the image,
``x = P_k(s)``. A frame is painted by evaluating texture and outline at ``P_k^-1(x)``; the forward flow of a pixel is
``P_{k+1}(P_k^-1(x)) - x`` of the layer seen there. Nothing is resampled, so flow and occlusion are exact: to float
rounding for affine poses, to 1e-9 pixels for quadratic ones, whose inverse is found by Newton steps.

Pixel centres have integer coordinates; x runs right and y down.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from common.textures import Array, Outline, Texture


@dataclass(frozen=True)
class Pose:
    """Layer to image: ``x = affine s + shift + quadratic (sx^2, sx sy, sy^2)``.

    Attributes:
        affine: (2, 2).
        shift: (2,) in pixels.
        quadratic: (2, 3) in 1/pixels, or None for an affine pose.
    """

    affine: Array
    shift: Array
    quadratic: Array | None = None

    def forward(self, points: Array) -> Array:
        """Image positions (2, ...) of the layer positions ``points`` (2, ...)."""
        moved = np.tensordot(self.affine, points, 1) + _column(self.shift, points)
        if self.quadratic is not None:
            x, y = points
            moved = moved + np.tensordot(self.quadratic, np.stack([x * x, x * y, y * y]), 1)
        return moved

    def inverse(self, points: Array) -> Array:
        """Layer positions (2, ...) of the image positions ``points`` (2, ...)."""
        inverse = np.linalg.inv(self.affine)
        layer = np.tensordot(inverse, points - _column(self.shift, points), 1)
        if self.quadratic is None:
            return layer
        for _ in range(6):  # quadratic convergence from a start that is pixels away
            x, y = layer
            off_x, off_y = self.forward(layer) - points
            (q0, q1, q2), (r0, r1, r2) = self.quadratic
            a, b = self.affine[0, 0] + 2 * q0 * x + q1 * y, self.affine[0, 1] + q1 * x + 2 * q2 * y
            c, d = self.affine[1, 0] + 2 * r0 * x + r1 * y, self.affine[1, 1] + r1 * x + 2 * r2 * y
            determinant = a * d - b * c
            layer = layer - np.stack([d * off_x - b * off_y, a * off_y - c * off_x]) / determinant
        return layer


def _column(vector: Array, points: Array) -> Array:
    return vector.reshape(2, *(1,) * (points.ndim - 1))


@dataclass(frozen=True)
class Layer:
    """A texture, its outline (None: the layer is everywhere) and one pose per frame."""

    texture: Texture
    outline: Outline | None
    poses: Sequence[Pose]

    def coverage(self, points: Array) -> tuple[Array, Array]:
        """Inside (sign < 0) and opacity in [0, 1] of the layer positions (2, H, W) of an image grid.

        Edges are smoothed over one image pixel: the implicit function over its gradient is the distance in pixels.
        """
        if self.outline is None:
            return np.full(points.shape[1:], -1.0), np.ones(points.shape[1:])
        implicit = self.outline.implicit(points)
        down, right = np.gradient(implicit)
        return implicit, np.clip(0.5 - implicit / np.maximum(np.hypot(down, right), 1e-6), 0.0, 1.0)

    def colours(self, points: Array) -> Array:
        """Colours (3, N) in [0, 1] at layer positions (2, N); darker toward the rim, so that objects look solid."""
        colours = self.texture.sample(points)
        if self.outline is not None:
            depth = np.clip(1 + self.outline.implicit(points) / self.outline.radius_px, 0.0, 1.0)
            colours = colours * (1.04 - 0.34 * depth**3)
        return colours


def render(
    layers: Sequence[Layer], height: int, width: int
) -> tuple[Array, NDArray[np.uint8], Array, NDArray[np.bool_]]:
    """Paint a stack of layers, rearmost first.

    Returns:
        Frames (T, 3, H, W) in [0, 1], labels (T, H, W), flow (T-1, 2, H, W), occluded (T-1, H, W).
    """
    T = len(layers[0].poses)
    grid = np.stack(np.meshgrid(np.arange(width), np.arange(height))).astype(np.float64)
    frames = np.zeros((T, 3, height, width))
    labels = np.empty((T, height, width), np.uint8)
    flow = np.empty((T - 1, 2, height, width))
    occluded = np.empty((T - 1, height, width), bool)
    for k in range(T):
        target = np.empty_like(grid)
        for index, layer in enumerate(layers):
            points = layer.poses[k].inverse(grid)
            implicit, opacity = layer.coverage(points)
            touched, inside = opacity > 0, implicit < 0
            colours = layer.colours(points[:, touched])
            frames[k][:, touched] += opacity[touched] * (colours - frames[k][:, touched])
            labels[k][inside] = index
            if k + 1 < T:
                target[:, inside] = layer.poses[k + 1].forward(points[:, inside])
        if k + 1 < T:
            flow[k] = target - grid
            occluded[k] = _hidden(layers, k + 1, target, labels[k])
    return frames, labels, flow, occluded


def _hidden(layers: Sequence[Layer], k: int, target: Array, labels: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Which of the points that layer ``labels`` has at ``target`` in frame k are outside it or behind another layer."""
    height, width = labels.shape
    hidden = (target[0] < 0) | (target[0] > width - 1) | (target[1] < 0) | (target[1] > height - 1)
    for index, layer in enumerate(layers):
        behind = labels < index
        if layer.outline is not None and behind.any():
            hidden[behind] |= layer.outline.implicit(layer.poses[k].inverse(target[:, behind])) < 0
    return hidden
