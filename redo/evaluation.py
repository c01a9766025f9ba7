"""Scores of masks against ground truth, from one small table of pixel counts per image.

The object is one region against all others. Which one is not known to the method, so a protocol decides: ``per_image``
is that of the published numbers, the better region for each image and for each score apart, which no user without
ground truth could pick; ``dataset`` takes one region for a whole split.
"""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from common.errors import InputError
from common.metrics.confusion import Counts, Scores
from common.metrics.jaccard import jaccard
from common.metrics.meters import contingency_batch
from redo.options import Matching


@dataclass(frozen=True)
class ImageScores:
    """One number per image and candidate region.

    Attributes:
        accuracy: Share of pixels that the region, taken as the object, gets right (N, n).
        iou: IoU of the region with the object (N, n).
    """

    accuracy: Scores
    iou: Scores


def hard_regions(masks: Tensor, threshold: float = 0.5) -> Tensor:
    """Region of each pixel, int64 (B, S, S), of soft masks (B, n, S, S).

    With two regions the first is where its mask reaches the threshold; with more the largest mask wins.
    """
    if masks.shape[1] == 2:
        return (masks[:, 0] < threshold).long()
    return masks.argmax(dim=1)


def region_tables(regions: Tensor, objects: Tensor, num_regions: int) -> Counts:
    """Pixels of every region inside and outside the object: int64 (B, n, 2), the object in column 1.

    Args:
        regions: int64 (B, S, S), see `hard_regions`.
        objects: bool (B, S, S), True on the object.
        num_regions: n.

    Raises:
        InputError: The ground truth has more than two classes or another shape.
    """
    if objects.shape != regions.shape or objects.dtype != torch.bool:
        raise InputError(
            f"ground truth {objects.dtype} {tuple(objects.shape)} for regions {tuple(regions.shape)}: "
            "scores need one boolean object mask per image"
        )
    tables = contingency_batch(regions, objects.long(), num_predicted=num_regions, num_classes=2, ignore_index=None)
    return tables.cpu().numpy()


def image_scores(tables: Counts, legacy_empty_iou: bool = False) -> ImageScores:
    """Scores of every image (N, n, 2) for every region that could be the object.

    Args:
        tables: See `region_tables`.
        legacy_empty_iou: The IoU of an empty region with an empty object is NaN, as in the original, instead of 1.
    """
    outside, inside = tables[..., 0], tables[..., 1]
    pixels = tables.sum((1, 2))[:, None]
    right = inside + outside.sum(1, keepdims=True) - outside
    union = outside + inside.sum(1, keepdims=True)
    iou = jaccard(inside, union)
    if legacy_empty_iou:
        iou = np.where(union == 0, np.nan, iou)
    return ImageScores(right / pixels, iou)


def object_region(tables: Counts) -> int:
    """The one region that best is the object on all images together (one-to-one matching on pixels).

    With two classes the matching has a closed form: the object's pixels in the region, and the background's in the best
    of the others. On equal pixels the higher mean IoU decides, so that the numbering of the regions never does.
    """
    pixels = tables.sum(0)  # (n, 2)
    others = np.where(np.eye(len(pixels), dtype=bool), -1, pixels[:, 0]).max(axis=1)
    total = pixels[:, 1] + others
    best = np.flatnonzero(total == total.max())
    return int(best[np.argmax(image_scores(tables).iou[:, best].mean(axis=0))])


def mean_scores(
    tables: Counts, matching: Matching = "per_image", legacy_empty_iou: bool = False
) -> tuple[float, float]:
    """Mean accuracy and object IoU over images.

    Args:
        tables: Of all images (N, n, 2), at least one.
        matching: Who says which region is the object; see the top of this file.
        legacy_empty_iou: See `image_scores`; one NaN makes the mean NaN.
    """
    scores = image_scores(tables, legacy_empty_iou)
    accuracy, iou = _matched(scores, tables, matching)
    return float(accuracy.mean()), float(iou.mean())


def _matched(
    scores: ImageScores, tables: Counts, matching: Matching
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    if matching == "per_image":
        return scores.accuracy.max(axis=1), scores.iou.max(axis=1)
    region = object_region(tables)
    return scores.accuracy[:, region], scores.iou[:, region]
