"""Clips of textured objects with exact flow, masks and backgrounds: moving camera or fixed camera."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from common.errors import InputError
from common.layers import Layer, Pose, render
from common.textures import PATTERNS, SHAPES, Array, background_texture, make_outline, object_texture

Seed = int | Sequence[int] | np.random.Generator
_TRIES = 100


@dataclass(frozen=True)
class Clip:
    """A rendered clip with everything that is known about it.

    Attributes:
        name: Name of the sequence.
        frames: (T, H, W, 3) uint8 RGB.
        backgrounds: (T, H, W, 3) uint8, the frames without objects and noise, with the same light.
        labels: (T, H, W) uint8 object ids; 0 is the background, id 1 the rearmost object.
        flow: (T-1, 2, H, W) float32 forward flow (u, v) in pixels, frame k to k+1.
        occluded: (T-1, H, W) bool, the pixel of frame k is covered or outside the image at k+1.
    """

    name: str
    frames: NDArray[np.uint8]
    backgrounds: NDArray[np.uint8]
    labels: NDArray[np.uint8]
    flow: NDArray[np.float32]
    occluded: NDArray[np.bool_]

    @property
    def masks(self) -> NDArray[np.bool_]:
        """(T, H, W), True on any object."""
        return self.labels > 0


def _swing(rng: np.random.Generator, peak_rate: float, num_frames: int) -> Array:
    """A smooth drift by frame, (T,), that starts anywhere and never changes faster than ``peak_rate`` per frame."""
    period = rng.uniform(25, 60)
    return peak_rate * period / (2 * np.pi) * np.sin(2 * np.pi * (np.arange(num_frames) / period + rng.uniform()))


def _linear(turn: float, log_zoom: float, shear: float) -> Array:
    """(2, 2) matrix of a rotation by ``turn`` radians, a zoom and a shear."""
    c, s = np.cos(turn), np.sin(turn)
    return np.exp(log_zoom) * np.array([[c, -s], [s, c]]) @ np.array([[1.0, shear], [0.0, 1.0]])


def camera_poses(rng: np.random.Generator, num_frames: int, height: int, width: int, motion: float = 1.0) -> list[Pose]:
    """Poses of the ground under a hand-held camera: pan, zoom, slight rotation and a quadratic (tilting plane) part.

    Args:
        rng: Source of randomness.
        num_frames: T.
        height: H in pixels.
        width: W in pixels.
        motion: 0 holds still; 1 pans at about 1 % of the height per frame and moves the corners by up to 0.5 % of it
            through each of zoom, rotation and the quadratic part.
    """
    if motion == 0:
        return [Pose(np.eye(2), np.array([width / 2, height / 2]))] * num_frames
    half = max(height, width) / 2
    heading, speed = rng.uniform(0, 2 * np.pi), motion * 0.01 * height * rng.uniform(0.5, 1.3)
    pan = speed * np.array([np.cos(heading), np.sin(heading)])
    step = motion * 0.005 * height
    zoom, turn = (_swing(rng, step / half, num_frames) for _ in range(2))
    sway = [_swing(rng, 0.3 * step, num_frames) for _ in range(2)]
    tilt = np.stack([_swing(rng, step / half**2 * rng.uniform(-1, 1), num_frames) for _ in range(6)])
    centre = np.array([width / 2, height / 2])
    return [
        Pose(
            _linear(turn[k], zoom[k], 0.0),
            centre + pan * (k - num_frames / 2) + [sway[0][k], sway[1][k]],
            tilt[:, k].reshape(2, 3),
        )
        for k in range(num_frames)
    ]


def object_poses(
    rng: np.random.Generator, num_frames: int, height: int, width: int, speed: float, reach: float
) -> list[Pose]:
    """Poses of an object on an elliptic path with its own slowly changing turn, zoom and shear.

    It never stands still and its centre stays in the middle of the image.

    Args:
        rng: Source of randomness.
        num_frames: T.
        height: H in pixels.
        width: W in pixels.
        speed: Greatest speed of the centre in pixels per frame.
        reach: Semi-axes of the path over the image sides, below 0.45.
    """
    axes = reach * rng.uniform(0.7, 1.0, 2) * np.array([width, height])
    centre = np.array([width, height]) * (0.5 + (0.42 - axes / np.array([width, height])) * rng.uniform(-1, 1, 2))
    start, way = rng.uniform(0, 2 * np.pi), rng.choice([-1.0, 1.0])
    phase = start + way * speed / axes.max() * np.arange(num_frames)
    turn = rng.uniform(0, 2 * np.pi) + rng.uniform(-0.012, 0.012) * np.arange(num_frames)
    turn = turn + _swing(rng, 0.01, num_frames)
    zoom, shear = _swing(rng, 0.006, num_frames), _swing(rng, 0.006, num_frames)
    return [
        Pose(_linear(turn[k], zoom[k], shear[k]), centre + axes * np.array([np.cos(phase[k]), np.sin(phase[k])]))
        for k in range(num_frames)
    ]


def _draw_layers(
    rng: np.random.Generator,
    poses: Sequence[Pose],
    height: int,
    width: int,
    num_objects: int,
    speed: float,
    reach: float,
    radius: tuple[float, float],
) -> list[Layer]:
    """A background under ``poses`` and objects of hues that differ from it and from each other."""
    hue = rng.uniform()
    layers = [Layer(background_texture(rng, hue), None, poses)]
    first = hue + 0.5 + rng.uniform(-0.1, 0.1)
    for index in range(num_objects):
        pattern = PATTERNS[rng.integers(4)]
        radius_px = height * rng.uniform(*radius)
        texture = object_texture(rng, pattern, first + 0.21 * index, max(0.55 * radius_px, 8.0))
        outline = make_outline(rng, SHAPES[rng.integers(len(SHAPES))], radius_px)
        layers.append(
            Layer(texture, outline, object_poses(rng, len(poses), height, width, speed * rng.uniform(0.7, 1.2), reach))
        )
    return layers


def _moves_apart(layers: Sequence[Layer], least_px: float) -> bool:
    """Whether every object's centre always moves by at least ``least_px`` per frame relative to the ground."""
    ground = layers[0].poses
    for layer in layers[1:]:
        for k in range(len(ground) - 1):
            carried = ground[k + 1].forward(ground[k].inverse(layer.poses[k].shift))
            if np.linalg.norm(layer.poses[k + 1].shift - carried) < least_px:
                return False
    return True


