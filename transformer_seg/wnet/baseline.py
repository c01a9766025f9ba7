"""The baseline of WNet: k-means on colour and position, with as many segments per picture as WNet found there."""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from common.files import read_image, read_labels, write_labels
from common.splits import Split, relative_cell, write_split
from transformer_seg.images import Picture

SAMPLES = 10_000  # pixels that the centres are fitted to


def kmeans_segments(picture: Picture, count: int, position_weight: float = 1.0, seed: int = 0) -> NDArray[np.int64]:
    """Labels (H, W) of k-means on colour in [0, 1] and position in units of the longer side.

    Args:
        picture: (H, W, 3) uint8.
        count: Segments.
        position_weight: Weight of the position beside the colour.
        seed: Of the initialisation.
    """
    from sklearn.cluster import KMeans

    H, W = picture.shape[:2]
    y, x = np.mgrid[:H, :W] * (position_weight / max(H, W))
    features = np.concatenate([picture / 255, y[..., None], x[..., None]], axis=2).reshape(H * W, 5).astype(np.float32)
    some = np.random.default_rng(seed).permutation(H * W)[:SAMPLES]
    model = KMeans(min(count, len(some)), n_init=3, random_state=seed).fit(features[some])
    return model.predict(features).reshape(H, W).astype(np.int64)


def write_kmeans(predictions: Split, out: Path) -> Path:
    """Segment the pictures of a prediction split by k-means; returns the split's file, with ``Pred`` of k-means."""
    rows: list[dict[str, Any]] = []
    for row in tqdm(range(len(predictions)), desc="k-means", unit="image", disable=None):
        cells = {name: predictions.cell(row, name) for name in predictions.columns if name != "Ucm"}
        file = out / "Pred" / cells["Sequence"] / f"{int(predictions.index[row]):05d}.png"
        if not file.exists():
            count = len(np.unique(read_labels(predictions.path(row, "Pred"))))
            write_labels(file, kmeans_segments(read_image(predictions.path(row, "Image")), count))
        rows.append({**cells, "Pred": relative_cell(file, predictions.base_dir)})
    return write_split(out / f"{predictions.name}.csv", rows).file
