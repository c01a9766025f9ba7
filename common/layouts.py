"""From the files of a data set to the rows of a split: one pure function per layout, and the partition by sequence.

A row is a dictionary of column names and text cells. There is one row per frame. ``Flow`` of frame k is the forward
flow k -> k+1, hence empty for the last frame of a sequence and wherever no file exists yet.
"""

import os
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from common.errors import InputError
from common.files import IMAGE_SUFFIXES
from common.flow_files import FLOW_SUFFIXES

Row = dict[str, str]


def natural_key(text: str) -> list[tuple[int, str]]:
    """Sort key under which ``frame2`` comes before ``frame10``."""
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"([0-9]+)", text)]


def relative_cell(path: Path, base_dir: Path) -> str:
    """The cell that names ``path`` below ``base_dir``, with forward slashes.

    Raises:
        InputError: ``path`` is not below ``base_dir``.
    """
    try:
        return Path(os.path.abspath(path)).relative_to(os.path.abspath(base_dir)).as_posix()
    except ValueError as error:
        raise InputError(f"{path}: not below --base_dir {base_dir}; pass a folder that holds all the files") from error


def files_by_stem(folder: Path, suffixes: Sequence[str]) -> dict[str, Path]:
    """The files of one folder by stem, in natural order; hidden files and other suffixes are left out.

    Raises:
        InputError: Two files differ in their suffix only.
    """
    found: dict[str, Path] = {}
    entries = [entry for entry in folder.iterdir() if entry.suffix.lower() in suffixes and entry.name[0] != "."]
    for path in sorted(entries, key=lambda entry: natural_key(entry.name)):
        if path.stem in found:
            raise InputError(f"{path}: {found[path.stem].name} has the same stem; keep one of the two")
        if path.is_file():
            found[path.stem] = path
    return found


def frame_numbers(stems: Sequence[str]) -> list[int]:
    """The numbers that end the file names when all have one and no two agree (gaps stay visible), else 0, 1, 2 ..."""
    found = [re.search(r"([0-9]{1,18})$", stem) for stem in stems]
    numbers = [int(match[1]) for match in found if match]
    return numbers if len(set(numbers)) == len(stems) else list(range(len(stems)))


def sequence_rows(
    name: str, frames: Path | dict[str, Path], base_dir: Path, masks: Path | None = None, flow: Path | None = None
) -> list[Row]:
    """The rows of one clip: its frames in natural order, with the masks and flow files of the same stem.

    Args:
        name: The clip.
        frames: Folder of the frames, or the frames by stem.
        base_dir: Folder that the cells are relative to.
        masks: Folder of the masks, if any.
        flow: Folder of the flow files, if any.
    """
    frames = frames if isinstance(frames, dict) else files_by_stem(frames, IMAGE_SUFFIXES)
    companions = {}
    if masks is not None:
        companions["GtMask"] = files_by_stem(masks, IMAGE_SUFFIXES) if masks.is_dir() else {}
    if flow is not None:
        companions["Flow"] = files_by_stem(flow, FLOW_SUFFIXES) if flow.is_dir() else {}
    rows = []
    for number, (stem, path) in zip(frame_numbers(list(frames)), frames.items(), strict=True):
        row = {"Sequence": name, "Sequence_Index": str(number), "Image": relative_cell(path, base_dir)}
        for column, files in companions.items():
            row[column] = relative_cell(files[stem], base_dir) if stem in files else ""
        rows.append(row)
    if rows:
        rows[-1] |= {"Flow": ""} if flow is not None else {}
    return rows


def folder_rows(
    root: Path, base_dir: Path, masks: Path | None = None, flow: Path | None = None, clip: bool = False
) -> list[Row]:
    """A folder of images: each sub-folder (at any depth) is a clip, each image directly in ``root`` stands alone.

    Args:
        root: The folder.
        base_dir: Folder that the cells are relative to.
        masks: Folder with the structure of ``root``; a mask has the stem of its image.
        flow: Folder with the structure of ``root``; a flow file has the stem of its first frame.
        clip: The images directly in ``root`` are the frames of one clip.

    Raises:
        InputError: A missing folder, no image, or no image with a mask (flow file) of its stem.
    """
    for folder in (root, masks, flow):
        if folder is not None and not folder.is_dir():
            raise InputError(f"{folder}: no such folder")
    apart = {os.path.abspath(folder) for folder in (masks, flow) if folder is not None} - {os.path.abspath(root)}
    rows: list[Row] = []
    for place, subfolders, _ in os.walk(root):
        subfolders[:] = sorted((s for s in subfolders if not s.startswith(".")), key=natural_key)
        subfolders[:] = [s for s in subfolders if os.path.abspath(os.path.join(place, s)) not in apart]
        relative = Path(place).relative_to(root)
        beside = [folder / relative if folder is not None else None for folder in (masks, flow)]
        if relative != Path() or clip:
            name = relative.as_posix() if relative != Path() else root.resolve().name
            rows += sequence_rows(name, Path(place), base_dir, *beside)
            continue
        for stem, path in files_by_stem(root, IMAGE_SUFFIXES).items():
            rows += [row | {"Sequence_Index": "0"} for row in sequence_rows(stem, {stem: path}, base_dir, *beside)]
    if not rows:
        raise InputError(f"{root}: no image in this folder or below; known are {', '.join(IMAGE_SUFFIXES)}")
    if masks is not None and not any(row["GtMask"] for row in rows):
        raise InputError(f"{masks}: no mask here has the stem of an image in {root}, such as {rows[0]['Image']}")
    if flow is not None and not any(row["Flow"] for row in rows):
        raise InputError(f"{flow}: no flow file here has the stem of a frame in {root}, such as {rows[0]['Image']}")
    return rows


