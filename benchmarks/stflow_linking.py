"""Linking of windows: every pair of labels compared pixel by pixel, beside `link`, which counts labels once."""

import numpy as np
from ceilings import num_bytes
from measuring import Benchmark
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

from stflow.linking import link

CUT = 10


def build(tiny: bool) -> Benchmark:
    """68 windows of 3 x 128 x 224, four labels, chunks of ten."""
    shape = (5, 3, 8, 10) if tiny else (68, 3, 128, 224)
    windows = moving_labels(shape, 4)
    as_argmax_gives_them = windows.astype(np.int64)
    return Benchmark(
        f"linking of {shape}, 4 labels, chunks of {CUT}",
        lambda: textbook_link(as_argmax_gives_them, 4),
        lambda: link(windows, 4, CUT),
        np.testing.assert_array_equal,
        least_bytes=2 * num_bytes(windows),
    )


def moving_labels(shape: tuple[int, ...], num_labels: int) -> NDArray[np.uint8]:
    """Labels in smooth regions that drift, their names drawn anew in every window (n, T, I, J)."""
    rng = np.random.default_rng(0)
    n, T, rows, columns = shape
    field = gaussian_filter(rng.standard_normal((num_labels, n + T, rows, columns)), (0, 2, rows / 12, columns / 12))
    labels = field.argmax(0)
    names = [rng.permutation(num_labels) for _ in range(n)]
    return np.stack([names[w][labels[w : w + T]] for w in range(n)]).astype(np.uint8)


def textbook_link(windows: NDArray[np.int64], num_labels: int) -> NDArray[np.int64]:
    """Each label takes the label of the window before that it overlaps best."""
    linked = windows.copy()
    for w in range(1, len(windows)):
        if w % CUT == 0:
            continue
        names = []
        for label in range(num_labels):
            scores = [
                sum(iou(linked[w - 1, s + 1] == old, windows[w, s] == label) for s in range(windows.shape[1] - 1))
                for old in range(num_labels)
            ]
            names.append(int(np.argmax(scores)))
        for label in range(num_labels):
            linked[w][windows[w] == label] = names[label]
    return linked


def iou(a: NDArray[np.bool_], b: NDArray[np.bool_]) -> float:
    """Intersection over union; nothing against nothing is 1."""
    union = np.logical_or(a, b).sum()
    return float(np.logical_and(a, b).sum() / union) if union else 1.0
