"""The published evaluation of a trained model: error, IoU, ARI and covering per image, means over all images.

Every image counts once. Images without any object count in the reconstruction error and in the scores of all pixels,
not in the scores of objects only; ``--legacy_eval`` gives the published code's value for batches without objects.
"""

from dataclasses import fields
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch.utils.data import DataLoader
from tqdm import tqdm

from ast_seg.foreground_module import SlotLearner
from ast_seg.frames import VOID, FrameFiles
from ast_seg.options import ApplyOptions, EvaluationOptions
from ast_seg.restore import restore_slots
from ast_seg.scores import ImageScores, active_slots, image_scores, published_batch
from ast_seg.segmentation import frames_for, named_split
from common.errors import InputError
from common.messages import warn
from common.metrics.protocol import Protocol, Score, write_scores
from common.splits import Split
from common.tables import write_table

PROTOCOLS = {
    "mse": ("mse_image", Protocol(scope="image", averaging="images", notes="summed over channels and pixels")),
    "miou": ("miou_image_hungarian", Protocol(matching="hungarian", scope="image", averaging="images")),
    "ari": ("ari_image", Protocol(scope="image", averaging="images")),
    "ari_fg": ("ari_fg_image", Protocol(scope="image", background="left_out", averaging="images")),
    "msc": ("msc_image", Protocol(matching="best", scope="image", averaging="images")),
    "msc_fg": ("msc_fg_image", Protocol(matching="best", scope="image", background="left_out", averaging="images")),
    "scaled_sc": ("scaled_sc_image", Protocol(matching="best", scope="image", averaging="images")),
    "scaled_sc_fg": (
        "scaled_sc_fg_image",
        Protocol(matching="best", scope="image", background="left_out", averaging="images"),
    ),
}
"""Field of `ImageScores` -> name and protocol of its mean."""


def evaluate_model(options: ApplyOptions, evaluation: EvaluationOptions, out: Path) -> tuple[list[Score], pd.DataFrame]:
    """Score a model on the images that the options name; writes ``scores.json`` and ``per_frame.csv``.

    Returns:
        The scores and the table of images.

    Raises:
        InputError: Images, checkpoint or options that cannot be used; no label map.
    """
    learner = restore_slots(options.object_model_checkpoint_path)
    split = named_split(options, out)
    frames = frames_for(learner, split, options)
    if not frames.has_targets:
        raise InputError(f"{split.file}: has no label maps to score against (column GtInstance or GtMask)")
    table, legacy = image_table(learner, frames, split, options, evaluation)
    size = f"{frames.reading.height}x{frames.reading.width}, the model's working size"
    scores = [_legacy_score(name, values, size) for name, values in legacy.items()]
    scores = scores or [_score(name, table, size) for name in PROTOCOLS]
    scores.append(
        Score("active_slots_image", float(table["active_slots"].mean()), Protocol(averaging="images"), len(table))
    )
    write_scores(out / "scores.json", scores)
    write_table(table, out / "per_frame.csv")
    return scores, table


def image_table(
    learner: SlotLearner, frames: FrameFiles, split: Split, options: ApplyOptions, evaluation: EvaluationOptions
) -> tuple[pd.DataFrame, dict[str, list[float]]]:
    """A line per image, and with ``--legacy_eval`` the published values, batch by batch."""
    device = torch.device("cuda" if torch.cuda.is_available() and options.gpus != 0 else "cpu")
    learner = learner.to(device).eval()
    parts, active = [], []
    K, beyond = learner.options.max_set_size, 0
    legacy: dict[str, list[float]] = {}
    loader = DataLoader(frames, batch_size=options.batch_size, num_workers=options.num_workers)
    for batch in tqdm(loader, desc="scoring", unit="batch", disable=None):
        there = {name: batch[name].to(device) for name in ("image", "background", "target") if name in batch}
        with torch.inference_mode():
            rendering = learner.predict_step(there, 0).rendering
        images, targets = there["image"].float() / 255, there["target"].long()
        beyond += int(((targets > K) & (targets != VOID)).flatten(1).any(1).sum())
        known = (targets != VOID).flatten(1).any(1).cpu().numpy()
        scored = image_scores(images, rendering.reconstruction, rendering.weights, targets)
        parts.append(_columns(scored, known))
        active += [active_slots(rendering.weights[:, item, None])[1] for item in range(len(images))]
        if evaluation.legacy_eval:
            for name, values in published_batch(scored).items():
                legacy.setdefault(name, []).extend(np.atleast_1d(values).tolist())
    if beyond:
        warn(f"{split.file}: {beyond} images have labels above {K}, more than there are slots; the scores count them")
    table = pd.concat(parts, ignore_index=True)
    table.insert(0, "Sequence_Index", split.index)
    table.insert(0, "Sequence", split.column("Sequence"))
    table["active_slots"] = active
    return table, legacy


def _columns(scored: ImageScores, known: np.ndarray) -> pd.DataFrame:
    """Scores per image under their names; empty where an image has no label map, or no object for ``*_fg``."""
    columns = {}
    for item in fields(scored):
        if item.name in PROTOCOLS:
            counted = known & scored.has_foreground if item.name.endswith("_fg") else known
            counted = np.ones_like(known) if item.name == "mse" else counted
            columns[PROTOCOLS[item.name][0]] = np.where(counted, getattr(scored, item.name), np.nan)
    return pd.DataFrame(columns)[["msc_fg_image", *(n for n in columns if n != "msc_fg_image")]]


def _score(name: str, table: pd.DataFrame, size: str) -> Score:
    title, protocol = PROTOCOLS[name]
    values = table[title].dropna()
    value = float(values.mean()) if len(values) else float("nan")
    return Score(title, value, Protocol(**{**protocol.__dict__, "resolution": size}), len(values))


def _legacy_score(name: str, values: list[float], size: str) -> Score:
    title, protocol = PROTOCOLS[name]
    notes = "published rule for batches without objects"
    return Score(
        title,
        float(np.mean(values)),
        Protocol(**{**protocol.__dict__, "resolution": size, "notes": notes}),
        len(values),
    )
