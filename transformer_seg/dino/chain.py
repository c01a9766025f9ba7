"""Training, attention masks, scores and report of one run, each step left out when its files stand already."""

import time
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from common.cli import DONE
from common.errors import InputError
from common.evaluate import EvaluateOptions, Evaluation, evaluate, score_lines
from common.files import read_image, read_labels, read_mask
from common.messages import is_first_process, is_main_process, tell
from common.metrics.protocol import Score, read_scores, write_scores
from common.options import RunOptions, TrainerFlags
from common.panels import write_panels
from common.prediction import prediction_flags
from common.report import build_report
from common.splits import Split, read_split
from common.synthetic import SceneOptions
from common.synthetic import run as make_synthetic
from common.tables import write_table
from common.training import seed_everything
from common.visualize import overlay
from transformer_seg.dino.arch import freeze
from transformer_seg.dino.attention_maps import run_attention
from transformer_seg.dino.classification import run_knn
from transformer_seg.dino.module import Distillation
from transformer_seg.dino.options import AttentionOptions, DinoChainOptions, DinoDataOptions, DinoOptions, KnnOptions
from transformer_seg.dino.training import train
from transformer_seg.dino.weights import Named, load_named

EMBEDDED = SceneOptions(out=Path(), num=512, num_val=32, num_test=128, style="noise", height=64, width=64)
SHOWN = ("attention_jaccard", "j_mean_frame", "f_mean_frame")


def run_chain(
    chain: DinoChainOptions, model: DinoOptions, data: DinoDataOptions, run: RunOptions, flags: TrainerFlags
) -> int:
    """The whole chain; see ``transformer_seg/run.py``.

    Raises:
        InputError: options or data that cannot be used.
    """
    start = time.time()
    out = run.out or Path("runs/dino")
    data = with_embedded_scenes(data, out)
    if data.data_file is None:
        raise InputError("--data_path: the chain scores a split; make one (common/make_split.py) and give --data_file")
    tell(f"1/4 training on {data.data_file}_train.csv")
    train(model, data, replace(run, out=out), flags)
    trained = load_named(AttentionOptions(pretrained_weights=out, checkpoint_key=chain.checkpoint_key))
    networks = {"": trained}
    if chain.baseline:
        networks["baseline_"] = untrained(model, data)
    test_file = chain.test_file or test_split(data)
    tell(f"2/4 attention of {test_file}")
    found = {
        kind: attention_scores(chain, data, test_file, network, out / f"{kind}predictions", run.gpus, flags)
        for kind, network in networks.items()
    }
    tell("3/4 scoring")
    scores = [replace(score, name=kind + score.name) for kind, one in found.items() for score in one]
    if chain.knn and data.data_file is not None and has_classes(data):
        for kind, network in networks.items():
            classified = knn_scores(chain, data, test_file, network, out / f"{kind}knn", run.gpus, flags)
            scores += [replace(score, name=kind + score.name) for score in classified]
    if not is_main_process():
        return DONE
    predictions = out / "predictions" / f"{test_file.stem}.csv"
    write_scores(out / "scores.json", scores)
    write_tables(chain, read_split(predictions, base_dir=data.base_dir), out)
    tell("4/4 report")
    report = build_report(out, title="DINO")
    lines = score_lines(score for score in scores if score.name.removeprefix("baseline_").startswith((*SHOWN, "knn")))
    print("\n".join(lines))
    print(f"masks: {predictions}\nreport: {report}\n{(time.time() - start) / 60:.1f} minutes")
    return DONE


def with_embedded_scenes(data: DinoDataOptions, out: Path) -> DinoDataOptions:
    """The data options, with the embedded scenes made beside the run when no data is named."""
    if data.data_file is not None or data.data_path is not None:
        return data
    if is_first_process():
        make_synthetic(replace(EMBEDDED, out=out / "data", seed=0))
    return replace(data, data_file=out / "data" / "scenes", base_dir=out / "data")


