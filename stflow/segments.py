"""From window probabilities to masks of frames: link, unravel, choose the foreground, write a prediction split.

Columns of the prediction split: those of the data, and ``Segments`` (linked label map, 0 to L-1), ``Pred`` (binary
mask, 0/1), ``Oracle`` (1 where ground truth chose the foreground, else 0). All at the size of the frame's image.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from tqdm import tqdm

from common.errors import InputError
from common.files import image_size, read_mask, write_labels
from common.flow_files import flow_size
from common.messages import warn
from common.resize import resize_mask
from common.splits import Split, relative_cell, write_split
from stflow.foreground import Selection, except_biggest, label_counts, mask_of, select_labels
from stflow.linking import cut, link
from stflow.options import Foreground, Linking, MaskEncoding
from stflow.sequence_files import FlowSequence, FrameLabels, flow_sequences, frames_of, read_windows, stem_of


@dataclass(frozen=True, kw_only=True)
class SegmentRule:
    """How windows become masks."""

    cuts_size: int | None = 10
    """Windows that are linked with each other; None or -1 = the whole sequence."""
    linking: Linking = "greedy"
    """Linking rule: greedy is the published one, hungarian never merges two segments."""
    foreground: Foreground | None = None
    """Segments that make the mask: optimax and optimax_exact look at the ground truth, exceptbiggest does not. Default:
    optimax where there is ground truth."""
    mask_encoding: MaskEncoding = "auto"
    """Which values of a GtMask file are foreground."""


def write_segments(split: Split, probas: Path, out: Path, name: str, rule: SegmentRule) -> Path:
    """Masks of every sequence of a split whose windows have been predicted.

    The last frame has no forward flow: it gets the labels of the frame before, as the published label images do.

    Args:
        split: Data, with ``Flow``, and ``Image`` and ``GtMask`` where there are such.
        probas: Folder of ``predict_windows``.
        out: Folder for the masks.
        name: The prediction split is ``<out>/<name>.csv``.
        rule: How windows become masks.

    Returns:
        The prediction split's file.

    Raises:
        InputError: a prediction is missing or of another shape, ground truth asked for that is not there.
    """
    rows: list[dict[str, Any]] = []
    with_flow = flow_sequences(split)
    for sequence, members in tqdm(split.sequences().items(), desc="linking", unit="clip", disable=None):
        if sequence not in with_flow:
            raise InputError(
                f"{split.file}: sequence {sequence} has no Flow; compute it first (stflow/compute_flow.py)"
            )
        frames = frame_labels(probas, with_flow[sequence], rule)
        masks, oracle = choose_foreground(split, with_flow[sequence].rows, frames, rule)
        shown = (np.cumsum(split.available("Flow")[members]) - 1).clip(min=0)  # without flow: the frame before
        for position, row in zip(shown.tolist(), members.tolist(), strict=True):
            size = frame_size(split, row)
            stem = stem_of(split, row, "Image")
            files = {
                "Segments": out / "Segments" / sequence / f"{stem}.png",
                "Pred": out / "Masks" / sequence / f"{stem}.png",
            }
            write_labels(files["Segments"], upscale_labels(frames.labels[position], size))
            write_labels(files["Pred"], upscale_labels(masks[position].astype(np.uint8), size))
            cells = {column: split.cell(row, column) for column in split.columns}
            relative = {column: relative_cell(file, split.base_dir) for column, file in files.items()}
            rows.append({**cells, **relative, "Oracle": int(oracle)})
    return write_split(out / f"{name}.csv", rows).file


def frame_labels(probas: Path, sequence: FlowSequence, rule: SegmentRule) -> FrameLabels:
    """Linked labels of the frames of one sequence, from the predictions of its windows."""
    windows = read_windows(probas, sequence)
    linked = link(windows.labels, windows.num_labels, rule.cuts_size, rule.linking)
    return frames_of(linked, len(sequence.rows))


def choose_foreground(
    split: Split, rows: NDArray[np.int64], frames: FrameLabels, rule: SegmentRule
) -> tuple[NDArray[np.bool_], bool]:
    """Foreground (N, I, J) of one sequence, chosen once per chunk, and whether ground truth chose it.

    A chunk without any annotated frame falls to the rule that needs none.
    """
    labels = torch.from_numpy(frames.labels.astype(np.int64))
    num_labels = int(labels.max()) + 1
    chunks = cut(len(labels), rule.cuts_size, shortcut=frames.edge)
    masks = torch.zeros(labels.shape, dtype=torch.bool)
    for chunk in chunks:
        counts = label_counts(labels[chunk], None, num_labels).pooled()
        masks[chunk] = mask_of(labels[chunk], except_biggest(counts).expand(len(chunk), -1))
    annotated = "GtMask" in split.columns and bool(split.available("GtMask")[rows].any())
    wanted = rule.foreground or ("optimax" if annotated else "exceptbiggest")
    if wanted == "exceptbiggest":
        return masks.numpy(), False
    if not annotated:
        raise InputError(f"--foreground {wanted}: sequence has no GtMask in {split.file}; use exceptbiggest")
    selection = select_by_ground_truth(split, rows, frames, rule.cuts_size, wanted, rule.mask_encoding)
    chosen = dict(zip(selection.frames.tolist(), selection.selected, strict=True))
    for chunk in chunks:
        selected = next((chosen[frame] for frame in chunk.tolist() if frame in chosen), None)
        if selected is not None:
            masks[chunk] = mask_of(labels[chunk], selected.expand(len(chunk), -1))
    return masks.numpy(), True


def select_by_ground_truth(
    split: Split,
    rows: NDArray[np.int64],
    frames: FrameLabels,
    cuts_size: int | None,
    rule: str,
    mask_encoding: MaskEncoding,
) -> Selection:
    """Labels of a sequence's annotated frames chosen by their ground truth, read at the size of the labels."""
    labels = torch.from_numpy(frames.labels.astype(np.int64))
    known = torch.from_numpy(split.available("GtMask")[rows])
    gt = torch.zeros(labels.shape, dtype=torch.bool)
    for position in torch.nonzero(known).flatten().tolist():
        mask = read_mask(split.path(int(rows[position]), "GtMask"), mask_encoding).foreground
        resized = resize_mask(torch.from_numpy(mask.astype(np.int64)), (labels.shape[1], labels.shape[2]))
        gt[position] = resized > 0
    if known.any() and not gt.any():
        name = split.column("Sequence")[rows[0]]
        warn(
            f"sequence {name}: GtMask is empty in all {int(known.sum())} frames, the choice by it is void; "
            f"look at the masks and at --mask_encoding {mask_encoding}"
        )
    return select_labels(labels, gt, known, cuts_size, None, rule, frames.edge)


def upscale_labels(labels: NDArray[np.integer], size: tuple[int, int]) -> NDArray[np.uint8]:
    """Label map at another size: one-hot layers resized bilinearly, then the largest; the first of equals."""
    if labels.shape == size:
        return labels.astype(np.uint8)
    layers = F.one_hot(torch.from_numpy(labels.astype(np.int64))).permute(2, 0, 1).float()[None]
    resized = F.interpolate(layers, size=size, mode="bilinear", align_corners=False)
    return resized[0].argmax(dim=0).to(torch.uint8).numpy()


def frame_size(split: Split, row: int) -> tuple[int, int]:
    """Rows and columns of a frame, of its image or of its flow."""
    if "Image" in split.columns and split.available("Image")[row]:
        return image_size(split.path(row, "Image"))
    return flow_size(split.path(row, "Flow"))
