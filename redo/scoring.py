"""Scores of a trained mask network on an annotated split, by the published protocol and by an honest one.

Both compare squares of the training's size. ``per_image`` chooses the better region for each image and each score
apart, as the published numbers do; ``dataset`` chooses one region for the whole split.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import get_args

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from tqdm import tqdm

from common.errors import InputError
from common.metrics.protocol import Protocol, Score
from common.options import TrainerFlags, resolve_gpus
from common.splits import Split
from redo.data import SquareImages
from redo.evaluation import hard_regions, image_scores, mean_scores, object_region, region_tables
from redo.options import DataOptions, Matching
from redo.preparation import network_images
from redo.restore import Trained
from redo.square_cache import NO_OBJECT_KNOWN


@dataclass(frozen=True)
class SplitScores:
    """What scoring a split found.

    Attributes:
        scores: With their protocols.
        per_image: One line per annotated image.
    """

    scores: list[Score]
    per_image: pd.DataFrame


def score_split(
    trained: Trained,
    split: Split,
    data: DataOptions,
    *,
    threshold: float = 0.5,
    legacy_empty_iou: bool = False,
    device: str = "cpu",
    batch_size: int = 64,
) -> SplitScores:
    """Score all annotated images of a split.

    Args:
        trained: With a mask network.
        split: Rows with ``Image`` and ``GtMask``.
        data: Mask encoding and cache.
        threshold: Where the first of two masks reaches it, a pixel belongs to the first region.
        legacy_empty_iou: Empty against empty is undefined instead of 1.
        device: Where the network runs.
        batch_size: Images at once.

    Raises:
        InputError: No ground truth, or files that cannot be read.
    """
    options = trained.options
    images = SquareImages(split, options.sizex, options.nx, data, scored=True)
    if images.objects is None:
        raise InputError(f"{split.file}: no 'GtMask' column with masks; scores need masks")
    images.build()
    images.tell()
    network = trained.network("M").to(device).eval()
    tables, names = [], []
    for start in tqdm(range(0, len(images), batch_size), desc=f"scoring {split.name}", unit="batch", disable=None):
        batch = images.__getitems__(range(start, min(start + batch_size, len(images))))
        known = (batch["object"] != NO_OBJECT_KNOWN).flatten(1).all(dim=1)
        with torch.inference_mode():
            masks = network(network_images(batch["image"].to(device))).cpu()
        regions = hard_regions(masks, threshold)
        tables.append(region_tables(regions[known], (batch["object"] == 1)[known], options.nMasks))
        rows = images.kept[batch["index"].numpy()[known.numpy()]]
        names += [(images.split.cell(row, "Sequence"), int(images.split.index[row])) for row in rows]
    counts = np.concatenate(tables)
    return SplitScores(
        named_scores(counts, options.sizex, threshold, legacy_empty_iou), _per_image(names, counts, legacy_empty_iou)
    )


def named_scores(
    counts: NDArray[np.int64], size: int, threshold: float = 0.5, legacy_empty_iou: bool = False
) -> list[Score]:
    """Accuracy and IoU under both protocols.

    Args:
        counts: Pixel tables (N, n, 2).
        size: Side of the squares.
        threshold: It.
        legacy_empty_iou: See ``redo.evaluation.image_scores``.
    """
    found = []
    notes = {
        "per_image": "published protocol: the better region for each image and score apart",
        "dataset": f"one region for all images: {object_region(counts)}",
    }
    for matching in get_args(Matching):
        rule = Protocol(
            matching="best" if matching == "per_image" else "hungarian",
            scope="image" if matching == "per_image" else "dataset",
            resolution=f"centred squares of {size} pixels, threshold {threshold}",
            averaging="images",
            oracle=matching == "per_image",
            notes=notes[matching],
        )
        for name, value in zip(("accuracy", "iou"), mean_scores(counts, matching, legacy_empty_iou), strict=True):
            found.append(Score(f"{name}_{matching}", value, rule, len(counts)))
    return found


def _per_image(names: list[tuple[str, int]], counts: NDArray[np.int64], legacy_empty_iou: bool) -> pd.DataFrame:
    scores = image_scores(counts, legacy_empty_iou)
    region = object_region(counts)
    columns: Mapping[str, NDArray[np.float64]] = {
        "accuracy_per_image": scores.accuracy.max(axis=1),
        "iou_per_image": scores.iou.max(axis=1),
        "accuracy_dataset": scores.accuracy[:, region],
        "iou_dataset": scores.iou[:, region],
    }
    keys = {"Sequence": [name for name, _ in names], "Sequence_Index": [index for _, index in names]}
    return pd.DataFrame({**keys, **columns})


def parts_of(split: Split) -> dict[str, Split]:
    """The parts of a mixed split by name; empty when it is no mix."""
    if "Part" not in split.columns:
        return {}
    names = split.column("Part")
    return {str(name): split.take(names == name) for name in dict.fromkeys(names)}


def scores_with_parts(trained: Trained, split: Split, data: DataOptions, device: str = "cpu") -> SplitScores:
    """`score_split`, and the scores of each part of a mix too."""
    found = score_split(trained, split, data, device=device)
    for name, part in parts_of(split).items():
        if "GtMask" in part.columns and part.available("GtMask").any():
            scores = score_split(trained, part, data, device=device).scores
            found.scores.extend(Score(f"{s.name}_{name}", s.value, s.protocol, s.n) for s in scores)
    return found


def device_of(gpus: int | None) -> str:
    """The device of the ``--gpus`` flag: a GPU where there is one, unless it is 0.

    Raises:
        InputError: A GPU is asked for and there is none.
    """
    arguments = resolve_gpus(gpus, TrainerFlags().arguments(), torch.cuda.device_count())
    return "cuda" if arguments["accelerator"] != "cpu" and torch.cuda.is_available() else "cpu"