def test_split(data: DinoDataOptions) -> Path:
    """The _test split where there is one, else the _val split."""
    file = Path(f"{data.data_file}_test.csv")
    return file if file.exists() else Path(f"{data.data_file}_val.csv")


def untrained(model: DinoOptions, data: DinoDataOptions) -> Named:
    """The teacher as the training started with it: the same seed gives the same weights."""
    seed_everything(data.seed)
    module = Distillation(model, data.global_crop_size, data.batch_size, data.seed)
    backbone = freeze(module.teacher.backbone)
    return Named(backbone, {"weights": f"random, {model.arch}, seed {data.seed}"})  # type: ignore[arg-type]


def attention_scores(
    chain: DinoChainOptions,
    data: DinoDataOptions,
    test_file: Path,
    network: Named,
    out: Path,
    gpus: int | None,
    flags: TrainerFlags,
) -> list[Score]:
    """Masks of the test split, and their scores: best head per object, and the heads' mean as foreground."""
    options = AttentionOptions(
        data_file=test_file,
        base_dir=data.base_dir,
        out=out,
        image_size=chain.image_size,
        threshold=chain.threshold,
        pictures=4,
        mask_encoding=chain.mask_encoding,
        batch_size=min(data.batch_size, 16),
        num_workers=data.num_workers,
        gpus=gpus,
    )
    written = run_attention(options, prediction_flags(flags), network)
    if not is_main_process():
        return []
    found = read_scores(out / "scores.json") if (out / "scores.json").exists() else []
    split = read_split(written, base_dir=data.base_dir)
    evaluation = foreground(chain, split)
    return [*found, *(evaluation.scores if evaluation is not None else [])]


def foreground(chain: DinoChainOptions, split: Split) -> Evaluation | None:
    """J and F of the masks of the heads' mean, where rows have a GtMask."""
    if "GtMask" not in split.columns or not split.available("GtMask").any():
        return None
    notes = f"mask of the heads' mean, {chain.threshold} of the attention kept"
    options = EvaluateOptions(
        data_file=split.file, out=Path(), task="foreground", mask_encoding=chain.mask_encoding, notes=notes
    )
    return evaluate(split, options)


def write_tables(chain: DinoChainOptions, split: Split, out: Path) -> None:
    """Scores by frame and sequence, and panels of the worst, middle and best frames for the report."""
    found = foreground(chain, split)
    if found is None:
        return
    write_table(found.per_frame, out / "per_frame.csv")
    write_table(found.per_sequence, out / "per_sequence.csv")

    def pictures(row: int) -> dict[str, NDArray[np.uint8]]:
        image = read_image(split.path(row, "Image"))
        truth = read_mask(split.path(row, "GtMask"), chain.mask_encoding).foreground
        return {
            "input": image,
            "prediction": overlay(image, read_labels(split.path(row, "Pred"))),
            "ground_truth": overlay(image, truth.astype(np.int64)),
        }

    write_panels(split, found.per_frame, out / "overlays", pictures)


def has_classes(data: DinoDataOptions) -> bool:
    """Whether the training split says what its pictures show."""
    return "GtSemantic" in read_split(data.data_file, "train", data.base_dir).columns  # type: ignore[arg-type]


def knn_scores(
    chain: DinoChainOptions,
    data: DinoDataOptions,
    test_file: Path,
    network: Named,
    out: Path,
    gpus: int | None,
    flags: TrainerFlags,
) -> list[Score]:
    """Classes of the test pictures by their neighbours among the training pictures."""
    size = chain.knn_size or data.global_crop_size
    options = KnnOptions(
        data_file=data.data_file,
        test_file=test_file,
        base_dir=data.base_dir,
        out=out,
        nb_knn=chain.nb_knn,
        resize=size,
        crop=size,
        batch_size=min(data.batch_size, 64),
        num_workers=data.num_workers,
        gpus=gpus,
    )
    return run_knn(options, prediction_flags(flags), network)
