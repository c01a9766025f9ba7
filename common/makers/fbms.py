"""The layout of FBMS-59, as it is published and as motion segmentation uses it.

    Trainingset/SEQ/*.jpg, Testset/SEQ/*.jpg     as published: train and val are these two folders
    Trainingset/SEQ/GroundTruth/*                annotations of some frames, with the frame's number in their name
    JPEGImages/SEQ/*, Annotations/SEQ/*          rearranged: a mask has the stem of its frame

About one frame in twenty is annotated; ``GtMask`` of the others is empty. The published annotations are pictures of
regions whose background has a value of its own in each release: ``--background`` names it, and masks of object ids are
written. Without it the annotations are taken as they are.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from tqdm import tqdm

from common.errors import InputError
from common.files import IMAGE_SUFFIXES, read_labels, write_labels
from common.layouts import Row, files_by_stem, natural_key, parse_shares, partition, relative_cell, sequence_rows
from common.makers.writing import write_steps

PARTS = {"train": "Trainingset", "val": "Testset"}


@dataclass(frozen=True)
class Options:
    """The layout of FBMS-59."""

    input: str = field(metadata={"positional": True})
    """Folder that holds Trainingset and Testset, or JPEGImages and Annotations."""
    out: str
    """Prefix of the files to write; masks of --background go to NAME_masks/SEQ/."""
    base_dir: str = "."
    """Folder that the paths in the split are relative to."""
    val_sequences: list[str] = field(default_factory=list)
    """These sequences are val and all others train, whatever the folders say."""
    split: str = ""
    """Shares of train/val/test, like 0.8/0.1/0.1, whatever the folders say; whole sequences are dealt out."""
    seed: int = 0
    """Seed of the shuffle of the sequences."""
    annotated_only: bool = False
    """Only the rows of annotated frames, which are those that the benchmark scores."""
    background: int | None = None
    """Value of the background in the annotations; all other values become objects 1, 2 ..."""
    flow_dir: str = ""
    """Folder with one sub-folder of flow files per sequence."""


def make(options: Options) -> int:
    """Write the splits of a copy of FBMS-59."""
    if options.split and options.val_sequences:
        raise InputError(f"--split {options.split} and --val_sequences both say what is val: give only one of them")
    shares = parse_shares(options.split) if options.split else None
    sequences = _sequences(Path(options.input))
    unknown = sorted(set(options.val_sequences) - set(sequences))
    if unknown:
        raise InputError(f"--val_sequences {unknown[0]}: no such sequence; there are {', '.join(sequences)}")
    if not options.val_sequences and shares is None and any(step is None for step, _, _ in sequences.values()):
        raise InputError(f"{options.input}: does not say what is val; pass --val_sequences or --split 0.8/0.1/0.1")
    steps: dict[str, list[Row]] = {"train": [], "val": []}
    for name, (step, frames, annotations) in tqdm(sequences.items(), desc="FBMS-59", unit="sequence", disable=None):
        rows = _rows(name, frames, annotations, options)
        if options.val_sequences:
            step = "val" if name in options.val_sequences else "train"
        steps[step or "train"] += rows
    together = [row for rows in steps.values() for row in rows]
    if not any(row["GtMask"] for row in together):
        raise InputError(
            f"{options.input}: no annotation belongs to a frame; the copy lacks GroundTruth or Annotations"
        )
    parts = steps if shares is None else partition(together, shares, options.seed)
    if options.annotated_only:
        parts = {step: [row for row in rows if row["GtMask"]] for step, rows in parts.items()}
    return write_steps(options.out, parts)


def _sequences(root: Path) -> dict[str, tuple[str | None, Path, Path]]:
    """Step (None: not said), folder of frames and folder of annotations by sequence.

    Raises:
        InputError: Neither layout, or a sequence in both parts.
    """
    found: dict[str, tuple[str | None, Path, Path]] = {}
    if (root / "JPEGImages").is_dir():
        for folder in _subfolders(root / "JPEGImages"):
            found[folder.name] = (None, folder, root / "Annotations" / folder.name)
        return found
    for step, part in PARTS.items():
        for folder in _subfolders(root / part) if (root / part).is_dir() else ():
            if folder.name in found:
                raise InputError(f"{folder}: is in both Trainingset and Testset; remove one")
            found[folder.name] = (step, folder, folder / "GroundTruth")
    if not found:
        raise InputError(f"{root}: holds neither Trainingset and Testset nor JPEGImages; pass the folder of FBMS-59")
    return found


def _subfolders(folder: Path) -> list[Path]:
    return sorted((entry for entry in folder.iterdir() if entry.is_dir()), key=lambda entry: natural_key(entry.name))


def _rows(name: str, frames: Path, annotations: Path, options: Options) -> list[Row]:
    """The rows of one sequence, its annotated frames with their masks."""
    base_dir, images = Path(options.base_dir), files_by_stem(frames, IMAGE_SUFFIXES)
    if not images:
        raise InputError(f"{frames}: no frame in this folder; complete the copy")
    truth = files_by_stem(annotations, IMAGE_SUFFIXES) if annotations.is_dir() else {}
    flow = Path(options.flow_dir) / name if options.flow_dir else frames / "no flow yet"
    rows = sequence_rows(name, images, base_dir, flow=flow)
    for row, mask in zip(rows, _annotated(list(images), truth), strict=True):
        if mask is not None and options.background is not None:
            mask = _written(mask, Path(f"{options.out}_masks") / name / f"{mask.stem}.png", options.background)
        row["GtMask"] = "" if mask is None else relative_cell(mask, base_dir)
    return rows


def _annotated(stems: list[str], truth: Mapping[str, Path]) -> list[Path | None]:
    """The annotation of each frame: of the same stem (an ending ``_gt`` apart), else of the same last number."""
    by_stem = {stem.removesuffix("_gt"): path for stem, path in truth.items()}
    if any(stem in by_stem for stem in stems):
        return [by_stem.get(stem) for stem in stems]
    by_number = {_last_number(stem): path for stem, path in by_stem.items()}
    return [by_number.get(_last_number(stem)) if _last_number(stem) is not None else None for stem in stems]


def _last_number(stem: str) -> int | None:
    match = re.search(r"([0-9]{1,18})$", stem)
    return int(match[1]) if match else None


def _written(annotation: Path, path: Path, background: int) -> Path:
    """The annotation as object ids: 0 is the background, other values in ascending order 1, 2 ..."""
    values = read_labels(annotation)
    present = np.unique(values)
    if background not in present:
        shown = ", ".join(map(str, present[:8].tolist()))
        raise InputError(f"{annotation}: --background {background} is not among its values {shown}")
    objects = present[present != background]
    ids = np.where(values == background, 0, 1 + np.searchsorted(objects, values))
    write_labels(path, ids)
    return path
