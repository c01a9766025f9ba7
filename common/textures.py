"""Periodic colour textures and star-shaped outlines: what synthetic clips and scenes are painted with.

A texture is a periodic image held as cubic spline coefficients, so it can be sampled at any real position of an
endless plane; its finest wavelength is 4 pixels, so sampling it under a slow zoom or rotation does not alias. An
outline is given in polar form, hence its inside test is one formula at any position too. Both make rendering under a
pose a matter of evaluation, never of resampling pixels.
"""

import colorsys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

Array = NDArray[np.float64]
ShapeKind = Literal["disc", "square", "triangle", "star", "hexagon", "blob"]
PatternKind = Literal["noise", "stripes", "checks", "dots", "plain"]
SHAPES: tuple[ShapeKind, ...] = get_args(ShapeKind)
PATTERNS: tuple[PatternKind, ...] = get_args(PatternKind)

# corners and inner radius over outer radius; cos(pi / n) makes the sides of a regular polygon straight
_CORNERS: dict[str, tuple[int, float]] = {
    "triangle": (3, float(np.cos(np.pi / 3))),
    "square": (4, float(np.cos(np.pi / 4))),
    "hexagon": (6, float(np.cos(np.pi / 6))),
    "star": (5, 0.5),
}


@dataclass(frozen=True)
class Texture:
    """A periodic colour image on an endless plane.

    Attributes:
        coefficients: Cubic spline coefficients, (3, P, P), for colours in [0, 1].
    """

    coefficients: Array

    def sample(self, points: Array) -> Array:
        """Colours in [0, 1], shape (3, ...), at the positions ``points`` (2, ...) = (x, y) in texture pixels."""
        rows_columns = points[::-1]
        channels = [
            ndimage.map_coordinates(channel, rows_columns, order=3, mode="grid-wrap", prefilter=False)
            for channel in self.coefficients
        ]
        return np.clip(np.stack(channels), 0.0, 1.0)


@dataclass(frozen=True)
class Outline:
    """A star-shaped region around the origin whose area is that of a disc of ``radius_px``.

    Attributes:
        kind: Family of the outline.
        radius_px: Radius of the disc of equal area.
        aspect: Stretch of x, and shrinkage of y.
        waves: Amplitudes and phases of a blob's harmonics 2, 3, ...; empty otherwise.
    """

    kind: ShapeKind
    radius_px: float
    aspect: float = 1.0
    waves: tuple[tuple[float, float], ...] = ()

    def _radius(self, angle: Array) -> Array:
        """Distance of the outline from the origin by direction, before scaling to the wanted area."""
        if self.kind in _CORNERS:
            corners, inner = _CORNERS[self.kind]
            half = np.pi / corners
            # angle from the nearest tip; a tip points up (negative y)
            phi = np.abs((angle + np.pi / 2 + half) % (2 * half) - half)
            return inner * np.sin(half) / (np.sin(phi) + inner * np.sin(half - phi))
        radius = np.ones_like(angle)
        for harmonic, (amplitude, phase) in enumerate(self.waves, start=2):
            radius = radius + amplitude * np.cos(harmonic * angle + phase)
        return radius

    def implicit(self, points: Array) -> Array:
        """A function of position (2, ...) in pixels: negative inside, 0 on the outline, about pixels away from it."""
        x, y = points[0] / self.aspect, points[1] * self.aspect
        around = np.linspace(-np.pi, np.pi, 720, endpoint=False)
        scale = self.radius_px / np.sqrt(np.mean(self._radius(around) ** 2))
        return np.hypot(x, y) - scale * self._radius(np.arctan2(y, x))


def make_outline(rng: np.random.Generator, kind: ShapeKind, radius_px: float, elongation: float = 1.4) -> Outline:
    """An outline of the given family; aspect in [1/elongation, elongation], a blob's harmonics drawn at random."""
    aspect = float(np.exp(rng.uniform(-1, 1) * np.log(elongation)))
    waves: tuple[tuple[float, float], ...] = ()
    if kind == "blob":
        amplitudes = rng.uniform(0.04, 0.16, 4) / np.array([1.0, 1.2, 1.6, 2.0])
        waves = tuple(zip(amplitudes.tolist(), rng.uniform(0, 2 * np.pi, 4).tolist(), strict=True))
    return Outline(kind, float(radius_px), aspect, waves)


