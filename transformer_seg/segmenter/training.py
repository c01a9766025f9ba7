"""Training of Segmenter from options."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import yaml

from common.errors import InputError
from common.files import atomic_path
from common.messages import is_first_process
from common.options import TrainerFlags
from common.splits import read_classes
from common.training import fit, seed_everything
from transformer_seg.embedded import with_embedded_scenes
from transformer_seg.images import ImageDataModule, as_lists
from transformer_seg.options import SystemRunOptions, check_numbers
from transformer_seg.saving import EpochLog, WeightsFile
from transformer_seg.segmenter.data import SegmenterTransforms
from transformer_seg.segmenter.module import SegmenterModule
from transformer_seg.segmenter.options import SegmenterDataOptions, SegmenterOptions, check_segmenter
from transformer_seg.segmenter.restore import load_pretrained, load_weights, with_classes
from transformer_seg.segmenter.sizes import encoder_sizes

LOG_NAMES = {
    "train/loss": "train_loss",
    "train/learning_rate": "train_learning_rate",
    "val/pixel_accuracy": "val_pixel_accuracy",
    "val/mean_accuracy": "val_mean_accuracy",
    "val/miou": "val_mean_iou",
}
SCENES = (64, 32, 32)  # training, validation and test scenes when no data is named


def train(
    model: SegmenterOptions, data: SegmenterDataOptions, run: SystemRunOptions, flags: TrainerFlags
) -> pl.Trainer:
    """Train from options; see ``common.training.fit`` for what the run directory holds.

    Raises:
        InputError: options or data that cannot be trained on.
    """
    run = replace(run, out=run.out or Path("runs/segmenter"))
    assert run.out is not None
    check_numbers(data)
    sizes = encoder_sizes(model)
    check_segmenter(model, data, sizes.arguments["patch_size"])
    data = with_embedded_scenes(data, run.out, data.image_size, SCENES)
    classes = class_names(data, model.num_classes)
    model = with_classes(model, classes)
    seed_everything(data.seed)
    module = SegmenterModule(model, data, classes, seed=data.seed)
    if not run.resume:
        if run.ckpt_path is not None:
            load_weights(module, run.ckpt_path, reset_head=model.reset_head)
        elif model.pretrained or model.backbone_weights is not None:
            load_pretrained(module)
    datamodule = ImageDataModule(
        data, SegmenterTransforms(data, module.normalisation), num_classes=model.num_classes, collate_val=as_lists
    )
    datamodule.prepare("train", "val")
    _require_labels(datamodule)
    callbacks: list[pl.Callback] = []
    if run.save_logs:
        callbacks.append(EpochLog(run.out / "log.txt", LOG_NAMES))
    if run.save_model:
        callbacks.append(WeightsFile(run.out / "checkpoint.pth", lambda _: published_content(module)))
        if is_first_process():
            callbacks.append(_Variant(run.out / "variant.yml", variant(module, data)))
    return fit(
        module,
        datamodule,
        run=run,
        flags=flags,
        options=(model, data),
        callbacks=callbacks,
        facts={"method": "segmenter", "seed": data.seed, "split_hash": datamodule.split_hash()},
    )


def class_names(data: SegmenterDataOptions, num_classes: int | None) -> dict[int, str]:
    """The names beside the split; numbers where there are none and their number is given."""
    assert data.data_file is not None
    try:
        return read_classes(data.data_file)
    except InputError:
        if num_classes is None:
            raise
        return {index: f"class {index}" for index in range(num_classes)}


def _require_labels(datamodule: ImageDataModule) -> None:
    for images in datamodule.images.values():
        if not images.has_labels or not images.split.available("GtSemantic").all():
            raise InputError(
                f"{images.split.file}: Segmenter learns from labels, every row needs a GtSemantic map; WNet and DINO"
                " need none"
            )


def published_content(module: SegmenterModule) -> dict[str, Any]:
    """What ``checkpoint.pth`` holds in the authors' container."""
    return {"model": module.model.state_dict(), "n_cls": module.num_classes, "epoch": module.current_epoch}


def variant(module: SegmenterModule, data: SegmenterDataOptions) -> dict[str, Any]:
    """The content of ``variant.yml``: what the tensors do not show."""
    options, arguments = module.options, encoder_sizes(module.options).arguments
    decoder: dict[str, Any] = {"name": options.decoder}
    if options.decoder == "mask_transformer":
        decoder |= {"n_layers": options.decoder_depth, "drop_path_rate": 0.0, "dropout": options.decoder_dropout}
    side = [data.crop_size, data.crop_size]
    return {
        "net_kwargs": {
            "backbone": options.arch,
            "image_size": side,
            "patch_size": arguments["patch_size"],
            "d_model": arguments["width"],
            "n_heads": arguments["heads"],
            "n_layers": arguments["depth"],
            "normalization": module.normalisation,
            "distilled": arguments["distilled"],
            "dropout": 0.0,
            "drop_path_rate": options.drop_path,
            "n_cls": module.num_classes,
            "decoder": decoder,
        },
        "inference_kwargs": {
            "im_size": data.image_size,
            "window_size": module.windows.size,
            "window_stride": module.windows.stride,
        },
    }


class _Variant(pl.Callback):
    """Writes ``variant.yml`` when the training begins."""

    def __init__(self, path: Path, content: dict[str, Any]) -> None:
        self.path, self.content = path, content

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Write it."""
        with atomic_path(self.path) as temporary:
            temporary.write_text(yaml.safe_dump(self.content, sort_keys=False), encoding="utf-8")
