"""Pictures of labels and flow: colours, overlays, captioned grids and overlay videos.

Images are uint8 (H, W, 3) RGB. The flow colours are those of Baker et al., "A database and evaluation methodology for
optical flow" (IJCV 2011): hue is the direction, saturation the length.
"""

import os
from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from common.files import voc_palette as voc_palette
from common.video import VideoWriter

Image = NDArray[np.uint8]

# number of steps between red, yellow, green, cyan, blue, magenta and red again (Baker et al.)
_WHEEL_STEPS = (15, 6, 4, 11, 13, 6)
_WHEEL_CORNERS = ((1, 0, 0), (1, 1, 0), (0, 1, 0), (0, 1, 1), (0, 0, 1), (1, 0, 1), (1, 0, 0))


def colourise_labels(labels: NDArray[np.integer], palette: Image | None = None) -> Image:
    """The picture of a label map.

    Args:
        labels: Integers (H, W) in [0, 255].
        palette: uint8 (256, 3); default the VOC colours.

    Returns:
        uint8 (H, W, 3).
    """
    colours = voc_palette() if palette is None else palette
    values = np.asarray(labels)
    if values.size and not 0 <= int(values.min()) <= int(values.max()) <= 255:
        raise ValueError(f"labels must lie in [0, 255], got [{values.min()}, {values.max()}]")
    return colours[values.astype(np.uint8)]


def contours(labels: NDArray[np.integer], width_px: int = 1) -> NDArray[np.bool_]:
    """Pixels (H, W) on the inner edge of a labelled region, within ``width_px`` of a pixel of another label."""
    values = np.asarray(labels)
    edge = np.zeros(values.shape, bool)
    for step in range(1, width_px + 1):
        down, right = values[step:] != values[:-step], values[:, step:] != values[:, :-step]
        edge[step:] |= down
        edge[:-step] |= down
        edge[:, step:] |= right
        edge[:, :-step] |= right
    return edge & (values != 0)


def overlay(
    image: Image,
    labels: NDArray[np.integer],
    alpha: float = 0.5,
    contour: bool = True,
    palette: Image | None = None,
) -> Image:
    """The image with its labelled regions tinted; label 0 stays as it is.

    Args:
        image: uint8 (H, W, 3).
        labels: Integers (H, W) in [0, 255].
        alpha: Strength of the tint in [0, 1].
        contour: Draw the inner edge of every region in its full colour, about 1/200 of the height wide.
        palette: uint8 (256, 3); default the VOC colours.
    """
    labels = np.asarray(labels)
    if labels.shape != image.shape[:2]:
        raise ValueError(f"image {image.shape[:2]} and labels {labels.shape} differ in size")
    colours = colourise_labels(labels, palette).astype(np.float32)
    strength = np.where(labels != 0, np.float32(alpha), np.float32(0))
    if contour:
        strength[contours(labels, max(1, round(image.shape[0] / 200)))] = 1
    mixed = image + strength[..., None] * (colours - image)
    return np.rint(mixed).astype(np.uint8)


def colour_wheel() -> NDArray[np.float64]:
    """The 55 colours of the flow wheel, (55, 3) in [0, 1], by direction."""
    parts = []
    for steps, start, end in zip(_WHEEL_STEPS, _WHEEL_CORNERS[:-1], _WHEEL_CORNERS[1:], strict=True):
        share = np.arange(steps)[:, None] / steps
        parts.append((1 - share) * np.array(start) + share * np.array(end))
    return np.concatenate(parts)


