"""Labels chosen by the ground truth: every union of labels made and compared, beside `select_labels`."""

import numpy as np
import torch
from ceilings import num_bytes
from measuring import Benchmark
from numpy.typing import NDArray
from stflow_linking import CUT, iou, moving_labels

from stflow.foreground import Selection, select_labels


def build(tiny: bool) -> Benchmark:
    """68 frames of 128 x 224, four labels, chunks of ten."""
    shape = (6, 1, 8, 10) if tiny else (68, 1, 128, 224)
    labels = moving_labels(shape, 4)[:, 0]
    gt = moving_labels(shape, 3)[:, 0] == 0
    as_argmax_gives_them = labels.astype(np.int64)
    tensors = torch.from_numpy(labels), torch.from_numpy(gt)

    def check(textbook: NDArray[np.bool_], ours: Selection) -> None:
        np.testing.assert_array_equal(textbook, ours.masks.numpy())

    return Benchmark(
        f"optimax of {labels.shape}, 4 labels, chunks of {CUT}",
        lambda: textbook_optimax(as_argmax_gives_them, gt, 4),
        lambda: select_labels(*tensors, None, CUT, 4),
        check,
        least_bytes=num_bytes(labels, gt, gt),
    )


def textbook_optimax(labels: NDArray[np.int64], gt: NDArray[np.bool_], num_labels: int) -> NDArray[np.bool_]:
    """Masks (F, I, J): in each chunk labels are added, as often as there are, for the best IoU of the union."""
    masks = np.zeros(labels.shape, dtype=bool)
    starts = list(range(1, len(labels) - 1, CUT))
    for start in starts:
        first = 0 if start == starts[0] else start
        chunk = slice(first, len(labels) if start == starts[-1] else start + CUT)
        chosen: list[int] = []
        for _ in range(num_labels):
            scores = [iou(gt[chunk], np.isin(labels[chunk], [*chosen, label])) for label in range(num_labels)]
            chosen.append(int(np.argmax(scores)))
        masks[chunk] = np.isin(labels[chunk], chosen)
    return masks
