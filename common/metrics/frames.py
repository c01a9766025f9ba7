"""One frame of a split, from its files to counts and scores: the unit of work of an evaluation.

A frame is read once; every score that its files allow is computed, and which of them mean something is decided when
all frames are known.
"""

import multiprocessing
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from common.errors import InputError
from common.files import MaskEncoding, read_labels, read_mask
from common.metrics.ari import adjusted_rand_index, adjusted_rand_index_foreground, has_foreground
from common.metrics.confusion import Counts, contingency
from common.metrics.covering import covering
from common.metrics.hungarian import miou_hungarian_image
from common.metrics.pairs import PairCounts, pair_counts
from common.splits import Split

Labels = NDArray[np.int64]
Status = Literal["scored", "no_prediction", "no_ground_truth"]

_VOID = -1
_KIND = {"GtMask": "mask", "GtInstance": "instance", "GtSemantic": "semantic"}


@dataclass(frozen=True, slots=True)
class FrameFiles:
    """The files of one row of a split; None where the cell is empty or the column is not asked for."""

    sequence: str
    index: int
    predicted: Path | None
    mask: Path | None
    instance: Path | None
    semantic: Path | None

    @property
    def annotated(self) -> bool:
        """Whether there is any ground truth to score against."""
        return not (self.mask is None and self.instance is None and self.semantic is None)


@dataclass(frozen=True)
class ReadingRules:
    """How the files of a frame are read."""

    mask_encoding: MaskEncoding = "auto"
    """See ``common.files.read_mask``."""
    ignore_index: int | None = 255
    """Void value of class and instance maps."""
    resize_pred: bool = False
    """Resize predictions of another size than the ground truth, by nearest neighbour."""
    missing: Literal["skip", "empty", "error"] = "skip"
    """What a missing prediction is: left out, an empty mask, or an error."""
    proposals: bool = False
    """Count all pairs of proposals and objects (DAVIS-2017) instead of one foreground."""


@dataclass(frozen=True, slots=True)
class FrameScores:
    """What is known of one frame; None where its files do not say."""

    sequence: str
    index: int
    status: Status
    resized: bool = False
    max_predicted: int = 0
    max_mask: int = 0
    j: float | None = None
    f: float | None = None
    pairs: PairCounts | None = None
    ari: float | None = None
    ari_fg: float | None = None
    miou: float | None = None
    msc: float | None = None
    msc_fg: float | None = None
    semantic: Counts | None = None


def frame_files(split: Split, pred_column: str, columns: Sequence[str]) -> list[FrameFiles]:
    """The files of every row of a split, sequence by sequence in ascending order.

    Args:
        split: The rows.
        pred_column: Column of the predictions.
        columns: Ground-truth columns to read, of ``GtMask``, ``GtInstance``, ``GtSemantic``.

    Raises:
        InputError: The split lacks one of these columns.
    """
    available = {column: split.available(column) for column in (pred_column, *columns)}

    def path(row: int, column: str) -> Path | None:
        return split.path(row, column) if column in available and available[column][row] else None

    return [
        FrameFiles(
            sequence=sequence,
            index=int(split.index[row]),
            predicted=path(row, pred_column),
            **{kind: path(row, column) for column, kind in _KIND.items()},
        )
        for sequence, rows in split.sequences().items()
        for row in rows.tolist()
    ]


def score_frames(files: Sequence[FrameFiles], rules: ReadingRules, num_workers: int = 0) -> Iterator[FrameScores]:
    """The scores of all frames in order, with a progress bar on a terminal.

    Args:
        files: What :func:`frame_files` gave.
        rules: How they are read.
        num_workers: Processes; 0 scores in this one.
    """

    def progress(frames: Iterable[FrameScores]) -> Iterator[FrameScores]:
        yield from tqdm(frames, total=len(files), desc="scoring", unit="frame", disable=None)

    score = partial(score_frame, rules=rules)
    if num_workers <= 0:
        yield from progress(map(score, files))
        return
    # Spawned, not forked: OpenCV and torch hold threads that a fork would copy in an unknown state.
    with ProcessPoolExecutor(num_workers, mp_context=multiprocessing.get_context("spawn")) as pool:
        yield from progress(pool.map(score, files, chunksize=8))


