"""Stage D: confident detections of an image to one label map."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from maskdistill import rle
from maskdistill.boxes import fill_box
from maskdistill.coco import by_image

Mask = NDArray[np.bool_]
LabelMap = NDArray[np.uint8]
MaskType = Literal["polygon", "binary_mask", "bbx", "grabcut"]
Overlap = Literal["legacy", "skip", "keep_first", "overwrite"]

GRABCUT_ITERATIONS = 5


def keep_confident(detections: Sequence[Mapping[str, Any]], threshold: float) -> list[dict[str, Any]]:
    """The detections that make the label maps, per image in file order.

    If the first one is below the threshold, only it is kept; otherwise all up to the first one below.

    Args:
        detections: COCO results.
        threshold: On the score; 0.9 in the published run, 1.0 keeps the top detection alone.

    Returns:
        Entries with new ids from 0, ``iscrowd`` 0 and ``area``, width times height of the box.
    """
    kept: list[dict[str, Any]] = []
    for group in by_image([dict(detection) for detection in detections]).values():
        confident = next((i for i, detection in enumerate(group) if detection["score"] < threshold), len(group))
        for detection in group[: max(confident, 1)]:
            area = detection["bbox"][2] * detection["bbox"][3]
            kept.append({**detection, "id": len(kept), "iscrowd": 0, "area": area})
    return kept


def label_map(
    detections: Sequence[Mapping[str, Any]],
    size: tuple[int, int],
    *,
    mask_type: MaskType = "polygon",
    overlap: Overlap = "keep_first",
    image: NDArray[np.uint8] | None = None,
) -> LabelMap:
    """The label map (H, W) of one image's kept detections: 1 + category id, 0 where nothing is.

    Args:
        detections: Of this image; a result's ``segmentation`` is its mask.
        size: (H, W).
        mask_type: ``polygon`` and ``binary_mask`` paint the segmentation, ``bbx`` the box, ``grabcut`` the foreground
            that GrabCut finds in the box.
        overlap: ``keep_first`` paints pixels that are still free, best score first. ``skip`` leaves out a detection
            that touches a painted one, ``overwrite`` paints over it, both in the given order. ``legacy`` is the
            published rule: see :func:`painted_in_legacy_rows`; otherwise it overwrites.
        image: BGR (H, W, 3), for ``grabcut``.
    """
    labels = np.zeros(size, dtype=np.uint8)
    if overlap == "keep_first":
        detections = sorted(detections, key=lambda detection: -detection["score"])
    for detection in detections:
        segmentation = rle.decode(detection["segmentation"], size)
        mask = _painted_mask(detection, segmentation, size, mask_type, image)
        if overlap == "legacy" and painted_in_legacy_rows(labels, segmentation):
            continue
        if overlap == "skip" and labels[mask].any():
            continue
        if overlap == "keep_first":
            mask = mask & (labels == 0)
        labels[mask] = 1 + detection["category_id"]
    return labels


def painted_in_legacy_rows(labels: LabelMap, segmentation: Mask) -> bool:
    """Whether the published overlap test, made with an index array for a boolean one, drops a detection.

    It looks at whole image rows: row 0 when the segmentation has an unset pixel, row 1 when it has a set one. What the
    detection itself covers plays no part.
    """
    unset, present = not segmentation.all(), bool(segmentation.any())
    return bool((unset and labels[:1].any()) or (present and labels[1:2].any()))


def _painted_mask(
    detection: Mapping[str, Any],
    segmentation: Mask,
    size: tuple[int, int],
    mask_type: MaskType,
    image: NDArray[np.uint8] | None,
) -> Mask:
    if mask_type == "bbx":
        return fill_box(detection["bbox"], size)
    if mask_type == "grabcut":
        if image is None:
            raise ValueError("grabcut needs the image")
        return grabcut(image, detection["bbox"])
    return segmentation


def grabcut(image: NDArray[np.uint8], box: Sequence[float]) -> Mask:
    """The foreground (H, W) that GrabCut finds in a box [x, y, w, h] of a BGR image; empty where OpenCV gives up."""
    marks = np.zeros(image.shape[:2], dtype=np.uint8)
    models = np.zeros((2, 1, 65), dtype=np.float64)
    rectangle = [int(value + 0.5) for value in box]
    try:
        cv2.grabCut(image, marks, rectangle, models[0], models[1], GRABCUT_ITERATIONS, cv2.GC_INIT_WITH_RECT)
    except cv2.error:  # a box without any background around it, or of no size
        return np.zeros(image.shape[:2], dtype=np.bool_)
    return np.isin(marks, (cv2.GC_FGD, cv2.GC_PR_FGD))
