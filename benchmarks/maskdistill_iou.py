"""IoU of every cluster with every class: one pair after the other, beside one table."""

import numpy as np
from ceilings import num_bytes
from measuring import Benchmark
from numpy.typing import NDArray

from common.metrics.confusion import contingency, iou_matrix

CLASSES = 21


def build(tiny: bool) -> Benchmark:
    """21 clusters and 21 classes on two million pixels."""
    rng = np.random.default_rng(0)
    size = 2_000 if tiny else 2_000_000
    labels = rng.integers(0, CLASSES, size)
    predicted = np.where(rng.random(size) < 0.5, (labels + 3) % CLASSES, rng.integers(0, CLASSES, size))

    def check(textbook: NDArray[np.float64], ours: NDArray[np.float64]) -> None:
        np.testing.assert_allclose(ours, textbook, rtol=0, atol=1e-12)

    return Benchmark(
        f"IoU of {CLASSES} clusters with {CLASSES} classes, {size} pixels",
        lambda: textbook_iou(predicted, labels),
        lambda: iou_matrix(contingency(predicted, labels, num_predicted=CLASSES, num_classes=CLASSES)),
        check,
        least_bytes=num_bytes(predicted, labels),
    )


def textbook_iou(predicted: NDArray[np.int64], labels: NDArray[np.int64]) -> NDArray[np.float64]:
    """Masks of each pair compared."""
    iou = np.zeros((CLASSES, CLASSES))
    for cluster, name in np.ndindex(iou.shape):
        found, wanted = predicted == cluster, labels == name
        iou[cluster, name] = np.sum(found & wanted) / np.sum(found | wanted)
    return iou