def score_frame(files: FrameFiles, rules: ReadingRules) -> FrameScores:
    """Read and score one frame.

    Raises:
        InputError: A file is missing or of the wrong kind, or the sizes differ without ``resize_pred``.
    """
    if not files.annotated:
        return FrameScores(files.sequence, files.index, "no_ground_truth")
    if files.predicted is None and rules.missing == "skip":
        return FrameScores(files.sequence, files.index, "no_prediction")
    if files.predicted is None and rules.missing == "error":
        raise InputError(f"frame {files.sequence}/{files.index} has no prediction: predict it or pass --missing skip")
    predicted = None if files.predicted is None else read_labels(files.predicted)
    found: dict[str, object] = {}
    resized = False
    if files.mask is not None:
        mask = read_mask(files.mask, rules.mask_encoding)
        if files.instance is None and not rules.proposals:
            predicted = _binary(predicted, rules)
        labels, changed = _at_size(predicted, files, files.mask, mask.labels.shape, rules)
        resized |= changed
        found["max_mask"] = int(mask.labels.max(initial=0))
        if rules.proposals:
            found["pairs"] = pair_counts(labels, mask.labels, void=mask.void)
        elif labels.max(initial=0) <= 1:
            counts = pair_counts(labels, mask.foreground, num_predicted=1, num_objects=1, void=mask.void)
            found |= {"j": float(counts.j()[0, 0]), "f": float(counts.f()[0, 0])}
        if files.instance is None:
            found |= _segment_scores(labels, np.where(mask.void, _VOID, mask.labels), _VOID)
    if files.instance is not None:
        target = _read_map(files.instance, rules)
        labels, changed = _at_size(predicted, files, files.instance, target.shape, rules)
        resized |= changed
        found |= _segment_scores(labels, target, rules.ignore_index)
    if files.semantic is not None:
        target = _read_map(files.semantic, rules)
        labels, changed = _at_size(predicted, files, files.semantic, target.shape, rules)
        resized |= changed
        found["semantic"] = contingency(labels, target, ignore_index=rules.ignore_index)
    found["max_predicted"] = 0 if predicted is None else int(predicted.max(initial=0))
    return FrameScores(files.sequence, files.index, "scored", resized=resized, **found)  # type: ignore[arg-type]


def _binary(predicted: Labels | None, rules: ReadingRules) -> Labels | None:
    """A prediction stored as 0 and 255 as one of 0 and 1, where ``mask_encoding`` reads such a mask so."""
    if predicted is None or rules.mask_encoding in ("binary01", "palette_ids") or predicted.max(initial=0) != 255:
        return predicted
    return predicted // 255 if np.isin(predicted, (0, 255)).all() else predicted


def _read_map(path: Path, rules: ReadingRules) -> Labels:
    if path.suffix.lower() == ".json":
        raise InputError(f"{path}: a COCO file is no instance map; convert it to one PNG of ids per image")
    return read_labels(path)


def _at_size(
    predicted: Labels | None, files: FrameFiles, target: Path, size: tuple[int, ...], rules: ReadingRules
) -> tuple[Labels, bool]:
    """The prediction at the size of the ground truth, and whether it had to be resized."""
    if predicted is None:
        return np.zeros(size, dtype=np.int64), False
    if predicted.shape == size:
        return predicted, False
    if not rules.resize_pred:
        raise InputError(
            f"{files.predicted}: {predicted.shape[0]}x{predicted.shape[1]}, but {target} is {size[0]}x{size[1]}: "
            "pass --resize_pred to resize predictions (nearest)"
        )
    return resize_nearest(predicted, (size[0], size[1])), True


def resize_nearest(labels: Labels, size: tuple[int, int]) -> Labels:
    """Labels (H, W) at another size: the source of row i is floor(i * H / size), as in torch's ``nearest`` mode."""
    rows = np.arange(size[0]) * labels.shape[0] // size[0]
    columns = np.arange(size[1]) * labels.shape[1] // size[1]
    return labels[rows[:, None], columns]


def _segment_scores(labels: Labels, target: Labels, ignore_index: int | None) -> dict[str, object]:
    """The scores of one image as a set of segments; those of the foreground are None where there is none."""
    counts = contingency(labels, target, ignore_index=ignore_index)
    kept = counts.sum(0) > 0
    kept[0] = True  # the background keeps its place; other empty labels would only enlarge the matching
    counts = counts[counts.sum(1) > 0][:, kept]
    if not counts.size:
        return {}
    scores: dict[str, object] = {
        "ari": float(adjusted_rand_index(counts)),
        "miou": float(miou_hungarian_image(counts)),
        "msc": float(covering(counts)),
    }
    if has_foreground(counts):
        scores["ari_fg"] = float(adjusted_rand_index_foreground(counts))
        scores["msc_fg"] = float(covering(counts, background=0))
    return scores
