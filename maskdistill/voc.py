"""PASCAL VOC: class names, box annotations, object maps as COCO entries, image lists."""

import xml.etree.ElementTree as ElementTree
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from common.errors import InputError
from maskdistill.annotations import annotation_entry, category_table

CLASSES = (
    *("aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow"),
    *("diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor"),
)
"""The object classes; a class's place is its id in the detection stages, place + 1 its label in semantic maps."""

BACKGROUND, VOID = 0, 255


@dataclass(frozen=True)
class Boxes:
    """The objects of one image."""

    boxes: NDArray[np.float64]
    """(M, 4) x0, y0, x1, y1 with pixels counted from 0."""
    classes: NDArray[np.int64]
    """(M,) ids 0..19."""
    difficult: NDArray[np.int64]
    """(M,) 1 where the annotators marked the object as hard to recognise."""
    file_name: str
    """Name of the image file as the annotation gives it."""


def parse_boxes(xml: str, path: str = "annotation") -> Boxes:
    """The objects of a VOC annotation; boxes are xmin - 1, ymin - 1, xmax, ymax.

    Args:
        xml: Text of the annotation file.
        path: Its name, for messages.

    Raises:
        InputError: No readable annotation, or a class that VOC does not have.
    """
    try:
        root = ElementTree.fromstring(xml)
        objects = [_parse_object(item) for item in root.findall("object")]
    except (ElementTree.ParseError, TypeError, ValueError) as error:
        raise InputError(f"{path}: not a VOC annotation ({error}); use the files of VOCdevkit/*/Annotations") from error
    unknown = [name for _, name, _ in objects if name not in CLASSES]
    if unknown:
        raise InputError(f"{path}: unknown class '{unknown[0]}'; VOC has {', '.join(CLASSES)}")
    return Boxes(
        boxes=np.array([box for box, _, _ in objects], dtype=np.float64).reshape(-1, 4),
        classes=np.array([CLASSES.index(name) for _, name, _ in objects], dtype=np.int64),
        difficult=np.array([difficult for _, _, difficult in objects], dtype=np.int64),
        file_name=root.findtext("filename", ""),
    )


def _parse_object(item: ElementTree.Element) -> tuple[list[float], str, int]:
    box = item.find("bndbox")
    if box is None:
        raise ValueError("an object has no bndbox")
    x0, y0, x1, y1 = (float(box.findtext(side, "missing")) for side in ("xmin", "ymin", "xmax", "ymax"))
    return [x0 - 1, y0 - 1, x1, y1], item.findtext("name", ""), int(item.findtext("difficult", "0"))


def object_entries(
    class_map: NDArray[Any],
    object_map: NDArray[Any],
    image_id: int | str,
    first_id: int,
    *,
    agnostic: bool = False,
    segmentation_format: str = "polygon",
) -> list[dict[str, Any]]:
    """COCO entries of the objects of one image of the segmentation set.

    Args:
        class_map: (H, W) class labels 0..20, 255 for void.
        object_map: (H, W) object numbers from 1, 255 for void.
        image_id: Id of the image in the entries.
        first_id: Id of the first entry; the others follow.
        agnostic: All objects are of category 0.
        segmentation_format: ``polygon`` or ``rle``.

    Returns:
        One entry per object in rising number; an object that leaves no polygon has none. The category is the class
        that most of the object's pixels have, less 1.

    Raises:
        InputError: The two maps differ in size.
    """
    if class_map.shape != object_map.shape:
        raise InputError(f"{image_id}: class map {class_map.shape} and object map {object_map.shape} differ in size")
    entries: list[dict[str, Any]] = []
    for number in np.unique(object_map):
        if number in (BACKGROUND, VOID):
            continue
        mask = object_map == number
        category = 0 if agnostic else int(np.bincount(class_map[mask]).argmax()) - 1
        entry = annotation_entry(
            mask,
            annotation_id=first_id + len(entries),
            image_id=image_id,
            category_id=category,
            segmentation_format=segmentation_format,
        )
        if entry is not None:
            entries.append(entry)
    return entries


def categories(legacy: bool = False) -> list[dict[str, Any]]:
    """The category list of the class-aware files: the 20 classes, with ``legacy`` background as number 20 too."""
    return category_table((*CLASSES, "background") if legacy else CLASSES)


def read_list(lines: Iterable[str]) -> list[str]:
    """Image ids of a list file: the first word of each line that is not empty."""
    return [line.split()[0] for line in lines if line.strip()]


def trainaug(voc_train: Sequence[str], sbd: Sequence[str], voc_val: Sequence[str]) -> list[str]:
    """The ids of the augmented training set: VOC train and all of SBD without VOC val, sorted (10582 officially).

    Args:
        voc_train: Segmentation train of VOC 2012 (1464).
        sbd: Train and val of SBD.
        voc_val: Segmentation val of VOC 2012 (1449).
    """
    return sorted({*voc_train, *sbd} - set(voc_val))
