"""Stages E and F from options: train, predict with or without CRF, score; the linear probe likewise."""

import warnings
from dataclasses import replace
from pathlib import Path

import pytorch_lightning as pl

from common.errors import InputError
from common.messages import is_main_process, tell
from common.options import RunOptions, TrainerFlags
from common.splits import Split, read_split
from common.training import fit, seed_everything
from maskdistill.segmentation.data import SegmentationData, readable, side_px
from maskdistill.segmentation.label_writer import LabelRule
from maskdistill.segmentation.labelling import Machine, label_images
from maskdistill.segmentation.module import LinearProbeModule, SegmentationModule
from maskdistill.segmentation.options import LabelOptions, SegmentationDataOptions, SegmentationOptions
from maskdistill.segmentation.restore import Restored, restore, save_original
from maskdistill.segmentation.scoring import score_labels, write_label_scores
from maskdistill.segmentation.sources import class_names, step_split


def train_and_label(
    kind: type[SegmentationModule],
    model: SegmentationOptions,
    data: SegmentationDataOptions,
    labels: LabelOptions,
    run: RunOptions,
    flags: TrainerFlags,
) -> Path:
    """What ``train.py`` and ``linear_finetune.py`` do; see their help.

    Returns:
        The prediction split.

    Raises:
        InputError: Options, data or weights that cannot be used.
    """
    assert run.out is not None
    if labels.crf_train and not labels.crf_postprocess:
        raise InputError("--crf_train: needs --crf_postprocess; it writes the CRF's label maps of the training images")
    if labels.model_path is None:
        train(kind, model, data, run, flags)
        if flags.fast_dev_run:
            return run.out
    restored = restore(labels.model_path or run.out, labels.select)
    if is_main_process() and labels.model_path is None:
        export(run.out)
    return label_step(restored, model, data, labels, run, flags)


def train(
    kind: type[SegmentationModule],
    model: SegmentationOptions,
    data: SegmentationDataOptions,
    run: RunOptions,
    flags: TrainerFlags,
) -> pl.Trainer:
    """Train from options; see ``common.training.fit`` for what the run directory holds.

    Raises:
        InputError: Options, data or weights that cannot be used.
    """
    assert run.out is not None
    names = class_names(data)
    num_true = max(names) + 1
    num_classes = model.num_classes or num_true
    if num_classes < 2:
        raise InputError(f"--num_classes {num_classes}: give at least 2, background and one class")
    check_training(kind, model, data)
    if flags.max_epochs is None and flags.max_steps < 0:
        flags = replace(flags, max_epochs=model.epochs)
    seed_everything(data.seed)
    datamodule = SegmentationData(data, num_classes, num_true)
    datamodule.prepare()
    module = _module(kind, model, data, num_classes, num_true)
    module.num_epochs = flags.max_epochs or model.epochs
    if run.ckpt_path is not None and not run.resume:
        _load(module, run.ckpt_path)
    warnings.filterwarnings("ignore", message=".*in eval mode at the start of training.*")  # frozen ones are
    truth = datamodule.has_ground_truth
    return fit(
        module,
        datamodule,
        run=run,
        flags=flags,
        options=(model, data),
        monitor="val/miou" if truth else "train/loss",
        mode="max" if truth else "min",
        facts={
            "method": "maskdistill",
            "stage": kind.__name__,
            "seed": data.seed,
            "split_hash": {step: split.hash() for step, split in datamodule.splits.items()},
        },
    )


