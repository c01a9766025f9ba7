"""The doctor of data splits: ``python common/check.py SPLIT.csv [--base_dir DIR]``.

Reads every file of a split once, in parallel, and prints what is wrong: missing or damaged files, sizes that differ
within a row or a sequence, mask values without one meaning, class indices without a name, NaN or all-zero flow, gaps in
the frame numbers, files named twice, absolute paths, and sequences or files shared with the train, val or test split
beside it.

Given a name without a step (``NAME`` for ``NAME_train.csv`` and ``NAME_val.csv``) it reads all its parts, each file
once, and also finds the same picture under two names: by its pixels, so that a copy in another format is found too.
"""

import collections
import hashlib
import os
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from common import cli
from common.errors import InputError
from common.files import IMAGE_SUFFIXES, MaskEncoding, read_array, read_image, read_labels, read_mask, value_counts
from common.flow_files import FLOW_SUFFIXES, read_flow
from common.splits import STEPS, Split, has_classes, read_classes, read_split

ARRAY_SUFFIXES = (".npy", ".npz")


@dataclass(frozen=True)
class CheckOptions:
    """Check a CSV data split and every file in it."""

    data_file: str = field(metadata={"positional": True})
    """The split: NAME_val.csv or the like, or NAME for all its parts."""
    base_dir: str = "."
    """Folder that the paths in the split are relative to."""
    mask_encoding: MaskEncoding = "auto"
    """How GtMask files are to be read: auto, 255, binary01, palette_ids or threshold128."""
    max_lines: int = 10
    """How many findings of one kind are printed."""


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong.

    Attributes:
        kind: What sort of thing, one or two words.
        message: One line that names the file, the row or the sequence.
    """

    kind: str
    message: str


@dataclass(frozen=True)
class FileFacts:
    """What reading one file told.

    Attributes:
        size: (H, W), None when the file is damaged or has no such size.
        findings: What is wrong with it.
        histogram: Pixels by label value, of masks and label maps.
        digest: Hash of the pixels of an image, None for others.
    """

    size: tuple[int, int] | None = None
    findings: tuple[Finding, ...] = ()
    histogram: Mapping[int, int] = field(default_factory=dict)
    digest: str | None = None


def inspect_file(path: Path, column: str, mask_encoding: MaskEncoding = "auto") -> FileFacts:
    """Read one file the way its column is read in training."""
    if not path.exists():
        return FileFacts(findings=(Finding("missing file", f"{path} ({column})"),))
    try:
        if column == "Flow":
            flow = read_flow(path)
            still = (Finding("zero flow", f"{path}: every vector is zero"),) if not flow.any() else ()
            return FileFacts(flow.shape[1:], still)
        if column == "GtMask":
            mask = read_mask(path, mask_encoding)
            return FileFacts(mask.labels.shape, histogram=value_counts(np.where(mask.void, 255, mask.labels)))
        if column in ("GtSemantic", "GtInstance") and path.suffix.lower() in IMAGE_SUFFIXES:
            labels = read_labels(path)
            return FileFacts(labels.shape, histogram=value_counts(labels))
        if path.suffix.lower() in ARRAY_SUFFIXES:
            array = read_array(path)
            bad = array.size - int(np.isfinite(array).sum()) if array.dtype.kind == "f" else 0
            return FileFacts(findings=(Finding("bad values", f"{path}: {bad} are NaN or infinite"),) if bad else ())
        if path.suffix.lower() in IMAGE_SUFFIXES:
            image = read_image(path)
            size = (image.shape[0], image.shape[1])
            return FileFacts(size, digest=_digest(image) if column == "Image" else None)
    except InputError as error:
        return FileFacts(findings=(Finding("mask values" if "do not fit" in str(error) else "bad file", str(error)),))
    return FileFacts()


def _digest(image: NDArray[np.uint8]) -> str | None:
    """Hash of the pixels; None for one flat colour, since black frames are no copies of each other."""
    if (image == image[:1, :1]).all():
        return None
    return hashlib.blake2b(image.tobytes(), digest_size=16).hexdigest()


def file_columns(split: Split) -> list[str]:
    """The columns whose cells name files: those with a known suffix in the first cell that is not empty."""
    known = {*IMAGE_SUFFIXES, *FLOW_SUFFIXES, *ARRAY_SUFFIXES, ".json"}
    columns = []
    for name in split.columns:
        cells = split.column(name)[split.available(name)]
        if len(cells) and name not in ("Sequence", "Sequence_Index") and Path(cells[0]).suffix.lower() in known:
            columns.append(name)
    return columns


def read_files(split: Split, mask_encoding: MaskEncoding = "auto") -> dict[tuple[str, str], FileFacts]:
    """Read every file of a split once, in threads; facts by (column, cell)."""
    wanted = [
        (name, cell) for name in file_columns(split) for cell in dict.fromkeys(split.column(name).tolist()) if cell
    ]
    with ThreadPoolExecutor(max_workers=min(8, os.cpu_count() or 1)) as pool:
        jobs = pool.map(lambda key: inspect_file(split.base_dir / key[1], key[0], mask_encoding), wanted)
        facts = list(tqdm(jobs, total=len(wanted), desc=split.file.name, unit="file"))
    return dict(zip(wanted, facts, strict=True))


def size_findings(split: Split, facts: Mapping[tuple[str, str], FileFacts]) -> Iterator[Finding]:
    """Files of another size than the first of their row, and images of another size than the first of their clip."""
    names = file_columns(split)
    columns = {name: split.column(name) for name in names}
    for sequence, rows in split.sequences().items():
        of_clip: dict[str, tuple[int, int]] = {}
        for row in rows:
            sizes = {name: fact.size for name in names if (fact := facts.get((name, columns[name][row]))) and fact.size}
            place = f"{sequence}/{split.index[row]}"
            if len(set(sizes.values())) > 1:
                shown = ", ".join(f"{name} {height}x{width}" for name, (height, width) in sizes.items())
                yield Finding("size in row", f"{place}: {shown} (rows x columns)")
            for name, (height, width) in sizes.items():
                first = of_clip.setdefault(name, (height, width))
                if first != (height, width):
                    yield Finding("size in clip", f"{place}: {name} {height}x{width}, first {first[0]}x{first[1]}")


def row_findings(split: Split) -> Iterator[Finding]:
    """Gaps in the frame numbers, and files that two rows name."""
    for sequence, rows in split.sequences().items():
        index = split.index[rows]
        for place in np.flatnonzero(np.diff(index) != 1):
            yield Finding("frame gap", f"{sequence}: {index[place]} is followed by {index[place + 1]}")
    for name in {"Image", "Flow", "GtMask"} & set(split.columns):
        for cell, count in collections.Counter(split.column(name).tolist()).items():
            if cell and count > 1:
                yield Finding("named twice", f"{cell}: {name} of {count} rows")


def absolute_findings(split: Split) -> Iterator[Finding]:
    """Cells that name a file from the root of the disk: they hold on one machine only."""
    for name in file_columns(split):
        for cell in dict.fromkeys(split.column(name).tolist()):
            if Path(cell).is_absolute():
                yield Finding("absolute path", f"{cell} ({name}); paths should be relative to --base_dir")


def class_findings(split: Split, facts: Mapping[tuple[str, str], FileFacts]) -> Iterator[Finding]:
    """Values of ``GtSemantic`` that the class names beside the split do not know; 255 is void."""
    if "GtSemantic" not in split.columns or not has_classes(split.file):
        return
    try:
        known = {*read_classes(split.file), 255}
    except InputError as error:
        yield Finding("class names", str(error))
        return
    for (column, cell), fact in facts.items():
        unknown = sorted(set(fact.histogram) - known) if column == "GtSemantic" else []
        if unknown:
            yield Finding("class index", f"{cell}: {', '.join(map(str, unknown[:8]))} not among the class names")


def leak_findings(split: Split, beside: Sequence[Split] | None = None) -> Iterator[Finding]:
    """Sequences and images that the splits beside this one (``NAME_train.csv`` ...) hold too.

    Args:
        split: The split.
        beside: The other parts; default those that are found beside the file.
    """
    others = list(beside or ())
    stem, _, own = split.file.stem.rpartition("_")
    for step in STEPS if own in STEPS and beside is None else ():
        file = split.file.with_name(f"{stem}_{step}.csv")
        if step == own or not file.is_file():
            continue
        try:
            others.append(read_split(file, base_dir=split.base_dir))
        except InputError as error:
            yield Finding("split beside", str(error))
    for other in others:
        shared = sorted(set(split.column("Sequence").tolist()) & set(other.column("Sequence").tolist()))
        yield from (Finding("leak", f"Sequence {name} is in {other.file.name} too") for name in shared)
        if "Image" in split.columns and "Image" in other.columns:
            own_files, their_files = _real_files(split), _real_files(other)
            for file_name in own_files.keys() & their_files.keys():
                yield Finding("leak", f"Image {own_files[file_name]} is in {other.file.name} too")


def _real_files(split: Split) -> dict[str, str]:
    """Cell of each image by the file that it really is, links followed."""
    cells = dict.fromkeys(split.column("Image").tolist())
    return {os.path.realpath(split.base_dir / cell): cell for cell in cells if cell}


def copy_findings(
    parts: Sequence[tuple[Split, Mapping[tuple[str, str], FileFacts]]],
) -> Iterator[Finding]:
    """The same pixels in images of two sequences or parts, which have different names."""
    first: dict[str, tuple[Split, str, str, str]] = {}
    for split, facts in parts:
        for sequence, cell in zip(*(split.column(name).tolist() for name in ("Sequence", "Image")), strict=True):
            fact = facts.get(("Image", cell))
            if fact is None or fact.digest is None:
                continue
            real = os.path.realpath(split.base_dir / cell)
            other, other_sequence, other_cell, other_real = first.setdefault(fact.digest, (split, sequence, cell, real))
            if other_real == real or (other is split and other_sequence == sequence):
                continue
            kind = "same picture" if other is split else "leak"
            yield Finding(kind, f"{cell} in {split.file.name} has the pixels of {other_cell} in {other.file.name}")


def check(options: CheckOptions) -> int:
    """Print the report of a split, or of all parts of one; 0 when nothing is wrong, 1 otherwise.

    Raises:
        InputError: No such split.
    """
    files = split_files(options.data_file)
    parts: list[tuple[Split, dict[tuple[str, str], FileFacts]]] = []
    findings = []
    for file in files:
        try:
            split = read_split(file, base_dir=options.base_dir)
        except InputError as error:
            if not file.is_file() or "--base_dir" in str(error):
                raise
            print(f"split  {error}")
            findings.append(Finding("split", str(error)))
            continue
        facts = read_files(split, options.mask_encoding)
        parts.append((split, facts))
        findings += [finding for fact in facts.values() for finding in fact.findings]
        findings += [*size_findings(split, facts), *row_findings(split), *absolute_findings(split)]
        findings += class_findings(split, facts)
        print("\n".join(_summary(split, facts)))
    for place, (split, _) in enumerate(parts):
        beside = [other for other, _ in parts[place + 1 :]] if len(files) > 1 else None
        findings += leak_findings(split, beside)
    findings += copy_findings([part for part in parts if "Image" in part[0].columns])
    _print_findings([finding for finding in findings if finding.kind != "split"], options.max_lines)
    print(f"{len(findings)} findings" if findings else "nothing wrong")
    return 1 if findings else 0


def split_files(data_file: str) -> list[Path]:
    """The file that is named, or all parts ``NAME_train.csv``, ``NAME_val.csv`` and ``NAME_test.csv`` of a name."""
    parts = [Path(f"{data_file}_{step}.csv") for step in STEPS]
    found = [file for file in parts if file.is_file()]
    named = data_file.lower().endswith(".csv") or Path(f"{data_file}.csv").is_file() or not found
    return [Path(data_file if data_file.lower().endswith(".csv") else f"{data_file}.csv")] if named else found


def _print_findings(findings: Sequence[Finding], max_lines: int) -> None:
    by_kind: dict[str, list[str]] = {}
    for finding in findings:
        by_kind.setdefault(finding.kind, []).append(finding.message)
    for kind, messages in by_kind.items():
        for message in messages[:max_lines]:
            print(f"{kind:<14}{message}")
        if len(messages) > max_lines:
            print(f"{kind:<14}... and {len(messages) - max_lines} more (--max_lines)")


def _summary(split: Split, facts: Mapping[tuple[str, str], FileFacts]) -> Iterator[str]:
    """Counts by column, and the share of each label value in masks and label maps."""
    yield f"{split.file}: {len(split)} rows, {len(split.sequences())} sequences, {len(facts)} files"
    for name in file_columns(split):
        of_column = [fact for (column, _), fact in facts.items() if column == name]
        good = sum(not fact.findings for fact in of_column)
        empty = len(split) - int(split.available(name).sum())
        pixels: collections.Counter[int] = collections.Counter()
        for fact in of_column:
            pixels.update(fact.histogram)
        shown = [f"{value}: {count / pixels.total():.2%}" for value, count in sorted(pixels.items())[:12]]
        values = f"   values {', '.join(shown)}{', ...' if len(pixels) > 12 else ''}" if pixels else ""
        yield f"  {name:<12}{good:>7} good {len(of_column) - good:>6} bad {empty:>6} empty{values}"


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point."""
    return cli.command(check, CheckOptions, argv=argv, prog="check.py")


if __name__ == "__main__":
    raise SystemExit(main())
