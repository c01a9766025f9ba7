"""Training of DINO from options: module, data, collapse watch, kept checkpoints and the authors' container."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import ModelCheckpoint

from common.errors import InputError
from common.options import RunOptions, TrainerFlags, resolve_gpus
from common.training import checked_trainer, fit, quiet, seed_everything
from transformer_seg.dino.data import DinoDataModule
from transformer_seg.dino.module import Distillation
from transformer_seg.dino.options import DinoDataOptions, DinoOptions, check_dino_options, warmup_epochs
from transformer_seg.dino.watch import DistillationWatch
from transformer_seg.dino.weights import load_into, published_file
from transformer_seg.saving import EpochLog, WeightsFile

LOGGED = {"train/loss": "train_loss", "train/lr": "train_lr", "train/weight_decay": "train_wd"}


def train(model: DinoOptions, data: DinoDataOptions, run: RunOptions, flags: TrainerFlags) -> pl.Trainer:
    """Train from options; see ``common.training.fit`` for what the run directory holds.

    Raises:
        InputError: options or data that cannot be trained on.
    """
    run = replace(run, out=run.out or Path("runs/dino"))
    assert run.out is not None
    check_dino_options(model, data)
    flags = checked_flags(model, flags)
    processes = num_processes(run, flags)
    datamodule = DinoDataModule(data, run.out)
    datamodule.check(processes)
    seed_everything(data.seed)
    module = Distillation(model, data.global_crop_size, data.batch_size * processes, data.seed)
    check_crops(module, data)
    if model.pretrained and not run.resume:
        load_into(module, published_file(model.arch, model.patch_size))
    if run.ckpt_path is not None and not run.resume:
        load_into(module, run.ckpt_path)
    return fit(
        module,
        datamodule,
        run=run,
        flags=flags,
        options=(model, data),
        callbacks=[
            DistillationWatch(model.out_dim, warmup_epochs(model)),
            *([] if flags.fast_dev_run else kept_files(model, run)),
        ],
        facts={
            "seed": data.seed,
            "split_hash": {step: one.split.hash() for step, one in datamodule.sets.items()},
        },
    )


def checked_flags(model: DinoOptions, flags: TrainerFlags) -> TrainerFlags:
    """Trainer flags that go with this method, the end of the schedules as the default end.

    Raises:
        InputError: a flag that does not.
    """
    if flags.max_epochs is None:
        flags = replace(flags, max_epochs=model.epochs)
    if flags.max_epochs is not None and not 0 <= flags.max_epochs <= model.epochs:
        raise InputError(
            f"--max_epochs {flags.max_epochs}: the schedules end after --epochs {model.epochs}; give a larger --epochs"
        )
    if flags.precision is not None and flags.precision.startswith("16"):
        raise InputError(f"--precision {flags.precision}: 16-bit floats overflow here; use bf16-mixed, or 32-true")
    if flags.accumulate_grad_batches != 1:
        given = flags.accumulate_grad_batches
        raise InputError(
            f"--accumulate_grad_batches {given}: centre and teacher move with every step; use a larger --batch_size"
        )
    if flags.gradient_clip_val is not None:
        raise InputError(
            f"--gradient_clip_val {flags.gradient_clip_val}: use --clip_grad, which clips tensor by tensor"
        )
    return flags


def num_processes(run: RunOptions, flags: TrainerFlags) -> int:
    """How many processes the Trainer will use, and so how many batches make a step."""
    quiet()
    arguments = resolve_gpus(run.gpus, flags.arguments(), torch.cuda.device_count())
    chosen = {name: arguments[name] for name in ("accelerator", "strategy", "devices", "num_nodes")}
    trainer = checked_trainer(**chosen, logger=False, enable_checkpointing=False, enable_progress_bar=False)
    return trainer.num_devices * trainer.num_nodes


def check_crops(module: Distillation, data: DinoDataOptions) -> None:
    """Whether crops are whole numbers of patches.

    Raises:
        InputError: otherwise; the nearest size is named.
    """
    patch = module.student.backbone.patch_size
    for name in ("global_crop_size", "local_crop_size"):
        side = getattr(data, name)
        if side < patch or side % patch:
            near = max(round(side / patch), 1) * patch
            raise InputError(f"--{name} {side}: no multiple of the patch size {patch}; give {near}")


def kept_files(model: DinoOptions, run: RunOptions) -> list[pl.Callback]:
    """What a run keeps besides its best and last checkpoint."""
    assert run.out is not None
    found: list[pl.Callback] = []
    if model.save_checkpoint_every:
        found.append(
            ModelCheckpoint(
                run.out / "checkpoints",
                filename="kept-epoch={epoch:04d}",
                auto_insert_metric_name=False,
                enable_version_counter=False,
                every_n_epochs=model.save_checkpoint_every,
                save_top_k=-1,
                save_on_train_epoch_end=True,
            )
        )
    if getattr(run, "save_model", False):
        found.append(WeightsFile(run.out / "checkpoint.pth", published_container))
    if getattr(run, "save_logs", False):
        found.append(EpochLog(run.out / "log.txt", LOGGED))
    return found


def published_container(module: pl.LightningModule) -> dict[str, Any]:
    """``checkpoint.pth`` as the authors' training writes it: student, teacher, centre, epoch and options."""
    assert isinstance(module, Distillation)
    return {
        "student": {f"module.{key}": value.cpu() for key, value in module.student.state_dict().items()},
        "teacher": {key: value.cpu() for key, value in module.teacher.state_dict().items()},
        "dino_loss": {"center": module.center.cpu()},
        "epoch": module.current_epoch,
        "args": dict(module.hparams),
    }
