"""Compare predictions on the same frames: ``python common/compare.py A B ... --out runs/compare``.

A, B ... are run directories or prediction splits. The first is what the others are compared with, and its ground truth
is that of all. Only frames that all have predicted are scored; the others are counted by reason and listed in
``left_out.csv``. The difference of every score is paired: each resample of the bootstrap draws the same images or
sequences for both sides, so what is hard for both cancels out.

    compare.html       scores, differences with intervals, sequences, frames on which one gains and loses most
    compare.json       the same numbers: ``{names, num_frames, left_out, scores: [...], differences: [...]}``
    per_frame.csv, per_sequence.csv, left_out.csv
"""

import json
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from common import cli
from common.errors import InputError
from common.evaluate import Evaluation, ScoringOptions, evaluate
from common.files import atomic_path, check_writable
from common.runs import TRUTHS, distinct_names, predictions_of
from common.splits import Split

if TYPE_CHECKING:
    import pandas as pd

    from common.metrics.protocol import Interval

KEYS = ("Sequence", "Sequence_Index")


@dataclass(frozen=True, kw_only=True)
class CompareOptions(ScoringOptions):
    """Predictions side by side."""

    results: list[Path] = field(default_factory=list, metadata={"positional": True})
    """Run directories or prediction splits, two at least; the others are compared with the first."""
    out: Path
    """Folder for compare.html, compare.json and the tables."""
    names: list[str] = field(default_factory=list)
    """One name for each; default what their paths differ in."""
    base_dir: Path | None = None
    """Folder that the paths in the splits are relative to; default: looked for, see common.runs."""
    num_pictures: int = 6
    """Pictures of each kind."""


@dataclass(frozen=True)
class Difference:
    """How much better (or worse) a score is than that of the first."""

    name: str
    """The score."""
    other: str
    """Whose score, compared with the first."""
    value: float
    interval: "Interval | None"
    lower_is_better: bool

    @property
    def verdict(self) -> str:
        """``better`` or ``worse`` when zero lies outside the interval, ``not clear`` else; ``equal`` without any."""
        if self.value == 0 and (self.interval is None or self.interval.low == self.interval.high == 0):
            return "equal"
        if self.interval is None or self.interval.low <= 0 <= self.interval.high:
            return "not clear"
        return "better" if (self.value > 0) != self.lower_is_better else "worse"


@dataclass(frozen=True)
class Comparison:
    """What a comparison found."""

    joint: Split
    """The frames that all have; predictions in the columns of ``predicted_column``."""
    evaluations: dict[str, Evaluation]
    """By name, over the same rows."""
    differences: list[Difference]
    left_out: "pd.DataFrame"
    """``Sequence``, ``Sequence_Index``, ``Reason``."""

    @property
    def names(self) -> list[str]:
        """Names in the order given."""
        return list(self.evaluations)

    def per_frame(self) -> "tuple[pd.DataFrame, str | None]":
        """Score of each by frame, and the score's name; None where no score is one of single frames."""
        tables = [found.per_frame for found in self.evaluations.values()]
        table = tables[0][list(KEYS)].copy()
        common = [name for name in tables[0].columns if all(name in other for other in tables)]
        scores = [name for name in common if name not in (*KEYS, "Status")]
        if not scores:
            return table, None
        for name, part in zip(self.names, tables, strict=True):
            table[name] = part[scores[0]]
        for name in self.names[1:]:
            table[f"{name} - {self.names[0]}"] = table[name] - table[self.names[0]]
        return table, scores[0]


def compare(splits: dict[str, Split], options: ScoringOptions) -> Comparison:
    """Score several predictions on the frames that all have.

    Args:
        splits: Prediction splits by name; the first one's ground truth is that of all.
        options: What is scored and how, the same for all.

    Raises:
        InputError: No frame or no score in common, or one that cannot be scored.
    """
    joint, left_out = joint_split(splits, options.pred_column)
    evaluations = {}
    for name, split in splits.items():
        oracle = "Oracle" in split.columns and bool((split.column("Oracle") == "1").any())
        own = replace(options, pred_column=predicted_column(name), oracle=options.oracle or oracle)
        evaluations[name] = evaluate(joint, own)
    return Comparison(joint, evaluations, differences(evaluations, options), left_out)


