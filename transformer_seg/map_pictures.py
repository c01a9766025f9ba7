"""The pictures of one prediction in the report: picture, segments, truth."""

import numpy as np
from numpy.typing import NDArray

from common.files import read_image, read_labels
from common.splits import Split
from common.visualize import colourise_labels, overlay


def segment_pictures(split: Split, row: int, column: str = "GtSemantic") -> dict[str, NDArray[np.uint8]]:
    """The pictures of a row by caption.

    Args:
        split: Prediction split with ``Image`` and ``Pred``.
        row: Its position.
        column: Ground truth, left out where there is none.
    """
    image, found = read_image(split.path(row, "Image")), read_labels(split.path(row, "Pred"))
    panels = {"input": image, "segments": colourise_labels(found), "overlay": overlay(image, found)}
    if column in split.columns and split.available(column)[row]:
        panels["ground_truth"] = colourise_labels(read_labels(split.path(row, column)))
    return panels
