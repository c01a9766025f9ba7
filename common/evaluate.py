"""Score the predictions of a CSV data split against its ground truth: ``scores.json`` and two tables.

    python common/evaluate.py pred_val.csv --base_dir data --out runs/x/scores

Which scores there are follows from the columns and from what the predictions hold:

    foreground   binary Pred, GtMask                       J and F per frame (``*_frame``) and by DAVIS-2016
    instances    label Pred, GtInstance or GtMask of ids   ARI, ARI-FG, matched mIoU, covering, per image
    semantic     label Pred, GtSemantic                    pooled IoU and accuracies, ``--matching`` for clusters
    davis2017    proposal ids in Pred, GtMask of ids       J and F after one matching per sequence; on request only

``--protocol davis2016 | davis2017-motion | fbms59 | segtrackv2``: a benchmark's numbers only, stored under its name.

Rows without a prediction or without ground truth are counted, listed in ``per_frame.csv`` and noted in every score.

Every score comes with the interval in which it would lie in other data of the same kind (percentile bootstrap over
sequences, or over images where each stands alone): ``0.61 [0.55, 0.66]``. With the predictions of several seeds

    python common/evaluate.py seed1_val.csv seed2_val.csv seed3_val.csv --base_dir data --out runs/x/scores

the value is the mean over the seeds, ``0.61 ± 0.02 [0.55, 0.66]`` with their standard deviation, and the scores of each
are in a folder of its own.
"""

import re
import sys
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from common.cli import command
from common.errors import InputError
from common.files import MaskEncoding, atomic_path, check_writable
from common.metrics.benchmarks import BENCHMARKS, Benchmark
from common.splits import STEPS, Split, has_classes, read_classes, read_split

if TYPE_CHECKING:
    import pandas as pd

    from common.metrics.bootstrap import Cells, Evidence
    from common.metrics.confusion import Counts
    from common.metrics.frames import FrameScores
    from common.metrics.protocol import Protocol, Score
    from common.metrics.summary import Summary

Task = Literal["foreground", "instances", "semantic", "davis2017"]


@dataclass(frozen=True, kw_only=True)
class ScoringOptions:
    """What is scored and how."""

    task: Literal["auto", "foreground", "instances", "semantic", "davis2017"] = "auto"
    """auto: foreground where Pred and GtMask are binary, otherwise instances and semantic as the columns allow."""
    protocol: Benchmark | None = None
    """A benchmark: davis2016, davis2017-motion, fbms59 or segtrackv2. Chooses the task and keeps its numbers only."""
    pred_column: str = "Pred"
    """Column that holds the predictions."""
    mask_encoding: MaskEncoding = "auto"
    """How GtMask files are read: auto, 255, binary01, palette_ids or threshold128. With auto, 255
    and threshold128 a prediction of 0 and 255 is read as a mask too."""
    ignore_index: int | None = 255
    """Void value of GtSemantic and GtInstance; None = there is none."""
    resize_pred: bool = False
    """Resize predictions to the ground truth's size (nearest); otherwise another size is an error."""
    missing: Literal["skip", "empty", "error"] = "skip"
    """Rows without a prediction: left out and reported, scored as an empty mask, or an error."""
    matching: Literal["none", "hungarian", "majority"] = "none"
    """semantic: labels are classes, or clusters to match one-to-one or many-to-one."""
    unmatched: Literal["error", "background", "missed"] = "error"
    """semantic, hungarian: what clusters beyond the classes become."""
    num_classes: int | None = None
    """semantic: number of classes; default from the class names beside the split, else from the ground truth."""
    num_workers: int = 0
    """Processes that read and score frames; 0 = this one."""
    crf: bool = False
    """Record that the predictions went through a CRF."""
    oracle: bool = False
    """Record that ground truth chose the masks (optimax, fair); a 1 in the split's Oracle column records it too."""
    notes: str = ""
    """Recorded with every score."""
    resamples: int = 1000
    """Resamples of the bootstrap behind the intervals; 0 = no intervals."""
    level: float = 0.95
    """Share of the resamples that an interval holds."""
    seed: int = 0
    """Seed of the resamples."""