def joint_split(splits: dict[str, Split], column: str) -> "tuple[Split, pd.DataFrame]":
    """The frames of the first split that all have predicted and that have ground truth, and those left out, with why.

    Paths are absolute, since the splits may have different base folders.
    """
    import pandas as pd

    first_name, first = next(iter(splits.items()))
    truths = [name for name in TRUTHS if name in first.columns]
    if not truths:
        raise InputError(f"{first.file}: no ground truth ({', '.join(TRUTHS)}); name a result first that has it")
    places = {name: _places(split) for name, split in splits.items()}
    available = {name: split.available(column) for name, split in splits.items()}
    has_truth = np.any([first.available(name) for name in truths], axis=0)
    kept, left_out = [], []
    for key in dict.fromkeys(key for found in places.values() for key in found):
        reason = next((f"not in {name}" for name in splits if key not in places[name]), None)
        reason = reason or next((f"no prediction in {n}" for n in splits if not available[n][places[n][key]]), None)
        reason = reason or (None if has_truth[places[first_name][key]] else "no ground truth")
        if reason:
            left_out.append({**dict(zip(KEYS, key, strict=True)), "Reason": reason})
            continue
        row = {**dict(zip(KEYS, key, strict=True))}
        for name in ("Image", *truths):
            if name in first.columns and first.available(name)[places[first_name][key]]:
                row[name] = os.path.abspath(first.path(places[first_name][key], name))
        for name, split in splits.items():
            row[predicted_column(name)] = os.path.abspath(split.path(places[name][key], column))
        kept.append(row)
    if not kept:
        reasons = ", ".join(f"{count} {reason}" for reason, count in Counter(r["Reason"] for r in left_out).items())
        raise InputError(f"no frame that {', '.join(splits)} all have predicted: {reasons}")
    return Split.from_rows(kept, first.base_dir, first.file), pd.DataFrame(left_out, columns=[*KEYS, "Reason"])


def predicted_column(name: str) -> str:
    """Column of a joint split that holds the predictions of one of its results."""
    return f"Pred of {name}"


def _places(split: Split) -> dict[tuple[str, int], int]:
    names, index = split.column("Sequence").tolist(), split.index.tolist()
    return {key: row for row, key in enumerate(zip(names, index, strict=True))}


def differences(evaluations: dict[str, Evaluation], options: ScoringOptions) -> list[Difference]:
    """The paired difference of every score that the first and another have, with its interval.

    Raises:
        InputError: Two have no score in common.
    """
    first_name, first = next(iter(evaluations.items()))
    resampled = options.resamples > 0 and len(first.evidence.units) > 1

    def replicates(found: Evaluation) -> dict[str, NDArray[np.float64]]:
        return found.evidence.replicates(options.resamples, options.seed) if resampled else {}

    of_first, rows = replicates(first), []
    for name, found in list(evaluations.items())[1:]:
        of_other = replicates(found)
        values = {score.name: score.value for score in found.scores}
        shared = [score for score in first.scores if score.name in values]
        if not shared:
            raise InputError(
                f"{first_name} has {first.scores[0].name} ..., {name} has {found.scores[0].name} ...: no score in "
                "common; pass --task"
            )
        for score in shared:
            interval = None
            if score.name in of_first and score.name in of_other:
                paired = of_other[score.name] - of_first[score.name]
                interval = first.evidence.interval(score.name, paired, options.level, options.seed)
            difference = values[score.name] - score.value
            rows.append(Difference(score.name, name, difference, interval, "_decay_" in score.name))
    return rows


def sequence_table(found: Comparison) -> "pd.DataFrame":
    """Mean score of each by sequence, and who is best there; empty where no score is one of single frames."""
    import pandas as pd

    table, score = found.per_frame()
    if score is None:
        return pd.DataFrame()
    means = table.groupby("Sequence", sort=False)[found.names].mean()
    sizes = table.groupby("Sequence", sort=False).size()
    best = means.idxmax(axis=1).where(means.max(axis=1) > means.min(axis=1), "equal").where(means.notna().any(axis=1))
    means.insert(0, "frames", sizes)
    for name in found.names[1:]:
        means[f"{name} - {found.names[0]}"] = means[name] - means[found.names[0]]
    return means.assign(best=best).reset_index()


