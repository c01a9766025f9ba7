"""Pictures of a scored prediction for the report: the worst, middle and best frames, and strips of clips.

overlays/<sequence>/<index>.jpg              a panel: pictures under their captions, side by side
layers/<sequence>/<index>.jpg                the input, and beside it the label maps to lay over it:
layers/<sequence>/<index>.prediction.png     the prediction
layers/<sequence>/<index>.ground_truth.png   the ground truth, where there is one
strips/<sequence>.jpg                        a clip: frames at even distances, the prediction over them
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
from numpy.typing import NDArray

from common.errors import InputError
from common.files import MaskEncoding, read_image, read_labels, read_mask, write_image, write_labels
from common.metrics.frames import resize_nearest
from common.runs import TRUTHS
from common.splits import Split
from common.visualize import overlay, side_by_side

WIDTH_PX = 320
LAYER_WIDTH_PX = 640
STRIP_FRAMES, STRIP_WIDTH_PX = 8, 160


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
    """Write panels, layers and strips of the chosen frames, where the report looks for them.

    Args:
        split: The scored split; rows with ``Image`` and ``Pred`` get layers and strips.
        per_frame: Table of the evaluation, a row per row of the split.
        folder: ``overlays`` of the run directory; layers and strips go beside it.
        pictures_of: Gives the pictures (H, W, 3) of a row by caption, e.g. ``input``, ``prediction``, ``ground_truth``.
        score: Column of the table that ranks the frames.
    """
    chosen = chosen_frames(per_frame[score].to_numpy(dtype=np.float64))
    for row in chosen:
        small = {name: at_width(picture, WIDTH_PX) for name, picture in pictures_of(row).items()}
        write_image(folder / f"{frame_name(split, row)}.jpg", side_by_side(**small))
    if {"Image", "Pred"} <= set(split.columns):
        known = split.available("Image") & split.available("Pred")
        for row in chosen:
            if known[row]:
                write_layers(split, row, folder.with_name("layers"))
        write_strips(split, chosen, known, folder.with_name("strips"))


def frame_name(split: Split, row: int) -> str:
    """``<sequence>/<index>`` of a row, the name of its pictures."""
    return f"{split.cell(row, 'Sequence')}/{int(split.index[row]):05d}"


def write_layers(split: Split, row: int, folder: Path) -> None:
    """Write the picture of a row and its label maps, at most ``LAYER_WIDTH_PX`` wide."""
    image = read_image(split.path(row, "Image"))
    if image.shape[1] > LAYER_WIDTH_PX:
        image = at_width(image, LAYER_WIDTH_PX)
    name = frame_name(split, row)
    maps = {"prediction": read_labels(split.path(row, "Pred")), "ground_truth": truth_of(split, row)}
    for layer, labels in maps.items():
        if labels is not None:
            write_labels(folder / f"{name}.{layer}.png", resize_nearest(labels, image.shape[:2]))
    write_image(folder / f"{name}.jpg", image)


def truth_of(split: Split, row: int, mask_encoding: MaskEncoding = "auto") -> NDArray[np.int64] | None:
    """The ground truth of a row as labels, void as 0; None where there is none or its values have no one meaning."""
    column = next((name for name in TRUTHS if name in split.columns and split.available(name)[row]), None)
    if column is None:
        return None
    try:
        if column == "GtMask":
            mask = read_mask(split.path(row, column), mask_encoding)
            return np.where(mask.void, 0, mask.labels).astype(np.int64)
        labels = read_labels(split.path(row, column))
        return np.where(labels == 255, 0, labels)
    except InputError:  # the scores were computed with other options; their pictures are no place to stop
        return None


def write_strips(split: Split, chosen: Sequence[int], known: NDArray[np.bool_], folder: Path, most: int = 9) -> None:
    """Write a strip of each clip that a chosen frame is of, of ``most`` clips at most."""
    wanted = {split.cell(row, "Sequence") for row in chosen}
    clips = [(name, [int(row) for row in rows if known[row]]) for name, rows in split.sequences().items()]
    clips = [(name, rows) for name, rows in clips if name in wanted and len(rows) >= 3]
    for name, rows in clips[:most]:
        shown = np.unique(np.linspace(0, len(rows) - 1, STRIP_FRAMES).round().astype(int))
        frames = []
        for row in (rows[place] for place in shown):
            image = at_width(read_image(split.path(row, "Image")), STRIP_WIDTH_PX)
            labels = resize_nearest(read_labels(split.path(row, "Pred")), image.shape[:2])
            frames.append(overlay(image, labels % 256, palette=None))
        same = [frame for frame in frames if frame.shape == frames[0].shape]
        write_image(folder / f"{name}.jpg", np.concatenate(same, axis=1))


def at_width(picture: NDArray[np.uint8], width: int) -> NDArray[np.uint8]:
    """The picture at another width in px."""
    height = max(1, round(width * picture.shape[0] / picture.shape[1]))
    method = cv2.INTER_AREA if picture.shape[1] > width else cv2.INTER_NEAREST
    return np.asarray(cv2.resize(picture, (width, height), interpolation=method), np.uint8)