def band_noise(
    rng: np.random.Generator, period_px: int, longest_px: float, shortest_px: float, slope: float = 1.0
) -> Array:
    """Periodic noise, (P, P), zero mean and unit variance, with wavelengths from ``shortest_px`` to ``longest_px``.

    Args:
        rng: Source of randomness.
        period_px: Period P.
        longest_px: Longest wavelength.
        shortest_px: Shortest wavelength.
        slope: Amplitudes fall as 1 / frequency ** slope.
    """
    frequency = np.hypot(np.fft.fftfreq(period_px)[:, None], np.fft.rfftfreq(period_px)[None, :])
    inside = (frequency >= 1 / longest_px) & (frequency <= 1 / shortest_px)
    gain = np.where(inside, np.maximum(frequency, 1e-9) ** -slope, 0.0)
    field = np.fft.irfft2(np.fft.rfft2(rng.standard_normal((period_px, period_px))) * gain, s=(period_px, period_px))
    return (field - field.mean()) / field.std()


def _blend(rng: np.random.Generator, pattern: PatternKind, period_px: int, wave_px: float) -> Array:
    """Share of the second colour, (P, P) in [0, 1], for one pattern of about ``wave_px``."""
    if pattern == "plain":
        return np.zeros((period_px, period_px))
    if pattern == "noise":
        return 1 / (1 + np.exp(-2.5 * band_noise(rng, period_px, 3 * wave_px, max(wave_px / 3, 4.0), 1.5)))
    y, x = np.mgrid[:period_px, :period_px] * (2 * np.pi / period_px)
    cycles = max(round(period_px / wave_px), 2)
    if pattern == "stripes":
        # whole cycles along both axes keep the stripes periodic
        turn = rng.uniform(0, np.pi)
        across, down = round(cycles * np.cos(turn)), round(cycles * np.sin(turn))
        wave = np.sin(across * x + down * y)
    elif pattern == "checks":
        wave = np.sin(cycles // 2 * (x + y)) * np.sin(cycles // 2 * (x - y)) * 1.6
    else:
        wave = np.cos(cycles * x) + np.cos(cycles * y) - 0.6
    return 1 / (1 + np.exp(-4.0 * wave))


def make_texture(
    rng: np.random.Generator,
    pattern: PatternKind,
    colours: Sequence[Sequence[float]],
    period_px: int = 256,
    wave_px: float = 14.0,
    detail: float = 0.10,
) -> Texture:
    """A two-colour pattern with fine grain of both lightness and hue.

    Args:
        rng: Source of randomness.
        pattern: Kind of pattern.
        colours: Two RGB colours in [0, 1].
        period_px: Period of the plane.
        wave_px: Wavelength of the pattern.
        detail: Standard deviation of the grain, which gives optical flow something to hold on to.
    """
    first, second = np.asarray(colours, dtype=np.float64)[:, :, None, None]
    share = _blend(rng, pattern, period_px, wave_px)
    image = first * (1 - share) + second * share
    if detail > 0:
        grain = band_noise(rng, period_px, 32.0, 4.0, 1.0)
        tint = np.stack([band_noise(rng, period_px, 64.0, 8.0, 1.5) for _ in range(3)])
        image = image + detail * grain + 0.4 * detail * tint
    return texture_from_image(image)


def texture_from_image(image: Array) -> Texture:
    """A texture that repeats ``image``, (3, P, P) with colours in [0, 1]."""
    clipped = np.clip(image, 0.02, 0.98)
    return Texture(np.stack([ndimage.spline_filter(channel, order=3, mode="grid-wrap") for channel in clipped]))


def hsv(hue: float, saturation: float, value: float) -> tuple[float, float, float]:
    """RGB in [0, 1] of a colour whose hue counts in turns (any real number)."""
    return colorsys.hsv_to_rgb(hue % 1.0, min(max(saturation, 0.0), 1.0), min(max(value, 0.0), 1.0))


def background_texture(rng: np.random.Generator, hue: float, period_px: int = 512) -> Texture:
    """A calm, earthy ground: large soft patches of a dull hue with grain; richer than an object's in no frequency."""
    patches = 1 / (1 + np.exp(-1.6 * band_noise(rng, period_px, 160.0, 24.0, 1.6)))
    light, dark = np.array(hsv(hue, 0.30, 0.66)), np.array(hsv(hue + 0.07, 0.42, 0.36))
    image = light[:, None, None] * (1 - patches) + dark[:, None, None] * patches
    speckle = np.maximum(band_noise(rng, period_px, 20.0, 4.0, 0.5), 0.0)
    image = image + 0.05 * band_noise(rng, period_px, 40.0, 4.0, 1.0) + 0.045 * speckle
    return texture_from_image(image)


def object_texture(rng: np.random.Generator, pattern: PatternKind, hue: float, wave_px: float = 14.0) -> Texture:
    """A saturated two-tone pattern around one hue."""
    first = hsv(hue, rng.uniform(0.65, 0.85), rng.uniform(0.80, 0.95))
    second = hsv(hue + rng.uniform(-0.08, 0.08), rng.uniform(0.15, 0.5), rng.uniform(0.25, 0.98))
    return make_texture(rng, pattern, (first, second), 256, wave_px, 0.07)
