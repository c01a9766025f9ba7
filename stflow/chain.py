"""Flow, training, prediction, scores and report of one run, each step left out when its files stand already."""

import re
import time
from dataclasses import fields, replace
from pathlib import Path

from common.cli import DONE
from common.errors import InputError
from common.evaluate import EvaluateOptions, evaluate, score_lines
from common.messages import is_main_process
from common.metrics.protocol import write_scores
from common.options import RunOptions, TrainerFlags
from common.panels import write_panels
from common.prediction import forget_older, prediction_flags
from common.report import build_report
from common.splits import read_split
from common.synthetic import ClipOptions
from common.synthetic import run as make_synthetic
from common.tables import write_table
from stflow.apply import apply, checkpoint_hash
from stflow.baseline import write_baseline, write_kmeans
from stflow.compute_flow import ComputeFlowOptions
from stflow.compute_flow import run as compute_flow
from stflow.flow_estimation import RAFT_FILE
from stflow.options import ChainOptions, DataOptions, EmbeddedDataOptions, ModelOptions, PredictOptions
from stflow.pictures import frame_pictures
from stflow.training import train

EMBEDDED = ClipOptions(out=Path(), num=12, num_val=2, num_test=4, num_frames=12)


def run_all(
    chain: ChainOptions, model: ModelOptions, data: EmbeddedDataOptions, run: RunOptions, flags: TrainerFlags
) -> int:
    """The whole chain; see ``stflow/run.py``.

    Raises:
        InputError: options or data that cannot be used.
    """
    start = time.time()
    check_flow(chain)
    out = run.out or Path("runs/stflow")
    run = replace(run, out=out)
    options = with_embedded_clips(data, out)
    if chain.flow != "given":
        add_flow(options, chain, out / "OpticalFlow")
    print(f"1/4 training on {options.data_file}_train.csv")
    train(model, options, run, flags)
    test_file = chain.test_file or test_split(options)
    print(f"2/4 predicting {test_file}")
    forget_older(out / "predictions" / "proba", checkpoint_hash(out))
    predictions = apply(
        PredictOptions(
            data_file=test_file,
            base_dir=options.base_dir,
            model_dir=out,
            out=out / "predictions",
            cuts_size=chain.cuts_size,
            linking=chain.linking,
            foreground=chain.foreground,
            mask_encoding=options.mask_encoding,
            cache_dir=options.cache_dir,
            batch_size=options.batch_size,
            num_workers=options.num_workers,
            gpus=run.gpus,
        ),
        prediction_flags(flags),
    )
    if not is_main_process():
        return DONE
    print("3/4 scoring")
    lines = score(chain, options, test_file, predictions, out, model.nAffineMasks)
    print("4/4 report")
    report = build_report(out, title="stflow")
    print("\n".join(lines))
    print(f"masks: {predictions}\nreport: {report}\n{(time.time() - start) / 60:.1f} minutes")
    return DONE


def with_embedded_clips(data: EmbeddedDataOptions, out: Path) -> DataOptions:
    """The data options, with the embedded clips made beside the run when no data is named."""
    if data.data_file is None:
        make_synthetic(replace(EMBEDDED, out=out / "data", seed=0))
        data = replace(data, data_file=out / "data" / "clips", base_dir=out / "data")
    return DataOptions(**{item.name: getattr(data, item.name) for item in fields(DataOptions)})


def check_flow(chain: ChainOptions) -> None:
    """Refuse weights that no flow is computed with, or that are not there.

    Raises:
        InputError: names flag and remedy.
    """
    if chain.flow_weights is not None and chain.flow != "raft":
        raise InputError(f"--flow_weights {chain.flow_weights}: are RAFT's; give --flow raft with them")
    if chain.flow_weights is not None and not chain.flow_weights.is_file():
        raise InputError(f"--flow_weights {chain.flow_weights}: no such file; it should be {RAFT_FILE}")


def add_flow(data: DataOptions, chain: ChainOptions, folder: Path) -> None:
    """Compute the flow that the splits of the data lack, into a folder of the run."""
    files = [Path(f"{data.data_file}_{step}.csv") for step in ("train", "val", "test")]
    files += [chain.test_file] if chain.test_file is not None else []
    for file in dict.fromkeys(files):
        if file.exists():
            compute_flow(
                ComputeFlowOptions(
                    input=file,
                    base_dir=data.base_dir,
                    out=folder,
                    method="raft" if chain.flow == "raft" else "dis",
                    preset="smooth" if chain.flow == "dis_smooth" else "medium",
                    weights=chain.flow_weights,
                )
            )


def test_split(data: DataOptions) -> Path:
    """The _test split where there is one, else the _val split."""
    file = Path(f"{data.data_file}_test.csv")
    return file if file.exists() else Path(f"{data.data_file}_val.csv")


def score(
    chain: ChainOptions, data: DataOptions, test_file: Path, predictions: Path, out: Path, num_segments: int
) -> list[str]:
    """Score method and baselines on the same frames; writes scores.json and tables, gives lines to print."""
    split = read_split(predictions, base_dir=data.base_dir)
    if "GtMask" not in split.columns or not split.available("GtMask").any():
        return ["no ground truth: nothing to score"]
    options = EvaluateOptions(
        data_file=predictions, out=out, base_dir=data.base_dir, mask_encoding=data.mask_encoding, notes="stflow"
    )
    found = evaluate(split, options)
    scores = list(found.scores)
    if chain.baseline:
        size = (data.img_size[0], data.img_size[1])
        given = read_split(test_file, base_dir=data.base_dir)
        file = write_baseline(given, size, out / "baseline", split.name)
        notes = "baseline: Otsu threshold on the flow without its global quadratic motion"
        linear = evaluate(read_split(file, base_dir=data.base_dir), replace(options, notes=notes))
        scores += [replace(item, name=f"baseline_{item.name}") for item in linear.scores]
        file = write_kmeans(given, size, out / "kmeans", split.name, num_segments, data.mask_encoding)
        notes = f"baseline: k-means of each frame's flow, {num_segments} clusters, chosen in each frame anew"
        clusters = evaluate(read_split(file, base_dir=data.base_dir), replace(options, notes=notes))
        scores += [replace(item, name=f"kmeans_{item.name}") for item in clusters.scores]
    write_scores(out / "scores.json", scores)
    for name, table in (("per_frame.csv", found.per_frame), ("per_sequence.csv", found.per_sequence)):
        write_table(table, out / name)
    if {"Image", "Flow"} <= set(split.columns) and split.available("Image").all():
        write_panels(
            split, found.per_frame, out / "overlays", lambda row: frame_pictures(split, row, data.mask_encoding)
        )
    shown = ("j_mean_frame", "f_mean_frame", "j_mean_davis2016", "f_mean_davis2016")
    return score_lines([item for item in scores if re.sub("^(baseline|kmeans)_", "", item.name) in shown])
