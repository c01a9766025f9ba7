"""From the scores of frames to the scores of sequences and of a data set, each under its protocol."""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np

from common.errors import InputError
from common.metrics.bootstrap import Cells, Parts, Tables
from common.metrics.confusion import Counts, grow
from common.metrics.davis import davis2016_frames, davis2017_summary, match_proposals, statistics
from common.metrics.frames import FrameScores
from common.metrics.hungarian import Unmatched, score_clusters
from common.metrics.protocol import Background, Matching, Protocol, Score

Sequences = Mapping[str, Sequence[FrameScores]]
Rows = dict[str, dict[str, float]]

SEGMENTS: dict[str, tuple[str, Matching, Background]] = {
    "ari": ("ari_image", "none", "counted"),
    "ari_fg": ("ari_fg_image", "none", "left_out"),
    "miou": ("miou_image_hungarian", "hungarian", "counted"),
    "msc": ("msc_image", "best", "counted"),
    "msc_fg": ("msc_fg_image", "best", "left_out"),
}
"""Scores of one image as a set of segments: field -> (name, matching, background)."""


@dataclass(frozen=True)
class Summary:
    """The scores of one task."""

    scores: list[Score]
    """Of the data set."""
    per_sequence: Rows
    """Sequence (or object) -> column -> value."""
    parts: Mapping[str, Parts] = field(default_factory=dict)
    """What each mean rests on; see ``common.metrics.bootstrap``."""
    tables: Tables | None = None
    """What the pooled scores rest on."""


def foreground_summary(sequences: Sequences, protocol: Protocol, going_on: Collection[str] = ()) -> Summary:
    """J and F of one foreground, in two protocols that are never mixed.

    ``*_frame``: mean over all scored frames of the data set (the evaluation script of the published motion
    segmentation). ``*_davis2016``: frames 1..N-2 of each sequence, mean / recall / decay per sequence, then the mean
    over sequences. Sequences of fewer than three annotated frames have no such frame and are left out of it.

    Args:
        sequences: Scores of the frames by sequence.
        protocol: What all scores share.
        going_on: Sequences that have more annotated frames than are listed, as splits with one row per flow field do:
            the last one listed is not the benchmark's last.
    """
    protocol = replace(protocol, background="left_out")
    rows: Rows = {}
    for name, frames in sequences.items():
        row: dict[str, float] = {}
        for letter in ("j", "f"):
            row |= _named(f"{letter}_mean_frame", [getattr(frame, letter) for frame in frames])
            scored = slice(1, None) if name in going_on else davis2016_frames(len(frames))
            inner = [getattr(frame, letter) for frame in frames[scored]]
            values = np.array([value for value in inner if value is not None])
            if values.size:
                found = statistics(values)
                row |= {f"{letter}_{key}_davis2016": getattr(found, key) for key in ("mean", "recall", "decay")}
        rows[name] = row
    frame_protocol = replace(protocol, scope="image", averaging="frames")
    parts = {f"{letter}_mean_frame": _parts(sequences, _field(letter)) for letter in ("j", "f")}
    parts["jf_mean_frame"] = _parts(sequences, _j_and_f)
    per_frame = {letter: _values(sequences, letter) for letter in ("j", "f")}
    scores = [_mean(f"{letter}_mean_frame", values, frame_protocol) for letter, values in per_frame.items()]
    scores.append(
        _mean("jf_mean_frame", [(j + f) / 2 for j, f in zip(*per_frame.values(), strict=True)], frame_protocol)
    )
    keys = [f"{letter}_{key}_davis2016" for letter in ("j", "f") for key in ("mean", "recall", "decay")]
    left_out = sum(keys[0] not in row for row in rows.values())
    notes = f"{left_out} of {len(rows)} sequences have no frame between first and last" if left_out else ""
    if going_on:
        notes = "; ".join(
            [*filter(None, [notes]), f"{len(going_on)} sequences go on after their last row, which counts"]
        )
    davis = replace(_noted(protocol, notes), scope="sequence", averaging="frames 1..N-2, sequences")
    if left_out < len(rows):
        scores += [_mean_of_rows(key, rows, davis) for key in keys]
        both = {name: (row[keys[0]] + row[keys[3]]) / 2 for name, row in rows.items() if keys[0] in row}
        scores.append(_mean("jf_mean_davis2016", both.values(), davis, both))
        parts |= {key: {name: (row[key], 1) for name, row in rows.items() if key in row} for key in keys}
        parts["jf_mean_davis2016"] = {name: (value, 1) for name, value in both.items()}
    return Summary(scores, rows, parts)