def video_rows(frames: Iterable[Path], base_dir: Path, flow: Path | None = None) -> list[Row]:
    """The extracted frames of videos: one folder of frames per video, named as the video.

    Args:
        frames: The folders.
        base_dir: Folder that the cells are relative to.
        flow: Folder with one sub-folder of flow files per video.
    """
    rows: list[Row] = []
    for folder in frames:
        # without flow files yet there is a Flow column all the same, to be filled
        beside = flow / folder.name if flow is not None else folder / "no flow yet"
        rows += sequence_rows(folder.name, folder, base_dir, flow=beside)
    return rows


def davis_rows(
    root: Path,
    base_dir: Path,
    sequences: Iterable[str],
    resolution: str = "480p",
    annotations: str = "Annotations",
    flow: Path | None = None,
) -> list[Row]:
    """DAVIS: ``JPEGImages/480p/SEQ/00000.jpg``, ``Annotations/480p/SEQ/00000.png``, ``OpticalFlow/480p/SEQ/00000.flo``.

    Args:
        root: The folder that holds ``JPEGImages``.
        base_dir: Folder that the cells are relative to.
        sequences: Clips, in this order.
        resolution: ``480p``, ``1080p`` or ``Full-Resolution``.
        annotations: ``Annotations``, ``Annotations_unsupervised`` of DAVIS-2017, or empty for none.
        flow: Folder with one sub-folder of flow files per clip; default ``OpticalFlow/<resolution>``.

    Raises:
        InputError: A clip without frames; the message lists those there are.
    """
    rows: list[Row] = []
    images = root / "JPEGImages" / resolution
    for name in sequences:
        folder = images / name
        if not folder.is_dir():
            there = sorted(entry.name for entry in images.iterdir()) if images.is_dir() else []
            known = ", ".join(there[:8]) + (", ..." if len(there) > 8 else "")
            raise InputError(f"{folder}: no such clip; there are: {known or 'none'} (choose with --sequences)")
        masks = root / annotations / resolution / name if annotations else None
        motion = flow or root / "OpticalFlow" / resolution
        rows += sequence_rows(name, folder, base_dir, masks, motion / name)
    if annotations and not any(row["GtMask"] for row in rows):
        raise InputError(f"{root / annotations / resolution}: no mask for any frame; pass --annotations FOLDER or ''")
    return rows


def davis_lists(root: Path, resolution: str = "480p", image_set: str = "") -> dict[str, list[str]]:
    """The clips of train and val as the copy's own ``ImageSets`` list them.

    Args:
        root: The folder that holds ``ImageSets``.
        resolution: Sub-folder of the lists of DAVIS-2016 (lines of image and mask paths).
        image_set: Sub-folder to read; default the first of ``<resolution>``, ``2016`` and ``2017`` that exists.
    """
    for folder in [image_set] if image_set else [resolution, "2016", "2017"]:
        lists = {}
        for step in ("train", "val"):
            path = root / "ImageSets" / folder / f"{step}.txt"
            if path.is_file():
                first = [line.split()[0] for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
                # a line is "/JPEGImages/480p/bear/00000.jpg /Annotations/..." (2016) or "bear" (2017)
                lists[step] = list(dict.fromkeys(Path(name).parent.name or name for name in first))
        if lists:
            return lists
    wanted = image_set or f"{resolution}, 2016 or 2017"
    raise InputError(f"{root / 'ImageSets'}: no train.txt or val.txt in {wanted}; pass --sequences and --val_sequences")


def parse_shares(text: str) -> tuple[float, float, float]:
    """Shares of train, val and test from ``0.8/0.1/0.1`` (normalised to sum 1).

    Raises:
        InputError: Not three numbers from 0 with a positive sum.
    """
    parts = text.split("/")
    try:
        shares = [float(part) for part in parts]
    except ValueError:
        shares = []
    if len(shares) != 3 or not all(0 <= share < float("inf") for share in shares) or sum(shares) <= 0:
        raise InputError(f"--split {text}: expected three shares train/val/test, like 0.8/0.1/0.1")
    return shares[0] / sum(shares), shares[1] / sum(shares), shares[2] / sum(shares)


def partition(rows: Sequence[Row], shares: tuple[float, float, float], seed: int = 0) -> dict[str, list[Row]]:
    """Rows of train, val and test. Whole sequences are dealt out, never frames: neighbours are nearly the same picture.

    Sequences are shuffled by ``seed``; each step with a share gets at least one.

    Raises:
        InputError: Fewer sequences than steps with a share.
    """
    names = list(dict.fromkeys(row["Sequence"] for row in rows))
    wanted = [step for step, share in enumerate(shares) if share > 0]
    if len(names) < len(wanted):
        flag = "/".join(f"{share:g}" for share in shares)
        raise InputError(
            f"--split {flag}: {len(names)} sequences for {len(wanted)} parts; pass --split 1/0/0 for train only"
        )
    counts = [max(1, int(share * len(names))) if share > 0 else 0 for share in shares]
    while sum(counts) != len(names):
        # the step that is furthest from its share gives or takes one; never below one
        step = 1 if sum(counts) < len(names) else -1
        lack = [step * (shares[k] * len(names) - counts[k]) if counts[k] + step > 0 else -np.inf for k in wanted]
        counts[wanted[int(np.argmax(lack))]] += step
    order = np.random.default_rng(seed).permutation(len(names))
    steps = np.repeat(["train", "val", "test"], counts)
    step_of = {names[k]: str(step) for k, step in zip(order, steps, strict=True)}
    return {name: [row for row in rows if step_of[row["Sequence"]] == name] for name in ("train", "val", "test")}
