"""Apply a trained segmenter: input -> flow -> windows -> linked segments -> masks, overlays and a prediction split."""

import hashlib
from pathlib import Path

from common.checkpoints import best_checkpoint
from common.errors import InputError
from common.files import check_writable
from common.inputs import predictions_folder
from common.messages import is_main_process
from common.options import TrainerFlags
from common.overlays import write_overlays
from common.splits import Split, read_split
from stflow.checks import MOST_LOOKED_AT, check_prediction, check_prediction_data
from stflow.compute_flow import ComputeFlowOptions
from stflow.compute_flow import run as compute_flow
from stflow.data import FlowWindows
from stflow.module import MotionSegmenter
from stflow.options import DataOptions, PredictOptions
from stflow.prediction import WindowFiles, predict_windows
from stflow.restore import restore
from stflow.segments import SegmentRule, write_segments


def apply(options: PredictOptions, flags: TrainerFlags) -> Path:
    """Predict everything that the options name.

    Returns:
        The prediction split's CSV file; of several processes, the first writes it.

    Raises:
        InputError: input, checkpoint or options that cannot be used.
    """
    if options.input is not None and not options.input.exists():
        raise InputError(f"{options.input}: no such video or folder")
    module = restore(options.model_dir)
    out = options.out or predictions_folder(options.model_dir, options.input)
    check_writable(out)
    check_prediction(options, module, flags)
    split = _split(options, out)
    with_gt = options.foreground != "exceptbiggest"
    check_prediction_data(split, out, with_gt=with_gt, encoding=options.mask_encoding)
    windows = _windows(options, module, split)
    windows.has_gt = False  # the network needs none; the choice of segments reads it for itself
    source = {
        "checkpoint": checkpoint_hash(options.model_dir),
        "split": windows.split.hash(),
        "size": list(windows.size),
    }
    predict_windows(
        module,
        [windows],
        WindowFiles(out / "proba"),
        source=source,
        flags=flags,
        gpus=options.gpus,
        batch_size=options.batch_size,
        num_workers=options.num_workers,
    )
    if not is_main_process():
        return out / f"{split.name}.csv"
    rule = SegmentRule(
        cuts_size=options.cuts_size,
        linking=options.linking,
        foreground=options.foreground,
        mask_encoding=options.mask_encoding,
    )
    written = write_segments(split, out / "proba", out, split.name, rule)
    if options.overlay and "Image" in split.columns:
        write_overlays(read_split(written, base_dir=split.base_dir), out / "overlays")
    return written


def checkpoint_hash(path: Path) -> str:
    """Content hash of the checkpoint that ``restore`` would read."""
    file = best_checkpoint(path) if path.is_dir() else path
    return hashlib.sha256(file.read_bytes()).hexdigest()


def _split(options: PredictOptions, out: Path) -> Split:
    if options.data_file is not None:
        return read_split(options.data_file, base_dir=options.base_dir)
    assert options.input is not None
    file = out / "data" / f"{options.input.stem}_test.csv"
    compute_flow(ComputeFlowOptions(input=options.input, base_dir=out / "data", out_split=file))
    return read_split(file, base_dir=out / "data")


def _windows(options: PredictOptions, module: MotionSegmenter, split: Split) -> FlowWindows:
    size = list(options.img_size or module.hparams["img_size"])
    data = DataOptions(
        data_file=split.file,
        base_dir=split.base_dir,
        img_size=size,
        cache_dir=options.cache_dir,
        boundaries=options.boundaries,
        mask_encoding=options.mask_encoding,
    )
    windows = FlowWindows(split, module.requests, data)
    windows.build(MOST_LOOKED_AT)
    windows.tell()
    return windows