def segment_summary(sequences: Sequences, protocol: Protocol) -> Summary:
    """ARI, matched mIoU and covering of the segments of each image; images without foreground have no ``_fg`` score."""
    scores: list[Score] = []
    parts: dict[str, Parts] = {}
    rows: Rows = {name: {} for name in sequences}
    for key, (name, matching, background) in SEGMENTS.items():
        kind = replace(protocol, matching=matching, background=background, scope="image", averaging="frames")
        values = _values(sequences, key)
        parts[name] = _parts(sequences, _field(key))
        images = sum(frame.status == "scored" for frames in sequences.values() for frame in frames)
        notes = f"{images - len(values)} images without foreground left out" if len(values) < images else ""
        if key == "miou":  # see mean_matched_iou: the number of pairs is a choice
            notes = "left-over segments are paired with each other"
        scores.append(_mean(name, values, _noted(kind, notes)))
        for sequence, frames in sequences.items():
            rows[sequence] |= _named(name, [getattr(frame, key) for frame in frames])
    return Summary(scores, rows, parts)


def semantic_summary(
    counts: Counts,
    protocol: Protocol,
    *,
    matching: Literal["none", "hungarian", "majority"],
    unmatched: Unmatched,
    num_classes: int | None,
    class_names: Mapping[int, str],
    by_sequence: Mapping[str, Sequence[Cells]] | None = None,
) -> Summary:
    """Pooled IoU and accuracies of a data set's table (K, C), labels matched to classes once.

    ``by_sequence`` are the tables of the frames that add up to it, where intervals are wanted.
    """
    seen = counts.shape[1] if matching != "none" or num_classes is not None else max(counts.shape)
    C = seen if num_classes is None else num_classes
    if counts.shape[1] > C:
        raise InputError(f"the ground truth holds class {counts.shape[1] - 1}, outside the {C}: pass --num_classes")
    if matching == "none" and len(counts) > C:
        raise InputError(
            f"predicted label {len(counts) - 1} is none of the {C} classes: pass --matching hungarian or majority "
            "for clusters, or --num_classes"
        )
    counts = grow(counts, C if matching == "none" else 0, C)
    result = score_clusters(counts, matching, unmatched=unmatched)
    kind = replace(protocol, matching=matching, scope="dataset", averaging="classes")
    if matching == "hungarian":
        kind = _noted(kind, f"unmatched clusters: {unmatched}")
    names = [class_names.get(c, str(c)) for c in range(C)]
    iou = {
        name if names.count(name) == 1 else f"{c} {name}": float(result.class_iou[c]) for c, name in enumerate(names)
    }
    defined = int((~np.isnan(result.class_iou)).sum())

    def scores_of(table: Counts) -> dict[str, float]:
        found = score_clusters(table, matching, unmatched=unmatched)
        values = (found.miou, found.mean_accuracy, found.pixel_accuracy)
        kinds = ("miou", "mean_accuracy", "pixel_accuracy")
        return {f"{kind}_dataset_{matching}": value for kind, value in zip(kinds, values, strict=True)}

    return Summary(
        [
            Score(f"miou_dataset_{matching}", result.miou, kind, defined, iou),
            Score(f"mean_accuracy_dataset_{matching}", result.mean_accuracy, kind, defined),
            Score(
                f"pixel_accuracy_dataset_{matching}",
                result.pixel_accuracy,
                replace(kind, averaging="pixels"),
                int(counts.sum()),
            ),
        ],
        {},
        tables=Tables(by_sequence, (counts.shape[0], counts.shape[1]), scores_of) if by_sequence else None,
    )


