"""CLEVR and CLEVRTEX as image files, or CLEVR with masks from its TFRecord file."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
from PIL import Image
from tqdm import tqdm

from common.clevr_files import ClevrFile, clevr_files, clevr_parts, clevr_view
from common.errors import InputError
from common.files import write_image, write_labels
from common.layouts import Row, relative_cell
from common.makers.records import extract
from common.makers.writing import write_steps
from common.object_records import CLEVR

NAMES = ("CLEVR_full_{:06d}.png", "CLEVR_full_{:06d}_flat.png")


@dataclass(frozen=True)
class Options:
    """CLEVR with masks: its TFRecord file, or the folder of images that the published converter makes of it."""

    input: str = field(metadata={"positional": True})
    """TFRecord file, or the folder clevr_full (or the one that holds it)."""
    out: str
    """Prefix of the files to write; frames cut and resized as published go to NAME_frames/."""
    base_dir: str = "."
    """Folder that the paths in the split are relative to."""
    size: int = 128
    """Rows and columns of the frames."""
    max_frames: int | None = None
    """TFRecord: read only so many frames."""
    legacy_bgr: bool = False
    """TFRecord: swap red and blue, as the published converter does by mistake."""


@dataclass(frozen=True)
class TexOptions:
    """CLEVRTEX: its folder of images, or of one of its variants."""

    input: str = field(metadata={"positional": True})
    """The folder clevrtex_full (or the one that holds it)."""
    out: str
    """Prefix of the files to write; frames cut and resized as published go to NAME_frames/."""
    base_dir: str = "."
    """Folder that the paths in the split are relative to."""
    variant: Literal["full", "pbg", "vbg", "grassbg", "camo", "outd"] = "full"
    """Which one; outd (the OOD set) has no training part."""
    size: int = 128
    """Rows and columns of the frames."""


def make(options: Options) -> int:
    """Write frames and splits of CLEVR; what an earlier run wrote is kept."""
    source = Path(options.input)
    if source.is_file():
        folder = Path(f"{options.out}_records") / "clevr_full"
        extract(source, CLEVR, folder, NAMES, options.max_frames, options.legacy_bgr)
        source = folder
    return _make(source, "clevr", "full", options.out, Path(options.base_dir), options.size)


def make_tex(options: TexOptions) -> int:
    """Write frames and splits of CLEVRTEX; what an earlier run wrote is kept."""
    base_dir = Path(options.base_dir)
    return _make(Path(options.input), "clevrtex", options.variant, options.out, base_dir, options.size)


def _make(root: Path, dataset: str, variant: str, out: str, base_dir: Path, size: int) -> int:
    if size < 1:
        raise InputError(f"--size {size}: give a number of pixels")
    if not root.is_dir():
        raise InputError(f"{root}: no such folder or file")
    files = clevr_files(root, dataset, variant)
    folder = Path(f"{out}_frames")
    rows = [_row(file, folder, base_dir, size) for file in tqdm(files, desc=dataset, unit="frame", disable=None)]
    parts = clevr_parts(len(files), variant)
    return write_steps(out, {step: [rows[number] for number in numbers] for step, numbers in parts.items()})


def _row(file: ClevrFile, folder: Path, base_dir: Path, size: int) -> Row:
    """Write the centre of a frame at its final size, and give its row."""
    image, labels = folder / "images" / file.image.name, folder / "labels" / file.labels.name
    if not labels.exists():
        try:
            with Image.open(file.image) as picture, Image.open(file.labels) as target:
                view, map_view = clevr_view(picture, (size, size)), clevr_view(target, (size, size), labels=True)
        except (OSError, ValueError, SyntaxError) as error:
            raise InputError(f"{file.image}: it or its label map is not a readable image; fetch it again") from error
        write_image(image, view)
        write_labels(labels, map_view.astype(np.int64))
    return {
        "Sequence": file.image.stem,
        "Sequence_Index": "0",
        "Image": relative_cell(image, base_dir),
        "GtInstance": relative_cell(labels, base_dir),
    }
