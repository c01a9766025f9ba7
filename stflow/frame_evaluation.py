"""The original's evaluation: one score per frame and their mean, with masks and figures.

Files of a session, ``<pred_base_dir>/<model_id>/<session>/eval_%m%d%y%H%M%S/``:

    eval_*.csv           ImagePath, PredPath, Score, StatMasks (pixel counts of every label)
    results_eval_*.csv   the split's columns, and those of eval_*.csv where a frame was scored
    eval_*.json          the arguments, missing_rows, total_rows, mean_score, and the protocol of that number
    scores.json          the score with its protocol, as every evaluation of this project writes it
    predictions.csv      the split with a Pred column of the masks, for ``common/evaluate.py``
    BinaryMask/<ImagePath>.png, and <ImagePath>.jpg of every tenth frame
"""

import csv
import json
import math
import os
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from tqdm import tqdm

from common.errors import InputError, RunFailed
from common.files import Mask, atomic_path, read_array, read_mask, write_image
from common.flow_files import read_flow
from common.messages import warn
from common.metrics.jaccard import binary_jaccard, bounding_box_jaccard
from common.metrics.protocol import Protocol, Score, write_scores
from common.splits import Split, write_split
from common.visualize import colourise_labels, flow_to_colour, image_grid
from stflow.foreground import (
    ORACLES,
    RULES,
    binarise_argmax,
    dump_stat_masks,
    label_counts,
    mask_of,
    parse_stat_masks,
    resize_layers,
    stat_masks,
)
from stflow.named_inputs import read_splits
from stflow.options import FrameEvaluationOptions
from stflow.sequence_files import output_file, stem_of

Cells = dict[str, Any]
SELECTED = "binary_eval"  # the ending of masks that ground truth chose


@dataclass(frozen=True)
class ScoredFrame:
    """One frame against its ground truth.

    Attributes:
        mask: Predicted foreground (H, W).
        score: IoU, or IoU of boxes.
        statistics: Pixel counts of every label.
        labels: Most probable layer (H, W).
        layers: Probabilities (L, H, W) at the ground truth's size.
    """

    mask: NDArray[np.bool_]
    score: float
    statistics: Mapping[str, int]
    labels: NDArray[np.int64]
    layers: Tensor


