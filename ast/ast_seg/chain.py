"""All steps of AST-Seg in one run, each left out when its files stand already.

run directory              the foreground training, predictions/, scores.json, report.html
run directory/background   the background training and its background_dataset/
"""

import time
from dataclasses import replace
from pathlib import Path
from shutil import copyfile

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from ast_seg.background_dataset import generate
from ast_seg.background_scores import baselines, score_masks
from ast_seg.background_training import train_background
from ast_seg.evaluation import evaluate_model
from ast_seg.foreground_training import check_loss, train_foreground
from ast_seg.networks import check_model
from ast_seg.options import (
    ApplyOptions,
    BackgroundDatasetOptions,
    ChainOptions,
    EvaluationOptions,
    ExportOptions,
    FrameOptions,
    ModelOptions,
    TripleOptions,
)
from ast_seg.restore import file_hash
from ast_seg.sample_grid import colour_labels, label_colours
from ast_seg.segmentation import segment
from common.cli import DONE
from common.errors import InputError
from common.evaluate import score_lines
from common.files import atomic_path, read_image, read_labels
from common.inputs import input_split
from common.messages import is_first_process, tell
from common.metrics.protocol import Score, write_scores
from common.options import RunOptions, TrainerFlags
from common.panels import write_panels
from common.prediction import forget_older, prediction_flags
from common.report import build_report
from common.splits import Split, read_split, write_split
from common.synthetic import FixedCameraOptions
from common.synthetic import run as make_synthetic

EMBEDDED = FixedCameraOptions(out=Path(), num=1, height=48, width=64, num_objects=3)
NOTHING_TO_SCORE = "no ground truth: nothing to score"


def run_all(chain: ChainOptions, export: ExportOptions, run: RunOptions, flags: TrainerFlags) -> int:
    """The whole chain; see ``ast/run.py``.

    Raises:
        InputError: Options or data that cannot be used.
    """
    begin = time.time()
    check_model(chain.model)
    check_loss(chain.loss)
    out = run.out or Path("runs/ast")
    run = replace(run, out=out)
    frames = named_frames(chain, out)
    back_run = replace(run, out=out / "background", ckpt_path=None)
    tell(f"1/5 background training on {frames.data_file}")
    train_background(chain.background, frames, back_run, without_ends(flags))
    tell("2/5 background data set")
    folder = out / "background" / "background_dataset"
    options = BackgroundDatasetOptions(
        saved_model_path=out / "background",
        results_dir_path=folder,
        cleaning=chain.cleaning,
        rounding=chain.rounding,
        gpus=run.gpus,
    )
    prefix = generate(options, frames, prediction_flags(flags))
    if chain.background_only:
        if is_first_process():
            finish(background_scores(chain, out, prefix), out, folder, begin)
        return DONE
    tell("3/5 foreground training")
    train_foreground(with_background(chain, out), chain.loss, triples(chain, prefix), run, flags)
    tell("4/5 masks")
    forget_older(out / "predictions", file_hash(out))
    predicted = segment(apply_options(chain, out, prefix, run), export, prediction_flags(flags))
    if is_first_process():
        tell("5/5 scores and report")
        finish(score(chain, out, prefix, predicted, run), out, predicted, begin)
    return DONE


def finish(lines: list[str], out: Path, masks: Path, begin: float) -> None:
    """The report, and what there is to say at the end."""
    copy_samples(out)
    report = build_report(out, title="AST-Seg")
    tell("\n".join(lines))
    tell(f"masks: {masks}\nreport: {report}\n{(time.time() - begin) / 60:.1f} minutes")


def named_frames(chain: ChainOptions, out: Path) -> FrameOptions:
    """The frames of step 1: of the split, of the input, or embedded ones made beside the run."""
    prefix, base_dir = chain.data_file, chain.base_dir
    if chain.input is not None and prefix is not None:
        raise InputError(f"{chain.input} and --data_file {prefix}: name one of them only")
    if chain.input is not None:
        split = input_split(chain.input, out, chain.base_dir if chain.input.suffix == ".csv" else None, clip=True)
        prefix, base_dir = out / "data" / "input", split.base_dir
        if is_first_process():
            write_split(f"{prefix}_train.csv", split.frame)
    elif prefix is None:
        prefix, base_dir = out / "data" / "fixed_camera", out / "data"
        if is_first_process():
            make_synthetic(replace(EMBEDDED, out=base_dir, num_frames=chain.embedded_frames))
    return FrameOptions(
        data_file=prefix,
        base_dir=base_dir,
        image_height=chain.image_height,
        image_width=chain.image_width,
        mask_encoding=chain.mask_encoding,
        num_workers=chain.num_workers,
        cache_dir=chain.cache_dir,
    )