def check_training(kind: type[SegmentationModule], model: SegmentationOptions, data: SegmentationDataOptions) -> None:
    """Refuse what cannot be trained, each in one line.

    Raises:
        InputError: Names the flag, the value and the remedy.
    """
    if data.batch_size < 1:
        raise InputError(f"--batch_size {data.batch_size}: give at least 1")
    trains_norms = model.freeze_batchnorm == "none" and not issubclass(kind, LinearProbeModule)
    if data.batch_size == 1 and trains_norms and not model.model_kwargs.use_fcn:
        raise InputError(
            "--batch_size 1: the batch norm over pooled images needs two; give 2, or --freeze_batchnorm all"
        )
    if not 0 < model.loss_kwargs.threshold <= 1:
        raise InputError(f"--loss_kwargs.threshold {model.loss_kwargs.threshold}: a share, above 0 and up to 1")
    if model.epochs < 1:
        raise InputError(f"--epochs {model.epochs}: give at least 1")
    if issubclass(kind, LinearProbeModule) and model.pretrained is None:
        raise InputError(
            "--pretrained: name the trained DeepLab-v3, a run directory or a file, whose features to probe"
        )


def _module(
    kind: type[SegmentationModule],
    model: SegmentationOptions,
    data: SegmentationDataOptions,
    num_classes: int,
    num_true: int,
) -> SegmentationModule:
    network = None
    if model.pretrained is not None:
        restored = restore(model.pretrained)
        network = restored.network.train()
        if restored.num_classes != num_classes and not issubclass(kind, LinearProbeModule):
            raise InputError(
                f"{restored.file}: has {restored.num_classes} classes, not {num_classes}; give --num_classes"
                f" {restored.num_classes}"
            )
    return kind(model, num_classes, num_true, side_px(data), data.seed, network)


def _load(module: SegmentationModule, path: Path) -> None:
    restored = restore(path)
    own, given = module.network.state_dict(), restored.network.state_dict()
    if {key: value.shape for key, value in own.items()} != {key: value.shape for key, value in given.items()}:
        raise InputError(f"{restored.file}: weights of another network; give the options of its training")
    module.network.load_state_dict(given)


def export(out: Path) -> None:
    """``model.pth.tar`` (last) and ``best_model.pth.tar`` of a run directory, in the original's layout."""
    save_original(restore(out / "checkpoints" / "last.ckpt").network, out / "model.pth.tar")
    try:
        best = restore(out, "best")
    except InputError:  # without ground truth no checkpoint is better than another
        return
    save_original(best.network, out / "best_model.pth.tar")


def label_step(
    restored: Restored,
    model: SegmentationOptions,
    data: SegmentationDataOptions,
    labels: LabelOptions,
    run: RunOptions,
    flags: TrainerFlags,
) -> Path:
    """Predict the validation or, for the next round, the training images; score them where they have ground truth."""
    assert run.out is not None
    step = "train" if labels.crf_train else "val"
    split = step_split(data, step)
    if data.skip_bad:
        split = readable(split)
    folder = "predictions_train" if labels.crf_train else "predictions_crf" if labels.crf_postprocess else "predictions"
    written = label_images(
        restored,
        split,
        run.out / folder,
        LabelRule(labels.crf_postprocess, labels.predict_resize, labels.crf_min_probability),
        Machine(flags, run.gpus, data.batch_size, data.num_workers, labels.crf_workers),
        image_px=data.image_px or restored.image_px or side_px(data),
        overlay=labels.overlay and not labels.crf_train,
        overwrite=labels.overwrite or labels.model_path in (None, run.out),  # its own, of fewer epochs
    )
    if is_main_process():
        _score(read_split(written, base_dir=split.base_dir), model, data, labels, run.out, step)
    tell(f"label maps: {written}")
    return written


def _score(
    split: Split,
    model: SegmentationOptions,
    data: SegmentationDataOptions,
    labels: LabelOptions,
    out: Path,
    step: str,
) -> None:
    if "GtSemantic" not in split.columns or not split.available("GtSemantic").any():
        tell("no ground truth: nothing to score")
        return
    found = score_labels(
        split, class_names(data), match=model.match, crf=labels.crf_postprocess, notes=f"{step} images"
    )
    write_label_scores(found, split, out if step == "val" else out / "scores_train")
    print("\n".join(found.lines()))
