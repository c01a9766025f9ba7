"""Synthetic clips and scenes on disk, in DAVIS and VOC layout, with their CSV data splits."""

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Literal

import numpy as np

from common.files import atomic_path, write_image, write_labels
from common.flow_files import write_flow
from common.layered_clips import Clip
from common.splits import write_classes, write_split
from common.toy_scenes import Scene

ImageFormat = Literal["jpg", "png"]


def write_clips(
    folder: Path,
    steps: Mapping[str, Iterable[Clip]],
    *,
    name: str = "clips",
    image_format: ImageFormat = "jpg",
    backgrounds: bool = False,
) -> None:
    """Lay clips on disk like DAVIS, with one CSV data split per step that has items.

    ``JPEGImages/SEQ/00000.jpg``, ``Annotations/SEQ/00000.png`` (0/255), ``Instances/SEQ/00000.png`` (object ids) and
    ``OpticalFlow/SEQ/00000.flo`` (none for the last frame). ``NAME_STEP.csv`` has the columns Sequence,
    Sequence_Index, Image, Flow, GtMask, GtInstance with paths relative to ``folder``.

    Args:
        folder: Root of the files, the split's ``base_dir``.
        steps: Clips by step (train, val, test); they are drawn one at a time.
        name: Stem of the split's files.
        image_format: Format of the frames.
        backgrounds: Also write ``Backgrounds/SEQ/00000.png`` and the column GtBackground.
    """
    for step, clips in steps.items():
        rows = [row for clip in clips for row in _write_clip(Path(folder), clip, image_format, backgrounds)]
        if rows:
            write_split(Path(folder) / f"{name}_{step}.csv", rows)


def _write_clip(folder: Path, clip: Clip, image_format: str, backgrounds: bool) -> Iterator[dict[str, str | int]]:
    """Write one clip's files; one row per frame."""
    T = len(clip.frames)
    for k in range(T):
        stem = f"{clip.name}/{k:05d}"
        row: dict[str, str | int] = {
            "Sequence": clip.name,
            "Sequence_Index": k,
            "Image": f"JPEGImages/{stem}.{image_format}",
            "Flow": f"OpticalFlow/{stem}.flo" if k + 1 < T else "",
            "GtMask": f"Annotations/{stem}.png",
            "GtInstance": f"Instances/{stem}.png",
        }
        write_image(folder / str(row["Image"]), clip.frames[k])
        write_image(folder / str(row["GtMask"]), clip.masks[k].astype(np.uint8) * 255)
        write_labels(folder / str(row["GtInstance"]), clip.labels[k])
        if k + 1 < T:
            write_flow(folder / str(row["Flow"]), clip.flow[k])
        if backgrounds:
            row["GtBackground"] = f"Backgrounds/{stem}.png"
            write_image(folder / str(row["GtBackground"]), clip.backgrounds[k])
        yield row


def write_scenes(
    folder: Path,
    steps: Mapping[str, Iterable[Scene]],
    *,
    name: str = "scenes",
    classes: Iterable[str] = ("background", "object"),
    image_format: ImageFormat = "jpg",
) -> None:
    """Lay images on disk like VOC, with one CSV data split per step that has items.

    ``JPEGImages/NAME.jpg``, ``SegmentationClass/NAME.png`` and ``SegmentationObject/NAME.png`` (palette images, 255
    void), ``ImageSets/Segmentation/STEP.txt`` and ``trainval.txt``, ``NAME_classes.csv`` (names by index), and
    ``Annotations/NAME.png`` (0/255, the GtMask column; a void pixel counts as background there).

    Args:
        folder: Root of the files, the split's ``base_dir``.
        steps: Scenes by step (train, val, test); they are drawn one at a time.
        name: Stem of the split's files.
        classes: Class names by index.
        image_format: Format of the images.
    """
    folder = Path(folder)
    names: dict[str, list[str]] = {}
    for step, scenes in steps.items():
        rows = [_write_scene(folder, scene, image_format) for scene in scenes]
        names[step] = [str(row["Sequence"]) for row in rows]
        if rows:
            write_split(folder / f"{name}_{step}.csv", rows)
    names["trainval"] = names.get("train", []) + names.get("val", [])
    for step, stems in names.items():
        write_text(folder / "ImageSets" / "Segmentation" / f"{step}.txt", "".join(f"{stem}\n" for stem in stems))
    write_classes(folder / f"{name}.csv", dict(enumerate(classes)))


def _write_scene(folder: Path, scene: Scene, image_format: str) -> dict[str, str | int]:
    """Write one scene's files; its row."""
    row: dict[str, str | int] = {
        "Sequence": scene.name,
        "Sequence_Index": 0,
        "Image": f"JPEGImages/{scene.name}.{image_format}",
        "GtMask": f"Annotations/{scene.name}.png",
        "GtSemantic": f"SegmentationClass/{scene.name}.png",
        "GtInstance": f"SegmentationObject/{scene.name}.png",
    }
    write_image(folder / str(row["Image"]), scene.image)
    write_image(folder / str(row["GtMask"]), scene.mask.astype(np.uint8) * 255)
    write_labels(folder / str(row["GtSemantic"]), scene.semantic)
    write_labels(folder / str(row["GtInstance"]), scene.instance)
    return row


def write_text(path: Path, text: str) -> None:
    """Write a text file as a whole or not at all."""
    with atomic_path(path) as temporary:
        temporary.write_text(text)
