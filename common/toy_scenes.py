"""Single images with exact labels: one object for redrawing methods, classes and instances for semantic ones.

``object_scene`` draws a sine-textured warm object on a cool sine-textured ground. ``semantic_scene`` has three styles:
``patterned`` (a class is a shape with a pattern, on textured ground), ``shaded`` (one disc and one rectangle on a
shaded plain ground) and ``noise`` (one or two coloured discs, squares or ellipses on noise).
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from common.errors import InputError
from common.layered_clips import Seed
from common.layers import Layer, Pose
from common.textures import (
    PATTERNS,
    SHAPES,
    Array,
    Outline,
    PatternKind,
    ShapeKind,
    background_texture,
    make_outline,
    object_texture,
)

SceneStyle = Literal["patterned", "shaded", "noise"]
VOID = 255


@dataclass(frozen=True)
class Scene:
    """An image with its labels.

    Attributes:
        name: Stem of the files.
        image: (H, W, 3) uint8 RGB.
        semantic: (H, W) uint8 class indices, 0 background, 255 void.
        instance: (H, W) uint8 instance ids 1.., 0 background, 255 void.
    """

    name: str
    image: NDArray[np.uint8]
    semantic: NDArray[np.uint8]
    instance: NDArray[np.uint8]

    @property
    def mask(self) -> NDArray[np.bool_]:
        """(H, W), True on any object and not void."""
        return (self.instance > 0) & (self.instance != VOID)


def _to_bytes(image: Array) -> NDArray[np.uint8]:
    """Colours (3, H, W) in [0, 1] to (H, W, 3) uint8."""
    return np.rint(255 * np.clip(image, 0.0, 1.0)).astype(np.uint8).transpose(1, 2, 0).copy()


def _sine_sheet(rng: np.random.Generator, low: Array, high: Array, cycles: tuple[float, float], size: int) -> Array:
    """A colour drawn from a box plus one grey sine wave of amplitude 0.08, (3, S, S)."""
    y, x = np.mgrid[:size, :size].astype(np.float64)
    colour = rng.uniform(low, high)
    frequency, angle, phase = rng.uniform(*cycles), rng.uniform(0, np.pi), rng.uniform(0, 2 * np.pi)
    wave = np.sin(2 * np.pi * frequency * (x * np.cos(angle) + y * np.sin(angle)) / size + phase)
    return colour[:, None, None] + 0.08 * wave


def object_scene(seed: Seed, *, size: int = 32, name: str = "object") -> Scene:
    """One ellipse or rectangle on a ground of another colour and frequency (about 21 % of the pixels).

    Args:
        seed: Seed or generator; the same seed gives the same bytes.
        size: S; the image is (S, S).
        name: Stem of the files.
    """
    rng = np.random.default_rng(seed)
    ground = _sine_sheet(rng, np.array([0.0, 0.2, 0.2]), np.array([0.35, 0.9, 0.9]), (1.0, 3.0), size)
    thing = _sine_sheet(rng, np.array([0.65, 0.0, 0.0]), np.array([1.0, 0.6, 0.3]), (4.0, 6.0), size)
    y, x = np.mgrid[:size, :size].astype(np.float64)
    stretch = rng.uniform(0.75, 1.33)
    centre_x, centre_y = rng.uniform(0.38, 0.62, 2) * size
    radius = rng.uniform(0.2, 0.32) * size
    dx, dy = (x - centre_x) / stretch, (y - centre_y) * stretch
    if rng.random() < 0.5:
        mask = dx**2 + dy**2 < radius**2
    else:
        mask = np.maximum(np.abs(dx), np.abs(dy)) < 0.886 * radius
    image = np.where(mask, thing, ground) + rng.normal(0, 0.02, (3, size, size))
    return Scene(name, _to_bytes(image), mask.astype(np.uint8), mask.astype(np.uint8))


def class_recipe(index: int) -> tuple[ShapeKind, PatternKind]:
    """Shape and pattern of class ``index`` (1 to 20) of the ``patterned`` style; all twenty are different."""
    return SHAPES[:5][(index - 1) % 5], PATTERNS[:4][((index - 1) + (index - 1) // 5) % 4]


def class_names(style: SceneStyle, num_classes: int) -> list[str]:
    """Names of the classes of a style by index, ``background`` first."""
    if style == "shaded":
        return ["background", "disc", "rectangle"]
    if style == "noise":
        return ["background", "disc", "square", "ellipse"]
    return ["background", *(" ".join(reversed(class_recipe(index))) for index in range(1, num_classes + 1))]


def semantic_scene(
    seed: Seed,
    *,
    style: SceneStyle = "patterned",
    height: int = 96,
    width: int = 128,
    num_classes: int = 6,
    max_objects: int = 3,
    void_px: int = 0,
    name: str = "scene",
) -> Scene:
    """A scene with classes and instances.

    Args:
        seed: Seed or generator; the same seed gives the same bytes.
        style: See the module's text; ``shaded`` has classes 1 to 2, ``noise`` 1 to 3, ``patterned`` 1 to num_classes.
        height: H in pixels, at least 32.
        width: W in pixels, at least 32.
        num_classes: Classes of the ``patterned`` style besides the background, 1 to 20.
        max_objects: Most objects of the ``patterned`` style; 1 to this many are drawn.
        void_px: Half width of the 255 border around every object; 0 writes none.
        name: Stem of the files.

    Raises:
        InputError: A size, the number of classes or of objects is out of range.
    """
    if min(height, width) < 32:
        raise InputError(f"height x width is {height} x {width}; use at least 32 pixels per side")
    if not 1 <= num_classes <= 20:
        raise InputError(f"num_classes is {num_classes}; use 1 to 20")
    if not 1 <= max_objects <= 10:
        raise InputError(f"max_objects is {max_objects}; use 1 to 10")
    rng = np.random.default_rng(seed)
    if style == "shaded":
        image, classes, instance = _shaded(rng, height, width)
    elif style == "noise":
        image, classes, instance = _on_noise(rng, height, width)
    else:
        image, classes, instance = _patterned(rng, height, width, num_classes, max_objects)
    semantic = np.array([0, *classes], np.uint8)[instance]
    if void_px:
        border = _borders(instance, void_px)
        semantic[border] = instance[border] = VOID
    return Scene(name, _to_bytes(image), semantic, instance)


def _borders(instance: NDArray[np.uint8], void_px: int) -> NDArray[np.bool_]:
    """Pixels within ``void_px`` of a pixel of another instance; the image's own border is none."""
    import cv2

    kernel = np.ones((2 * void_px + 1, 2 * void_px + 1), np.uint8)
    return np.asarray(cv2.dilate(instance, kernel) != cv2.erode(instance, kernel))


