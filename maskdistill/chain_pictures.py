"""One overview picture per stage, in ``samples/``, where the report looks."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from common.files import read_image, read_labels, write_image
from common.splits import Split, read_split
from common.visualize import colourise_labels, image_grid, overlay
from maskdistill import rle
from maskdistill.chain_data import ChainData
from maskdistill.coco import by_image

NUM_SHOWN, COLUMNS = 8, 4
SHOWN_DETECTIONS = 0.3  # scores from here on are drawn

Labels = NDArray[np.int64]


def draw_overviews(
    out: Path,
    data: ChainData,
    masks: Path,
    clusters: Path,
    detections: Path,
    label_maps: Path,
    folders: Sequence[str],
) -> None:
    """Write ``samples/A_masks.png`` and so on: the first training images through A to D, validation images after."""
    content = {name: json.loads(file.read_text()) for name, file in (("A", masks), ("B", clusters), ("C", detections))}
    per_image = {
        "A_masks": by_image([{**entry, "category_id": 0} for entry in content["A"]["annotations"]]),
        "B_clusters": by_image(content["B"]["annotations"]),
        "C_detections": by_image([entry for entry in content["C"] if entry["score"] >= SHOWN_DETECTIONS]),
    }
    for name, entries in per_image.items():
        _draw(out, name, data.train, lambda row, size, found=entries: _painted(found.get(row, []), size))  # type: ignore[misc]
    painted = read_split(label_maps, base_dir=label_maps.parent)
    files = {painted.path(row, "Image").resolve(): painted.path(row, "Pred") for row in range(len(painted))}
    _draw(
        out,
        "D_label_maps",
        data.train,
        lambda row, size: read_labels(files[data.train.path(row, "Image").resolve()]),
    )
    shown = [(name, out / name / "predictions" / f"{data.val.name}.csv") for name in folders]
    shown.append(("F_final_crf", out / "F_final" / "predictions_crf" / f"{data.val.name}.csv"))
    shown.append(("linear_probe", out / "linear" / "predictions" / f"{data.val.name}.csv"))
    for name, file in shown:
        if file.exists():
            split = read_split(file, base_dir=data.base_dir)
            _draw(out, name, split, lambda row, size, split=split: read_labels(split.path(row, "Pred")))  # type: ignore[misc]


def _painted(entries: Sequence[dict[str, Any]], size: tuple[int, int]) -> Labels:
    """Entries (best first) painted as 1 + category."""
    labels = np.zeros(size, dtype=np.int64)
    for entry in sorted(entries, key=lambda entry: -entry.get("score", 1.0)):
        labels[rle.decode(entry["segmentation"], size) & (labels == 0)] = 1 + entry["category_id"]
    return labels


def _draw(out: Path, name: str, split: Split, labels_of: Callable[[int, tuple[int, int]], Labels]) -> None:
    pictures = []
    for row in range(min(NUM_SHOWN, len(split))):
        image = read_image(split.path(row, "Image"), upright=False)
        labels = labels_of(row, (image.shape[0], image.shape[1]))
        rows = [overlay(image, np.where(labels == 255, 0, labels))]
        if "GtSemantic" in split.columns and split.available("GtSemantic")[row]:
            rows.append(colourise_labels(read_labels(split.path(row, "GtSemantic"))))
        pictures.append(image_grid(rows, columns=1))
    write_image(out / "samples" / f"{name}.png", image_grid(pictures, columns=COLUMNS))
