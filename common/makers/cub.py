"""CUB-200-2011: images.txt, images/, segmentations/, and a list of who is train, val and test."""

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from common.errors import InputError
from common.layouts import Row
from common.makers.single_objects import object_row, require, write_masks
from common.makers.writing import write_steps
from common.splits import STEPS

LAYOUT = (
    "expected are images.txt, images/, segmentations/ and the list in one folder (CUB_200_2011/CUB_200_2011); the"
    " segmentations are a download of their own, train_val_test_split.txt comes with ReDO's code"
)


@dataclass(frozen=True)
class Options:
    """CUB-200-2011: images, segmentations, images.txt and a list of the steps."""

    input: str = field(metadata={"positional": True})
    """Folder that holds images.txt, images and segmentations."""
    out: str
    """Prefix of the files to write; the masks go to NAME_masks."""
    base_dir: str = "."
    """Folder that the paths in the split are relative to."""
    list: str = "train_val_test_split.txt"
    """Lines 'image_id step' with 0 = train, 1 = val, 2 = test."""


def make(options: Options) -> int:
    """Write the splits, and black and white masks: object from the vote 128 on."""
    root, base = Path(options.input), Path(options.base_dir)
    require(root, "images.txt", "images", "segmentations", options.list, layout=LAYOUT)
    paths, chosen = _pairs(root / "images.txt"), _pairs(root / options.list)
    if unknown := sorted(set(paths) ^ set(chosen)):
        raise InputError(f"{root / options.list}: image {unknown[0]} is not in both this file and images.txt")
    if wrong := [number for number, step in chosen.items() if step not in ("0", "1", "2")]:
        raise InputError(f"{root / options.list}: image {wrong[0]} has step {chosen[wrong[0]]!r}; known are 0, 1, 2")
    steps: dict[str, list[Row]] = {step: [] for step in STEPS}
    pairs = {}
    for number, name in paths.items():
        image = root / "images" / name
        if not image.exists():
            raise InputError(f"{image}: listed in images.txt, but not there; {LAYOUT}")
        mask = (Path(f"{options.out}_masks") / name).with_suffix(".png")
        pairs[mask] = ((root / "segmentations" / name).with_suffix(".png"), image)
        steps[STEPS[int(chosen[number])]].append(object_row(image.stem, image, mask, base))
    write_masks(pairs, bird_of)
    return write_steps(options.out, steps)


def bird_of(segmentation: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """The bird in the annotators' votes, grey (H, W) or in the first of several channels: from 128 on."""
    return (segmentation if segmentation.ndim == 2 else segmentation[..., 0]) >= 128


def _pairs(path: Path) -> dict[str, str]:
    pairs = {}
    for line, text in enumerate(path.read_text(encoding="utf-8", errors="replace").splitlines(), start=1):
        if text.strip():
            number, _, rest = text.strip().partition(" ")
            if not rest or not number.isdecimal():
                raise InputError(f"{path}: line {line} is {text!r}, expected an image number and a word")
            pairs[number] = rest.strip()
    return pairs
