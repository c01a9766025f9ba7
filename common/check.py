"""The doctor of data splits: ``python common/check.py SPLIT.csv [--base_dir DIR]``.

Reads every file of a split once, in parallel, and prints what is wrong: missing or damaged files, sizes that differ
within a row or a sequence, mask values without one meaning, NaN or all-zero flow, gaps in the frame numbers, files
named twice, and sequences or files shared with the train, val or test split beside it.
"""

import collections
import os
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from tqdm import tqdm

from common import cli
from common.errors import InputError
from common.files import IMAGE_SUFFIXES, MaskEncoding, read_array, read_image, read_labels, read_mask, value_counts
from common.flow_files import FLOW_SUFFIXES, read_flow
from common.splits import STEPS, Split, read_split

ARRAY_SUFFIXES = (".npy", ".npz")


@dataclass(frozen=True)
class CheckOptions:
    """Check a CSV data split and every file in it."""

    data_file: str = field(metadata={"positional": True})
    """The split: NAME_val.csv or the like."""
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
    """

    size: tuple[int, int] | None = None
    findings: tuple[Finding, ...] = ()
    histogram: Mapping[int, int] = field(default_factory=dict)


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
            return FileFacts(read_image(path).shape[:2])
    except InputError as error:
        return FileFacts(findings=(Finding("mask values" if "do not fit" in str(error) else "bad file", str(error)),))
    return FileFacts()


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


def leak_findings(split: Split) -> Iterator[Finding]:
    """Sequences and images that the splits beside this one (``NAME_train.csv`` ...) hold too."""
    stem, _, own = split.file.stem.rpartition("_")
    for step in STEPS if own in STEPS else ():
        beside = split.file.with_name(f"{stem}_{step}.csv")
        if step == own or not beside.is_file():
            continue
        try:
            other = read_split(beside, base_dir=split.base_dir)
        except InputError as error:
            yield Finding("split beside", str(error))
            continue
        for name in ("Sequence", "Image"):
            if name in split.columns and name in other.columns:
                shared = sorted(set(split.column(name).tolist()) & set(other.column(name).tolist()) - {""})
                yield from (Finding("leak", f"{name} {cell} is in {beside.name} too") for cell in shared)


def check(options: CheckOptions) -> int:
    """Print the report of one split; 0 when nothing is wrong, 1 otherwise.

    Raises:
        InputError: No such split.
    """
    try:
        split = read_split(options.data_file, base_dir=options.base_dir)
    except InputError as error:
        if not Path(options.data_file).is_file() or "--base_dir" in str(error):
            raise
        print(f"split  {error}")
        return 1
    facts = read_files(split, options.mask_encoding)
    findings = [finding for fact in facts.values() for finding in fact.findings]
    findings += [*size_findings(split, facts), *row_findings(split), *leak_findings(split)]
    print("\n".join(_summary(split, facts)))
    by_kind: dict[str, list[str]] = {}
    for finding in findings:
        by_kind.setdefault(finding.kind, []).append(finding.message)
    for kind, messages in by_kind.items():
        for message in messages[: options.max_lines]:
            print(f"{kind:<14}{message}")
        if len(messages) > options.max_lines:
            print(f"{kind:<14}... and {len(messages) - options.max_lines} more (--max_lines)")
    print(f"{len(findings)} findings" if findings else "nothing wrong")
    return 1 if findings else 0


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