@dataclass(frozen=True, kw_only=True)
class EvaluateOptions(ScoringOptions):
    """Scoring a prediction split."""

    data_file: Path = field(metadata={"positional": True})
    """Prediction split: the CSV file, or a name for --step."""
    more_seeds: list[Path] = field(default_factory=list, metadata={"positional": True})
    """Further prediction splits of the same rows, of the same method with other seeds."""
    out: Path
    """Folder for scores.json, per_frame.csv and per_sequence.csv."""
    step: str | None = None
    """train, val or test, when data_file is a name."""
    base_dir: Path = Path()
    """Folder that the paths in the split are relative to."""


@dataclass(frozen=True)
class Evaluation:
    """What an evaluation found."""

    scores: "list[Score]"
    """Of the data set, each with its protocol."""
    per_frame: "pd.DataFrame"
    """One line per row of the split, its status included."""
    per_sequence: "pd.DataFrame"
    """One line per sequence."""
    evidence: "Evidence"
    """What the scores rest on, for intervals of differences and of means over seeds."""


def evaluate(split: Split, options: ScoringOptions | None = None) -> Evaluation:
    """Score the predictions of a split.

    Args:
        split: Rows with a prediction column and at least one ground-truth column.
        options: What is scored and how; default all that the columns allow.

    Raises:
        InputError: Nothing to score, files that do not fit, sizes that differ.
    """
    from common.metrics.bootstrap import Cells
    from common.metrics.confusion import add
    from common.metrics.frames import ReadingRules, frame_files, score_frames

    options = _by_protocol(options or ScoringOptions())
    _check_resampling(options)
    if "Oracle" in split.columns and (split.column("Oracle") == "1").any():
        options = replace(options, oracle=True)  # the method that wrote the split says so
    rules = ReadingRules(
        mask_encoding=options.mask_encoding,
        ignore_index=options.ignore_index,
        resize_pred=options.resize_pred,
        missing=options.missing,
        proposals=options.task == "davis2017",
    )
    files = frame_files(split, options.pred_column, _columns(split, options))
    frames: list[FrameScores] = []
    table: Counts | None = None
    cells: dict[str, list[Cells]] = {}
    for frame in score_frames(files, rules, options.num_workers):
        if frame.semantic is not None:
            table = frame.semantic if table is None else add(table, frame.semantic)
            cells.setdefault(frame.sequence, []).append(Cells.of(frame.semantic))
        frames.append(replace(frame, semantic=None))  # the tables of all frames at once would not fit into memory
    if not any(frame.status == "scored" for frame in frames):
        raise InputError(f"{split.file}: no row has both ground truth and a '{options.pred_column}'")
    tasks = _tasks(split, options, frames)
    if "foreground" in tasks and not any(frame.max_mask for frame in frames):
        raise InputError(
            f"{split.file}: GtMask is empty in every scored frame, so nothing can be compared; look at the masks "
            f"and at --mask_encoding {options.mask_encoding}"
        )
    summaries = [_summary(task, split, options, frames, table, cells) for task in tasks]
    scores = [score for summary in summaries for score in summary.scores]
    if options.protocol is not None:
        scores = [score for score in scores if score.name.endswith(BENCHMARKS[options.protocol].ending)]
    if not scores:
        raise InputError(f"{split.file}: no sequence has a frame that --protocol {options.protocol} scores")
    evidence = _evidence(split, frames, summaries)
    return Evaluation(
        evidence.with_intervals(scores, options.resamples, options.level, options.seed),
        _frame_table(frames, tasks),
        _sequence_table(frames, summaries),
        evidence,
    )


