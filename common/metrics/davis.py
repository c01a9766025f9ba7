"""J and F of the DAVIS benchmarks: region similarity, contour accuracy, their statistics and the two protocols.

All pairs of predicted and true masks of a frame are counted together. Each mask is one bit of the pixel's word, so a
boundary map is three exclusive ors for all masks at once, and a dilation a few dozen shifted ors instead of one
morphological pass per mask. Results are integer counts, equal to the official toolkits'.

References: Perazzi et al., "A Benchmark Dataset and Evaluation Methodology for Video Object Segmentation" (DAVIS-2016);
Caelles et al., "The 2019 DAVIS Challenge on VOS: Unsupervised Multi-Object Segmentation" (DAVIS-2017).
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment

from common.errors import InputError

Words = NDArray[Any]
Counts = NDArray[np.int64]
Scores = NDArray[np.float64]

_BLOCK = (
    1 << 16
)  # edge pixels unpacked at a time: bounds the memory of noisy maps; sums below 2**24 are exact in float32

MAX_PROPOSALS = 20
"""Proposals per sequence that DAVIS-2017 unsupervised allows."""


def tolerance_radius(height: int, width: int, tolerance: float = 0.008) -> int:
    """Distance in pixels within which a boundary counts as found: 8 at 480 x 854."""
    return math.ceil(tolerance * math.hypot(height, width))


def boundary(masks: Words) -> Words:
    """The boundary map of a mask, or of every bit of a word image.

    A pixel is boundary when it differs from its right, lower or lower right neighbour; the last row compares only to
    the right, the last column only downwards, the corner never.

    Args:
        masks: Boolean or unsigned (H, W).

    Returns:
        Same type and shape.
    """
    edges = np.zeros_like(masks)
    edges[:, :-1] = masks[:, :-1] ^ masks[:, 1:]
    edges[:-1] |= masks[:-1] ^ masks[1:]
    edges[:-1, :-1] |= masks[:-1, :-1] ^ masks[1:, 1:]
    return edges


def dilate(masks: Words, radius: int) -> Words:
    """Dilation by the disk x^2 + y^2 <= radius^2 of a mask, or of every bit of a word image (H, W).

    The disk is a stack of horizontal runs. Rows are dilated to ever longer runs, one pixel per step, and each run is
    or-ed into the rows at its distance.
    """
    H, W = masks.shape
    runs = [math.isqrt(radius * radius - y * y) for y in range(radius + 1)]
    row, dilated = masks.copy(), np.zeros_like(masks)
    for half in range(radius + 1):
        if 0 < half < W:
            row[:, half:] |= masks[:, : W - half]
            row[:, : W - half] |= masks[:, half:]
        for y in (y for y in range(min(radius, H - 1) + 1) if runs[y] == half):
            dilated[y:] |= row[: H - y]
            if y:
                dilated[: H - y] |= row[y:]
    return dilated


@dataclass(frozen=True)
class PairCounts:
    """Pixel counts of every pair of P predicted and G true masks; leading dimensions are frames.

    ``predicted_matched[p, o]`` is how much of the boundary of ``p`` lies near that of ``o``, ``target_matched[p, o]``
    how much of the boundary of ``o`` lies near that of ``p``.
    """

    intersection: Counts
    """(..., P, G)"""
    predicted_area: Counts
    """(..., P)"""
    target_area: Counts
    """(..., G)"""
    predicted_boundary: Counts
    """(..., P)"""
    target_boundary: Counts
    """(..., G)"""
    predicted_matched: Counts
    """(..., P, G)"""
    target_matched: Counts
    """(..., P, G)"""

    def j(self) -> Scores:
        """Region similarity (..., P, G): intersection over union, 1 when both masks are empty."""
        union = self.predicted_area[..., :, None] + self.target_area[..., None, :] - self.intersection
        return np.where(union > 0, self.intersection / np.maximum(union, 1), 1.0)

    def f(self) -> Scores:
        """Contour accuracy (..., P, G): harmonic mean of boundary precision and recall.

        Without a predicted boundary precision is 1, without a true one recall is 1, and the other one is 0 unless both
        are missing. 0 when precision and recall are both 0.
        """
        predicted, target = self.predicted_boundary[..., :, None], self.target_boundary[..., None, :]
        precision = np.where(predicted > 0, self.predicted_matched / np.maximum(predicted, 1), 1.0)
        recall = np.where(target > 0, self.target_matched / np.maximum(target, 1), 1.0)
        precision = np.where((predicted > 0) & (target == 0), 0.0, precision)
        recall = np.where((predicted == 0) & (target > 0), 0.0, recall)
        total = precision + recall
        return np.where(total > 0, 2 * precision * recall / np.where(total > 0, total, 1.0), 0.0)

    def padded(self, num_predicted: int) -> "PairCounts":
        """The counts with empty predicted masks appended up to ``num_predicted``."""
        extra = num_predicted - self.predicted_area.shape[-1]
        frames = [(0, 0)] * (self.predicted_area.ndim - 1)

        def pad(counts: Counts, pairs: bool) -> Counts:
            return np.pad(counts, [*frames, (0, extra), *([(0, 0)] if pairs else [])])

        return PairCounts(
            intersection=pad(self.intersection, True),
            predicted_area=pad(self.predicted_area, False),
            target_area=self.target_area,
            predicted_boundary=pad(self.predicted_boundary, False),
            target_boundary=self.target_boundary,
            predicted_matched=pad(self.predicted_matched, True),
            target_matched=pad(self.target_matched, True),
        )


def pair_counts(
    predicted: NDArray[Any],
    target: NDArray[Any],
    *,
    num_predicted: int | None = None,
    num_objects: int | None = None,
    void: NDArray[np.bool_] | None = None,
    tolerance: float = 0.008,
) -> PairCounts:
    """The counts of one frame.

    Args:
        predicted: Boolean mask, or proposal ids 1..P with 0 for none (H, W).
        target: Boolean mask, or object ids 1..G with 0 for none (H, W); higher ids count as none.
        num_predicted: P; None takes the largest id.
        num_objects: G; None takes the largest id.
        void: Pixels that belong to no mask at all (H, W).
        tolerance: Boundary tolerance as a fraction of the image diagonal.

    Raises:
        InputError: The sizes differ, a proposal id is above P, or the frame has more than 64 masks.
    """
    if predicted.shape != target.shape or predicted.ndim != 2:
        raise InputError(f"prediction {predicted.shape} and ground truth {target.shape} differ in size: resize one")
    P = _largest(predicted) if num_predicted is None else num_predicted
    G = _largest(target) if num_objects is None else num_objects
    code = _pair_codes(predicted, target, P, G, void)
    table = np.bincount(code.ravel(), minlength=(P + 1) * (G + 1)).reshape(P + 1, G + 1)
    # Only masks with pixels get a bit: a frame seldom shows every id of its sequence, and fewer bits are less work.
    rows, columns = np.flatnonzero(table[1:].sum(1)), np.flatnonzero(table[:, 1:].sum(0))
    words = _word_of_code(P, G, rows + 1, columns + 1)[code]
    radius = tolerance_radius(target.shape[0], target.shape[1], tolerance)
    lengths, near = _near_boundary(words, len(rows) + len(columns), radius)
    own, other = np.split(np.arange(len(rows) + len(columns)), [len(rows)])
    pairs = np.ix_(rows, columns)
    return PairCounts(
        intersection=table[1:, 1:].astype(np.int64),
        predicted_area=table[1:].sum(1).astype(np.int64),
        target_area=table[:, 1:].sum(0).astype(np.int64),
        predicted_boundary=_scattered(P, rows, lengths[own]),
        target_boundary=_scattered(G, columns, lengths[other]),
        predicted_matched=_scattered((P, G), pairs, near[np.ix_(own, other)]),
        target_matched=_scattered((P, G), pairs, near[np.ix_(other, own)].T),
    )


def _largest(labels: NDArray[Any]) -> int:
    return int(labels.max()) if labels.size else 0


def _pair_codes(
    predicted: NDArray[Any], target: NDArray[Any], P: int, G: int, void: NDArray[np.bool_] | None
) -> NDArray[np.intp]:
    """One number per pixel for its pair of ids, ``predicted * (G + 1) + target``; void pixels are 0."""
    if _largest(target) > G:
        target = np.where(target > G, 0, target)
    code = np.multiply(predicted, G + 1, dtype=np.intp)
    code += target
    if void is not None:
        code[void] = 0
    if _largest(code) >= (P + 1) * (G + 1):
        raise InputError(f"proposal id {_largest(predicted)} is above the {P} proposals of the sequence")
    return code


def _scattered(shape: int | tuple[int, int], index: Any, values: Counts) -> Counts:
    counts = np.zeros(shape, dtype=np.int64)
    counts[index] = values
    return counts


def _word_of_code(P: int, G: int, proposals: Counts, objects: Counts) -> Words:
    """The word of each pair code: a bit for each listed proposal id, then one for each listed object id."""
    num_bits = len(proposals) + len(objects)
    sizes = [size for size in (8, 16, 32, 64) if num_bits <= size]
    if not sizes:
        raise InputError(f"{len(proposals)} proposals and {len(objects)} objects in one frame: at most 64 in all")
    word = np.dtype(f"u{sizes[0] // 8}")
    bits = np.left_shift(word.type(1), np.arange(num_bits, dtype=word))
    of_proposal, of_object = np.zeros(P + 1, dtype=word), np.zeros(G + 1, dtype=word)
    of_proposal[proposals], of_object[objects] = bits[: len(proposals)], bits[len(proposals) :]
    return (of_proposal[:, None] | of_object).ravel()


def _near_boundary(words: Words, num_bits: int, radius: int) -> tuple[Counts, Counts]:
    """Boundary lengths (M,) of all masks, and how much of boundary m is within ``radius`` of boundary n (M, M)."""
    edges = boundary(words)
    rows, columns = np.flatnonzero(edges.any(1)), np.flatnonzero(edges.any(0))
    if not rows.size:
        return np.zeros(num_bits, dtype=np.int64), np.zeros((num_bits, num_bits), dtype=np.int64)
    # The dilation is read at edge pixels only, so what lies outside their bounding box never matters.
    edges = np.ascontiguousarray(edges[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1])
    at = np.flatnonzero(edges)
    own, close = edges.ravel()[at], dilate(edges, radius).ravel()[at]
    lengths, near = np.zeros(num_bits, dtype=np.int64), np.zeros((num_bits, num_bits), dtype=np.int64)
    bits = np.arange(num_bits, dtype=words.dtype)
    for start in range(0, len(at), _BLOCK):
        edge = ((own[start : start + _BLOCK, None] >> bits) & 1).astype(np.float32)
        lengths += edge.sum(0).astype(np.int64)
        near += (edge.T @ ((close[start : start + _BLOCK, None] >> bits) & 1).astype(np.float32)).astype(np.int64)
    return lengths, near


@dataclass(frozen=True)
class Statistics:
    """What DAVIS reports of a measure over the N frames of a sequence."""

    mean: float
    recall: float
    """Share of frames above 0.5."""
    decay: float
    """Mean of the first quarter minus mean of the last quarter."""


def statistics(values: Scores) -> Statistics:
    """M, O and D of one sequence.

    Quarters share their edge frames. The official code keeps the edges in 8 bits, which is wrong beyond 256 frames;
    integers of full width are used here.

    Args:
        values: (N,) one value per frame, N >= 1.
    """
    if values.ndim != 1 or not values.size:
        raise ValueError(f"statistics need one value per frame, got shape {values.shape}")
    edges = np.round(np.linspace(1, len(values), 5) + 1e-10).astype(np.int64) - 1
    first, last = values[edges[0] : edges[1] + 1], values[edges[3] : edges[4] + 1]
    return Statistics(float(values.mean()), float((values > 0.5).mean()), float(first.mean() - last.mean()))


def davis2016_frames(num_frames: int) -> slice:
    """The frames that DAVIS-2016 scores: all but the first and the last."""
    return slice(1, max(num_frames - 1, 1))


@dataclass(frozen=True)
class ObjectScores:
    """J and F of the matched objects of one sequence (DAVIS-2017 unsupervised)."""

    j: Scores
    """(G, N)"""
    f: Scores
    """(G, N)"""
    proposals: NDArray[np.int64]
    """Proposal id given to each object (G,); ids above those predicted stand for an empty mask."""


def match_proposals(frames: Sequence[PairCounts]) -> ObjectScores:
    """Match proposals to objects once per sequence, by the Hungarian method on the mean of (J + F) / 2.

    Objects without a proposal get an empty mask. Results are in the order of the objects; the official code orders
    them by proposal, which names them wrongly when there are more proposals than objects (its means are the same).

    Args:
        frames: Counts of the N frames, all with the same G objects; P may differ.

    Raises:
        InputError: There are more than :data:`MAX_PROPOSALS` proposals.
    """
    P, G = (max(frame.intersection.shape[axis] for frame in frames) for axis in (0, 1))
    if P > MAX_PROPOSALS:
        raise InputError(f"{P} proposals in a sequence: DAVIS-2017 unsupervised allows {MAX_PROPOSALS}, keep the best")
    padded = [frame.padded(max(P, G)) for frame in frames]
    j, f = np.stack([frame.j() for frame in padded], -1), np.stack([frame.f() for frame in padded], -1)
    rows, columns = linear_sum_assignment(-((j + f) / 2).mean(-1))
    proposals = rows[np.argsort(columns)]
    objects = np.arange(G)
    return ObjectScores(j[proposals, objects], f[proposals, objects], proposals + 1)


def davis2017_sequence(
    predicted: Iterable[NDArray[Any]],
    target: Iterable[NDArray[Any]],
    void: Iterable[NDArray[np.bool_] | None] | None = None,
    *,
    num_objects: int | None = None,
    tolerance: float = 0.008,
) -> ObjectScores:
    """Score the proposals of one sequence, all frames counted (DAVIS-2017 unsupervised).

    One frame is held at a time, so iterators that read from disk need little memory.

    Args:
        predicted: N maps of proposal ids 1..P, 0 for none (H, W).
        target: N maps of object ids (H, W).
        void: N void masks (H, W).
        num_objects: G; None takes the largest id of the first annotated frame, as the benchmark does.
        tolerance: See :func:`pair_counts`.
    """
    frames: list[PairCounts] = []
    targets = iter(target)
    voids = iter(void) if void is not None else None
    for proposals in predicted:
        objects = next(targets)
        ignored = next(voids) if voids is not None else None
        if num_objects is None:
            num_objects = int(np.where(False if ignored is None else ignored, 0, objects).max())
        frames.append(pair_counts(proposals, objects, num_objects=num_objects, void=ignored, tolerance=tolerance))
    return match_proposals(frames)


def davis2017_summary(sequences: Mapping[str, ObjectScores]) -> dict[str, float]:
    """The benchmark's global results: each statistic per object, then its mean over all objects of all sequences.

    Returns:
        ``J&F-Mean``, ``J-Mean``, ``J-Recall``, ``J-Decay``, ``F-Mean``, ``F-Recall``, ``F-Decay``, in that order.
    """
    results: dict[str, float] = {}
    for letter in ("J", "F"):
        objects = [values for scores in sequences.values() for values in (scores.j if letter == "J" else scores.f)]
        found = [statistics(values) for values in objects]
        for name in ("mean", "recall", "decay"):
            results[f"{letter}-{name.capitalize()}"] = float(np.mean([getattr(entry, name) for entry in found]))
    return {"J&F-Mean": (results["J-Mean"] + results["F-Mean"]) / 2, **results}
