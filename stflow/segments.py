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
from common.files import image_size, read_array, read_mask, write_labels
from common.flow_files import flow_size
from common.resize import resize_mask
from common.splits import Split, relative_cell, write_split
from stflow.foreground import except_biggest, label_counts, mask_of, select_labels
from stflow.linking import cut, link, unravel, window_labels
from stflow.options import Foreground, Linking, MaskEncoding
from stflow.prediction import proba_file


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
    for sequence, members in tqdm(split.sequences().items(), desc="linking", unit="clip", disable=None):
        labels = frame_labels(split, members, probas, rule)
        masks, oracle = choose_foreground(split, members, labels, rule)
        for position, row in enumerate(members):
            shown = min(position, len(labels) - 1)
            size = _frame_size(split, int(row))
            paths = {"Segments": out / "Segments", "Pred": out / "Masks"}
            files = {column: base / sequence / f"{_stem(split, int(row))}.png" for column, base in paths.items()}
            write_labels(files["Segments"], upscale_labels(labels[shown], size))
            write_labels(files["Pred"], upscale_labels(masks[shown].astype(np.uint8), size))
            cells = {column: split.column(column)[row] for column in split.columns}
            relative = {column: relative_cell(file, split.base_dir) for column, file in files.items()}
            rows.append({**cells, **relative, "Oracle": int(oracle)})
    return write_split(out / f"{name}.csv", rows).file


def frame_labels(split: Split, members: NDArray[np.int64], probas: Path, rule: SegmentRule) -> NDArray[np.uint8]:
    """Linked labels (frames with flow, I, J) of one sequence."""
    with_flow = members[split.available("Flow")[members]]
    files = [proba_file(probas, str(split.column("Flow")[row])) for row in with_flow]
    present = [file.exists() for file in files]
    if not any(present):
        raise InputError(f"{files[len(files) // 2]}: no prediction; the sequence may be shorter than a window")
    first, last = present.index(True), len(present) - present[::-1].index(True)
    windows, num_labels = [], 0
    for file in files[first:last]:
        proba = read_array(file).astype(np.float32)
        windows.append(window_labels(proba))
        num_labels = proba.shape[0]
        if windows[-1].shape != windows[0].shape:
            raise InputError(
                f"{file}: shape {proba.shape} differs from the other windows of the sequence; predict again"
            )
    linked = link(np.stack(windows), num_labels, rule.cuts_size, rule.linking)
    return unravel(linked).astype(np.uint8)


def choose_foreground(
    split: Split, members: NDArray[np.int64], labels: NDArray[np.uint8], rule: SegmentRule
) -> tuple[NDArray[np.bool_], bool]:
    """Foreground (frames, I, J) of one sequence, chosen once per chunk, and whether ground truth chose it.

    A chunk without any annotated frame falls to the rule that needs none.
    """
    frames = torch.from_numpy(labels.astype(np.int64))
    num_labels = int(frames.max()) + 1
    masks = torch.zeros(frames.shape, dtype=torch.bool)
    for chunk in cut(len(frames), rule.cuts_size, shortcut=True):
        counts = label_counts(frames[chunk], None, num_labels).pooled()
        selected = except_biggest(counts).expand(len(chunk), -1)
        masks[chunk] = mask_of(frames[chunk], selected)
    annotated = "GtMask" in split.columns and bool(split.available("GtMask")[members].any())
    wanted = rule.foreground or ("optimax" if annotated else "exceptbiggest")
    if wanted == "exceptbiggest":
        return masks.numpy(), False
    if not annotated:
        raise InputError(f"--foreground {wanted}: sequence has no GtMask in {split.file}; use exceptbiggest")
    gt, known = _ground_truth(split, members[: len(frames)], tuple(frames.shape[1:]), rule)
    selection = select_labels(frames, gt, known, rule.cuts_size, num_labels, wanted)
    chosen = torch.zeros(len(frames), num_labels, dtype=torch.bool)
    chosen[selection.frames] = selection.selected
    for chunk in cut(len(frames), rule.cuts_size, shortcut=True):
        if known[chunk].any():
            selected = chosen[chunk][known[chunk]][:1].expand(len(chunk), -1)
            masks[chunk] = mask_of(frames[chunk], selected)
    return masks.numpy(), True


def upscale_labels(labels: NDArray[np.integer], size: tuple[int, int]) -> NDArray[np.uint8]:
    """Label map at another size: one-hot layers resized bilinearly, then the largest; the first of equals."""
    if labels.shape == size:
        return labels.astype(np.uint8)
    layers = F.one_hot(torch.from_numpy(labels.astype(np.int64))).permute(2, 0, 1).float()[None]
    resized = F.interpolate(layers, size=size, mode="bilinear", align_corners=False)
    return resized[0].argmax(dim=0).to(torch.uint8).numpy()


def _ground_truth(
    split: Split, members: NDArray[np.int64], size: tuple[int, ...], rule: SegmentRule
) -> tuple[torch.Tensor, torch.Tensor]:
    known = torch.from_numpy(split.available("GtMask")[members])
    gt = torch.zeros(len(members), *size, dtype=torch.bool)
    for position in torch.nonzero(known).flatten().tolist():
        mask = read_mask(split.path(int(members[position]), "GtMask"), rule.mask_encoding).foreground
        gt[position] = resize_mask(torch.from_numpy(mask.astype(np.int64)), (size[0], size[1])) > 0
    return gt, known


def _frame_size(split: Split, row: int) -> tuple[int, int]:
    if "Image" in split.columns and split.available("Image")[row]:
        return image_size(split.path(row, "Image"))
    return flow_size(split.path(row, "Flow"))


def _stem(split: Split, row: int) -> str:
    column = "Image" if "Image" in split.columns and split.available("Image")[row] else "Flow"
    return Path(str(split.column(column)[row])).stem
