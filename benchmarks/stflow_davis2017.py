"""J and F of every pair of proposal and object (DAVIS-2017): one pair after the other, beside `davis2017_sequence`."""

import cv2
import numpy as np
from ceilings import num_bytes
from measuring import Benchmark
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment
from stflow_linking import iou, moving_labels

from common.metrics.davis import ObjectScores, davis2017_sequence

Mask = NDArray[np.bool_]


def build(tiny: bool) -> Benchmark:
    """70 frames of 480 x 854, three objects, four proposals."""
    shape = (3, 1, 30, 40) if tiny else (70, 1, 480, 854)
    target, proposals = (coarse_labels(shape, count) for count in (4, 5))
    shifted = np.roll(target, 3, axis=2)
    predicted = np.where(shifted > 0, (shifted + 1) % 4 + 1, proposals // 4).astype(np.uint8)

    def check(textbook: tuple[NDArray[np.float64], NDArray[np.float64]], ours: ObjectScores) -> None:
        for expected, found in zip(textbook, (ours.j, ours.f), strict=True):
            np.testing.assert_allclose(found, expected, rtol=0, atol=1e-9)

    return Benchmark(
        f"DAVIS-2017 J and F of {target.shape}, 3 objects, 4 proposals",
        lambda: textbook_davis(predicted, target, 4, 3),
        lambda: davis2017_sequence(predicted, target, num_objects=3),
        check,
        least_bytes=num_bytes(predicted, target),
    )


def coarse_labels(shape: tuple[int, ...], num_labels: int, step: int = 4) -> NDArray[np.uint8]:
    """`moving_labels` (N, I, J) in squares of a few pixels: to smooth whole frames would take minutes."""
    n, T, rows, columns = shape
    small = moving_labels((n, T, -(-rows // step), -(-columns // step)), num_labels)[:, 0]
    return np.ascontiguousarray(small.repeat(step, 1).repeat(step, 2)[:, :rows, :columns])


def textbook_davis(
    predicted: NDArray[np.uint8], target: NDArray[np.uint8], P: int, G: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """J and F (G, N) of the matched objects."""
    j, f = np.zeros((P, G, len(target))), np.zeros((P, G, len(target)))
    for p, o, frame in np.ndindex(j.shape):
        proposal, truth = predicted[frame] == p + 1, target[frame] == o + 1
        j[p, o, frame], f[p, o, frame] = iou(proposal, truth), contour_accuracy(proposal, truth)
    rows, columns = linear_sum_assignment(-((j + f) / 2).mean(-1))
    order = rows[np.argsort(columns)]
    return j[order, np.arange(G)], f[order, np.arange(G)]


def contour_accuracy(predicted: Mask, target: Mask) -> float:
    """Harmonic mean of the shares of each boundary that lies near the other."""
    radius = int(np.ceil(0.008 * np.hypot(*target.shape)))
    y, x = np.ogrid[-radius : radius + 1, -radius : radius + 1]
    disk = (x * x + y * y <= radius * radius).astype(np.uint8)
    edges = [textbook_boundary(mask) for mask in (predicted, target)]
    if not edges[0].any() or not edges[1].any():
        return float(not edges[0].any() and not edges[1].any())
    near = [cv2.dilate(edge.astype(np.uint8), disk) > 0 for edge in edges]
    precision = (edges[0] & near[1]).sum() / edges[0].sum()
    recall = (edges[1] & near[0]).sum() / edges[1].sum()
    return float(2 * precision * recall / (precision + recall)) if precision + recall else 0.0


def textbook_boundary(mask: Mask) -> Mask:
    """Pixels that differ from their right, lower or lower right neighbour, the border repeated."""
    right, below, diagonal = mask.copy(), mask.copy(), mask.copy()
    right[:, :-1] = mask[:, 1:]
    below[:-1] = mask[1:]
    diagonal[:-1, :-1] = mask[1:, 1:]
    edges = (mask ^ right) | (mask ^ below) | (mask ^ diagonal)
    edges[-1] = (mask ^ right)[-1]
    edges[:, -1] = (mask ^ below)[:, -1]
    edges[-1, -1] = False
    return edges
