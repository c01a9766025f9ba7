"""Attention of a video, frame by frame in bounded memory: videos, a GIF, masks.

Symbols: A heads, h w token grid, P patch size, H W pixels of a frame.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from tqdm import tqdm

from common.errors import InputError
from common.files import IMAGE_SUFFIXES, check_writable, read_image, write_image
from common.layouts import natural_key
from common.makers.video import VIDEO_SUFFIXES
from common.video import VideoWriter, video_frames, video_info
from common.visualize import overlay
from transformer_seg.dino.arch import AnyBackbone, device_of
from transformer_seg.dino.attention_maps import at_size, check_image_size, resized_size
from transformer_seg.dino.gif import GifWriter
from transformer_seg.dino.masks import mass_masks
from transformer_seg.dino.options import VideoOptions
from transformer_seg.dino.pictures import Picture, attention_input, colour_map
from transformer_seg.dino.weights import load_backbone

FOLDER_FPS = 30.0
GIF_FPS = 12.5  # frames between are left out
BRIGHT = 0.99  # share of the patches below the brightest colour: a few outliers would leave all others dark
Limits = tuple[float, float]


@dataclass(frozen=True)
class Clip:
    """Frames of a video or a folder.

    Attributes:
        frames: Opens them anew, uint8 (H, W, 3) each.
        fps: Frames per second; of a folder, None.
        count: How many, as far as known beforehand.
    """

    frames: Callable[[], Iterator[Picture]]
    fps: float | None
    count: int | None


@dataclass(frozen=True)
class Seen:
    """What is known of a frame.

    Attributes:
        frame: uint8 (H, W, 3).
        mean: Attention, mean over heads (h, w).
        mask: Patches that keep the share of it (h, w).
        size: (rows, columns) that the frame was resized to.
    """

    frame: Picture
    mean: NDArray[np.float32]
    mask: NDArray[np.bool_]
    size: tuple[int, int]


def open_clip(path: Path, pictures: str = "") -> Clip:
    """A video, or the pictures of a folder in natural order.

    Args:
        path: What it names.
        pictures: Only those whose names begin so.

    Raises:
        InputError: nothing there, or nothing that can be read.
    """
    if path.is_dir():
        files = sorted(
            (file for file in path.iterdir() if file.suffix.lower() in IMAGE_SUFFIXES and file.name[0] != "."),
            key=lambda file: natural_key(file.name),
        )
        files = [file for file in files if file.name.startswith(pictures)]
        if not files:
            kind = f"picture {pictures}*" if pictures else "picture"
            raise InputError(f"{path}: no {kind} in this folder; known are {', '.join(IMAGE_SUFFIXES)}")
        return Clip(lambda: map(read_image, files), None, len(files))
    if not path.exists():
        raise InputError(f"{path}: no such video or folder")
    if path.suffix.lower() not in VIDEO_SUFFIXES:
        raise InputError(f"{path}: not a video by its name; known are {', '.join(VIDEO_SUFFIXES)}, or a folder")
    info = video_info(path)
    return Clip(lambda: video_frames(path), info.fps or None, info.num_frames)


def run_video(options: VideoOptions) -> list[Path]:
    """Write what the options name.

    Returns:
        The files and folders written.

    Raises:
        InputError: input, weights or options that cannot be used.
    """
    check_video_options(options)
    assert options.input_path is not None
    check_writable(options.output_path, "--output_path")
    clip = open_clip(options.input_path, "attn-" if options.video_only else "")
    fps = options.fps or clip.fps or FOLDER_FPS
    if options.video_only:
        return join(clip, fps, options)
    device = device_of(options.gpus)
    backbone = load_backbone(options).to(device)
    if options.resize is not None:
        check_image_size(options.resize, backbone.patch_size)
    seen = watch(same_size(clip.frames(), options.input_path), backbone, device, options)
    limited = with_limits(seen, round(fps) if options.fixed_range else 0)
    shown = tqdm(limited, total=clip.count, desc="attention", unit="frame", disable=None)
    return write_all(shown, backbone.patch_size, fps, options)


def same_size(frames: Iterable[Picture], path: Path) -> Iterator[Picture]:
    """The frames, all of one size.

    Raises:
        InputError: one of another size, or no frame at all.
    """
    size: tuple[int, ...] | None = None
    for number, frame in enumerate(frames):
        if size is None:
            size = frame.shape
        if frame.shape != size:
            found, first = (" x ".join(map(str, shape[:2])) for shape in (frame.shape, size))
            raise InputError(f"{path}: frame {number} has {found} pixels, the first one {first}; resize them alike")
        yield frame
    if size is None:
        raise InputError(f"{path}: no frame can be decoded; convert it to .mp4 (H.264)")


def watch(
    frames: Iterable[Picture], backbone: AnyBackbone, device: torch.device, options: VideoOptions
) -> Iterator[Seen]:
    """Attention of every frame, a batch at a time."""
    rest = iter(frames)
    while batch := list(islice(rest, options.batch_size)):
        height, width = batch[0].shape[:2]
        size = resized_size((height, width), options.resize or (height, width))
        if min(size) < backbone.patch_size:
            raise InputError(f"{options.input_path}: frames of {height} x {width} pixels; give a larger --resize")
        image = torch.stack([attention_input(frame, size, backbone.patch_size) for frame in batch])
        attention = backbone.class_attention(image.to(device)).float().mean(dim=1).cpu()
        masks = mass_masks(attention.flatten(1), options.threshold).view_as(attention)
        for frame, mean, mask in zip(batch, attention.numpy(), masks.numpy(), strict=True):
            yield Seen(frame, mean, mask, size)


def with_limits(seen: Iterable[Seen], first: int) -> Iterator[tuple[Seen, Limits | None]]:
    """Each frame with the values that its colours go from and to.

    Args:
        seen: Frames.
        first: So many frames give the limits of all; 0 leaves every frame its own (None).
    """
    rest = iter(seen)
    if not first:
        yield from ((one, None) for one in rest)
        return
    start = deque(islice(rest, first))
    values = np.concatenate([one.mean.ravel() for one in start]) if start else np.zeros(1)
    limits = (float(values.min()), float(np.quantile(values, BRIGHT)))
    while start:
        yield start.popleft(), limits
    yield from ((one, limits) for one in rest)


def write_all(
    frames: Iterable[tuple[Seen, Limits | None]], patch: int, fps: float, options: VideoOptions
) -> list[Path]:
    """Write every frame as soon as it is seen."""
    out, written = options.output_path, []
    step = max(1, round(fps / GIF_FPS))
    with ExitStack() as stack:
        written.append(out / f"video.{options.video_format}")
        video = stack.enter_context(VideoWriter(written[-1], fps))
        gif = overlays = None
        if options.gif:
            written.append(out / "attention.gif")
            gif = stack.enter_context(GifWriter(written[-1], fps / step))
        if options.overlay:
            written.append(out / f"overlay.{options.video_format}")
            overlays = stack.enter_context(VideoWriter(written[-1], fps))
        for number, (seen, limits) in enumerate(frames):
            heat = heat_map(seen, patch, limits)
            video.write(heat)
            mask = at_size(seen.mask, patch, seen.size, (seen.frame.shape[0], seen.frame.shape[1]))
            if gif is not None and number % step == 0:
                gif.write(shrunk(heat, options.gif_size))
            if overlays is not None:
                overlays.write(overlay(seen.frame, mask.astype(np.int64)))
            if options.masks:
                write_image(out / "masks" / f"mask-frame-{number:04d}.png", mask * np.uint8(255))
            if options.keep_frames:
                write_image(out / "frames" / f"frame-{number:04d}.jpg", seen.frame)
                write_image(out / "attention" / f"attn-frame-{number:04d}.jpg", heat)
    folders = {"masks": options.masks, "frames": options.keep_frames, "attention": options.keep_frames}
    return written + [out / name for name, wanted in folders.items() if wanted]


def heat_map(seen: Seen, patch: int, limits: Limits | None) -> Picture:
    """The attention in colours at the frame's size, each patch as equal pixels; a cut margin repeats its neighbours."""
    pixels = seen.mean.repeat(patch, 0).repeat(patch, 1)
    missing = [(0, wanted - found) for wanted, found in zip(seen.size, pixels.shape, strict=True)]
    whole = np.pad(pixels, missing, mode="edge")
    height, width = seen.frame.shape[:2]
    resized = cv2.resize(whole, (width, height), interpolation=cv2.INTER_NEAREST)
    return colour_map(np.asarray(resized), "inferno", limits)


