"""Scores of a results list against ground truth: ids checked, classes matched where asked for, lines to print."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from scipy.optimize import linear_sum_assignment

from common.errors import InputError
from common.files import atomic_path
from common.messages import warn
from maskdistill.coco_files import CocoFile, Entry, read_coco, read_results
from maskdistill.instance_evaluation import InstanceScores, evaluate_instances, evaluate_most_confident, single_pairs
from maskdistill.options import EvaluateInstancesOptions

STATS = ("ap", "ap50", "ap75", "ap_small", "ap_medium", "ap_large")


def score(options: EvaluateInstancesOptions) -> dict[str, Any]:
    """Evaluate, print, and write ``out`` if it is given.

    Raises:
        InputError: Files that cannot be used, or ids that differ.
    """
    truth = read_coco(options.gt_file)
    if not truth.annotations:
        raise InputError(f"{options.gt_file}: has no annotations to score against")
    known = None if options.match or options.class_agnostic else truth.categories
    detections = read_results(options.input_file, truth._replace(categories=known or []), options.gt_file)
    if not detections:
        warn(f"{options.input_file}: no detections")
    content = truth.as_dict()
    if options.class_agnostic:
        content, detections = one_class(truth), [{**entry, "category_id": 0} for entry in detections]
    classes: dict[Any, Any] = {}
    if options.match:
        classes = match_categories(content, detections)
        detections = [{**entry, "category_id": classes.get(entry["category_id"], -1)} for entry in detections]
    scores = _evaluate(options, content, detections)
    names = {entry["id"]: entry["name"] for entry in content["categories"]}
    result = {
        "protocol": {
            "detections": "single" if options.eval_most_confident else "multi",
            "iou_type": options.iou_type,
            "matching": "hungarian on box AP50" if options.match else "none",
            "class_agnostic": options.class_agnostic,
        },
        **dict(zip(STATS, (100 * scores.stats[:6]).tolist(), strict=True)),
        "stats": scores.stats.tolist(),
        "ap50_per_class": {
            str(names.get(key, key)): 100 * value
            for key, value in zip(scores.category_ids, scores.ap50_per_class.tolist(), strict=True)
            if value >= 0
        },
        "matched": {str(key): names.get(value, value) for key, value in classes.items()},
    }
    _tell(result, len(truth.images), len(detections))
    if options.out is not None:
        with atomic_path(options.out) as temporary:
            temporary.write_text(json.dumps(result, indent=2) + "\n")
    return result


def _evaluate(options: EvaluateInstancesOptions, truth: Mapping[str, Any], found: Sequence[Entry]) -> InstanceScores:
    if options.iou_type == "segm" and any("segmentation" not in entry for entry in found):
        raise InputError(f"{options.input_file}: detections without a segmentation; give --iou_type bbox")
    if not options.eval_most_confident:
        return evaluate_instances(truth, found, options.iou_type)
    left_out = single_pairs(truth, found).without_object
    if left_out:
        warn(f"{len(left_out)} images with a detection have no object and are left out (first: {left_out[0]})")
    return evaluate_most_confident(truth, found)


def one_class(truth: CocoFile) -> dict[str, Any]:
    """The ground truth with all objects in a single class."""
    return {
        "images": truth.images,
        "annotations": [{**entry, "category_id": 0} for entry in truth.annotations],
        "categories": [{"id": 0, "name": "object", "supercategory": ""}],
    }


def match_categories(truth: Mapping[str, Any], detections: Sequence[Entry]) -> dict[Any, Any]:
    """A class for each cluster of the detections, one-to-one, such that the mean box AP50 is largest.

    Returns:
        Class by cluster; clusters beyond the number of classes have none.
    """
    clusters = sorted({entry["category_id"] for entry in detections})
    classes = [entry["id"] for entry in truth["categories"]]
    gain = np.zeros((len(clusters), len(classes)))
    for row, cluster in enumerate(clusters):
        own = [entry for entry in detections if entry["category_id"] == cluster]
        for column, name in enumerate(classes):
            objects = [entry for entry in truth["annotations"] if entry["category_id"] == name]
            if objects:
                pair = {**truth, "annotations": objects}
                found = [{**entry, "category_id": name} for entry in own]
                gain[row, column] = evaluate_instances(pair, found, "bbox").ap50
    rows, columns = linear_sum_assignment(-gain)
    return {clusters[row]: classes[column] for row, column in zip(rows, columns, strict=True)}


def _tell(result: Mapping[str, Any], num_images: int, num_detections: int) -> None:
    print(f"{num_detections} detections on {num_images} images, {result['protocol']['detections']}")
    for name, value in result["ap50_per_class"].items():
        print(f"AP50 class {name} is {value:.2f}")
    kind = "mask" if result["protocol"]["iou_type"] == "segm" else "box"
    print(f"AP {result['ap']:.2f}, AP75 {result['ap75']:.2f}\n{kind} AP50 is {result['ap50']:.2f}")
