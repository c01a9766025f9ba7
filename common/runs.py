"""Several results side by side: short names for their paths, run directories as splits, and means over seeds."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import yaml

from common.errors import InputError
from common.splits import STEPS, Split, read_split

if TYPE_CHECKING:
    from common.evaluate import Evaluation, ScoringOptions
    from common.metrics.protocol import Score

TRUTHS = ("GtMask", "GtInstance", "GtSemantic")


def distinct_names(paths: Sequence[Path]) -> list[str]:
    """Short names of different paths, fit for folders: the part in which they differ, else numbers.

    >>> distinct_names([Path("a/pred_val.csv"), Path("b/pred_val.csv")])
    ['a', 'b']
    """
    parts = [path.absolute().with_suffix("").parts if path.suffix else path.absolute().parts for path in paths]
    for back in range(1, min(map(len, parts)) + 1):
        names = [part[-back] for part in parts]
        if len(set(names)) == len(names) and all(name.strip("./\\") for name in names):
            return names
    return [f"{part[-1]}_{number}" for number, part in enumerate(parts, start=1)]


def predictions_of(path: Path, base_dir: Path | None = None, column: str = "Pred") -> Split:
    """The prediction split of a path: a ``.csv``, or a run directory that holds one.

    Args:
        path: A prediction split, or a run directory: the split below ``predictions/`` or directly in it, of the test
            part where there are several parts.
        base_dir: Folder that the cells are relative to; default the first under which predictions and ground truth
            exist, of the split's folder, the ``base_dir`` in the run's ``config.yaml``, its ``data``, the run and the
            current folder.
        column: Column of the predictions.

    Raises:
        InputError: No such split, several of them, or no folder that fits.
    """
    file = path if path.suffix.lower() == ".csv" else _split_file(path, column)
    if base_dir is not None:
        return read_split(file, base_dir=base_dir)
    run = path if path.is_dir() else path.parent
    candidates = [file.parent, *_configured(run / "config.yaml"), run / "data", run, Path()]
    for folder in candidates:
        if folder.is_dir():
            split = read_split(file, base_dir=folder)
            if split.available(column).any() and all(_stands(split, name) for name in (column, *TRUTHS)):
                return split
    raise InputError(f"{file}: its '{column}' and ground-truth files are not where expected; pass --base_dir")


def _stands(split: Split, column: str) -> bool:
    """Whether the first file of a column exists, or the column is not there or empty."""
    if column not in split.columns or not split.available(column).any():
        return True
    return split.path(int(np.argmax(split.available(column))), column).exists()


def _split_file(run: Path, column: str) -> Path:
    if not run.is_dir():
        raise InputError(f"{run}: no such run directory or prediction split")
    files = sorted(file for folder in (run / "predictions", run) for file in folder.glob("*.csv"))
    found = [file for file in files if _has_column(file, column)]
    for step in reversed(STEPS):
        named = [file for file in found if step in file.stem.split("_")]
        found = named or found
    if len(found) != 1:
        what = (
            f"several prediction splits ({', '.join(file.name for file in found)})" if found else "no prediction split"
        )
        raise InputError(f"{run}: holds {what}; name the .csv file with a '{column}' column")
    return found[0]


def _has_column(file: Path, column: str) -> bool:
    with file.open(encoding="utf-8-sig", errors="replace") as stream:
        names = stream.readline().rstrip().split(",")
    return {"Sequence", "Sequence_Index", column} <= set(names)


def _configured(config: Path) -> list[Path]:
    """The ``base_dir`` of a run's options, when there is one."""
    if not config.is_file():
        return []
    try:
        content = yaml.safe_load(config.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise InputError(f"{config}: not readable as YAML ({' '.join(str(error).split())})") from error
    named = content.get("base_dir") if isinstance(content, dict) else None
    return [Path(named)] if isinstance(named, str) else []


def over_seeds(found: "Mapping[str, Evaluation]", options: "ScoringOptions") -> "list[Score]":
    """Means over the predictions of several seeds, with their standard deviation and intervals.

    The interval is that of the mean: every resample draws the same units for all seeds.

    Args:
        found: Evaluations by name, of the same rows.
        options: How they were scored; gives resamples, level and seed.

    Returns:
        The scores that all have, ``per_item`` the value of each seed.

    Raises:
        InputError: The rows or the protocols differ.
    """
    first_name, first = next(iter(found.items()))
    keys = ["Sequence", "Sequence_Index", "Status"]
    for name, other in found.items():
        if not other.per_frame[keys].equals(first.per_frame[keys]):
            raise InputError(
                f"{name}: scores other rows than {first_name}; seeds need predictions of the same rows "
                "(common/compare.py finds the rows that all have)"
            )
    resampled = options.resamples and len(first.evidence.units) > 1
    replicates = [
        part.evidence.replicates(options.resamples, options.seed) if resampled else {} for part in found.values()
    ]
    by_name = [{score.name: score for score in part.scores} for part in found.values()]
    means = []
    for score in first.scores:
        if not all(score.name in scores for scores in by_name):
            continue
        values = {name: scores[score.name].value for name, scores in zip(found, by_name, strict=True)}
        if any(scores[score.name].protocol != score.protocol for scores in by_name):
            raise InputError(f"{score.name}: the seeds were scored by different protocols; score them alike")
        interval = None
        if all(score.name in part for part in replicates):
            mean = np.mean([part[score.name] for part in replicates], axis=0)
            interval = first.evidence.interval(score.name, mean, options.level, options.seed)
        value, spread = float(np.mean(list(values.values()))), float(np.std(list(values.values()), ddof=1))
        means.append(replace(score, value=value, spread=spread, interval=interval, per_item=values))
    return means