def shrunk(picture: Picture, longest: int) -> Picture:
    """The picture with its longer side of at most so many pixels."""
    scale = longest / max(picture.shape[:2])
    if scale >= 1:
        return picture
    size = (max(1, round(picture.shape[1] * scale)), max(1, round(picture.shape[0] * scale)))
    return np.asarray(cv2.resize(picture, size, interpolation=cv2.INTER_AREA), np.uint8)


def join(clip: Clip, fps: float, options: VideoOptions) -> list[Path]:
    """The pictures of a folder as a video and a GIF."""
    written = [options.output_path / f"video.{options.video_format}"]
    step = max(1, round(fps / GIF_FPS))
    assert options.input_path is not None
    with ExitStack() as stack:
        video = stack.enter_context(VideoWriter(written[0], fps))
        gif = None
        if options.gif:
            written.append(options.output_path / "attention.gif")
            gif = stack.enter_context(GifWriter(written[-1], fps / step))
        frames = same_size(clip.frames(), options.input_path)
        for number, frame in enumerate(tqdm(frames, total=clip.count, desc="joining", unit="frame", disable=None)):
            video.write(frame)
            if gif is not None and number % step == 0:
                gif.write(shrunk(frame, options.gif_size))
    return written


def check_video_options(options: VideoOptions) -> None:
    """Refuse values that cannot work, each in one line.

    Raises:
        InputError: names the flag, the value and the remedy.
    """
    if options.input_path is None:
        raise InputError("--input_path: give a video, or a folder of frames")
    if not 0 < options.threshold <= 1:
        raise InputError(f"--threshold {options.threshold}: give a share of the attention above 0 and up to 1")
    if options.fps is not None and not options.fps > 0:
        raise InputError(f"--fps {options.fps}: give a positive number")
    for name in ("batch_size", "gif_size"):
        if getattr(options, name) < 1:
            raise InputError(f"--{name} {getattr(options, name)}: give at least 1")
    if options.video_only and not options.input_path.is_dir():
        raise InputError(f"--video_only: {options.input_path} is no folder of attn-*.jpg pictures")
