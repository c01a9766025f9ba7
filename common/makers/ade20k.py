"""The layout of ADE20K as SceneParsing-150 has it: annotation value 0 is other, 1..150 are the classes."""

import csv
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from common.errors import InputError
from common.files import IMAGE_SUFFIXES, read_labels, write_labels
from common.layouts import Row, files_by_stem
from common.makers.writing import write_steps
from common.splits import relative_cell

NUM_CLASSES = 150
VOID = 255
PARTS = {"train": "training", "val": "validation"}


@dataclass(frozen=True)
class Options:
    """The layout of ADE20K (SceneParsing-150); its maps are written anew, with classes 0..149 and 255 for other."""

    input: str = field(metadata={"positional": True})
    """Folder that holds images and annotations (ADEChallengeData2016), or one above it."""
    out: str
    """Prefix of the files to write: NAME_train.csv, NAME_val.csv, NAME_classes.csv; the maps go to NAME_labels/."""
    base_dir: str = "."
    """Folder that the paths in the split are relative to."""


def make(options: Options) -> int:
    """Write the maps of a copy of ADE20K with classes 0..149 (those of an earlier run are kept) and its splits."""
    root = _root(Path(options.input))
    steps = {}
    for step, part in PARTS.items():
        images = root / "images" / part
        if images.is_dir():
            files = tqdm(files_by_stem(images, IMAGE_SUFFIXES).values(), desc=step, unit="image", disable=None)
            labels = Path(f"{options.out}_labels") / part
            steps[step] = [_row(file, root / "annotations" / part, labels, Path(options.base_dir)) for file in files]
    if not any(row["GtSemantic"] for rows in steps.values() for row in rows):
        raise InputError(f"{root / 'annotations'}: no map has the name of an image; complete the copy")
    return write_steps(options.out, steps, class_names(root))


def training_labels(annotation: NDArray[np.integer], file: str | Path = "annotation") -> NDArray[np.uint8]:
    """Classes 0..149 and 255 for void, from an annotation (H, W).

    Raises:
        InputError: A value above 150.
    """
    if annotation.size and int(annotation.max()) > NUM_CLASSES:
        raise InputError(f"{file}: value {int(annotation.max())} is above 150; is this the 150-class annotation?")
    return np.where(annotation == 0, VOID, annotation.astype(np.int64) - 1).astype(np.uint8)


def class_names(root: Path) -> dict[int, str]:
    """Names of the classes 0..149 from ``objectInfo150.csv`` or ``.txt`` in the copy; numbers without such a file."""
    for file, delimiter in ((root / "objectInfo150.csv", ","), (root / "objectInfo150.txt", "\t")):
        if file.is_file():
            with file.open(encoding="utf-8-sig", newline="") as stream:
                rows = list(csv.DictReader(stream, delimiter=delimiter))
            try:
                found = {int(row["Idx"]) - 1: row["Name"].split(";")[0].split(",")[0].strip() for row in rows}
            except (KeyError, TypeError, ValueError, AttributeError) as error:
                raise InputError(f"{file}: no columns Idx and Name; take the file of the data set") from error
            return found
    return {index: f"class {index + 1}" for index in range(NUM_CLASSES)}


def _root(folder: Path) -> Path:
    for root in (folder, folder / "ADEChallengeData2016", folder / "sceneparsing"):
        if (root / "images").is_dir() and (root / "annotations").is_dir():
            return root
    raise InputError(f"{folder}: holds no images and annotations; pass the folder ADEChallengeData2016")


def _row(image: Path, annotations: Path, labels: Path, base_dir: Path) -> Row:
    source, file = annotations / f"{image.stem}.png", labels / f"{image.stem}.png"
    row = {"Sequence": image.stem, "Sequence_Index": "0", "Image": relative_cell(image, base_dir), "GtSemantic": ""}
    if source.is_file():
        if not file.exists():
            write_labels(file, training_labels(read_labels(source), source))
        row["GtSemantic"] = relative_cell(file, base_dir)
    return row
