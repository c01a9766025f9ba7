"""Writing the splits of a maker, and saying what is in them."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from common.errors import InputError
from common.layouts import Row
from common.splits import STEPS, write_classes, write_split


def write_steps(out: str, steps: Mapping[str, Sequence[Row]], classes: Mapping[int, str] | None = None) -> int:
    """Write ``<out>_<step>.csv`` of the steps that have rows and say what is in them.

    Args:
        out: Prefix of the files.
        steps: Rows by step; a step without rows gets no file.
        classes: Names of the values of ``GtSemantic``, written beside the splits.

    Returns:
        The exit code 0.

    Raises:
        InputError: a file of an earlier run would be left beside the new ones.
    """
    for step in STEPS:
        if not steps.get(step) and Path(f"{out}_{step}.csv").exists():
            # left beside the new files it would leak between train and val
            raise InputError(f"{out}_{step}.csv: from an earlier run, gets no rows now; remove it or change --out")
    for step, rows in steps.items():
        if rows:
            split = write_split(f"{out}_{step}.csv", rows)
            if classes is not None:
                write_classes(split.file, classes)
            filled = ", ".join(f"{int(split.available(name).sum())} {name}" for name in split.columns[2:])
            print(f"{split.file}: {len(split)} rows, {len(split.sequences())} sequences ({filled})")
    return 0
