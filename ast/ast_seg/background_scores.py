"""How well background masks agree with true ones: pooled F-measure, precision and recall, as CDnet counts them.

Beside them, on request, what needs no learning: a median image with a threshold, and OpenCV's MOG2 and KNN subtractors,
on the same frames and cleaned in the same way.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import cv2
import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from ast_seg.background_masks import Bytes, Cleaning, clean
from common.errors import InputError
from common.files import MaskEncoding, read_image, read_labels, read_mask
from common.metrics.protocol import Protocol, Score
from common.splits import Split

MEDIAN_THRESHOLD = 30
"""Grey levels, mean over channels, by which a pixel differs from the median image."""
MOST_FOR_MEDIAN = 200
"""Frames, evenly spaced, that the median image is taken over."""


@dataclass
class MaskCounts:
    """Pixels over all frames."""

    both: int = 0
    predicted: int = 0
    true: int = 0
    num_frames: int = 0

    def add(self, predicted: NDArray[np.bool_], true: NDArray[np.bool_], void: NDArray[np.bool_]) -> None:
        """Count a frame (H, W); void pixels count for nothing."""
        self.both += int((predicted & true & ~void).sum())
        self.predicted += int((predicted & ~void).sum())
        self.true += int((true & ~void).sum())
        self.num_frames += 1

    def scores(self, prefix: str, notes: str) -> list[Score]:
        """F-measure, precision and recall of the pooled pixels."""
        precision = self.both / self.predicted if self.predicted else 1.0
        recall = self.both / self.true if self.true else 1.0
        values = {
            "f_measure": 2 * self.both / max(1, self.predicted + self.true),
            "precision": precision,
            "recall": recall,
        }
        protocol = Protocol(scope="dataset", background="left_out", averaging="pixels", notes=notes)
        return [Score(f"{prefix}_{name}_pixel", value, protocol, self.num_frames) for name, value in values.items()]


def score_masks(split: Split, encoding: MaskEncoding, column: str = "BackgroundMask") -> list[Score]:
    """Score the masks of step 2 against ``GtMask``, or against ``GtInstance`` where there is none.

    Raises:
        InputError: No label map.
    """
    counts = MaskCounts()
    for row, true, void in truths(split, encoding):
        mask = (read_labels(split.path(row, column)) > 0).astype(np.uint8)
        height, width = true.shape
        counts.add(cv2.resize(mask, (width, height), interpolation=cv2.INTER_NEAREST_EXACT) > 0, true, void)
    return counts.scores("background", "masks of the background stage")


def truths(split: Split, encoding: MaskEncoding) -> Iterator[tuple[int, NDArray[np.bool_], NDArray[np.bool_]]]:
    """Row, true foreground and void (H, W) of every frame with a label map.

    Raises:
        InputError: No label map at all, or one that cannot be read.
    """
    column = next((name for name in ("GtMask", "GtInstance") if name in split.columns), None)
    if column is None or not split.available(column).any():
        raise InputError(f"{split.file}: has no true masks to score against (column GtMask or GtInstance)")
    for row in tqdm(np.flatnonzero(split.available(column)).tolist(), desc="scoring masks", unit="frame", disable=None):
        if column == "GtMask":
            mask = read_mask(split.path(row, column), encoding)
            yield row, mask.foreground, mask.void
        else:
            labels = read_labels(split.path(row, column))
            yield row, (labels > 0) & (labels != 255), labels == 255


def baselines(split: Split, encoding: MaskEncoding, cleaning: Cleaning) -> list[Score]:
    """Scores of a median image, MOG2 and KNN on the frames of a split in order."""
    images = [split.path(row, "Image") for row in range(len(split))]
    chosen = np.unique(np.linspace(0, len(images) - 1, min(len(images), MOST_FOR_MEDIAN)).round().astype(int))
    median = np.median(np.stack([read_image(images[i]) for i in chosen]), axis=0).astype(np.float32)

    def differs(image: Bytes) -> Bytes:
        return (np.abs(image - median).mean(2) > MEDIAN_THRESHOLD).astype(np.uint8) * 255

    rules: dict[str, Callable[[Bytes], Bytes]] = {"median": differs}
    for name, make in (("mog2", cv2.createBackgroundSubtractorMOG2), ("knn", cv2.createBackgroundSubtractorKNN)):
        subtractor = make(detectShadows=True)
        rules[name] = partial(_subtracted, subtractor)
    known = {row: (true, void) for row, true, void in truths(split, encoding)}
    counts = {f"{name}_{kind}": MaskCounts() for name in rules for kind in ("raw", "cleaned")}
    for row, file in enumerate(tqdm(images, desc="subtractors", unit="frame", disable=None)):
        image = read_image(file)
        for name, rule in rules.items():
            mask = rule(image)
            if row in known:
                counts[f"{name}_raw"].add(mask > 0, *known[row])
                counts[f"{name}_cleaned"].add(clean(mask, cleaning) > 0, *known[row])
    return [score for name, found in counts.items() for score in found.scores(name, "needs no training")]


def _subtracted(subtractor: cv2.BackgroundSubtractor, image: Bytes) -> Bytes:
    """OpenCV marks shadows with 127."""
    return (np.asarray(subtractor.apply(image)) == 255).astype(np.uint8) * 255