def win_lines(found: Comparison) -> list[str]:
    """On how many frames and sequences the others are better and worse than the first."""
    frames, score = found.per_frame()
    if score is None:
        return []
    lines = []
    for name in found.names[1:]:
        parts = []
        for what, table in (("frames", frames), ("sequences", sequence_table(found))):
            change = table[f"{name} - {found.names[0]}"]
            parts.append(f"{int((change > 0).sum())} of {len(table)} {what}, worse on {int((change < 0).sum())}")
        lines.append(f"{name} is better than {found.names[0]} ({score}) on {' and on '.join(parts)}")
    return lines


def score_table(found: Comparison) -> list[list[str]]:
    """Header and rows: score, value of each, paired differences with verdict."""
    from common.metrics.protocol import value_text

    by_name = {name: {score.name: score for score in part.scores} for name, part in found.evaluations.items()}
    changes = {(item.name, item.other): item for item in found.differences}
    first, others = found.names[0], found.names[1:]
    rows = [["score", *found.names, *(f"{name} - {first}" for name in others)]]
    for score in found.evaluations[first].scores:
        cells = [score.name]
        cells += [value_text(by_name[n][score.name]) if score.name in by_name[n] else "" for n in found.names]
        for name in others:
            change = changes.get((score.name, name))
            cells.append("" if change is None else difference_text(change))
        rows.append(cells)
    return rows


def difference_text(change: Difference) -> str:
    """``+0.0312 [+0.0102, +0.0550] better``."""
    bounds = "" if change.interval is None else f" [{change.interval.low:+.4f}, {change.interval.high:+.4f}]"
    return f"{change.value:+.4f}{bounds} {change.verdict}"


def run(options: CompareOptions) -> int:
    """Compare predictions on the frames that all have: scores, paired differences, sequences, pictures."""
    from common.compare_page import write_page

    if len(options.results) < 2:
        raise InputError(f"{len(options.results)} results given: name two or more run directories or prediction splits")
    names = options.names or distinct_names(options.results)
    if len(names) != len(options.results) or len(set(names)) < len(names):
        raise InputError(
            f"--names {' '.join(names)}: give each of the {len(options.results)} results a name of its own"
        )
    reserved = {*KEYS, "frames", "best", "input", "ground truth"} & set(names)
    if reserved:
        raise InputError(f"--names: {reserved.pop()!r} means something else in the tables; choose another name")
    check_writable(options.out)
    splits = {
        name: predictions_of(path, options.base_dir, options.pred_column)
        for name, path in zip(names, options.results, strict=True)
    }
    found = compare(splits, options)
    write_tables(found, options.out)
    page = write_page(found, options, options.out / "compare.html")
    print("\n".join(_aligned(score_table(found))))
    print("\n".join([*win_lines(found), *left_out_lines(found)]))
    print(page)
    return 0


def left_out_lines(found: Comparison) -> list[str]:
    """How many frames are compared, and how many are not, by reason."""
    lines = [f"{len(found.joint)} frames compared, {len(found.left_out)} left out"]
    return lines + [f"  {count} {reason}" for reason, count in Counter(found.left_out["Reason"]).most_common()]


def write_tables(found: Comparison, out: Path) -> None:
    """Write ``compare.json`` and the tables."""
    content: dict[str, Any] = {
        "names": found.names,
        "num_frames": len(found.joint),
        "left_out": dict(Counter(found.left_out["Reason"])),
        "scores": [
            {"of": name, **score.to_dict()} for name, part in found.evaluations.items() for score in part.scores
        ],
        "differences": [
            {
                "name": item.name,
                "of": item.other,
                "minus": found.names[0],
                "value": item.value if np.isfinite(item.value) else None,
                "interval": None if item.interval is None else asdict(item.interval),
                "verdict": item.verdict,
            }
            for item in found.differences
        ],
    }
    with atomic_path(out / "compare.json") as temporary:
        temporary.write_text(json.dumps(content, indent=2, allow_nan=False) + "\n", encoding="utf-8")
    tables = {"per_frame": found.per_frame()[0], "per_sequence": sequence_table(found), "left_out": found.left_out}
    for name, table in tables.items():
        with atomic_path(out / f"{name}.csv") as temporary:
            table.to_csv(temporary, index=False, float_format="%.6f")


def _aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]


def main(argv: list[str] | None = None) -> int:
    """Entry point."""
    return cli.command(run, CompareOptions, argv=argv, prog="compare.py")


if __name__ == "__main__":
    raise SystemExit(main())
