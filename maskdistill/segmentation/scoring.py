"""Scores of label maps against ground truth: published protocol and table, matched and unmatched.

The table is summed over the whole set at the images' original size, void left out (section 7.1). A class that is
neither predicted nor true counts 0, as published; ``common/evaluate.py`` leaves such a class out.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from tqdm import tqdm

from common.errors import InputError
from common.files import read_image, read_labels
from common.metrics.confusion import class_iou, contingency
from common.metrics.hungarian import ClusterScores, score_clusters
from common.metrics.protocol import Protocol, Score, write_scores
from common.panels import write_panels
from common.splits import Split
from common.tables import write_table
from common.visualize import colourise_labels, overlay
from maskdistill.pixel_clustering import score_pixel_clusters
from maskdistill.segmentation.options import Match
from maskdistill.segmentation.sources import VOC_NAMES

# The original's README, in percent, in the order of VOC_NAMES
PUBLISHED = {
    "linear_crf": (
        *(89.83, 83.12, 33.97, 85.88, 63.25, 45.01, 79.08, 70.14, 86.26, 16.85, 81.54, 38.14, 84.04, 74.90, 69.70),
        *(62.95, 31.28, 78.31, 23.27, 74.43, 46.14),
    ),
    "clustering": (
        *(84.56, 74.54, 26.68, 74.76, 52.65, 63.38, 79.75, 65.75, 76.37, 0.00, 47.25, 33.68, 38.14, 69.62, 64.17),
        *(37.07, 11.11, 0.01, 21.45, 69.84, 26.85),
    ),
}


@dataclass(frozen=True)
class LabelScores:
    """What the label maps of a split are worth."""

    scores: list[Score]
    per_image: pd.DataFrame
    """Sequence, Sequence_Index, miou over the classes of each image after the chosen matching."""
    names: list[str]
    """Names of the classes by index."""
    chosen: ClusterScores
    """By the protocol that was asked for."""

    def lines(self) -> list[str]:
        """The published table: mean IoU and IoU per class, in percent."""
        iou = np.nan_to_num(self.chosen.class_iou)
        rows = [f"IoU class {name} is {100 * value:.2f}" for name, value in zip(self.names, iou, strict=True)]
        return [f"mIoU is {100 * self.chosen.miou:.2f}", *rows]


def score_labels(
    split: Split, names: Mapping[int, str], *, match: Match = "none", crf: bool = False, notes: str = ""
) -> LabelScores:
    """Score the Pred column against GtSemantic.

    Args:
        split: Rows without ground truth are left out.
        names: Class names by index.
        match: Protocol of the printed table: ``none`` takes labels as classes, ``val`` matches clusters one-to-one by
            IoU, background fixed. The scores hold both.
        crf: Recorded with the scores.
        notes: Recorded with the scores.

    Raises:
        InputError: No ground truth, label maps that cannot be read or differ in size, a class beyond the names.
    """
    if "GtSemantic" not in split.columns or not split.available("GtSemantic").any():
        raise InputError(f"{split.file}: no GtSemantic to score against")
    C = max(names) + 1
    split = split.take(split.available("GtSemantic"))
    tables = _tables(split, C)
    counts = tables.sum(0)
    found = {
        "none": score_clusters(counts, "none", unmatched="missed", absent="zero"),
        "val": score_clusters(counts, "hungarian", unmatched="missed", fixed_background=True, absent="zero"),
    }
    ordered = [names.get(index, str(index)) for index in range(C)]
    about = "; ".join(filter(None, [notes, "a class that is neither predicted nor true counts 0"]))
    base = Protocol(scope="dataset", averaging="classes", crf=crf, notes=about)
    matched = replace(base, matching="hungarian", notes=f"{about}; background fixed, the rest matched on these images")
    scores = []
    for name, key, protocol in (("miou_dataset_none", "none", base), ("miou_dataset_hungarian", "val", matched)):
        values = dict(zip(ordered, np.nan_to_num(found[key].class_iou).tolist(), strict=True))
        scores.append(Score(name, found[key].miou, protocol, len(split), values))
    scores += _clustering_scores(counts, len(split), base)
    pixels = replace(base, averaging="pixels")
    scores.append(Score("pixel_accuracy_dataset_none", found["none"].pixel_accuracy, pixels, int(counts.sum())))
    return LabelScores(scores, _per_image(split, tables, found[match].classes), ordered, found[match])


def _tables(split: Split, C: int) -> NDArray[np.int64]:
    """A table (K, C) of predicted by true labels per row, K >= C."""
    found = []
    for row in tqdm(range(len(split)), desc="scoring", unit="image", disable=None):
        predicted = read_labels(split.path(row, "Pred"))
        truth_file = split.path(row, "GtSemantic")
        truth = read_labels(truth_file)
        if predicted.shape != truth.shape:
            raise InputError(f"{truth_file}: size {truth.shape}, but its prediction has {predicted.shape}")
        wrong = [int(value) for value in np.unique(truth) if value >= C and value != 255]
        if wrong:
            raise InputError(
                f"{truth_file}: class {wrong[0]} is none of the {C} classes; write their names beside the split"
            )
        K = max(C, int(predicted.max(initial=0)) + 1)
        found.append(contingency(predicted, truth, num_predicted=K, num_classes=C))
    K = max(len(table) for table in found)
    return np.stack([np.pad(table, ((0, K - len(table)), (0, 0))) for table in found])


def _clustering_scores(counts: NDArray[np.int64], n: int, base: Protocol) -> list[Score]:
    """The pixel clustering evaluation of section 4.9, background matched like any class."""
    result = score_pixel_clusters(counts)
    matching: Literal["hungarian", "majority"] = "hungarian" if counts.shape[0] == counts.shape[1] else "majority"
    protocol = replace(base, matching=matching, notes=f"{base.notes}; background matched too")
    values = {"miou": result.miou, "accuracy": result.accuracy, "nmi": result.nmi, "ari": result.ari}
    return [Score(f"pixel_clustering_{name}", value, protocol, n) for name, value in values.items()]


def _per_image(split: Split, tables: NDArray[np.int64], classes: NDArray[np.int64]) -> pd.DataFrame:
    C = tables.shape[2]
    rows = []
    for row, table in enumerate(tables):
        confusion = np.zeros((C + 1, C), dtype=np.int64)
        np.add.at(confusion, np.where(classes < 0, C, classes), table)
        iou = class_iou(confusion)
        defined = iou[~np.isnan(iou)]
        index = int(split.index[row])
        miou = float(defined.mean()) if len(defined) else np.nan
        rows.append({"Sequence": split.cell(row, "Sequence"), "Sequence_Index": index, "miou": miou})
    return pd.DataFrame(rows)


def write_label_scores(found: LabelScores, split: Split, out: Path) -> None:
    """Write ``scores.json``, ``per_class.csv``, ``per_frame.csv`` and pictures of the worst and best images."""
    write_scores(out / "scores.json", found.scores)
    table = pd.DataFrame({"class": found.names, "iou": np.nan_to_num(found.chosen.class_iou)})
    if tuple(found.names) == VOC_NAMES:
        for name, values in PUBLISHED.items():
            table[f"published_{name}"] = np.round(np.array(values) / 100, 4)
    write_table(table, out / "per_class.csv")
    write_table(found.per_image, out / "per_frame.csv")
    scored = split.take(split.available("GtSemantic"))
    write_panels(scored, found.per_image, out / "overlays", lambda row: _pictures(scored, row), score="miou")


def _pictures(split: Split, row: int) -> dict[str, NDArray[np.uint8]]:
    image = read_image(split.path(row, "Image"), upright=False)
    predicted = read_labels(split.path(row, "Pred"))
    truth = read_labels(split.path(row, "GtSemantic"))
    return {"input": image, "prediction": overlay(image, predicted), "ground_truth": colourise_labels(truth)}
