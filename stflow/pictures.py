"""The pictures of one frame in the report: picture, flow, segments, prediction, truth."""

import numpy as np
from numpy.typing import NDArray

from common.files import MaskEncoding, read_image, read_labels, read_mask
from common.flow_files import read_flow
from common.splits import Split
from common.visualize import colourise_labels, flow_to_colour, overlay


def frame_pictures(split: Split, row: int, mask_encoding: MaskEncoding) -> dict[str, NDArray[np.uint8]]:
    """The pictures of a row by caption.

    Args:
        split: Prediction split with ``Image``, ``Flow``, ``Segments``, ``Pred`` and ``GtMask``.
        row: Its position.
        mask_encoding: How the masks are read.
    """
    image = read_image(split.path(row, "Image"))
    truth = read_mask(split.path(row, "GtMask"), mask_encoding).foreground
    panels = {"input": image}
    if split.available("Flow")[row]:
        panels["flow"] = flow_to_colour(read_flow(split.path(row, "Flow")))
    panels["segments"] = colourise_labels(read_labels(split.path(row, "Segments")))
    panels["prediction"] = overlay(image, read_labels(split.path(row, "Pred")))
    panels["ground_truth"] = overlay(image, truth.astype(np.int64))
    return panels
