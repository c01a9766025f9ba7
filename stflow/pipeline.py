"""The steps from window probabilities to masks and label images, each from files to files.

<flow>_proba.npy -> <sequence>_cs<c>_labelseq.npy -> <GtMask>_seq_cs<c>binary_eval.npy     (one foreground)
                                                  -> cs<c>/<sequence>/<frame>.png          (a proposal per segment)
"""

import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from tqdm import tqdm

from common.errors import InputError
from common.files import atomic_path, image_size, write_array, write_labels
from common.splits import Split, write_split
from stflow.linking import link
from stflow.multimask import indexed_image
from stflow.named_inputs import find_model_dir, predicted_splits
from stflow.options import Linking, MaskEncoding, SequenceOptions
from stflow.segments import frame_size, select_by_ground_truth
from stflow.sequence_files import (
    FlowSequence,
    flow_sequences,
    label_sequence_file,
    read_linked,
    read_windows,
    selection_file,
    stem_of,
)


def link_predictions(options: SequenceOptions, linking: Linking, legacy_float16: bool) -> int:
    """Write the linked labels of every sequence.

    Args:
        options: Whose predictions.
        linking: See `stflow.linking.next_labels`.
        legacy_float16: See `stflow.linking.window_labels`.

    Returns:
        Number of sequences.

    Raises:
        InputError: predictions missing or of different shapes, a bad cut size.
    """
    folder, count = find_model_dir(options.model_dir, options.base_dir), 0
    for _, sequence in _sequences(options, folder, "linking"):
        windows = read_windows(folder, sequence, legacy_float16)
        linked = link(windows.labels, windows.num_labels, options.cuts_size, linking)
        write_array(label_sequence_file(folder, sequence, options.cuts_size), linked.astype(np.int64))
        count += 1
    print(f"{folder}: {count} sequences linked ({linking}), *_cs{options.cuts_size}_labelseq.npy")
    return count


def select_masks(options: SequenceOptions, rule: str, mask_encoding: MaskEncoding) -> int:
    """Write the foreground of every annotated frame, chosen by its ground truth.

    ``selection_cs<c>.json`` in the model folder records rule and encoding, and that the choice is an oracle's.

    Args:
        options: Whose linked labels.
        rule: optimax or optimax_exact.
        mask_encoding: How GtMask files are read.

    Returns:
        Number of frames.

    Raises:
        InputError: no ground truth, labels not linked.
    """
    folder, count = find_model_dir(options.model_dir, options.base_dir), 0
    for split, sequence in _sequences(options, folder, "selecting"):
        if "GtMask" not in split.columns:
            raise InputError(f"{split.file}: no column 'GtMask': selection needs ground truth")
        frames = read_linked(folder, sequence, options.cuts_size)
        rows = sequence.rows
        chosen = select_by_ground_truth(split, rows, frames, options.cuts_size, rule, mask_encoding)
        for frame, mask in zip(chosen.frames.tolist(), chosen.masks.numpy(), strict=True):
            stem = stem_of(split, int(rows[frame]), "GtMask")
            file = selection_file(folder, sequence.cells[frame], stem, options.cuts_size)
            write_array(file, np.stack([~mask, mask]).astype(np.float64))
        count += len(chosen.frames)
    note = "ground truth chose the segments: scores of these masks are those of an oracle"
    record = {"selection": rule, "oracle": True, "mask_encoding": mask_encoding, "note": note}
    with atomic_path(folder / f"selection_cs{options.cuts_size}.json") as temporary:
        temporary.write_text(json.dumps({**record, "cuts_size": options.cuts_size}, indent=4, sort_keys=True) + "\n")
    print(f"{folder}: {count} masks, *_seq_cs{options.cuts_size}binary_eval.npy, chosen by {rule}")
    print(f"note: {note}")
    return count


def write_label_images(options: SequenceOptions) -> list[Path]:
    """Write the segments of every frame as indexed PNG images, and a prediction split that names them.

    The last frame has no forward flow: the labels of the one before are repeated for it, under its own name where the
    split has a row for it, else under the next number.

    Returns:
        The prediction splits.

    Raises:
        InputError: labels not linked, a last frame whose name holds no number.
    """
    folder = find_model_dir(options.model_dir, options.base_dir)
    written, rows = [], dict[Path, list[dict[str, Any]]]()
    images = Path()
    for split, sequence in _sequences(options, folder, "label images"):
        file = label_sequence_file(folder, sequence, options.cuts_size)
        labels = read_linked(folder, sequence, options.cuts_size).labels
        images = _image_folder(file, folder) / f"cs{options.cuts_size}" / sequence.name
        for image in _images(split, sequence):
            target = images / f"{image.stem}.png"
            write_labels(target, indexed_image(labels[image.frame], _native_size(split, image.row)))
            if image.listed:
                cells = {column: split.cell(image.row, column) for column in split.columns}
                rows.setdefault(split.file, []).append({**cells, "Pred": os.path.relpath(target, split.base_dir)})
    for source, table in rows.items():
        written.append(write_split(folder / f"{source.stem}_cs{options.cuts_size}.csv", table).file)
    print(f"label images in {images.parent}; splits: {', '.join(map(str, written))}")
    return written


def _sequences(options: SequenceOptions, folder: Path, what: str) -> Iterator[tuple[Split, FlowSequence]]:
    splits = predicted_splits(options, folder)
    pairs = [(split, sequence) for split in splits for sequence in flow_sequences(split).values()]
    yield from tqdm(pairs, desc=what, unit="clip", disable=None)


def _image_folder(file: Path, folder: Path) -> Path:
    """The folder three levels above a file (sequence, resolution, kind of flow), but not above the model folder."""
    above = file.parent.parent.parent
    return above if above.is_relative_to(folder) else folder


class _Image(NamedTuple):
    frame: int
    """Whose labels it shows."""
    row: int
    """Row of the split that it belongs to or, if there is none, that is nearest."""
    stem: str
    listed: bool = True
    """Whether the row is its own."""


def _images(split: Split, sequence: FlowSequence) -> Iterator[_Image]:
    """The label images of a sequence: one per frame with flow, and that of the last frame."""
    for frame, row in enumerate(sequence.rows.tolist()):
        yield _Image(frame, row, stem_of(split, row, "GtMask"))
    last, row = len(sequence.rows) - 1, int(sequence.rows[-1])
    after = sequence.clip[split.index[sequence.clip] > split.index[row]][:1].tolist()
    named = [row for row in after if any(c in split.columns and split.available(c)[row] for c in ("GtMask", "Image"))]
    if named:
        yield _Image(last, named[0], stem_of(split, named[0], "GtMask", "Image"))
    else:
        yield _Image(last, row, next_name(stem_of(split, row, "GtMask")), listed=False)


def next_name(stem: str) -> str:
    """The name after a numbered one: its number plus one, with five digits at least as published, or as many as it has.

    Raises:
        InputError: a name that does not end in a number.
    """
    match = re.fullmatch(r"(.*?)(\d+)", stem)
    if match is None:
        raise InputError(
            f"{stem}: the last flow's name has no number, so that of the last frame is unknown; add its row"
        )
    width = max(len(match[2]), 0 if match[1] else 5)
    return f"{match[1]}{int(match[2]) + 1:0{width}d}"


def _native_size(split: Split, row: int) -> tuple[int, int]:
    if "GtMask" in split.columns and split.available("GtMask")[row]:
        return image_size(split.path(row, "GtMask"))
    return frame_size(split, row)