def _to_clip(
    rng: np.random.Generator, layers: Sequence[Layer], name: str, height: int, width: int, noise: float, gain: Array
) -> Clip | None:
    """The rendered clip, or None when an object is hidden in some frame."""
    frames, labels, flow, occluded = render(layers, height, width)
    smallest = 0.004 * height * width
    if any((labels == index).sum((1, 2)).min() < smallest for index in range(1, len(layers))):
        return None
    ground = layers[0]
    still = all(pose is ground.poses[0] for pose in ground.poses)
    if still:
        ground = Layer(ground.texture, None, ground.poses[:1])
    light = gain[:, None, None, None]
    backgrounds = np.broadcast_to(render([ground], height, width)[0], frames.shape)
    noisy = 255 * frames * light + noise * rng.standard_normal(frames.shape)
    return Clip(name, _to_bytes(noisy), _to_bytes(255 * backgrounds * light), labels, flow.astype(np.float32), occluded)


def _to_bytes(frames: Array) -> NDArray[np.uint8]:
    """(T, 3, H, W) in grey levels to (T, H, W, 3) uint8."""
    return np.clip(np.rint(frames), 0, 255).astype(np.uint8).transpose(0, 2, 3, 1).copy()


def _count_objects(rng: np.random.Generator, num_objects: int | None) -> int:
    return int(rng.integers(1, 4)) if num_objects is None else num_objects


def _check_sizes(num_frames: int, height: int, width: int) -> None:
    if num_frames < 2:
        raise InputError(f"num_frames is {num_frames}; a clip needs at least 2")
    if min(height, width) < 32:
        raise InputError(f"height x width is {height} x {width}; use at least 32 pixels per side")


def moving_clip(
    seed: Seed,
    *,
    num_frames: int = 12,
    height: int = 128,
    width: int = 224,
    num_objects: int | None = None,
    camera: float = 1.0,
    speed: float = 0.025,
    noise: float = 1.0,
    name: str = "clip",
) -> Clip:
    """Textured objects that move over a moving textured ground, with exact flow.

    Args:
        seed: Seed or generator; the same seed gives the same bytes.
        num_frames: T, at least 2.
        height: H in pixels, at least 32.
        width: W in pixels, at least 32.
        num_objects: Number of objects; None draws 1 to 3. They may cover each other, never wholly.
        camera: Strength of the camera's motion, 0 for none (see ``camera_poses``).
        speed: Typical speed of an object in image heights per frame; relative to the ground it is never below 0.35
            of this.
        noise: Standard deviation of the pixel noise in grey levels.
        name: Name of the sequence.

    Raises:
        InputError: A size is too small, or no arrangement was found in which every object stays visible and moves.
    """
    _check_sizes(num_frames, height, width)
    rng = np.random.default_rng(seed)
    count = _count_objects(rng, num_objects)
    for _ in range(_TRIES):
        poses = camera_poses(rng, num_frames, height, width, camera)
        layers = _draw_layers(rng, poses, height, width, count, speed * height, 0.3, (0.15, 0.27))
        if not _moves_apart(layers, 0.35 * speed * height):
            continue
        clip = _to_clip(rng, layers, name, height, width, noise, np.ones(num_frames))
        if clip is not None:
            return clip
    raise InputError(f"no room for {count} moving objects in {_TRIES} tries; use fewer objects or a slower camera")


def fixed_camera_clip(
    seed: Seed,
    *,
    num_frames: int = 60,
    height: int = 96,
    width: int = 128,
    num_objects: int | None = None,
    illum: float = 0.0,
    noise: float = 1.0,
    name: str = "camera",
) -> Clip:
    """Objects that cross a still scene, optionally under slowly changing light.

    Each object goes once around an ellipse of most of the image, so every background pixel is free most of the time.

    Args:
        seed: Seed or generator; the same seed gives the same bytes.
        num_frames: T, at least 2.
        height: H in pixels, at least 32.
        width: W in pixels, at least 32.
        num_objects: Number of objects; None draws 1 to 3.
        illum: Relative swing of the light over the clip (one sine period); 0.25 goes from 75 % to 125 %.
        noise: Standard deviation of the pixel noise in grey levels.
        name: Name of the sequence.

    Raises:
        InputError: A size is too small, or no arrangement was found in which every object stays visible.
    """
    _check_sizes(num_frames, height, width)
    rng = np.random.default_rng(seed)
    count = _count_objects(rng, num_objects)
    gain = 1 + illum * np.sin(2 * np.pi * np.arange(num_frames) / num_frames)
    speed = 2 * np.pi * 0.35 * max(height, width) / num_frames
    for _ in range(_TRIES):
        poses = camera_poses(rng, num_frames, height, width, 0.0)
        layers = _draw_layers(rng, poses, height, width, count, speed, 0.38, (0.10, 0.16))
        clip = _to_clip(rng, layers, name, height, width, noise, gain)
        if clip is not None:
            return clip
    raise InputError(f"no room for {count} objects in {_TRIES} tries; use fewer objects")
