"""COCO files: ids in file names, boxes of annotations, subsets by a list of images, the most confident detections."""

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from common.errors import InputError
from maskdistill.annotations import category_table

Entry = dict[str, Any]


def image_number(file_name: str) -> int:
    """The image id in a COCO file name: the number after the last underscore.

    >>> image_number("train2014/COCO_train2014_000000000030.jpg")
    30

    Raises:
        InputError: There is none.
    """
    match = re.search(r"(\d+)\.[A-Za-z]+$", file_name.strip())
    if not match:
        raise InputError(f"{file_name}: no image number before the extension, expected COCO_train2014_<number>.jpg")
    return int(match.group(1))


def train2014_name(number: int) -> str:
    """The list line of an image of COCO train2014."""
    return f"train2014/COCO_train2014_{number:012d}.jpg"


def subset(dataset: Mapping[str, Any], lines: Iterable[str]) -> dict[str, Any]:
    """The part of an annotation file about some images.

    Args:
        dataset: Content of a COCO annotation file.
        lines: Names of images, in a folder or not.

    Returns:
        Images and their annotations in the order of the list, all categories.

    Raises:
        InputError: Images that the file does not have.
    """
    images = {image["file_name"]: image for image in dataset["images"]}
    names = [line.strip().rsplit("/", 1)[-1] for line in lines if line.strip()]
    missing = [name for name in names if name not in images]
    if missing:
        shown = ", ".join(missing[:5])
        raise InputError(f"{len(missing)} of {len(names)} images are not in the annotation file (first: {shown})")
    by_image = defaultdict(list)
    for annotation in dataset["annotations"]:
        by_image[annotation["image_id"]].append(annotation)
    chosen = [images[name] for name in names]
    return {
        "images": chosen,
        "annotations": [annotation for image in chosen for annotation in by_image[image["id"]]],
        "categories": list(dataset["categories"]),
    }


def agnostic(dataset: Mapping[str, Any]) -> dict[str, Any]:
    """The same file with a single category 0."""
    return {
        "images": list(dataset["images"]),
        "annotations": [{**annotation, "category_id": 0} for annotation in dataset["annotations"]],
        "categories": category_table([""]),
    }


def by_image(detections: Iterable[Entry]) -> dict[Any, list[Entry]]:
    """Detections grouped by image, in the order in which images first appear."""
    groups: dict[Any, list[Entry]] = {}
    for detection in detections:
        groups.setdefault(detection["image_id"], []).append(detection)
    return groups


def most_confident(detections: Sequence[Entry]) -> list[Entry]:
    """Each image's detection of the highest score, the first one on a tie.

    Returns:
        Copies in order of first appearance of the images, with ``id``, the place in the whole list, and ``area``,
        width times height of the box cut to an integer.
    """
    best: dict[Any, Entry] = {}
    for index, detection in enumerate(detections):
        known = best.get(detection["image_id"])
        if known is None or detection["score"] > known["score"]:
            area = int(detection["bbox"][2] * detection["bbox"][3])
            best[detection["image_id"]] = {**detection, "id": index, "area": area}
    return list(best.values())
