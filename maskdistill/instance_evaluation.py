"""Average precision of instances by the COCO protocol, all in memory."""

import contextlib
import io
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from maskdistill.boxes import box_iou, corners, rounded_corners
from maskdistill.coco import most_confident

Entry = dict[str, Any]


@dataclass(frozen=True)
class InstanceScores:
    """What the COCO evaluation gives."""

    stats: NDArray[np.float64]
    """(12,) the summary of the COCO API: AP, AP50, AP75, AP by area (3), AR by detections (3), AR by area (3)."""
    category_ids: list[int]
    """The categories in the order of ``ap50_per_class``."""
    ap50_per_class: NDArray[np.float64]
    """AP at IoU 0.5, -1 for a class without ground truth."""

    @property
    def ap50(self) -> float:
        """AP at IoU 0.5 over the classes that have ground truth."""
        return float(self.stats[1])


@dataclass(frozen=True)
class SinglePairs:
    """One detection per image with the one object it is compared with."""

    detections: list[Entry]
    objects: list[Entry]
    """The object of each detection, a class of its own notwithstanding."""
    without_object: list[Any]
    """Images with a detection but no ground truth: left out."""


def evaluate_instances(
    ground_truth: Mapping[str, Any], detections: Sequence[Entry], iou_type: Literal["segm", "bbox"] = "segm"
) -> InstanceScores:
    """All detections against all objects: 101-point AP at IoU 0.5 to 0.95, at most 100 detections per image.

    Args:
        ground_truth: Content of a COCO annotation file.
        detections: COCO results; without ``area`` it is width times height of the box, which decides the entries by
            area and nothing else.
        iou_type: Masks or boxes.
    """
    results = [{"iscrowd": 0, "area": found["bbox"][2] * found["bbox"][3], **found} for found in detections]
    with contextlib.redirect_stdout(io.StringIO()):  # the COCO API prints at every step
        run = COCOeval(_indexed(ground_truth, ground_truth["annotations"]), _indexed(ground_truth, results), iou_type)
        run.evaluate()
        run.accumulate()
        run.summarize()
    # Axes: IoU threshold, recall, class, area (the first is all), detections (the last is 100)
    at_half = run.eval["precision"][0, :, :, 0, -1]
    ap50 = [float(column[column > -1].mean()) if (column > -1).any() else -1.0 for column in at_half.T]
    return InstanceScores(np.asarray(run.stats, dtype=np.float64), list(run.params.catIds), np.array(ap50))


def single_pairs(ground_truth: Mapping[str, Any], detections: Sequence[Entry]) -> SinglePairs:
    """Each image's most confident detection and the object whose box overlaps it most.

    Objects' boxes are rounded to integers, the detection's is not; the class is ignored; first on ties. Images without
    a detection drop out and count for nothing.
    """
    objects = defaultdict(list)
    for entry in ground_truth["annotations"]:
        objects[entry["image_id"]].append(entry)
    best = most_confident(detections)
    paired = [found for found in best if objects[found["image_id"]]]
    chosen = []
    for found in paired:
        candidates = objects[found["image_id"]]
        overlaps = box_iou(corners(found["bbox"]), [rounded_corners(entry["bbox"]) for entry in candidates])
        chosen.append(candidates[int(overlaps.argmax())])
    left_out = [found["image_id"] for found in best if not objects[found["image_id"]]]
    return SinglePairs(paired, chosen, left_out)


def evaluate_most_confident(ground_truth: Mapping[str, Any], detections: Sequence[Entry]) -> InstanceScores:
    """Mask AP of one detection per image against one object per image; see :func:`single_pairs`."""
    pairs = single_pairs(ground_truth, detections)
    return evaluate_instances({**ground_truth, "annotations": pairs.objects}, pairs.detections)


def _indexed(ground_truth: Mapping[str, Any], annotations: Sequence[Entry]) -> COCO:
    """A COCO index over copies of the entries: the evaluation writes into them.

    Ids run from 1: the COCO API takes a match with the entry of id 0 for no match.
    """
    index = COCO()
    index.dataset = {
        "images": list(ground_truth["images"]),
        "categories": list(ground_truth["categories"]),
        "annotations": [{**entry, "id": number} for number, entry in enumerate(annotations, start=1)],
    }
    index.createIndex()
    return index
