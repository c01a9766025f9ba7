"""Areas, overlaps and boundary matches of all pairs of predicted and true masks of a frame, as integer counts.

Each mask is one bit of the pixel's word, so a boundary map is three exclusive ors for all masks at once, and a dilation
a few dozen shifted ors instead of one morphological pass per mask. J and F that follow equal the official DAVIS
toolkits'.
"""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from common.errors import InputError

Words = NDArray[Any]
Counts = NDArray[np.int64]
Scores = NDArray[np.float64]

_BLOCK = (
    1 << 16
)  # edge pixels unpacked at a time: bounds the memory of noisy maps; sums below 2**24 are exact in float32


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
    """Pixel counts of every pair of P predicted and G true masks of one frame.

    ``predicted_matched[p, o]`` is how much of the boundary of ``p`` lies near that of ``o``, ``target_matched[p, o]``
    how much of the boundary of ``o`` lies near that of ``p``.
    """

    intersection: Counts
    """(P, G)"""
    predicted_area: Counts
    """(P)"""
    target_area: Counts
    """(G)"""
    predicted_boundary: Counts
    """(P)"""
    target_boundary: Counts
    """(G)"""
    predicted_matched: Counts
    """(P, G)"""
    target_matched: Counts
    """(P, G)"""

    def j(self) -> Scores:
        """Region similarity (P, G): intersection over union, 1 when both masks are empty."""
        union = self.predicted_area[:, None] + self.target_area[None, :] - self.intersection
        return np.where(union > 0, self.intersection / np.maximum(union, 1), 1.0)

    def f(self) -> Scores:
        """Contour accuracy (P, G): harmonic mean of boundary precision and recall.

        Without a predicted boundary precision is 1, without a true one recall is 1, and the other one is 0 unless both
        are missing. 0 when precision and recall are both 0.
        """
        predicted, target = self.predicted_boundary[:, None], self.target_boundary[None, :]
        precision = np.where(predicted > 0, self.predicted_matched / np.maximum(predicted, 1), 1.0)
        recall = np.where(target > 0, self.target_matched / np.maximum(target, 1), 1.0)
        precision = np.where((predicted > 0) & (target == 0), 0.0, precision)
        recall = np.where((predicted == 0) & (target > 0), 0.0, recall)
        total = precision + recall
        return np.where(total > 0, 2 * precision * recall / np.where(total > 0, total, 1.0), 0.0)

    def fitted(self, num_predicted: int, num_objects: int) -> "PairCounts":
        """The counts with empty masks appended, or the last masks cut off, to exactly these numbers of masks."""

        def fit(counts: Counts, *sizes: int) -> Counts:
            kept = counts[tuple(slice(size) for size in sizes)]
            return np.pad(kept, [(0, size - held) for size, held in zip(sizes, kept.shape, strict=True)])

        pairs = (num_predicted, num_objects)
        return PairCounts(
            intersection=fit(self.intersection, *pairs),
            predicted_area=fit(self.predicted_area, num_predicted),
            target_area=fit(self.target_area, num_objects),
            predicted_boundary=fit(self.predicted_boundary, num_predicted),
            target_boundary=fit(self.target_boundary, num_objects),
            predicted_matched=fit(self.predicted_matched, *pairs),
            target_matched=fit(self.target_matched, *pairs),
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
