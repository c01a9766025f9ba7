"""Weizmann horses: rgb/horse001.jpg and figure_ground/horse001.jpg."""

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from common.errors import InputError
from common.files import IMAGE_SUFFIXES
from common.layouts import files_by_stem, parse_shares, partition
from common.makers.single_objects import object_row, require, write_masks
from common.makers.writing import write_steps

LAYOUT = "expected are rgb/horse001.jpg ... and figure_ground/horse001.jpg ... in one folder (weizmann_horse_db)"


@dataclass(frozen=True)
class Options:
    """Weizmann horses: one horse per photo."""

    input: str = field(metadata={"positional": True})
    """Folder that holds rgb and figure_ground."""
    out: str
    """Prefix of the files to write; the masks, resized to their photos, go to NAME_masks."""
    base_dir: str = "."
    """Folder that the paths in the split are relative to."""
    split: str = "0.7/0.15/0.15"
    """Shares of train/val/test; the data set has no list of its own."""
    seed: int = 0
    """Seed of the choice."""


def make(options: Options) -> int:
    """Write the splits, and black and white masks of the size of the photos."""
    root, base = Path(options.input), Path(options.base_dir)
    shares = parse_shares(options.split)
    require(root, "rgb", "figure_ground", layout=LAYOUT)
    photos = files_by_stem(root / "rgb", IMAGE_SUFFIXES)
    annotations = files_by_stem(root / "figure_ground", IMAGE_SUFFIXES)
    if not photos:
        raise InputError(f"{root / 'rgb'}: no photo in this folder; {LAYOUT}")
    if missing := [name for name in photos if name not in annotations]:
        raise InputError(f"{root / 'figure_ground' / missing[0]}: no mask of this name; {LAYOUT}")
    masks = {name: Path(f"{options.out}_masks") / f"{name}.png" for name in photos}
    write_masks({masks[name]: (annotations[name], photos[name]) for name in photos}, horse_of)
    rows = [object_row(name, photos[name], masks[name], base) for name in photos]
    return write_steps(options.out, partition(rows, shares, options.seed))


def horse_of(figure: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """The horse in a grey JPEG (H, W): from 128 on."""
    return (figure if figure.ndim == 2 else figure[..., 0]) >= 128
