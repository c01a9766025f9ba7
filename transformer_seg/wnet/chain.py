"""Training, prediction, scores and report of one WNet run, each step left out when its files stand already."""

import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd

from common.checkpoints import best_checkpoint
from common.cli import DONE
from common.evaluate import EvaluateOptions, evaluate, score_lines
from common.messages import is_main_process, tell
from common.metrics.protocol import Score, write_scores
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
from transformer_seg.wnet.apply import apply_wnet
from transformer_seg.wnet.baseline import write_kmeans
from transformer_seg.wnet.options import RefineOptions, WnetChainOptions, WnetDataOptions, WnetOptions
from transformer_seg.wnet.restore import restore_wnet
from transformer_seg.wnet.scoring import bsds_scores, has_regions, picture_scores
from transformer_seg.wnet.training import SCENES, train


def run_chain(
    chain: WnetChainOptions, model: WnetOptions, data: WnetDataOptions, run: SystemRunOptions, flags: TrainerFlags
) -> int:
    """The whole chain; see ``transformer_seg/run.py``.

    Raises:
        InputError: options or data that cannot be used.
    """
    start = time.time()
    out = run.out or Path("runs/wnet")
    run = replace(run, out=out)
    data = with_embedded_scenes(data, out, data.image_size, SCENES)
    tell(f"1/4 training on {data.data_file}_train.csv")
    train(model, data, run, flags)
    test_file = split_to_score(data, chain.test_file)
    tell(f"2/4 segmenting {test_file}")
    plain = _predict(out, "predictions_without_crf", test_file, chain, data, run, flags, crf=False)
    refined = _predict(out, "predictions", test_file, chain, data, run, flags, crf=True) if chain.crf else plain
    if not is_main_process():
        return DONE
    tell("3/4 scoring")
    lines = _score(chain, data, plain, refined, out)
    tell("4/4 report")
    report = build_report(out, title="WNet")
    print("\n".join(lines))
    print(f"segments: {refined}\nreport: {report}\n{(time.time() - start) / 60:.1f} minutes")
    return DONE


def _predict(
    out: Path,
    folder: str,
    test_file: Path,
    chain: WnetChainOptions,
    data: WnetDataOptions,
    run: SystemRunOptions,
    flags: TrainerFlags,
    *,
    crf: bool,
) -> Path:
    file = best_checkpoint(out)
    forget_older(out / folder, file_hash(file))
    options = PredictOptions(
        data_file=test_file,
        base_dir=data.base_dir,
        model_dir=out,
        out=out / folder,
        overlay=crf == chain.crf,
        num_workers=data.num_workers,
        gpus=run.gpus,
    )
    regions = has_regions(read_split(test_file, base_dir=data.base_dir))
    refinement = RefineOptions(image_size=chain.predict_size, crf=crf, crf_iters=chain.crf_iters, contours=regions)
    return apply_wnet(restore_wnet(file), file, options, refinement, prediction_flags(flags))


def _score(chain: WnetChainOptions, data: WnetDataOptions, plain: Path, refined: Path, out: Path) -> list[str]:
    """Score the network alone, with the CRF, and k-means; writes scores.json and tables, gives lines to print."""
    split = read_split(refined, base_dir=data.base_dir)
    parts = [("", split, chain.crf, "")]
    if refined != plain:
        parts.append(("without_crf_", read_split(plain, base_dir=data.base_dir), False, ""))
    if chain.baseline:
        file = write_kmeans(split, out / "baseline")
        notes = "k-means on colour and position, as many segments per picture"
        parts.append(("kmeans_", read_split(file, base_dir=data.base_dir), False, notes))
    scores: list[Score] = []
    for prefix, predictions, crf, notes in parts:
        scores += [replace(score, name=prefix + score.name) for score in scores_of(predictions, crf, notes)]
    if not scores:
        return ["no ground truth: nothing to score"]
    write_scores(out / "scores.json", scores)
    _write_pictures(split, scores, out)
    return score_lines(scores)


def scores_of(split: Split, crf: bool, notes: str = "") -> list[Score]:
    """All scores that the columns of a prediction split allow."""
    scores = picture_scores(split, crf, notes)
    if "GtInstance" in split.columns and split.available("GtInstance").any():
        options = EvaluateOptions(data_file=split.file, out=split.file.parent, task="instances", crf=crf, notes=notes)
        scores += evaluate(split, options).scores
    if has_regions(split):
        scores += bsds_scores(split, crf, notes)
        if "Ucm" in split.columns:
            names = [name for name in split.columns if name != "Ucm"]
            flat = Split(split.file, split.base_dir, {name: split.cells[name] for name in names})
            scores += bsds_scores(flat, crf, notes, prefix="flat_")
    return scores


def _write_pictures(split: Split, scores: list[Score], out: Path) -> None:
    """Tables and pictures of the worst and best predictions for the report."""
    items = next((score.per_item for score in scores if score.per_item is not None), None)
    values = [
        (items or {}).get(f"{name}/{index}", np.nan)
        for name, index in zip(split.column("Sequence"), split.index.tolist(), strict=True)
    ]
    table = pd.DataFrame(
        {"Sequence": split.column("Sequence"), "Sequence_Index": split.index, "Status": "scored", "j": values}
    )
    write_table(table, out / "per_frame.csv")
    write_panels(split, table, out / "overlays", lambda row: segment_pictures(split, row))