def _paint(
    image: Array, instance: NDArray[np.uint8], layer: Layer, index: int, least_share: float, others_share: float
) -> bool:
    """Paint a layer at its first pose as instance ``index`` if it shows enough and leaves the others enough."""
    height, width = instance.shape
    grid = np.stack(np.meshgrid(np.arange(width), np.arange(height))).astype(np.float64)
    points = layer.poses[0].inverse(grid)
    implicit, opacity = layer.coverage(points)
    inside = implicit < 0
    if inside.sum() < least_share * instance.size:
        return False
    for other in range(1, index):
        if (instance[~inside] == other).sum() < others_share * (instance == other).sum():
            return False
    touched = opacity > 0
    image[:, touched] += opacity[touched] * (layer.colours(points[:, touched]) - image[:, touched])
    instance[inside] = index
    return True


def _patterned(
    rng: np.random.Generator, height: int, width: int, num_classes: int, max_objects: int
) -> tuple[Array, list[int], NDArray[np.uint8]]:
    """Image (3, H, W), class of each instance, instance map: patterned shapes on textured ground."""
    grid = np.stack(np.meshgrid(np.arange(width), np.arange(height))).astype(np.float64)
    image = background_texture(rng, rng.uniform(), 256).sample(grid)
    instance = np.zeros((height, width), np.uint8)
    classes: list[int] = []
    wanted, side = int(rng.integers(1, max_objects + 1)), min(height, width)
    for _ in range(20 * wanted):
        if len(classes) == wanted:
            break
        index = int(rng.integers(1, num_classes + 1))
        shape, pattern = class_recipe(index)
        radius = side * rng.uniform(0.15, 0.28) / max(wanted - 2, 1) ** 0.5
        hue = (index - 1) * 0.381966 + rng.uniform(-0.06, 0.06)  # golden section: neighbours differ
        texture = object_texture(rng, pattern, hue, max(0.5 * radius, 6.0))
        angle = rng.uniform(-0.5, 0.5)
        turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
        centre = rng.uniform(0.12, 0.88, 2) * [width, height]
        layer = Layer(texture, make_outline(rng, shape, radius, 1.25), [Pose(turn, centre)])
        if _paint(image, instance, layer, len(classes) + 1, 0.01, 0.6):
            classes.append(index)
    return image + rng.normal(0, 0.012, image.shape), classes, instance


