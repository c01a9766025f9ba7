"""Panels of a scored prediction for the report: the worst, middle and best frames."""

from pathlib import Path

import cv2
import numpy as np
import pandas as pd
from numpy.typing import NDArray

from common.files import read_image, read_labels, read_mask, write_image
from common.flow_files import read_flow
from common.splits import Split
from common.visualize import colourise_labels, flow_to_colour, overlay, side_by_side

WIDTH_PX = 320


def chosen_frames(scores: NDArray[np.floating], each: int = 6) -> list[int]:
    """Positions of the worst, middle and best scores, NaN left out."""
    order = [int(i) for i in np.argsort(scores, kind="stable") if not np.isnan(scores[i])]
    middle = max((len(order) - each) // 2, 0)
    return sorted({*order[:each], *order[middle : middle + each], *order[-each:]})


def write_panels(split: Split, per_frame: pd.DataFrame, folder: Path, mask_encoding: str) -> None:
    """Write ``<folder>/<sequence>/<index>.jpg`` for the chosen frames: picture, flow, segments, prediction, truth.

    Args:
        split: Prediction split with ``Image``, ``Flow``, ``Segments``, ``Pred`` and ``GtMask``.
        per_frame: Table of the evaluation, a row per row of the split, with the score ``j``.
        folder: Where the report looks for them.
        mask_encoding: How the masks were read.
    """
    for row in chosen_frames(per_frame["j"].to_numpy(dtype=np.float64)):
        image = read_image(split.path(row, "Image"))
        truth = read_mask(split.path(row, "GtMask"), mask_encoding).foreground  # type: ignore[arg-type]
        panels = {"input": image}
        if split.available("Flow")[row]:
            panels["flow"] = flow_to_colour(read_flow(split.path(row, "Flow")))
        panels["segments"] = colourise_labels(read_labels(split.path(row, "Segments")))
        panels["prediction"] = overlay(image, read_labels(split.path(row, "Pred")))
        panels["ground_truth"] = overlay(image, truth.astype(np.int64))
        height = round(WIDTH_PX * image.shape[0] / image.shape[1])
        small = {
            name: np.asarray(cv2.resize(panel, (WIDTH_PX, height), interpolation=cv2.INTER_AREA), np.uint8)
            for name, panel in panels.items()
        }
        name = f"{int(split.index[row]):05d}.jpg"
        write_image(folder / str(split.column("Sequence")[row]) / name, side_by_side(**small))