def _check_resampling(options: ScoringOptions) -> None:
    if options.resamples < 0:
        raise InputError(f"--resamples {options.resamples}: give a number from 0 (no intervals)")
    if not 0 < options.level < 1:
        raise InputError(f"--level {options.level}: give a share between 0 and 1, such as 0.95")
    if options.seed < 0:
        raise InputError(f"--seed {options.seed}: give a number from 0")


def _evidence(split: Split, frames: "list[FrameScores]", summaries: "list[Summary]") -> "Evidence":
    """What can be drawn anew: the sequences with scores, which are images where each has one row."""
    from common.metrics.bootstrap import Evidence

    units = tuple(dict.fromkeys(frame.sequence for frame in frames if frame.status == "scored"))
    evidence = Evidence(units, "sequence" if len(split.sequences()) < len(split) else "image")
    for summary in summaries:
        evidence.parts |= summary.parts
        evidence.tables = summary.tables or evidence.tables
    return evidence


def _by_protocol(options: ScoringOptions) -> ScoringOptions:
    """The options that a benchmark asks for."""
    if options.protocol is None:
        return options
    rule = BENCHMARKS[options.protocol]
    if options.task not in ("auto", rule.task):
        raise InputError(
            f"--protocol {options.protocol} is scored as --task {rule.task}, not {options.task}; leave it out"
        )
    notes = "; ".join(part for part in (options.notes, f"{options.protocol}: {rule.scored}") if part)
    encoding = rule.mask_encoding if rule.mask_encoding and options.mask_encoding == "auto" else options.mask_encoding
    return replace(options, task=rule.task, mask_encoding=encoding, notes=notes)


def _columns(split: Split, options: ScoringOptions) -> list[str]:
    """The ground-truth columns to read."""
    wanted = {
        "auto": ("GtMask", "GtInstance", "GtSemantic"),
        "foreground": ("GtMask",),
        "instances": ("GtInstance",) if "GtInstance" in split.columns else ("GtMask",),
        "semantic": ("GtSemantic",),
        "davis2017": ("GtMask",),
    }[options.task]
    present = [name for name in wanted if name in split.columns]
    if not present:
        available = ", ".join(split.columns)
        raise InputError(f"{split.file}: no ground truth to score against ({' or '.join(wanted)}); it has {available}")
    return present


def _tasks(split: Split, options: ScoringOptions, frames: "list[FrameScores]") -> list[Task]:
    """What can be scored; see :class:`ScoringOptions`."""
    max_predicted = max(frame.max_predicted for frame in frames)
    max_mask = max(frame.max_mask for frame in frames)
    if options.task in ("instances", "semantic", "davis2017"):
        return [options.task]
    if options.task == "foreground" or ("GtMask" in split.columns and max_predicted <= 1 and max_mask <= 1):
        if max_predicted > 1:
            raise InputError(
                f"{split.file}: '{options.pred_column}' holds labels up to {max_predicted}, foreground scores need "
                "0 and 1 only: choose the foreground first, or pass --task instances"
            )
        return ["foreground"]
    tasks: list[Task] = []
    if "GtInstance" in split.columns or max_mask > 1:
        tasks.append("instances")
    if "GtSemantic" in split.columns:
        tasks.append("semantic")
    if not tasks:
        raise InputError(
            f"{split.file}: '{options.pred_column}' holds labels up to {max_predicted}, but GtMask is binary: write a "
            "binary prediction (choose the foreground first), or pass --task instances"
        )
    return tasks


