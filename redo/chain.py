"""Training, prediction, scores, redrawn sheet and report of one run."""

import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from common.cli import DONE
from common.evaluate import EvaluateOptions, evaluate, score_lines
from common.files import read_image, read_labels, read_mask
from common.messages import is_main_process, tell
from common.metrics.protocol import write_scores
from common.options import RunOptions, TrainerFlags
from common.panels import write_panels
from common.prediction import forget_older, prediction_flags
from common.report import build_report
from common.sampling import generator
from common.splits import Split, read_split
from common.synthetic import ObjectOptions
from common.synthetic import run as make_synthetic
from common.tables import write_table
from common.visualize import overlay
from redo.named_data import with_split
from redo.options import ChainOptions, DataOptions, ModelOptions, PredictOptions, RedrawOptions, WatchOptions
from redo.prediction import file_hash, predict
from redo.preparation import network_images
from redo.redrawing import as_picture, redraw, redrawn_region
from redo.restore import Trained, restore
from redo.scoring import device_of, scores_with_parts
from redo.square_cache import image_square
from redo.training import train

EMBEDDED = ObjectOptions(out=Path(), num=1024, num_val=256, num_test=256, size=32)


def run_all(
    chain: ChainOptions,
    model: ModelOptions,
    watch: WatchOptions,
    data: DataOptions,
    run: RunOptions,
    flags: TrainerFlags,
) -> int:
    """The whole chain; see ``redo/run.py``.

    Raises:
        InputError: Options or data that cannot be used.
    """
    start = time.time()
    out = run.out or Path("runs/redo")
    data = with_shapes(data, out)
    tell(f"1/5 training on {data.data_file}_train.csv")
    train(model, watch, data, replace(run, out=out), flags)
    test_file = chain.test_file or test_split(data)
    tell(f"2/5 predicting {test_file}")
    trained = restore(out)
    forget_older(out / "predictions", file_hash(trained.file))
    options = PredictOptions(
        data_file=test_file, base_dir=data.base_dir, model_dir=out, out=out / "predictions", gpus=run.gpus
    )
    predictions = predict(replace(options, overlay=False), prediction_flags(flags))
    if not is_main_process():
        return DONE
    print("3/5 scoring")
    split = read_split(predictions, base_dir=data.base_dir)
    lines = score(trained, split, data, out, device_of(run.gpus))
    print("4/5 redrawing")
    sheet = RedrawOptions(
        input=test_file,
        base_dir=data.base_dir,
        model_dir=out,
        out=out / "samples" / "test.png",
        num_images=chain.sheets,
    )
    redraw(sheet)
    redraw(replace(sheet, interpolate=True, share_z=True, out=out / "samples" / "test_on_the_way.png"))
    print("5/5 report")
    report = build_report(out, title="redo")
    print("\n".join(lines))
    print(f"masks: {predictions}\nreport: {report}\n{(time.time() - start) / 60:.1f} minutes")
    return DONE


def with_shapes(data: DataOptions, out: Path) -> DataOptions:
    """The data options with a split; ``--dataset shapes`` is made beside the run."""
    if data.data_file is None and data.dataset == "shapes":
        make_synthetic(replace(EMBEDDED, out=out / "data", seed=0))
        return replace(data, data_file=out / "data" / "objects", base_dir=out / "data")
    return with_split(data)


def test_split(data: DataOptions) -> Path:
    """The _test split where there is one, else the _val split."""
    file = Path(f"{data.data_file}_test.csv")
    return file if file.exists() else Path(f"{data.data_file}_val.csv")


def score(trained: Trained, split: Split, data: DataOptions, out: Path, device: str) -> list[str]:
    """Score squares and whole masks; writes scores.json, tables and panels, gives lines to print."""
    if "GtMask" not in split.columns or not split.available("GtMask").any():
        return score_regions(split, data, out)
    squares = scores_with_parts(trained, split, data, device)
    options = EvaluateOptions(
        data_file=split.file,
        out=out,
        base_dir=data.base_dir,
        mask_encoding=data.mask_encoding,
        resize_pred=True,
        notes="whole images, one region as object",
    )
    whole = evaluate(split, options)
    scores = [*squares.scores, *whole.scores]
    write_scores(out / "scores.json", scores)
    for name, table in (
        ("per_frame.csv", whole.per_frame),
        ("per_sequence.csv", whole.per_sequence),
        ("per_image.csv", squares.per_image),
    ):
        write_table(table, out / name)
    write_panels(split, whole.per_frame, out / "overlays", lambda row: row_pictures(trained, split, row, data))
    shown = ("accuracy", "iou", "j_mean_frame", "f_mean_frame")
    return score_lines([item for item in scores if item.name.startswith(shown)])


def score_regions(split: Split, data: DataOptions, out: Path) -> list[str]:
    """Score all regions against classes, matched one to one, where there are no object masks but classes."""
    if "GtSemantic" not in split.columns or not split.available("GtSemantic").any():
        return ["no ground truth: nothing to score"]
    options = EvaluateOptions(
        data_file=split.file,
        out=out,
        base_dir=data.base_dir,
        task="semantic",
        pred_column="Regions",
        matching="hungarian",
        resize_pred=True,
        notes="whole images, regions matched to classes",
    )
    found = evaluate(split, options)
    write_scores(out / "scores.json", found.scores)
    return score_lines(found.scores)


def row_pictures(trained: Trained, split: Split, row: int, data: DataOptions) -> Mapping[str, NDArray[np.uint8]]:
    """The pictures of a row for the report, by caption."""
    image = read_image(split.path(row, "Image"))
    truth = read_mask(split.path(row, "GtMask"), data.mask_encoding).foreground
    panels = {"input": image, "prediction": overlay(image, read_labels(split.path(row, "Pred")))}
    if truth.shape == image.shape[:2]:
        panels["ground_truth"] = overlay(image, truth.astype(np.int64))
    if "X" in trained.networks and trained.options.nx == 3:
        sizes = trained.options
        square = network_images(torch.from_numpy(image_square(split.path(row, "Image"), sizes.sizex)[None]))
        noise = torch.randn(1, sizes.nMasks, sizes.nz, 1, 1, generator=generator("panel", row))
        with torch.inference_mode():
            masks = trained.network("M").cpu()(square)
            for region in range(sizes.nMasks):
                redrawn = redrawn_region(trained.network("X"), square, masks, noise, region)
                panels[f"region {region} redrawn"] = as_picture(redrawn[0])
    return panels