def _shaded(rng: np.random.Generator, height: int, width: int) -> tuple[Array, list[int], NDArray[np.uint8]]:
    """One disc and one rectangle of jittered colours on a plain ground, under vertical shading; see ``_patterned``."""
    colours = np.array([[0.25, 0.45, 0.75], [0.85, 0.30, 0.25], [0.30, 0.75, 0.30]])
    colours = colours + rng.normal(0, 0.05, colours.shape)
    y, x = np.mgrid[:height, :width].astype(np.float64)
    side = min(height, width)
    while True:
        instance = np.zeros((height, width), np.uint8)
        radius = side * rng.uniform(0.14, 0.24)
        centre_x, centre_y = rng.uniform(radius, width - radius), rng.uniform(radius, height - radius)
        disc = (x - centre_x) ** 2 + (y - centre_y) ** 2 <= radius**2
        half_x, half_y = side * rng.uniform(0.12, 0.24, 2)
        left, top = rng.uniform(half_x, width - half_x), rng.uniform(half_y, height - half_y)
        rectangle = (np.abs(x - left) <= half_x) & (np.abs(y - top) <= half_y)
        instance[disc] = 1
        instance[rectangle] = 2
        if (instance == 1).sum() >= 0.5 * disc.sum():
            break
    image = np.moveaxis(colours[instance], -1, 0) + np.linspace(-0.05, 0.05, height)[:, None]
    return image + rng.normal(0, 0.03, image.shape), [1, 2], instance


def _on_noise(rng: np.random.Generator, height: int, width: int) -> tuple[Array, list[int], NDArray[np.uint8]]:
    """One or two plain discs, squares or ellipses of a class colour on uniform noise; see ``_patterned``."""
    colours = np.array([[0.85, 0.25, 0.20], [0.20, 0.70, 0.30], [0.25, 0.35, 0.90]])
    image = rng.uniform(0.0, 1.0, (3, height, width)) * 0.6 + 0.2
    instance = np.zeros((height, width), np.uint8)
    grid = np.stack(np.meshgrid(np.arange(width), np.arange(height))).astype(np.float64)
    classes: list[int] = []
    wanted, side = int(rng.integers(1, 3)), min(height, width)
    while len(classes) < wanted:
        index = int(rng.integers(1, 4))
        radius = side * rng.uniform(0.15, 0.25)
        outline = Outline("square" if index == 2 else "disc", radius, 1.5 ** rng.choice([-1, 1]) if index == 3 else 1.0)
        pose = Pose(np.eye(2), rng.uniform(0.2, 0.8, 2) * [width, height])
        if index == 2:
            pose = Pose(np.array([[1.0, -1.0], [1.0, 1.0]]) / np.sqrt(2), pose.shift)  # a tip points up: turn to a side
        inside = outline.implicit(pose.inverse(grid)) < 0
        if (instance[inside] > 0).any():
            continue
        colour = colours[index - 1] + rng.normal(0, 0.05, 3)
        image[:, inside] = colour[:, None] + rng.normal(0, 0.03, (3, int(inside.sum())))
        classes.append(index)
        instance[inside] = len(classes)
    return image, classes, instance
