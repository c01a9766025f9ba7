"""CSV data splits: the one currency of data sets, predictions and evaluation.

A split is ``NAME_train.csv``, ``NAME_val.csv`` or ``NAME_test.csv``: one row per frame, paths relative to a base
folder, ``Sequence`` and ``Sequence_Index`` unique together, an empty cell where a frame lacks a file. The frames around
a row are asked for in ``common.windows``.
"""

import csv
import difflib
import hashlib
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from common.errors import InputError
from common.files import atomic_path

if TYPE_CHECKING:
    import pandas as pd

STEPS = ("train", "val", "test")
COLUMNS = ("Sequence", "Sequence_Index", "Image", "Flow", "GtMask", "GtSemantic", "GtInstance")
PREDICTED_COLUMNS = ("Background", "Pred", "Proba", "Score")
LONGEST_CELL = 4096  # characters, the longest path; all cells of a column take the room of the longest


@dataclass(frozen=True)
class Split:
    """The rows of one CSV data split.

    Cells are kept as one array of UTF-8 bytes per column, not as Python objects: data-loading processes share them
    without touching a reference count.

    Attributes:
        file: The CSV file.
        base_dir: Folder that the paths in the cells are relative to.
        cells: Bytes (N,) by column name, in the order of the file.
    """

    file: Path
    base_dir: Path
    cells: Mapping[str, NDArray[np.bytes_]]

    @classmethod
    def from_rows(
        cls,
        rows: "pd.DataFrame | Iterable[Mapping[str, Any]]",
        base_dir: str | os.PathLike[str] = ".",
        file: str | os.PathLike[str] = "split.csv",
    ) -> "Split":
        """A split made in memory from a table or row dictionaries; ``file`` names it in messages.

        Raises:
            InputError: As ``read_split`` does for a file of the same content.
        """
        names, table = _table(rows)
        return _checked_split(Path(file), Path(base_dir), names, table)

    def __len__(self) -> int:
        return len(self.cells["Sequence"])

    @property
    def name(self) -> str:
        """File name without ``.csv``."""
        return self.file.stem

    @property
    def columns(self) -> tuple[str, ...]:
        """Column names in the order of the file."""
        return tuple(self.cells)

    @property
    def frame(self) -> "pd.DataFrame":
        """A new pandas table of the cells as text, empty cells as empty text."""
        import pandas as pd

        return pd.DataFrame({name: self.column(name).astype(object) for name in self.cells}, dtype=str)

    def column(self, name: str) -> NDArray[np.str_]:
        """The cells of a column as text (N,).

        Raises:
            InputError: No such column; the message lists those there are.
        """
        return np.char.decode(self._bytes(name), "utf-8")

    def cell(self, row: int, name: str) -> str:
        """One cell as text; ``column`` decodes all of them, which a loop over the rows must not do each time.

        Raises:
            InputError: No such column.
        """
        return str(self._bytes(name)[row].decode())

    def available(self, name: str) -> NDArray[np.bool_]:
        """Where a column has a non-empty cell: bool (N,), read-only and found once, so that a loop may ask for it."""
        if name not in self._available:
            found = self._bytes(name) != b""
            found.flags.writeable = False
            self._available[name] = found
        return self._available[name]

    @cached_property
    def _available(self) -> dict[str, NDArray[np.bool_]]:
        return {}

    def _bytes(self, name: str) -> NDArray[np.bytes_]:
        if name not in self.cells:
            raise InputError(f"{self.file}: no column '{name}'; available: {', '.join(self.cells)}")
        return self.cells[name]

    @cached_property
    def index(self) -> NDArray[np.int64]:
        """``Sequence_Index`` as numbers (N,)."""
        return self.cells["Sequence_Index"].astype(np.int64)

    def path(self, row: int, column: str) -> Path:
        """The file that a cell names, below ``base_dir``.

        Raises:
            InputError: No such column, or the cell is empty.
        """
        cell = self._bytes(column)[row].decode()
        if not cell:
            raise InputError(f"{self.file}: line {row % len(self) + 2} has an empty '{column}' cell")
        return self.base_dir / cell

    def sequences(self) -> dict[str, NDArray[np.int64]]:
        """Rows of each sequence in ascending ``Sequence_Index``; sequences in the order of the file."""
        names, first, group = np.unique(self.cells["Sequence"], return_index=True, return_inverse=True)
        order = np.lexsort((self.index, group))
        ends = np.cumsum(np.bincount(group, minlength=len(names)))
        rows = np.split(order, ends[:-1])
        return {names[k].decode(): rows[k].astype(np.int64) for k in np.argsort(first)}

    def take(self, rows: NDArray[np.integer] | NDArray[np.bool_] | Sequence[int]) -> "Split":
        """The split of some rows only, in the order given (row numbers or a bool mask)."""
        chosen = np.asarray(rows)
        chosen = chosen if chosen.dtype == bool else chosen.astype(np.int64)
        return Split(self.file, self.base_dir, {name: cells[chosen] for name, cells in self.cells.items()})

    def hash(self) -> str:
        """SHA-256 of columns and cells: the same for copies that differ in byte-order mark, line ends or quoting."""
        digest = hashlib.sha256()
        for name, cells in self.cells.items():
            digest.update(name.encode() + b"\x1d")
            digest.update(b"\x1f".join(cells.tolist()) + b"\x1e")
        return digest.hexdigest()