def score_layers(layers: NDArray[Any], gt: Mask, binary_method: str, scoring_method: str) -> ScoredFrame:
    """Resize layers to the ground truth, make one mask of them and score it.

    Args:
        layers: Probabilities (L, I, J), or (L, T, I, J) of a window, whose centre is taken.
        gt: Ground truth (H, W).
        binary_method: binarise_argmax or a key of `stflow.foreground.RULES`.
        scoring_method: db_eval_iou or bbox_jacc.

    Raises:
        InputError: layers of another shape, or that do not sum to one.
    """
    if layers.ndim == 4:
        layers = layers[:, layers.shape[1] // 2]
    if layers.ndim != 3 or layers.dtype.kind != "f":
        raise InputError(f"holds {layers.dtype} {layers.shape}, not probabilities (L, rows, columns)")
    pred = torch.from_numpy(layers.astype(np.float32) if layers.dtype == np.float16 else layers)
    pred = resize_layers(pred[None], (gt.labels.shape[0], gt.labels.shape[1]))
    if not torch.allclose(pred.sum(1), torch.ones((), dtype=pred.dtype), atol=5e-3):
        raise InputError(f"layers sum to {float(pred.sum(1).min()):.3f} .. {float(pred.sum(1).max()):.3f}, not to 1")
    labels, target = pred.argmax(1), torch.from_numpy(gt.foreground)[None]
    counts = label_counts(labels, target, pred.shape[1])
    mask = (
        binarise_argmax(pred) if binary_method == "binarise_argmax" else mask_of(labels, RULES[binary_method](counts))
    )
    measure = bounding_box_jaccard if scoring_method == "bbox_jacc" else binary_jaccard
    score = float(measure(mask[0].numpy(), gt.foreground, gt.void))
    return ScoredFrame(mask[0].numpy(), score, stat_masks(counts)[0], labels[0].numpy(), pred[0])


def prediction_path(folder: Path, split: Split, row: int, suffix: str) -> Path:
    """The prediction of a row: named by its flow, those of the mask selection by the ground truth.

    Raises:
        InputError: there is none.
    """
    cell = split.cell(row, "Flow")
    by_flow = output_file(folder, cell, f"{suffix}.npy")
    by_mask = by_flow.with_name(f"{stem_of(split, row, 'GtMask')}{suffix}.npy")
    names = [by_mask, by_flow] if suffix.endswith(SELECTED) else [by_flow]
    for file in names:
        if file.exists():
            return file
    raise InputError(f"{names[0]}: no such prediction")


def evaluate_frames(options: FrameEvaluationOptions) -> Path:
    """Score every frame of a split that has flow and ground truth; see the module for the files.

    Returns:
        The session's folder.

    Raises:
        InputError: nothing could be scored.
        RunFailed: with ``strict``, an annotated frame could not be scored.
    """
    (split,) = read_splits([options.data_file], options.data_base_dir, "val")
    predictions = options.pred_base_dir / options.model_id
    if not predictions.is_dir():
        raise InputError(f"--pred_base_dir/--model_id: {predictions}: no such folder")
    if "GtMask" not in split.columns or not split.available("GtMask").any():
        raise InputError(f"{split.file}: no GtMask to score against")
    scoring = options.scoring_method or ("bbox_jacc" if "moca" in split.name.lower() else "db_eval_iou")
    session = _new_session(predictions / options.eval_session_name)
    rows: dict[int, Cells] = {}
    failures: list[str] = []
    annotated = np.flatnonzero(split.available("GtMask") & split.available("Flow")).tolist()
    for row in tqdm(annotated, desc="scoring", unit="frame", disable=None):
        name = image_path(split, row)
        try:
            file = prediction_path(predictions, split, row, options.pred_suffix)
            gt = read_mask(split.path(row, "GtMask"), options.mask_encoding)
            try:
                frame = score_layers(read_array(file), gt, options.binary_method, scoring)
            except InputError as error:
                raise InputError(f"{file}: {error}") from error
        except InputError as error:
            failures.append(f"{name}: {error}")
            continue
        with atomic_path(output_file(session / "BinaryMask", name, Path(name).suffix + ".png")) as temporary:
            Image.fromarray(frame.mask).save(temporary)
        if options.figure_every and len(rows) % options.figure_every == 0:
            write_image(output_file(session, name, Path(name).suffix + ".jpg"), figure(split, row, frame, gt))
        cells = {"ImagePath": name, "PredPath": str(file), "Score": frame.score}
        rows[row] = {**cells, "StatMasks": dump_stat_masks(dict(frame.statistics))}
    for failure in failures[:5]:
        print(f"not scored: {failure}")
    if not rows:
        session.rmdir()
        raise InputError(f"{split.file}: none of {len(annotated)} annotated frames could be scored, e.g. {failures[0]}")
    if not any(parse_stat_masks(cells["StatMasks"])["Size_Gt"] for cells in rows.values()):
        warn(
            f"{split.file}: GtMask is empty in all {len(rows)} scored frames, the score is void; look at the masks "
            f"and at --mask_encoding {options.mask_encoding}"
        )
    _write_session(session, split, options, scoring, rows, failures)
    if options.strict and failures:
        raise RunFailed(f"--strict: {len(failures)} annotated frames could not be scored, first {failures[0]}")
    return session


def image_path(split: Split, row: int) -> str:
    """What names a frame in the tables: its image or, without one, its flow or ground truth."""
    columns = [name for name in ("Image", "Flow", "GtMask") if name in split.columns and split.available(name)[row]]
    return split.cell(row, columns[0])


def figure(split: Split, row: int, frame: ScoredFrame, gt: Mask) -> NDArray[np.uint8]:
    """Argmax, flow, every layer, the mask with its score and the ground truth, side by side."""
    pictures: dict[str, NDArray[Any]] = {
        "argmax": colourise_labels(frame.labels),
        "flow": flow_to_colour(read_flow(split.path(row, "Flow"))),
    }
    for label, layer in enumerate(frame.layers):
        pictures[f"layer {label}"] = (layer.clamp(0, 1) * 255).round().to(torch.uint8).numpy()
    pictures[f"prediction {frame.score:.3f}"] = frame.mask
    pictures["ground truth"] = gt.foreground
    return image_grid(list(pictures.values()), columns=3, captions=list(pictures))


def _new_session(folder: Path) -> Path:
    """A folder of its own, named by the time; the next second's when another evaluation has this one."""
    moment = time.time()
    while True:
        session = folder / time.strftime("eval_%m%d%y%H%M%S", time.localtime(moment))
        try:
            session.mkdir(parents=True)
        except FileExistsError:
            moment += 1
        except OSError as error:
            raise InputError(f"{session}: cannot make this folder ({error.strerror})") from error
        else:
            return session


def _write_session(
    session: Path,
    split: Split,
    options: FrameEvaluationOptions,
    scoring: str,
    rows: Mapping[int, Cells],
    failures: Sequence[str],
) -> None:
    once = {cells["ImagePath"]: cells["Score"] for cells in reversed(list(rows.values()))}  # the first of repeated ones
    mean = math.fsum(once.values()) / len(once)
    oracle = options.pred_suffix.endswith(SELECTED) or options.binary_method in ORACLES
    notes = [f"stflow Evaluation: {options.binary_method}, {scoring}, {options.pred_suffix}"]
    notes += [f"{len(failures)} annotated frames not scored"] if failures else []
    protocol = Protocol(
        scope="image",
        resolution="ground_truth, layers resized bilinearly",
        background="left_out",
        averaging="frames",
        oracle=oracle,
        notes="; ".join(notes),
    )
    name = "j_mean_frame" if scoring == "db_eval_iou" else "box_j_mean_frame"
    write_scores(session / "scores.json", [Score(name, mean, protocol, len(once))])
    stamp = session.name
    header = ["ImagePath", "PredPath", "Score", "StatMasks"]
    _write_csv(session / f"{stamp}.csv", header, list(rows.values()))
    first = {cells["ImagePath"]: cells for cells in reversed(list(rows.values()))}
    joined, table = [], []
    for row in range(len(split)):
        data = {column: split.cell(row, column) for column in split.columns}
        key = image_path(split, row) if any(data.get(c) for c in ("Image", "Flow", "GtMask")) else ""
        joined.append({**data, **first.get(key, {})})
        if row in rows:
            mask = output_file(session / "BinaryMask", key, Path(key).suffix + ".png")
            table.append({**data, "Pred": os.path.relpath(mask, split.base_dir), "Oracle": int(oracle)})
    _write_csv(session / f"results_{stamp}.csv", [*split.columns, *header], joined)
    write_split(session / "predictions.csv", table)
    known = split.available("GtMask")
    content = {
        **asdict(options),
        "scoring_method": scoring,
        "protocol": asdict(protocol),
        "mean_score": mean,
        "missing_rows": len(split) - len(rows),
        "rows_without_ground_truth": int((~known).sum()),
        "rows_without_flow": int((known & ~split.available("Flow")).sum()),
        "rows_not_scored": len(failures),
        "total_rows": len(split),
    }
    with atomic_path(session / f"{stamp}.json") as temporary:
        temporary.write_text(json.dumps(content, default=str, sort_keys=True, indent=4) + "\n", encoding="utf-8")
    repeated = sum(count - 1 for count in Counter(cells["ImagePath"] for cells in rows.values()).values())
    print(
        f"mean_score {mean:.4f} over {len(once)} frames ({scoring}, {'oracle' if oracle else 'no ground truth used'})"
    )
    print(f"{len(split) - len(rows)} of {len(split)} rows missing, {repeated} repeated; {session}")


def _write_csv(file: Path, header: Sequence[str], rows: Sequence[Cells]) -> None:
    with atomic_path(file) as temporary, temporary.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.DictWriter(stream, header, restval="", lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
