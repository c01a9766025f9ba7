"""A folder of images, in sub-folders if they are clips."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
from tqdm import tqdm

from common.errors import InputError
from common.files import read_labels, read_mask
from common.layouts import folder_rows, parse_shares, partition
from common.makers.writing import write_steps
from common.splits import has_classes, read_classes

COLUMNS = {"foreground": "GtMask", "classes": "GtSemantic", "objects": "GtInstance"}
VOID = 255
GLANCE = 20  # masks that are looked at to see what they might be


@dataclass(frozen=True)
class Options:
    """A folder of images, in sub-folders if they are clips."""

    input: str = field(metadata={"positional": True})
    """Folder of images; each sub-folder is a clip, each image directly in it stands alone."""
    out: str
    """Prefix of the files to write: NAME gives NAME_train.csv, NAME_val.csv, NAME_test.csv."""
    base_dir: str = "."
    """Folder that the paths in the split are relative to."""
    split: str = "0.8/0.1/0.1"
    """Shares of train/val/test; whole sequences are dealt out."""
    seed: int = 0
    """Seed of the shuffle of the sequences."""
    masks: str = ""
    """Folder of masks with the structure of the input; a mask has the stem of its image."""
    masks_are: Literal["foreground", "classes", "objects"] = "foreground"
    """What the values of a mask are: foreground (all but 0), a class each (names go to NAME_classes.csv, which may be
    edited) or an object each; 255 is void."""
    with_flow: str = ""
    """Folder of flow files with the structure of the input; a file has the stem of its first frame."""
    clip: bool = False
    """The images directly in the folder are the frames of one clip."""


def make(options: Options) -> int:
    """Write the splits of a folder of images."""
    shares = parse_shares(options.split)
    masks, flow = (Path(text) if text else None for text in (options.masks, options.with_flow))
    if masks is None and options.masks_are != "foreground":
        raise InputError(f"--masks_are {options.masks_are}: name the folder of the masks with --masks")
    rows = folder_rows(Path(options.input), Path(options.base_dir), masks, flow, options.clip)
    files = [Path(options.base_dir) / row["GtMask"] for row in rows if row.get("GtMask")]
    classes = class_names(Path(f"{options.out}_train.csv"), files) if options.masks_are == "classes" else None
    if options.masks_are == "foreground":
        _hint(files[:GLANCE])
    column = COLUMNS[options.masks_are]
    rows = [{column if name == "GtMask" else name: cell for name, cell in row.items()} for row in rows]
    return write_steps(options.out, partition(rows, shares, options.seed), classes)


def class_names(split: Path, files: Sequence[Path]) -> dict[int, str]:
    """Names of the classes 0 to the largest value: those beside the split, if a user wrote some, numbers otherwise.

    Raises:
        InputError: A mask that cannot be read, or has a value that the names beside the split do not know.
    """
    found = {file: _values(file) for file in tqdm(files, desc="masks", unit="file")}
    if not has_classes(split):
        return {index: str(index) for index in range(max(set().union(*found.values()), default=0) + 1)}
    known = read_classes(split)
    for file, values in found.items():
        if unnamed := values - set(known):
            raise InputError(
                f"{file}: value {min(unnamed)} has no name beside {split}; add it there, or remove the names"
            )
    return known


def _values(file: Path) -> set[int]:
    """The values of a mask, void left out."""
    return set(np.unique(read_labels(file)).tolist()) - {VOID}


def _hint(files: Sequence[Path]) -> None:
    """Say so when masks look like classes or objects: all of them will count as one foreground."""
    values: set[int] = set()
    for file in files:
        try:
            values |= set(np.unique(read_mask(file).labels).tolist()) - {0}
        except InputError as error:  # other encodings are chosen where masks are read
            print(f"note: {error}")
            return
    if len(values) > 1:
        shown = ", ".join(map(str, sorted(values)[:6]))
        print(f"note: masks hold {shown}: all are foreground; --masks_are classes (or objects) keeps them apart")