def read_split(
    data_file: str | os.PathLike[str], step: str | None = None, base_dir: str | os.PathLike[str] = "."
) -> Split:
    """Read a CSV data split and check its form (not its files: ``common/check.py`` does).

    Args:
        data_file: The CSV file, or a prefix: ``NAME`` with ``step="val"`` reads ``NAME_val.csv``, without a step
            ``NAME.csv``.
        step: ``train``, ``val`` or ``test``; unused when ``data_file`` ends in ``.csv``.
        base_dir: Folder that the paths in the cells are relative to.

    Raises:
        InputError: One line for: a missing file (with what is there instead), text that is not UTF-8 or not CSV, rows
            of uneven length, no rows, a missing key column, an index that is no integer, a repeated
            (Sequence, Sequence_Index).
    """
    if not Path(base_dir).is_dir():
        raise InputError(f"--base_dir {base_dir}: no such folder")
    path = _split_path(str(data_file), step)
    names, table = _read_csv(path)
    return _checked_split(path, Path(base_dir), names, table)


def _split_path(data_file: str, step: str | None) -> Path:
    if step is not None and step not in STEPS:
        raise InputError(f"step '{step}': unknown; choose one of {', '.join(STEPS)}")
    path = Path(data_file)
    if path.suffix.lower() != ".csv":
        path = Path(data_file + (f"_{step}" if step else "") + ".csv")
    try:
        if path.is_file():
            return path
    except PermissionError as error:
        raise InputError(f"{path}: the folder may not be entered ({error.strerror}); change its mode") from error
    if path.is_dir():
        raise InputError(f"{path}: is a folder, expected a CSV data split")
    if not path.parent.is_dir():
        raise InputError(f"{path}: no such data split; the folder {path.parent} does not exist")
    names = sorted(entry.name for entry in path.parent.glob("*.csv"))
    siblings = [name for name in names if name.startswith(Path(data_file).stem)]
    found = siblings or difflib.get_close_matches(path.name, names, n=3, cutoff=0.5) or names[:3]
    remedy = f"did you mean {', '.join(found)}?" if found else "the folder holds no CSV file"
    raise InputError(f"{path}: no such data split; {remedy}")


