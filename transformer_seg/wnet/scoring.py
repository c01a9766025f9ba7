"""Scores of segments without classes: matched per picture, and the region benchmark of BSDS500.

The region benchmark takes the contour map (column ``Ucm``) where there is one, and scores its segmentations at several
thresholds; otherwise it scores the label maps (``Pred``) as they are.
"""

from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components
from tqdm import tqdm

from common.errors import InputError
from common.files import read_array, read_labels
from common.makers.bsds import COLUMN
from common.makers.matlab import bsds_annotations
from common.metrics.protocol import Protocol, Score
from common.splits import Split
from transformer_seg.wnet.module import matched_score
from transformer_seg.wnet.region_scores import RegionScores, benchmark, region_scores

THRESHOLDS = tuple(np.linspace(0.0, 1.0, 41).tolist())
"""Heights at which a contour map is cut."""


def picture_scores(split: Split, crf: bool, notes: str = "") -> list[Score]:
    """Matched mIoU of the pictures with ``GtSemantic``; segments beyond the classes are background.

    Args:
        split: Prediction split.
        crf: Whether the predictions went through a CRF.
        notes: Recorded with the score.
    """
    if "GtSemantic" not in split.columns:
        return []
    values = {}
    for row in np.flatnonzero(split.available("GtSemantic") & split.available("Pred")).tolist():
        found, wanted = read_labels(split.path(row, "Pred")), read_labels(split.path(row, "GtSemantic"))
        _check_size(found.shape, wanted.shape, split.path(row, "Pred"))
        values[_name(split, row)] = matched_score(found, wanted)
    known = [value for value in values.values() if not np.isnan(value)]
    if not known:
        return []
    notes = "; ".join(part for part in (notes, "segments without a class are background") if part)
    protocol = Protocol(matching="hungarian", scope="image", crf=crf, averaging="classes, images", notes=notes)
    return [Score("miou_image_matched", float(np.mean(known)), protocol, len(known), values)]


def has_regions(split: Split) -> bool:
    """Whether a split has the segmentations of BSDS500."""
    return COLUMN in split.columns and bool(split.available(COLUMN).any())


def bsds_scores(split: Split, crf: bool, notes: str = "", prefix: str = "") -> list[Score]:
    """Covering, probabilistic Rand index and variation of information against all annotators of each picture.

    Args:
        split: Prediction split with ``GtSegmentation``.
        crf: Whether the predictions went through a CRF.
        notes: Recorded with the scores.
        prefix: Of the names of the scores.

    Raises:
        InputError: a prediction of another size than its annotations.
    """
    rows = np.flatnonzero(split.available(COLUMN) & split.available("Pred")).tolist()
    if not rows:
        raise InputError(f"{split.file}: no row has both a Pred and a {COLUMN}")
    cut = "Ucm" in split.columns and bool(split.available("Ucm")[rows].all())
    found: dict[str, RegionScores] = {}
    for row in tqdm(rows, desc="regions", unit="image", disable=None):
        annotations = bsds_annotations(split.path(row, COLUMN))
        if cut:
            contours = np.asarray(read_array(split.path(row, "Ucm")), dtype=np.float32)
            maps = cut_at(contours, THRESHOLDS)
            source = split.path(row, "Ucm")
        else:
            source = split.path(row, "Pred")
            maps = [read_labels(source)]
        _check_size(maps[0].shape, annotations[0].shape, source)
        found[_name(split, row)] = _nested_scores(maps, annotations)
    rule = "contour map, ODS: one threshold for all, OIS: the best one of each picture" if cut else "flat label maps"
    notes = "; ".join(part for part in (notes, rule, "all annotators") if part)
    protocol = Protocol(matching="best", scope="image", crf=crf, averaging="annotators, images", notes=notes)
    scores = []
    for name, optimum in benchmark(list(found.values())).items():
        items = {key: _best(value, name) for key, value in found.items()}
        scores.append(Score(f"{prefix}{name}_ods", optimum.ods, protocol, len(found)))
        if cut:
            scores.append(Score(f"{prefix}{name}_ois", optimum.ois, protocol, len(found), items))
    return scores


def _nested_scores(maps: Sequence[NDArray[np.int64]], annotations: Sequence[NDArray[np.int64]]) -> RegionScores:
    """Scores of segmentations each of which merges regions of the one before; equal ones are scored once."""
    counts = [int(labels.max()) for labels in maps]
    first = [counts.index(count) for count in counts]
    places = sorted(set(first))
    scores = region_scores([maps[place] for place in places], annotations)
    order = [places.index(place) for place in first]
    return RegionScores(*(getattr(scores, item.name)[order] for item in fields(RegionScores)))


def cut_at(contours: NDArray[np.floating], thresholds: Sequence[float]) -> list[NDArray[np.int64]]:
    """The segmentations (H, W) of a contour map (2H + 1, 2W + 1): pixels are joined across borders up to a height."""
    right, down = contours[1::2, 2:-1:2], contours[2:-1:2, 1::2]
    H, W = down.shape[0] + 1, right.shape[1] + 1
    pixel = np.arange(H * W).reshape(H, W)
    maps = []
    for threshold in thresholds:
        across, below = right <= threshold, down <= threshold
        first = np.concatenate([pixel[:, :-1][across], pixel[:-1][below]])
        second = np.concatenate([pixel[:, 1:][across], pixel[1:][below]])
        graph = coo_matrix((np.ones(len(first), dtype=np.int8), (first, second)), shape=(H * W, H * W))
        maps.append(connected_components(graph, directed=False)[1].reshape(H, W).astype(np.int64))
    return maps


def _best(scores: RegionScores, name: str) -> float:
    values = getattr(scores, name)
    return float(values.min() if name == "information" else values.max())


def _name(split: Split, row: int) -> str:
    return f"{split.cell(row, 'Sequence')}/{int(split.index[row])}"


def _check_size(found: tuple[int, ...], wanted: tuple[int, ...], file: Path) -> None:
    if found != wanted:
        raise InputError(f"{file}: {found[0]}x{found[1]} pixels, the ground truth has {wanted[0]}x{wanted[1]}")