def davis2017_summary_of(sequences: Sequences, protocol: Protocol) -> Summary:
    """DAVIS-2017 unsupervised: proposals matched to objects once per sequence, the mean over all objects."""
    matched, rows = {}, {}
    for name, frames in sequences.items():
        pairs = [frame.pairs for frame in frames if frame.pairs is not None]
        if not pairs or not pairs[0].target_area.size:
            continue
        matched[name] = match_proposals(pairs)
        rows[name] = {
            "num_objects": float(len(matched[name].j)),
            "j_mean_davis2017": float(matched[name].j.mean()),
            "f_mean_davis2017": float(matched[name].f.mean()),
        }
    if not matched:
        raise InputError("no sequence has an object in its first annotated frame: DAVIS-2017 has nothing to score")
    left_out = len(sequences) - len(matched)
    notes = f"{left_out} sequences without objects in the first annotated frame left out" if left_out else ""
    kind = replace(_noted(protocol, notes), matching="hungarian", scope="sequence", background="left_out")
    kind = replace(kind, averaging="frames, objects")
    n = sum(len(scores.j) for scores in matched.values())
    totals = davis2017_summary(matched)
    items = {
        f"{letter}-Mean": {
            f"{name}/{k + 1}": float(values.mean())
            for name, found in matched.items()
            for k, values in enumerate(found.j if letter == "J" else found.f)
        }
        for letter in "JF"
    }
    scores = [Score(_davis2017_name(key), value, kind, n, items.get(key)) for key, value in totals.items()]
    by_sequence = {name: (davis2017_summary({name: found}), len(found.j)) for name, found in matched.items()}
    parts = {
        _davis2017_name(key): {name: (means[key] * number, number) for name, (means, number) in by_sequence.items()}
        for key in totals
    }
    return Summary(scores, rows, parts)


def _davis2017_name(key: str) -> str:
    return f"{key.lower().replace('&', '').replace('-', '_')}_davis2017"


def _field(name: str) -> Callable[[FrameScores], float | None]:
    return lambda frame: getattr(frame, name)


def _j_and_f(frame: FrameScores) -> float | None:
    return None if frame.j is None or frame.f is None else (frame.j + frame.f) / 2


def _parts(sequences: Sequences, value_of: Callable[[FrameScores], float | None]) -> Parts:
    """Sum and number of the known values of each sequence."""
    known = {
        name: [value for value in map(value_of, frames) if value is not None] for name, frames in sequences.items()
    }
    return {name: (float(sum(values)), len(values)) for name, values in known.items()}


def _values(sequences: Sequences, key: str) -> list[float]:
    values: Iterable[Any] = (getattr(frame, key) for frames in sequences.values() for frame in frames)
    return [value for value in values if value is not None]


def _named(name: str, values: Sequence[float | None]) -> dict[str, float]:
    known = [value for value in values if value is not None]
    return {name: float(np.mean(known))} if known else {}


def _mean(name: str, values: Iterable[float], protocol: Protocol, per_item: Mapping[str, float] | None = None) -> Score:
    known = list(values)
    return Score(name, float(np.mean(known)) if known else float("nan"), protocol, len(known), per_item)


def _mean_of_rows(name: str, rows: Rows, protocol: Protocol) -> Score:
    items = {key: row[name] for key, row in rows.items() if name in row}
    return _mean(name, items.values(), protocol, items)


def _noted(protocol: Protocol, notes: str) -> Protocol:
    return replace(protocol, notes="; ".join(note for note in (protocol.notes, notes) if note))