def without_ends(flags: TrainerFlags) -> TrainerFlags:
    """The flags without those that end the foreground training; step 1 has its own number of updates."""
    return replace(flags, max_steps=-1, max_epochs=None)


def with_background(chain: ChainOptions, out: Path) -> ModelOptions:
    """The model's options with this run's background networks."""
    return replace(chain.model, background_model=chain.model.background_model or out / "background")


def triples(chain: ChainOptions, prefix: Path) -> TripleOptions:
    """The images and backgrounds that step 2 wrote."""
    return TripleOptions(
        data_file=prefix,
        base_dir=prefix.parent,
        image_height=chain.objects_height,
        image_width=chain.objects_width,
        num_workers=chain.num_workers,
        cache_dir=chain.cache_dir,
    )


def apply_options(chain: ChainOptions, out: Path, prefix: Path, run: RunOptions) -> ApplyOptions:
    """Masks for the test images, at their own size."""
    return ApplyOptions(
        object_model_checkpoint_path=out,
        results_dir_path=out / "predictions",
        data_file=Path(f"{prefix}_test.csv"),
        base_dir=prefix.parent,
        mask_encoding=chain.mask_encoding,
        num_workers=chain.num_workers,
        gpus=run.gpus,
    )


def background_scores(chain: ChainOptions, out: Path, prefix: Path) -> list[str]:
    """Scores of the background masks and of simple subtractors where there is ground truth; the lines to print."""
    split = read_split(f"{prefix}_test.csv", base_dir=prefix.parent)
    if not has_truth(split):
        return [NOTHING_TO_SCORE]
    scores = score_masks(split, chain.mask_encoding) + baselines(split, chain.mask_encoding, "median")
    write_scores(out / "scores.json", scores)
    return score_lines(scores)


def has_truth(split: Split) -> bool:
    """Whether there are label maps to score against."""
    return bool({"GtMask", "GtInstance"} & set(split.columns))


def score(chain: ChainOptions, out: Path, prefix: Path, predicted: Path, run: RunOptions) -> list[str]:
    """Scores of both stages where there is ground truth; the lines to print."""
    split = read_split(f"{prefix}_test.csv", base_dir=prefix.parent)
    if not has_truth(split):
        return [NOTHING_TO_SCORE]
    scores: list[Score] = score_masks(split, chain.mask_encoding)
    options = replace(apply_options(chain, out, prefix, run), results_dir_path=out)
    found, table = evaluate_model(options, EvaluationOptions(), out)
    write_scores(out / "scores.json", [*found, *scores])
    predictions = read_split(predicted, base_dir=predicted.parent)
    panels(predictions, split, table, out, chain)
    return score_lines([*found, *scores])


def panels(predictions: Split, split: Split, table: pd.DataFrame, out: Path, chain: ChainOptions) -> None:
    """Pictures of the worst, middle and best frames for the report."""
    colours = label_colours(chain.model.max_set_size)

    def coloured(labels: NDArray[np.int64]) -> NDArray[np.uint8]:
        known = torch.from_numpy(np.where(labels == 255, 0, labels))[None]
        return (255 * colour_labels(known, colours)[0]).round().to(torch.uint8).permute(1, 2, 0).numpy()

    def pictures_of(row: int) -> dict[str, NDArray[np.uint8]]:
        return {
            "input": read_image(predictions.path(row, "Image")),
            "background": read_image(split.path(row, "Background")),
            "difference": read_image(split.path(row, "BackgroundMask")),
            "masks": coloured(read_labels(predictions.path(row, "Pred"))),
            "ground_truth": coloured(read_labels(split.path(row, "GtInstance"))),
        }

    write_panels(predictions, table, out / "overlays", pictures_of, score="msc_fg_image")


def copy_samples(out: Path) -> None:
    """The last picture of the background training and the sample grid, for the report."""
    drawn = sorted((out / "background" / "samples").glob("*.png"))
    for source in [*drawn[-1:], out / "predictions" / "sample_0.png"]:
        if source.exists():
            with atomic_path(out / "samples" / source.name) as temporary:
                copyfile(source, temporary)
