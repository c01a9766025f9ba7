"""Link the segmentations of overlapping windows, so that a segment keeps its label through a video.

Window w covers the frames w .. w+T-1 of a sequence and shares T-1 of them with the next one. Labels are linked by the
overlap of segments there, which takes the label histograms of all pairs of neighbouring windows and no further look at
a pixel. Source: Meunier and Bouthemy, CVPR 2023. Symbols: n windows, L labels, T frames, I rows, J columns.
"""

from itertools import pairwise

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment

from common.errors import InputError

METHODS = ("greedy", "hungarian")
Labels = NDArray[np.integer]


def window_labels(proba: NDArray[np.floating], legacy_float16: bool = False) -> NDArray[np.uint8]:
    """Most probable segment of each place, the first of equals.

    Args:
        proba: Probabilities (L, T, I, J).
        legacy_float16: Round to half precision first, as the published linking does.

    Returns:
        (T, I, J), 0 to L-1.
    """
    rounded = proba.astype(np.float16) if legacy_float16 else proba
    return np.asarray(rounded.argmax(axis=0), dtype=np.uint8)


def cut(count: int, size: int | None, shortcut: int = 0) -> list[NDArray[np.int64]]:
    """Split a sequence in chunks.

    Args:
        count: Number of windows or frames.
        size: Length of a chunk, the last may be shorter; None or -1 for a single chunk.
        shortcut: So many elements at either end stand outside: the interior is cut, then they join the first and the
            last chunk. So the chunks of the frames match those of the windows with these frames as centres.

    Returns:
        Indices of every chunk.

    Raises:
        InputError: A size that is zero or below -1, or no interior.
    """
    if size is not None and size != -1 and size < 1:
        raise InputError(f"cuts_size: {size} is not a number of windows; use a positive one, or -1 for whole sequences")
    indices = np.arange(count)
    if size is None or size == -1:
        return [indices]
    interior = indices[shortcut : count - shortcut]
    if len(interior) == 0:
        raise InputError(f"cuts_size: a sequence of {count} is too short to cut; use -1 or a longer sequence")
    chunks = [interior[first : first + size] for first in range(0, len(interior), size)]
    if shortcut:
        chunks[0] = np.concatenate([indices[:shortcut], chunks[0]])
        chunks[-1] = np.concatenate([chunks[-1], indices[count - shortcut :]])
    return chunks


def unravel(windows: Labels) -> Labels:
    """Windows (n, T, I, J) to frames (n+T-1, I, J): of each window its centre, at both ends all there is."""
    T = windows.shape[1]
    centre = T // 2
    return np.concatenate([windows[0, :centre], windows[:, centre], windows[-1, centre + 1 :]])


def pair_histograms(windows: Labels, num_labels: int) -> NDArray[np.int64]:
    """How often each label of a window meets each label of the next one, frame by frame that they share.

    Args:
        windows: Labels (n, T, I, J).
        num_labels: L.

    Returns:
        (n-1, T-1, L, L): pixels with label k in window w, frame s+1, and label l in window w+1, frame s.

    Raises:
        InputError: A label outside 0..L-1.
    """
    n, T = windows.shape[:2]
    if windows.size and not 0 <= windows.min() <= windows.max() < num_labels:
        raise InputError(f"labels from {windows.min()} to {windows.max()} in windows of {num_labels} segments")
    counts = np.zeros((max(n - 1, 0), T - 1, num_labels, num_labels), dtype=np.int64)
    for w, (before, after) in enumerate(pairwise(label_bits(window, num_labels) for window in windows)):
        for s in range(T - 1):
            both = before[s + 1, :, None] & after[s]  # (L, L, words)
            counts[w, s] = np.bitwise_count(both).sum(-1, dtype=np.int64)
    return counts


def pack(masks: NDArray[np.bool_]) -> NDArray[np.uint64]:
    """Masks (..., I, J) as one bit for each pixel, (..., words)."""
    pixels = masks.reshape(*masks.shape[:-2], masks.shape[-2] * masks.shape[-1])
    words = np.zeros((*pixels.shape[:-1], -(-pixels.shape[-1] // 64)), dtype=np.uint64)
    words.view(np.uint8)[..., : -(-pixels.shape[-1] // 8)] = np.packbits(pixels, axis=-1)
    return words


def label_bits(labels: Labels, num_labels: int) -> NDArray[np.uint64]:
    """Where each label is, packed: labels (..., I, J) to (..., L, words)."""
    return np.stack([pack(labels == label) for label in range(num_labels)], axis=-2)


def overlap_scores(histogram: NDArray[np.int64], empty: float) -> NDArray[np.float64]:
    """Sum over the shared frames of the IoU of each pair of labels.

    Args:
        histogram: (T-1, L, L) of one pair of windows.
        empty: IoU of two labels that are both absent from a frame.

    Returns:
        (L, L).
    """
    union = histogram.sum(2, keepdims=True) + histogram.sum(1, keepdims=True) - histogram
    overlap: NDArray[np.float64] = np.divide(histogram, union, out=np.full(histogram.shape, empty), where=union > 0)
    return np.asarray(overlap.sum(0))


def next_labels(histogram: NDArray[np.int64], method: str) -> NDArray[np.int64]:
    """New label of every label of a window, from its overlaps with the window before, already relabelled.

    Args:
        histogram: (T-1, L, L): old labels' rows, new labels' columns.
        method: greedy as published: each label takes the one that it overlaps best, the first of equals. Two labels may
            take the same, and labels absent on both sides fit perfectly. hungarian: the best one-to-one assignment,
            absent labels fit nothing.

    Returns:
        (L,).
    """
    if method == "greedy":
        return np.asarray(overlap_scores(histogram, empty=1.0).argmax(axis=0))
    scores = overlap_scores(histogram, empty=0.0)
    scores += 1e-9 * np.eye(len(scores))  # what overlaps nothing keeps its label if that is free
    old, new = linear_sum_assignment(scores, maximize=True)
    return np.asarray(old[np.argsort(new)])


def link(windows: Labels, num_labels: int, cut_size: int | None = None, method: str = "greedy") -> Labels:
    """Relabel the windows of a sequence one after the other, each chunk on its own.

    Args:
        windows: Labels (n, T, I, J), 0 to L-1.
        num_labels: L, also of labels that do not occur.
        cut_size: Windows of a chunk; None or -1 for the whole sequence.
        method: See `next_labels`.

    Returns:
        Labels of the same shape and type.

    Raises:
        InputError: Unknown method, bad cut size or labels.
    """
    if method not in METHODS:
        raise InputError(f"linking: unknown method {method!r}, choose one of {', '.join(METHODS)}")
    histograms = pair_histograms(windows, num_labels)
    identity = np.arange(num_labels)
    linked = windows.copy()
    for chunk in cut(len(windows), cut_size):
        labels = identity
        for w in chunk[1:]:
            merge = (labels == identity[:, None]).astype(np.int64)  # old labels' rows, as window w - 1 renamed them
            labels = next_labels(merge @ histograms[w - 1], method)
            if not np.array_equal(labels, identity):
                np.take(labels.astype(windows.dtype), windows[w], out=linked[w])
    return linked
