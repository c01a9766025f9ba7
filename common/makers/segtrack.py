"""The layout of SegTrack-v2: frames by sequence, and masks by sequence or, of several objects, by object.

    JPEGImages/SEQ/*.png|bmp|jpg
    GroundTruth/SEQ/*.png|bmp        one object
    GroundTruth/SEQ/1/*, 2/* ...     several objects: their union is written, since the benchmark scores one foreground

The benchmark has no training part: all sequences go to val unless ``--split`` says otherwise.
"""

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from tqdm import tqdm

from common.errors import InputError
from common.files import IMAGE_SUFFIXES, MaskEncoding, read_mask, write_image
from common.layouts import Row, files_by_stem, natural_key, parse_shares, partition, relative_cell, sequence_rows
from common.makers.writing import write_steps


@dataclass(frozen=True)
class Options:
    """The layout of SegTrack-v2."""

    input: str = field(metadata={"positional": True})
    """Folder that holds JPEGImages and GroundTruth."""
    out: str
    """Prefix of the files to write; unions of several objects go to NAME_masks/SEQ/."""
    base_dir: str = "."
    """Folder that the paths in the split are relative to."""
    split: str = "0/1/0"
    """Shares of train/val/test; whole sequences are dealt out."""
    seed: int = 0
    """Seed of the shuffle of the sequences."""
    sequences: list[str] = field(default_factory=list)
    """Only these sequences."""
    flow_dir: str = ""
    """Folder with one sub-folder of flow files per sequence."""
    mask_encoding: MaskEncoding = "threshold128"
    """How the masks of several objects are read for their union: threshold128, 255, binary01 or auto."""


def make(options: Options) -> int:
    """Write the splits of a copy of SegTrack-v2."""
    root, base_dir = Path(options.input), Path(options.base_dir)
    shares = parse_shares(options.split)
    if not (root / "JPEGImages").is_dir() or not (root / "GroundTruth").is_dir():
        raise InputError(f"{root}: holds no JPEGImages and GroundTruth; pass the folder SegTrackv2")
    folders = {entry.name: entry for entry in (root / "JPEGImages").iterdir() if entry.is_dir()}
    unknown = sorted(set(options.sequences) - set(folders))
    if unknown:
        raise InputError(
            f"--sequences {unknown[0]}: not in {root / 'JPEGImages'}; there are {', '.join(sorted(folders))}"
        )
    rows: list[Row] = []
    names = options.sequences or sorted(folders, key=natural_key)
    partition([{"Sequence": name} for name in names], shares, options.seed)  # before masks are written
    for name in tqdm(names, desc="SegTrack-v2", unit="sequence", disable=None):
        frames = files_by_stem(folders[name], IMAGE_SUFFIXES)
        masks = _masks(root / "GroundTruth" / name, Path(f"{options.out}_masks") / name, options.mask_encoding)
        flow = Path(options.flow_dir) / name if options.flow_dir else folders[name] / "no flow yet"
        own = sequence_rows(name, frames, base_dir, flow=flow)
        for row, mask in zip(own, _paired(list(frames), masks, root / "GroundTruth" / name), strict=True):
            row["GtMask"] = "" if mask is None else relative_cell(mask, base_dir)
        rows += own
    return write_steps(options.out, partition(rows, shares, options.seed))


def _masks(folder: Path, out: Path, encoding: MaskEncoding) -> dict[str, Path]:
    """The mask of each frame by stem; unions of several objects are written."""
    if not folder.is_dir():
        return {}
    objects = sorted((entry for entry in folder.iterdir() if entry.is_dir()), key=lambda entry: natural_key(entry.name))
    if not objects:
        return files_by_stem(folder, IMAGE_SUFFIXES)
    files = [files_by_stem(entry, IMAGE_SUFFIXES) for entry in objects]
    unions = {}
    for stem in sorted({stem for found in files for stem in found}, key=natural_key):
        parts = [read_mask(found[stem], encoding).foreground for found in files if stem in found]
        if len({part.shape for part in parts}) > 1:
            raise InputError(f"{folder}: the masks of {stem} differ in size; complete the copy")
        unions[stem] = out / f"{stem}.png"
        write_image(unions[stem], 255 * np.logical_or.reduce(parts).astype(np.uint8))
    return unions


def _paired(stems: list[str], masks: dict[str, Path], folder: Path) -> list[Path | None]:
    """The mask of each frame: of the same stem, or in order where all names differ and the numbers agree."""
    if any(stem in masks for stem in stems) or not masks:
        return [masks.get(stem) for stem in stems]
    if len(masks) != len(stems):
        raise InputError(
            f"{folder}: {len(masks)} masks for {len(stems)} frames and no name in common; rename the masks"
        )
    return list(masks.values())
