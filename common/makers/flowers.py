"""Oxford Flowers-102: jpg/, segmim/, setid.mat."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from common.errors import InputError
from common.layouts import Row
from common.makers.matlab import read_struct
from common.makers.single_objects import object_row, require, write_masks
from common.makers.writing import write_steps

LAYOUT = "expected are jpg/image_00001.jpg ..., segmim/segmim_00001.jpg ... and setid.mat in one folder"
LISTS = {
    "large": {"train": "tstid", "val": "valid", "test": "trnid"},
    "official": {"train": "trnid", "val": "valid", "test": "tstid"},
}


@dataclass(frozen=True)
class Options:
    """Oxford Flowers-102: images, segmentations and setid.mat."""

    input: str = field(metadata={"positional": True})
    """Folder that holds jpg, segmim and setid.mat."""
    out: str
    """Prefix of the files to write; the masks go to NAME_masks."""
    base_dir: str = "."
    """Folder that the paths in the split are relative to."""
    lists: Literal["large", "official"] = "large"
    """large: train on the official test list, the largest, as published for ReDO; official: as the data set says."""
    clean_masks: bool = False
    """Close holes and remove specks of at most 25 pixels that the rule for segmim leaves; scores then differ."""


def make(options: Options) -> int:
    """Write the splits, and black and white masks of the published rule."""
    root, base = Path(options.input), Path(options.base_dir)
    require(root, "jpg", "segmim", "setid.mat", layout=LAYOUT)
    numbers = _lists(root / "setid.mat")
    steps: dict[str, list[Row]] = {}
    pairs = {}
    folder = Path(f"{options.out}_masks")
    for step, name in LISTS[options.lists].items():
        steps[step] = []
        for number in numbers[name]:
            image, mask = root / "jpg" / f"image_{number:05d}.jpg", folder / f"mask_{number:05d}.png"
            if not image.exists():
                raise InputError(f"{image}: listed in setid.mat, but not there; {LAYOUT}")
            pairs[mask] = (root / "segmim" / f"segmim_{number:05d}.jpg", image)
            steps[step].append(object_row(image.stem, image, mask, base))
    write_masks(pairs, cleaned if options.clean_masks else flower_of)
    return write_steps(options.out, steps)


def flower_of(segmentation: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """The flower in a colour picture (H, W, 3) on blue: R > 0, G > 0 and B is not 254.

    Dark or blue pixels of a flower thus count as background, and JPEG noise as specks of flower. The published numbers
    of ReDO were made so, at full resolution.
    """
    red, green, blue = np.moveaxis(segmentation, -1, 0)
    return (red != 0) & (green != 0) & (blue != 254)


def cleaned(segmentation: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """`flower_of` without specks and without holes, up to 25 pixels each."""
    import cv2

    found = flower_of(segmentation)
    for value in (True, False):
        count, labels, stats, _ = cv2.connectedComponentsWithStats((found == value).astype(np.uint8), connectivity=4)
        small = np.flatnonzero(stats[:, cv2.CC_STAT_AREA] <= 25)
        small = small[small > 0]
        if count > 1 and len(small):
            found = np.where(np.isin(labels, small), not value, found)
    return found


def _lists(path: Path) -> dict[str, list[int]]:
    return {name: read_struct(path, name).ravel().astype(int).tolist() for name in ("trnid", "valid", "tstid")}
