"""The layout of changedetection.net 2012 and 2014: ``<category>/<clip>/input/in000001.jpg`` and ``groundtruth``."""

import re
from dataclasses import dataclass, field
from pathlib import Path

from common.errors import InputError
from common.layouts import Row, files_by_stem, relative_cell
from common.makers.writing import write_steps

SUFFIXES = (".jpg", ".png", ".bmp")


@dataclass(frozen=True)
class Options:
    """changedetection.net (CDnet): clips of fixed and moving cameras with change masks."""

    input: str = field(metadata={"positional": True})
    """Folder that holds clips (each with input/ and groundtruth/) at any depth, or one clip."""
    out: str
    """Prefix of the files to write; NAME_train.csv and NAME_test.csv list the same frames, which the method learns."""
    base_dir: str = "."
    """Folder that the paths in the split are relative to."""
    clips: list[str] = field(default_factory=list)
    """Only these clips, e.g. highway."""
    scored_only: bool = False
    """Leave out the frames before and after temporalROI.txt, which have no ground truth."""


def make(options: Options) -> int:
    """Write the splits; masks are read with --mask_encoding cdnet."""
    root = Path(options.input)
    if not root.is_dir():
        raise InputError(f"{root}: no such folder")
    folders = sorted(
        path.parent for path in root.rglob("input") if path.is_dir() and (path.parent / "groundtruth").is_dir()
    )
    if options.clips:
        missing = sorted(set(options.clips) - {folder.name for folder in folders})
        if missing:
            raise InputError(f"--clips {missing[0]}: no such clip below {root}")
        folders = [folder for folder in folders if folder.name in options.clips]
    if not folders:
        raise InputError(f"{root}: holds no clip, that is a folder with input/ and groundtruth/")
    rows = [row for folder in folders for row in clip_rows(folder, Path(options.base_dir), options.scored_only)]
    return write_steps(options.out, {"train": rows, "test": rows})


def clip_rows(folder: Path, base_dir: Path, scored_only: bool = False) -> list[Row]:
    """The rows of a clip; frames outside ``temporalROI.txt`` have no mask, their files hold void only.

    Raises:
        InputError: No frames, a frame without a number, an unreadable temporalROI.txt.
    """
    frames = files_by_stem(folder / "input", SUFFIXES)
    masks = {number_of(path): path for path in files_by_stem(folder / "groundtruth", (".png",)).values()}
    first, last = scored_range(folder)
    rows = []
    for path in frames.values():
        number = number_of(path)
        scored = first <= number <= last
        if scored or not scored_only:
            mask = masks.get(number) if scored else None
            rows.append(
                {
                    "Sequence": folder.name,
                    "Sequence_Index": str(number),
                    "Image": relative_cell(path, base_dir),
                    "GtMask": relative_cell(mask, base_dir) if mask else "",
                }
            )
    if not rows:
        raise InputError(f"{folder / 'input'}: no frame in it")
    return rows


def scored_range(folder: Path) -> tuple[int, int]:
    """First and last frame number with ground truth; all frames when the file is not there."""
    file = folder / "temporalROI.txt"
    if not file.is_file():
        return 0, 10**9
    found = re.fullmatch(r"\s*(\d+)\s+(\d+)\s*", file.read_text())
    if found is None:
        raise InputError(f"{file}: expected two frame numbers, e.g. '470 1700'")
    return int(found[1]), int(found[2])


def number_of(path: Path) -> int:
    """The frame number that ends a file's name."""
    found = re.search(r"(\d+)$", path.stem)
    if found is None:
        raise InputError(f"{path}: its name does not end in a frame number, as in000001.jpg does")
    return int(found[1])
