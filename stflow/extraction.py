"""Predictions of whole splits in the original's layout, beside the weights that made them."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from common.checkpoints import best_checkpoint, load_checkpoint
from common.files import atomic_path
from common.messages import is_main_process, tell
from common.options import TrainerFlags
from common.splits import Split
from common.training import to_plain
from stflow.apply import checkpoint_hash
from stflow.data import FlowWindows
from stflow.module import MotionSegmenter
from stflow.named_inputs import find_model_dir, read_splits
from stflow.options import DataOptions, ExtractionOptions
from stflow.prediction import WindowFiles, predict_windows, stands
from stflow.restore import restore
from stflow.sequence_files import FEATURES, PROBA, FlowSequence, flow_sequences, output_file


def extract(options: ExtractionOptions, flags: TrainerFlags) -> int:
    """Predict every window of the splits that has no file yet.

    Returns:
        Number of windows that were predicted now.

    Raises:
        InputError: checkpoint, data or options that cannot be used.
    """
    folder = find_model_dir(options.model_dir, options.base_dir)
    checkpoint = best_checkpoint(folder)
    module = restore(checkpoint)
    write_hyper_parameters(checkpoint, module)
    unet = module.options.unet
    if unet.inner_normalisation == "BatchNorm" and not unet.train_bn:
        tell(f"{checkpoint}: BatchNorm without running statistics: a prediction depends on the windows in its batch")
    if options.overwrite:
        remove_predictions(folder)
    boundaries = options.boundaries or module.hparams["boundaries"]
    splits = read_splits(options.data_file, options.base_dir)
    windows = [_windows(split, module, boundaries, options) for split in splits]
    size = windows[0].size
    files = WindowFiles(folder, options.extract_features, options.dtype)
    source = {
        "checkpoint": checkpoint_hash(checkpoint),
        "size": list(size),
        "boundaries": boundaries,
        "dtype": options.dtype,
    }
    done = {path for part in windows for sequence in packed(part, files, module, size) for path in sequence.cells}
    predicted = predict_windows(
        module,
        windows,
        files,
        source=source,
        flags=flags,
        gpus=options.gpus,
        batch_size=options.batch_size,
        num_workers=options.num_workers,
        done=done,
        remedy="give --overwrite to remove them first",
    )
    if is_main_process():
        if options.one_file_per_sequence:
            for part in windows:
                pack(part, files, done)
        total = sum(len(part) for part in windows)
        print(f"{folder}: {predicted} windows predicted with {checkpoint.name}, {total - predicted} stood already")
    return predicted


def write_hyper_parameters(checkpoint: Path, module: MotionSegmenter) -> Path:
    """The checkpoint's hyper-parameters as YAML in ``<checkpoint>.hyp``."""
    file = checkpoint.with_name(checkpoint.name + ".hyp")
    known = load_checkpoint(checkpoint).get("hyper_parameters") or dict(module.hparams)
    if is_main_process():
        with atomic_path(file) as temporary:
            temporary.write_text(yaml.safe_dump(to_plain(known), sort_keys=False), encoding="utf-8")
    return file


def remove_predictions(folder: Path) -> None:
    """Remove what a former extraction left below a folder."""
    for ending in (PROBA, FEATURES):
        for file in folder.rglob(f"*{ending}.npy"):
            file.unlink(missing_ok=True)
    (folder / "source.json").unlink(missing_ok=True)


def packed(
    windows: FlowWindows, files: WindowFiles, module: MotionSegmenter, size: tuple[int, int]
) -> list[FlowSequence]:
    """The sequences whose windows stand in one file each."""
    found = []
    for sequence in centred(windows):
        shapes = list(files.wanted(sequence.cells[0], module, size).values())
        whole = [sequence.file(files.folder, f"{ending}.npy") for ending in (PROBA, FEATURES)[: len(shapes)]]
        count = len(sequence.cells)
        if all(stands(file, (count, *shape), files.dtype) for file, shape in zip(whole, shapes, strict=True)):
            found.append(sequence)
    return found


def centred(windows: FlowWindows) -> list[FlowSequence]:
    """The sequences of a split, each with the rows that are centres of windows only."""
    centres = set(windows.paths)
    found = []
    for sequence in flow_sequences(windows.split).values():
        kept = [position for position, cell in enumerate(sequence.cells) if cell in centres]
        if kept:
            rows = sequence.rows[np.array(kept)]
            found.append(replace(sequence, rows=rows, cells=[sequence.cells[position] for position in kept]))
    return found


def pack(windows: FlowWindows, files: WindowFiles, done: set[str]) -> None:
    """Put the windows of each sequence into one file, and remove theirs once it stands."""
    for sequence in centred(windows):
        for ending in (PROBA, FEATURES) if files.features else (PROBA,):
            single = [output_file(files.folder, cell, f"{ending}.npy") for cell in sequence.cells]
            if sequence.cells[0] not in done:
                _pack(single, sequence.file(files.folder, f"{ending}.npy"))
            for file in single:
                file.unlink(missing_ok=True)


def _pack(single: list[Path], target: Path) -> None:
    """Stack arrays of one shape in a file, one in memory at a time."""
    with atomic_path(target) as temporary:
        first = np.load(single[0], allow_pickle=False)
        whole = np.lib.format.open_memmap(temporary, "w+", first.dtype, (len(single), *first.shape))
        for position, file in enumerate(single):
            whole[position] = np.load(file, allow_pickle=False)
        whole.flush()
        del whole


def _windows(split: Split, module: MotionSegmenter, boundaries: Any, options: ExtractionOptions) -> FlowWindows:
    data = DataOptions(
        data_file=split.file,
        base_dir=split.base_dir,
        img_size=list(module.hparams["img_size"]),
        cache_dir=options.cache_dir,
        boundaries=boundaries,
    )
    windows = FlowWindows(split, module.requests, data)
    windows.has_gt = False  # ground truth is nothing to a prediction: its files need not even be there
    windows.build()
    return windows