def _read_csv(path: Path) -> tuple[list[str], list[list[str]]]:
    """Header and rows of a CSV file; a byte-order mark and any line ends are accepted, blank lines skipped."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(file, strict=True)
            names = next(reader, [])
            table = []
            for row in reader:
                if row and len(row) != len(names):
                    raise InputError(
                        f"{path}: line {reader.line_num} has {len(row)} cells, the header has {len(names)} columns"
                    )
                if row:
                    table.append(row)
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not UTF-8 text (byte {error.start}); save it as CSV UTF-8") from error
    except csv.Error as error:
        raise InputError(f"{path}: line {reader.line_num} is not CSV ({error})") from error
    except OSError as error:
        raise InputError(f"{path}: cannot read this data split ({error.strerror})") from error
    return names, table


def _checked_split(path: Path, base_dir: Path, names: list[str], table: list[list[str]]) -> Split:
    """The split of a table of text, or the one-line error that its form deserves."""
    for key in ("Sequence", "Sequence_Index"):
        if key not in names:
            hint = "; cells must be separated by commas" if len(names) == 1 and re.search(r"[;\t]", names[0]) else ""
            raise InputError(f"{path}: no column '{key}'; available: {', '.join(names) or 'none (empty file)'}{hint}")
    repeated = sorted({name for name in names if name and names.count(name) > 1})
    if repeated:
        raise InputError(f"{path}: the header names the column '{repeated[0]}' twice")
    if not table:
        raise InputError(f"{path}: the split has a header but no rows")
    for line, row in enumerate(table, start=2):
        if max(map(len, row)) > LONGEST_CELL:
            raise InputError(
                f"{path}: line {line} has a cell of {max(map(len, row))} characters, at most {LONGEST_CELL}"
            )
        if any("\0" in cell for cell in row):
            raise InputError(f"{path}: line {line} holds a zero byte; save it as CSV UTF-8")
    column = dict(zip(names, zip(*table, strict=True), strict=False))
    column.pop("", None)  # the unnamed row number that pandas writes with index=True
    for line, cell in enumerate(column["Sequence_Index"], start=2):
        if not re.fullmatch(r"[+-]?[0-9]{1,18}", cell):
            raise InputError(f"{path}: line {line}: Sequence_Index '{cell}' is not an integer")
    keys = list(zip(column["Sequence"], map(int, column["Sequence_Index"]), strict=True))
    if len(set(keys)) < len(keys):
        seen: set[tuple[str, int]] = set()
        twice = list(dict.fromkeys(key for key in keys if key in seen or seen.add(key)))  # type: ignore[func-returns-value]
        shown = ", ".join(f"{sequence}/{index}" for sequence, index in twice[:5]) + (", ..." if len(twice) > 5 else "")
        raise InputError(f"{path}: {len(twice)} repeated (Sequence, Sequence_Index): {shown}")
    cells = {name: np.array([cell.encode() for cell in column[name]], dtype=np.bytes_) for name in column}
    return Split(path, base_dir, cells)


def _table(rows: "pd.DataFrame | Iterable[Mapping[str, Any]]") -> tuple[list[str], list[list[str]]]:
    """Header in canonical order and text cells; None and NaN become empty."""
    records: list[Mapping[Any, Any]] = list(rows.to_dict("records") if hasattr(rows, "to_dict") else rows)
    found = dict.fromkeys(str(name) for record in records for name in record)
    first = [name for name in COLUMNS if name in found]
    last = [name for name in PREDICTED_COLUMNS if name in found]
    names = first + [name for name in found if name not in (*COLUMNS, *PREDICTED_COLUMNS)] + last
    return names, [[_text(record.get(name)) for name in names] for record in records]


def _text(value: Any) -> str:
    if value is None or (isinstance(value, float) and np.isnan(value)):
        return ""
    return value.as_posix() if isinstance(value, Path) else str(value)


def write_split(path: str | os.PathLike[str], rows: "Split | pd.DataFrame | Iterable[Mapping[str, Any]]") -> Split:
    """Write a data split: key columns first, then input and ground truth, then others, then predictions.

    Args:
        path: ``NAME_train.csv`` or the like.
        rows: A split, a table, or row dictionaries; None and NaN become empty cells, paths get forward slashes.

    Returns:
        The split as written, below the base folder of ``rows`` when that is a split.

    Raises:
        InputError: The rows are no valid split (see ``read_split``), or the folder cannot be written.
    """
    base_dir = rows.base_dir if isinstance(rows, Split) else Path()
    names, table = _table(rows.frame if isinstance(rows, Split) else rows)
    split = _checked_split(Path(path), base_dir, names, table)
    with atomic_path(path) as temporary, temporary.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(names)
        writer.writerows(table)
    return split


def relative_cell(path: str | os.PathLike[str], base_dir: str | os.PathLike[str]) -> str:
    """A path as a cell of a split: relative to ``base_dir``, with forward slashes.

    Outside ``base_dir`` the way leads through ``..``, which the system resolves after symbolic links: links among the
    folders are therefore followed first, those of the file itself and below ``base_dir`` are kept.
    """
    inside = os.path.relpath(path, base_dir)
    if inside.split(os.sep)[0] != os.pardir:
        return Path(inside).as_posix()
    path = Path(path)
    real = os.path.join(os.path.realpath(path.parent), path.name)
    return Path(os.path.relpath(real, os.path.realpath(base_dir))).as_posix()


def _classes_paths(split_path: str | os.PathLike[str]) -> list[Path]:
    path = Path(split_path)
    stem = re.sub(rf"_({'|'.join(STEPS)}|classes)$", "", path.name.removesuffix(".csv").removesuffix(".txt"))
    return [path.with_name(f"{stem}_classes{suffix}") for suffix in (".csv", ".txt")]


def has_classes(split_path: str | os.PathLike[str]) -> bool:
    """Whether there is a file of class names beside a split."""
    return any(path.is_file() for path in _classes_paths(split_path))


def read_classes(split_path: str | os.PathLike[str]) -> dict[int, str]:
    """Class names by index, from ``NAME_classes.csv`` or ``.txt`` beside the split ``NAME[_train|_val|_test].csv``.

    The file of class names may be named itself.

    Lines are ``index,name`` (a header ``index,name`` may come first) or, in a ``.txt``, just a name per line, from 0.

    Raises:
        InputError: No such file, an index that is no number, or a repeated index.
    """
    paths = _classes_paths(split_path)
    path = next((candidate for candidate in paths if candidate.is_file()), None)
    if path is None:
        raise InputError(f"{paths[0]}: no class names beside the split; write lines 'index,name'")
    try:
        lines = [line.strip() for line in path.read_text(encoding="utf-8-sig").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot read the class names ({error})") from error
    if path.suffix == ".txt" and not all(re.match(r"\d+\s*,|index,", line) for line in lines):
        return dict(enumerate(lines))
    classes: dict[int, str] = {}
    for number, line in enumerate(lines, start=1):
        index, _, name = (part.strip() for part in line.partition(","))
        if number == 1 and index.lower() == "index":
            continue
        if not index.isdecimal() or int(index) in classes:
            raise InputError(f"{path}: line {number} '{line}' is no 'index,name' with an index of its own")
        classes[int(index)] = name.strip('"')
    return classes


def write_classes(split_path: str | os.PathLike[str], classes: Mapping[int, str]) -> Path:
    """Write ``NAME_classes.csv`` beside a split; returns its path."""
    path = _classes_paths(split_path)[0]
    with atomic_path(path) as temporary:
        lines = [f"{index},{name}\n" for index, name in sorted(classes.items())]
        temporary.write_text("index,name\n" + "".join(lines), encoding="utf-8")
    return path
