"""Panels of a scored prediction for the report: the worst, middle and best frames."""

from collections.abc import Callable, Mapping
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
from numpy.typing import NDArray

from common.files import write_image
from common.splits import Split
from common.visualize import side_by_side

WIDTH_PX = 320


def chosen_frames(scores: NDArray[np.floating], each: int = 6) -> list[int]:
    """Positions of the worst, middle and best scores, NaN left out."""
    order = [int(i) for i in np.argsort(scores, kind="stable") if not np.isnan(scores[i])]
    middle = max((len(order) - each) // 2, 0)
    return sorted({*order[:each], *order[middle : middle + each], *order[-each:]})


def write_panels(
    split: Split,
    per_frame: pd.DataFrame,
    folder: Path,
    pictures_of: Callable[[int], Mapping[str, NDArray[np.uint8]]],
    score: str = "j",
) -> None:
    """Write ``<folder>/<sequence>/<index>.jpg`` for the chosen frames, where the report looks for them.

    Args:
        split: The scored split.
        per_frame: Table of the evaluation, a row per row of the split.
        folder: ``overlays`` of the run directory.
        pictures_of: Gives the pictures (H, W, 3) of a row by caption, e.g. ``input``, ``prediction``, ``ground_truth``.
        score: Column of the table that ranks the frames.
    """
    for row in chosen_frames(per_frame[score].to_numpy(dtype=np.float64)):
        small = {name: _at_width(picture) for name, picture in pictures_of(row).items()}
        name = f"{int(split.index[row]):05d}.jpg"
        write_image(folder / str(split.column("Sequence")[row]) / name, side_by_side(**small))


def _at_width(picture: NDArray[np.uint8]) -> NDArray[np.uint8]:
    height = round(WIDTH_PX * picture.shape[0] / picture.shape[1])
    shrinks = picture.shape[1] > WIDTH_PX
    method = cv2.INTER_AREA if shrinks else cv2.INTER_NEAREST
    return np.asarray(cv2.resize(picture, (WIDTH_PX, height), interpolation=method), np.uint8)
