"""The layout of BSDS500: images, and Matlab files with the segmentations of several people."""

from dataclasses import dataclass, field
from pathlib import Path

from common.errors import InputError
from common.files import IMAGE_SUFFIXES
from common.layouts import files_by_stem
from common.makers.writing import write_steps
from common.splits import relative_cell

COLUMN = "GtSegmentation"
"""Column of the Matlab files; ``common.makers.matlab.bsds_annotations`` reads them."""


@dataclass(frozen=True)
class Options:
    """The layout of BSDS500."""

    input: str = field(metadata={"positional": True})
    """Folder that holds images and groundTruth (BSDS500/data), or one above it."""
    out: str
    """Prefix of the files to write: NAME_train.csv, NAME_val.csv, NAME_test.csv."""
    base_dir: str = "."
    """Folder that the paths in the split are relative to."""
    all_images: bool = False
    """Put the images of all three parts into each split: for training without labels on the pixels that are scored."""


def make(options: Options) -> int:
    """Write the splits of a copy of BSDS500; the people's segmentations stay in their files."""
    root = _root(Path(options.input))
    steps = {}
    for step in ("train", "val", "test"):
        folder = root / "images" / step
        images = files_by_stem(folder, IMAGE_SUFFIXES) if folder.is_dir() else {}
        rows = []
        for stem, image in images.items():
            truth = root / "groundTruth" / step / f"{stem}.mat"
            row = {"Sequence": stem, "Sequence_Index": "0", "Image": relative_cell(image, options.base_dir)}
            rows.append(row | {COLUMN: relative_cell(truth, options.base_dir) if truth.is_file() else ""})
        steps[step] = rows
    if not any(steps.values()):
        raise InputError(f"{root / 'images'}: no image in train, val or test; complete the copy")
    if options.all_images:
        together = [row for rows in steps.values() for row in rows]
        steps = dict.fromkeys(steps, together)
    return write_steps(options.out, steps)


def _root(folder: Path) -> Path:
    for root in (folder, folder / "data", folder / "BSDS500" / "data"):
        if (root / "images").is_dir() and (root / "groundTruth").is_dir():
            return root
    raise InputError(f"{folder}: holds no images and groundTruth; pass the folder BSDS500/data")