def flow_to_colour(flow: NDArray[np.floating], max_px: float | None = None) -> Image:
    """The picture of a flow field: hue is the direction, white is no motion, full colour is ``max_px``.

    Args:
        flow: (2, H, W), (u, v) in pixels. Pixels that are not finite or beyond 1e9 (unknown) become black.
        max_px: Length of full colour; default the longest vector. Longer vectors are darkened.

    Returns:
        uint8 (H, W, 3).
    """
    flow = np.asarray(flow, dtype=np.float64)
    known = np.isfinite(flow).all(0) & (np.abs(np.nan_to_num(flow)) < 1e9).all(0)
    u, v = np.where(known, flow, 0.0)
    length = np.hypot(u, v)
    longest = float(length.max(initial=0.0)) if max_px is None else max_px
    length = length / max(longest, np.finfo(np.float64).eps)
    wheel = colour_wheel()
    position = (np.arctan2(-v, -u) / np.pi + 1) / 2 * (len(wheel) - 1)
    lower = np.floor(position).astype(int)
    share = (position - lower)[..., None]
    colour = (1 - share) * wheel[lower] + share * wheel[(lower + 1) % len(wheel)]
    length = length[..., None]
    # the longest vector itself counts as within the range, whatever the rounding
    colour = np.where(length <= 1 + 1e-9, 1 - length * (1 - colour), 0.75 * colour)
    colour[~known] = 0
    return np.floor(255 * np.clip(colour, 0, 1)).astype(np.uint8)


def _as_rgb(image: NDArray[np.generic]) -> Image:
    """Grey and boolean pictures as RGB."""
    array = np.asarray(image)
    if array.dtype == bool:
        array = array.astype(np.uint8) * 255
    if array.dtype != np.uint8:
        raise ValueError(f"a picture is uint8 or bool, got {array.dtype}")
    return np.repeat(array[..., None], 3, 2) if array.ndim == 2 else array


def _captioned(image: Image, caption: str, height_px: int) -> Image:
    """The image under a dark bar with a caption; what is too long for the bar is cut off."""
    from PIL import Image as Pillow
    from PIL import ImageDraw, ImageFont

    bar = Pillow.new("RGB", (image.shape[1], height_px), (24, 26, 31))
    font = ImageFont.load_default(round(0.66 * height_px))
    ImageDraw.Draw(bar).text((height_px // 4, height_px // 2), caption, (235, 235, 235), font, anchor="lm")
    return np.concatenate([np.asarray(bar, dtype=np.uint8), image])


def image_grid(
    images: Sequence[NDArray[np.generic]],
    columns: int | None = None,
    captions: Sequence[str] | None = None,
    gap_px: int = 4,
    caption_px: int = 18,
) -> Image:
    """Pictures in rows on white; smaller ones stand at the top left of their cell.

    Args:
        images: uint8 (H, W, 3) or (H, W), or bool (H, W), of any sizes; at least one.
        columns: Pictures per row; default all in one row.
        captions: One text per picture.
        gap_px: Space between pictures.
        caption_px: Height of a caption bar.

    Returns:
        uint8 (H, W, 3).
    """
    if not images:
        raise ValueError("an image grid needs at least one picture")
    cells = [_as_rgb(image) for image in images]
    if captions is not None:
        cells = [_captioned(cell, text, caption_px) for cell, text in zip(cells, captions, strict=True)]
    columns = len(cells) if columns is None else columns
    rows = -(-len(cells) // columns)
    height, width = (max(cell.shape[axis] for cell in cells) for axis in (0, 1))
    grid = np.full((rows * (height + gap_px) - gap_px, columns * (width + gap_px) - gap_px, 3), 255, np.uint8)
    for index, cell in enumerate(cells):
        top, left = index // columns * (height + gap_px), index % columns * (width + gap_px)
        grid[top : top + cell.shape[0], left : left + cell.shape[1]] = cell
    return grid


def side_by_side(**pictures: NDArray[np.generic]) -> Image:
    """Pictures in one row, each under its keyword as caption: ``side_by_side(input=image, prediction=mask)``."""
    return image_grid(list(pictures.values()), captions=[name.replace("_", " ") for name in pictures])


def write_overlay_video(
    path: str | os.PathLike[str],
    frames: Iterable[Image],
    labels: Iterable[NDArray[np.integer]],
    fps: float = 24.0,
    alpha: float = 0.5,
) -> None:
    """Write a video of frames with their labels laid over them.

    Args:
        path: Video file; the suffix says the container (``.mp4``).
        frames: uint8 (H, W, 3) pictures of one size.
        labels: Integers (H, W), one map per frame.
        fps: Frames per second.
        alpha: Strength of the tint in [0, 1].
    """
    with VideoWriter(path, fps) as video:
        for frame, label in zip(frames, labels, strict=True):
            video.write(overlay(frame, label, alpha))
