"""Predictions laid over their pictures: a video per clip, a picture per single image."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from numpy.typing import NDArray
from tqdm import tqdm

from common.files import read_image, read_labels, write_image
from common.splits import Split
from common.visualize import overlay, write_overlay_video


def write_overlays(split: Split, out: Path, column: str = "Pred", fps: float = 24.0) -> list[Path]:
    """Write ``<out>/<sequence>.mp4`` of every clip and ``<out>/<sequence>.jpg`` of every single image.

    Args:
        split: Prediction split with ``Image``; rows without a picture are left out.
        out: Folder.
        column: Label maps at the size of the pictures.
        fps: Frames per second of the videos.

    Returns:
        The files, in the order of the sequences.

    Raises:
        InputError: a picture or label map that cannot be read.
    """
    written = []
    known = split.available("Image") & split.available(column)
    for sequence, rows in tqdm(split.sequences().items(), desc="overlays", unit="clip", disable=None):
        shown = [int(row) for row in rows if known[row]]
        if not shown:
            continue
        file = out / f"{sequence}.{'mp4' if len(shown) > 1 else 'jpg'}"

        def frames(shown: list[int] = shown) -> Iterator[NDArray[Any]]:
            return (read_image(split.path(row, "Image")) for row in shown)

        def labels(shown: list[int] = shown) -> Iterator[NDArray[Any]]:
            return (read_labels(split.path(row, column)) for row in shown)

        if len(shown) > 1:
            write_overlay_video(file, frames(), labels(), fps)
        else:
            write_image(file, overlay(next(frames()), next(labels())))
        written.append(file)
    return written