def _summary(
    task: Task,
    split: Split,
    options: ScoringOptions,
    frames: "list[FrameScores]",
    table: "Counts | None",
    cells: "dict[str, list[Cells]]",
) -> "Summary":
    from common.metrics import summary

    protocol = _protocol(options, frames)
    sequences: dict[str, list[FrameScores]] = {}
    for frame in frames:
        if frame.status != "no_ground_truth":
            sequences.setdefault(frame.sequence, []).append(frame)
    if task == "foreground":
        return summary.foreground_summary(sequences, protocol, _going_on(split))
    if task == "instances":
        return summary.segment_summary(sequences, protocol)
    if task == "davis2017":
        return summary.davis2017_summary_of(sequences, protocol)
    if table is None:
        raise InputError(f"{split.file}: no row has both a GtSemantic and a '{options.pred_column}'")
    names = _class_names(split)
    return summary.semantic_summary(
        table,
        protocol,
        matching=options.matching,
        unmatched=options.unmatched,
        num_classes=options.num_classes or (max(names) + 1 if names else None),
        class_names=names,
        by_sequence=cells,
    )


def _going_on(split: Split) -> set[str]:
    """Sequences with an annotation on disk after that of their last row: its name is the next number."""
    found = set()
    cells = split.column("GtMask")
    listed = set(cells.tolist())  # where sequences share a folder, the next number is another one's first
    for name, rows in split.sequences().items():
        path = Path(cells[rows[-1]])
        match = re.fullmatch(r"(.*?)(\d+)", path.stem)
        if match:
            after = path.with_name(f"{match[1]}{int(match[2]) + 1:0{len(match[2])}d}{path.suffix}")
            if after.as_posix() not in listed and (split.base_dir / after).is_file():
                found.add(name)
    return found


def _protocol(options: ScoringOptions, frames: "list[FrameScores]") -> "Protocol":
    from common.metrics.protocol import Protocol

    status = Counter(frame.status for frame in frames)
    resized = sum(frame.resized for frame in frames)
    notes = [options.notes] if options.notes else []
    if status["no_prediction"]:
        notes.append(f"{status['no_prediction']} of {len(frames)} rows without prediction left out")
    if options.missing == "empty":
        notes.append("missing predictions scored as empty")
    return Protocol(
        resolution="ground_truth" + (f", {resized} predictions resized by nearest" if resized else ""),
        crf=options.crf,
        oracle=options.oracle,
        notes="; ".join(notes),
        benchmark=options.protocol or "",
    )


def _class_names(split: Split) -> dict[int, str]:
    """Class names from the file beside the split; none when there is no such file."""
    return read_classes(split.file) if has_classes(split.file) else {}


def _frame_table(frames: "list[FrameScores]", tasks: list[Task]) -> "pd.DataFrame":
    import pandas as pd

    from common.metrics.summary import SEGMENTS

    columns = {"j": "j", "f": "f"} if "foreground" in tasks else {}
    if "instances" in tasks:
        columns |= {field: name for field, (name, _, _) in SEGMENTS.items()}
    return pd.DataFrame(
        {
            "Sequence": [frame.sequence for frame in frames],
            "Sequence_Index": [frame.index for frame in frames],
            "Status": [frame.status for frame in frames],
            **{name: pd.array([getattr(frame, key) for frame in frames], dtype=float) for key, name in columns.items()},
        }
    )


def _sequence_table(frames: "list[FrameScores]", summaries: "list[Summary]") -> "pd.DataFrame":
    import pandas as pd

    lines: dict[str, dict[str, str | float]] = {}
    for frame in frames:
        line = lines.setdefault(
            frame.sequence,
            {"Sequence": frame.sequence, "num_rows": 0, "scored": 0, "no_prediction": 0, "no_ground_truth": 0},
        )
        for column in ("num_rows", frame.status):
            line[column] = int(line[column]) + 1
    for summary in summaries:
        for sequence, values in summary.per_sequence.items():
            lines[sequence] |= values
    return pd.DataFrame(list(lines.values()))


