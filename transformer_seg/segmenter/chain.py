"""Training, prediction, scores and report of one Segmenter run, each step left out when its files stand already."""

import time
from dataclasses import replace
from pathlib import Path

import numpy as np

from common.checkpoints import best_checkpoint
from common.cli import DONE
from common.evaluate import EvaluateOptions, evaluate, score_lines
from common.files import read_labels
from common.messages import is_main_process, tell
from common.metrics.confusion import class_iou, contingency
from common.metrics.protocol import write_scores
from common.options import TrainerFlags
from common.panels import write_panels
from common.prediction import forget_older, prediction_flags
from common.report import build_report
from common.splits import Split, read_split
from common.tables import write_table
from transformer_seg.embedded import split_to_score, with_embedded_scenes
from transformer_seg.map_pictures import segment_pictures
from transformer_seg.options import PredictOptions, SystemRunOptions
from transformer_seg.prediction import file_hash
from transformer_seg.segmenter.apply import apply_segmenter
from transformer_seg.segmenter.module import SegmenterModule
from transformer_seg.segmenter.options import (
    SegmenterChainOptions,
    SegmenterDataOptions,
    SegmenterOptions,
    WindowOptions,
)
from transformer_seg.segmenter.restore import restore_segmenter
from transformer_seg.segmenter.training import SCENES, train


def run_chain(
    chain: SegmenterChainOptions,
    model: SegmenterOptions,
    data: SegmenterDataOptions,
    run: SystemRunOptions,
    flags: TrainerFlags,
) -> int:
    """The whole chain; see ``transformer_seg/run.py``.

    Raises:
        InputError: options or data that cannot be used.
    """
    start = time.time()
    out = run.out or Path("runs/segmenter")
    run = replace(run, out=out)
    data = with_embedded_scenes(data, out, data.image_size, SCENES)
    tell(f"1/4 training on {data.data_file}_train.csv")
    train(model, data, run, flags)
    test_file = split_to_score(data, chain.test_file)
    tell(f"2/4 segmenting {test_file}")
    file = best_checkpoint(out)
    module = restore_segmenter(file)
    forget_older(out / "predictions", file_hash(file))
    options = PredictOptions(
        data_file=test_file,
        base_dir=data.base_dir,
        model_dir=out,
        out=out / "predictions",
        num_workers=data.num_workers,
        gpus=run.gpus,
    )
    windows = WindowOptions(multi_scale=chain.multi_scale)
    predictions = apply_segmenter(module, file, options, windows, prediction_flags(flags))
    if not is_main_process():
        return DONE
    tell("3/4 scoring")
    lines = _score(module, data, predictions, out, chain.multi_scale)
    tell("4/4 report")
    report = build_report(out, title="Segmenter")
    print("\n".join(lines))
    print(f"labels: {predictions}\nreport: {report}\n{(time.time() - start) / 60:.1f} minutes")
    return DONE


def _score(
    module: SegmenterModule, data: SegmenterDataOptions, predictions: Path, out: Path, multi_scale: bool
) -> list[str]:
    split = read_split(predictions, base_dir=data.base_dir)
    if "GtSemantic" not in split.columns or not split.available("GtSemantic").any():
        return ["no ground truth: nothing to score"]
    options = EvaluateOptions(
        data_file=predictions,
        out=out,
        base_dir=data.base_dir,
        task="semantic",
        num_classes=module.num_classes,
        notes=protocol_notes(module, multi_scale),
    )
    found = evaluate(split, options)
    write_scores(out / "scores.json", found.scores)
    write_table(found.per_sequence, out / "per_sequence.csv")
    table = found.per_frame.assign(j=[picture_miou(split, row) for row in range(len(split))])
    write_table(table, out / "per_frame.csv")
    write_panels(split, table, out / "overlays", lambda row: segment_pictures(split, row))
    return score_lines(found.scores)


def protocol_notes(module: SegmenterModule, multi_scale: bool) -> str:
    """Short side, window, stride and views, which a score depends on."""
    short, windows = int(module.hparams["image_size"]), module.windows
    views = "12 views" if multi_scale else "1 view"
    return f"short side {short}, window {windows.size}, stride {windows.stride}, {views}"


def picture_miou(split: Split, row: int) -> float:
    """Mean IoU of the classes of one picture, for the order of the report's pictures."""
    if not split.available("GtSemantic")[row]:
        return float("nan")
    found, wanted = (read_labels(split.path(row, column)) for column in ("Pred", "GtSemantic"))
    known = wanted[wanted != 255]
    count = int(max(found.max(), known.max() if known.size else 0)) + 1
    scores = class_iou(contingency(found, wanted, num_predicted=count, num_classes=count))
    return float(np.nanmean(scores)) if not np.isnan(scores).all() else float("nan")