def score_lines(scores: "Iterable[Score]") -> list[str]:
    """Scores as the lines of an aligned table: name, value with interval, items, and what the number rests on."""
    from common.metrics.protocol import value_text

    rows = [("score", "value", "n", "matching", "scope", "mean over", "")]
    for score in scores:
        rule = score.protocol
        mark = "oracle" if rule.oracle else ""
        rows.append((score.name, value_text(score), str(score.n), rule.matching, rule.scope, rule.averaging, mark))
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return [
        "  ".join(
            cell.rjust(width) if column == 2 else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]


def interval_line(scores: "Iterable[Score]") -> str:
    """What the intervals are, in one line."""
    found = next((score.interval for score in scores if score.interval is not None), None)
    if found is None:
        return "no intervals: fewer than two sequences are scored, or --resamples 0"
    return f"in brackets: {found.level:.0%} intervals, {found.resamples} resamples of {found.num_units} {found.unit}s"


def run(options: EvaluateOptions) -> int:
    """Score the predictions of a CSV data split against its ground truth.

    Writes scores.json (each number with its protocol and interval), per_frame.csv and per_sequence.csv into --out. Of
    several seeds the scores are means, and each has a folder of its own.
    """
    from common.metrics.protocol import write_scores
    from common.runs import distinct_names, over_seeds

    _check_resampling(options)
    check_writable(options.out)  # before the work, not after it
    files = [options.data_file, *options.more_seeds]
    splits = [read_split(file, options.step, options.base_dir) for file in files]
    found = [evaluate(split, options) for split in splits]
    scores = found[0].scores
    if len(files) == 1:
        _write(options.out, splits[0], found[0])
    else:
        names = distinct_names(files)
        scores = over_seeds(dict(zip(names, found, strict=True)), options)
        for name, split, part in zip(names, splits, found, strict=True):
            _write(options.out / name, split, part)
        write_scores(options.out / "scores.json", scores)
    print("\n".join(score_lines(scores)))
    print(interval_line(scores))
    for note in dict.fromkeys(score.protocol.notes for score in scores if score.protocol.notes):
        print(f"note: {note}")
    status = Counter(status for part in found for status in part.per_frame["Status"])
    print(
        f"{status['scored']} of {sum(status.values())} rows scored, {status['no_prediction']} without prediction, "
        f"{status['no_ground_truth']} without ground truth; tables in {options.out}"
    )
    return 0


def _write(out: Path, split: Split, found: Evaluation) -> None:
    """The files of one evaluation."""
    from common.metrics.protocol import write_scores

    write_scores(out / "scores.json", found.scores)
    for name, table in (("per_frame.csv", found.per_frame), ("per_sequence.csv", found.per_sequence)):
        with atomic_path(out / name) as temporary:
            table.to_csv(temporary, index=False, float_format="%.6f")
    _write_davis2017_tables(out, split, found.scores)


def _write_davis2017_tables(out: Path, split: Split, scores: "Iterable[Score]") -> None:
    """The benchmark's own result files, of three decimals; none where it was not scored."""
    import pandas as pd

    found = {score.name: score for score in scores if score.name.endswith("_davis2017")}
    if not found:
        return
    step = next((step for step in STEPS if split.name.endswith(f"_{step}")), "val")
    names = ("J&F-Mean", "J-Mean", "J-Recall", "J-Decay", "F-Mean", "F-Recall", "F-Decay")
    keys = {name: f"{name.lower().replace('&', '').replace('-', '_')}_davis2017" for name in names}
    total = pd.DataFrame([{name: found[key].value for name, key in keys.items()}])
    j, f = (found[keys[name]].per_item or {} for name in ("J-Mean", "F-Mean"))
    objects = pd.DataFrame(
        [{"Sequence": "_".join(item.rsplit("/", 1)), "J-Mean": j[item], "F-Mean": f[item]} for item in j]
    )
    for name, table in (("global", total), ("per-sequence", objects)):
        with atomic_path(out / f"{name}_results-{step}.csv") as temporary:
            table.to_csv(temporary, index=False, float_format="%.3f")


def main(argv: list[str] | None = None) -> int:
    """The command ``python common/evaluate.py``."""
    return command(run, EvaluateOptions, argv=argv, prog="evaluate.py")


if __name__ == "__main__":
    sys.exit(main())
