"""One way to train for every method: run directory, seeds, loggers, checkpoints, signals, resume, provenance.

    run directory
      config.yaml        the resolved options, ready for --config
      provenance.json    code, versions, machine, seed, data, duration, memory
      checkpoints/       last.ckpt, the best by the monitored metric
      metrics.csv        every logged metric
      samples/           pictures during training

A method brings a LightningModule, a LightningDataModule and callbacks of its own; everything else stands here once.
"""

import logging
import os
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, is_dataclass
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
import yaml
from pytorch_lightning.callbacks import ModelCheckpoint

from common.callbacks import LastCheckpoint, LogPosition, LossWatch, SamplePictures
from common.errors import InputError, RunFailed
from common.files import atomic_path
from common.loggers import CsvLogger, make_loggers
from common.options import RunOptions, TrainerFlags, resolve_gpus
from common.provenance import Provenance

CHANGEABLE = {item for options in (RunOptions, TrainerFlags) for item in options.__dataclass_fields__}


def fit(
    module: pl.LightningModule,
    datamodule: pl.LightningDataModule,
    *,
    run: RunOptions,
    flags: TrainerFlags,
    options: Sequence[Any],
    monitor: str = "val/loss",
    mode: str = "min",
    callbacks: Sequence[pl.Callback] = (),
    facts: Mapping[str, Any] | None = None,
) -> pl.Trainer:
    """Train and leave a complete run directory behind.

    Args:
        module: What is trained.
        datamodule: Its data.
        run: Run directory and logging; ``run.out`` must be set.
        flags: Trainer flags.
        options: The method's own option dataclasses, written to config.yaml and compared on a resume.
        monitor: Metric that chooses the best checkpoint.
        mode: ``min`` or ``max``.
        callbacks: The method's own callbacks.
        facts: What the method adds to provenance.json (seed, split hash ...).

    Raises:
        InputError: the run directory is taken, cannot be written, or was made with other options.
        Interrupted: a signal stopped the run, after saving its state.
        RunFailed: out of memory.
    """
    assert run.out is not None
    resume_from = prepare_run(run.out, run, options, flags)
    provenance = Provenance(device=_device_name(), **(facts or {}))
    trainer = make_trainer(run, flags, monitor, mode, callbacks)
    if trainer.is_global_zero:
        provenance.write(run.out / "provenance.json", finished=False)
    try:
        trainer.fit(module, datamodule=datamodule, ckpt_path=resume_from, weights_only=True)
    except torch.OutOfMemoryError as error:
        raise RunFailed("out of GPU memory: lower --batch_size or the image size, or use --precision bf16-mixed") from (
            error
        )
    if trainer.is_global_zero:
        peak = torch.cuda.max_memory_allocated() // 2**20 if torch.cuda.is_available() else None
        state = {"epochs": trainer.current_epoch, "steps": trainer.global_step, "peak_gpu_memory_mb": peak}
        provenance.write(run.out / "provenance.json", finished=True, **state)
    return trainer


def make_trainer(
    run: RunOptions, flags: TrainerFlags, monitor: str, mode: str, callbacks: Iterable[pl.Callback]
) -> pl.Trainer:
    """A Trainer with this project's loggers and callbacks."""
    assert run.out is not None
    quiet()
    arguments = resolve_gpus(run.gpus, flags.arguments(), torch.cuda.device_count())
    loggers = make_loggers(run.logger, run.out, run.project)
    assert isinstance(loggers[0], CsvLogger)
    saving = [] if flags.fast_dev_run else checkpoint_callbacks(run, flags, monitor, mode)
    return pl.Trainer(
        **arguments,
        default_root_dir=run.out,
        logger=loggers,
        use_distributed_sampler=False,  # common.sampling shares the samples out, in an order that survives a resume
        callbacks=[
            *callbacks,
            LossWatch(),
            SamplePictures(run.out / "samples", run.sample_every),
            LogPosition(loggers[0]),
            *saving,
        ],
    )


def checkpoint_callbacks(run: RunOptions, flags: TrainerFlags, monitor: str, mode: str) -> list[pl.Callback]:
    """The best checkpoint by a metric, and ``last.ckpt``."""
    assert run.out is not None
    folder = run.out / "checkpoints"
    best = ModelCheckpoint(
        folder,
        filename="epoch={epoch:03d}-" + monitor.replace("/", "_") + "={" + monitor + ":.5f}",
        monitor=monitor,
        mode=mode,
        auto_insert_metric_name=False,
        every_n_epochs=flags.check_val_every_n_epoch or 1,
        save_on_train_epoch_end=True,
    )
    return [best, LastCheckpoint(folder / "last.ckpt", run.save_every)]


def prepare_run(folder: Path, run: RunOptions, options: Sequence[Any], flags: TrainerFlags) -> Path | None:
    """Make the run directory, or check that it can be continued.

    Returns:
        The checkpoint to resume from, or None for a new run.

    Raises:
        InputError: the folder cannot be written, holds another run, or was made with other options.
    """
    last = folder / "checkpoints" / "last.ckpt"
    config: dict[str, Any] = {}
    for part in (*options, run, flags):
        config.update(to_plain(part))
    if int(os.environ.get("LOCAL_RANK", "0")) > 0:  # the first process has checked and written already
        return last if run.resume and last.exists() else None
    if last.exists() and not run.resume:
        raise InputError(f"{folder}: holds a run already; add --resume to continue it, or give another --out")
    if run.resume and (folder / "config.yaml").exists():
        _compare(yaml.safe_load((folder / "config.yaml").read_text()), config, folder)
    with atomic_path(folder / "config.yaml") as temporary:
        temporary.write_text(yaml.safe_dump(config, sort_keys=False))
    if run.resume and not last.exists():
        print(f"{folder}: no checkpoint yet, starting from the beginning")
    return last if run.resume and last.exists() else None


def to_plain(value: Any) -> Any:
    """Dataclasses, paths and tuples as dictionaries, strings and lists: what YAML and a safe checkpoint can hold."""
    if is_dataclass(value) and not isinstance(value, type):
        return to_plain(asdict(value))
    if isinstance(value, Mapping):
        return {key: to_plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [to_plain(item) for item in value]
    return str(value) if isinstance(value, Path) else value


def seed_everything(seed: int) -> None:
    """Seed python, numpy and torch; draws that must survive a resume use ``common.sampling.generator`` instead."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pl.seed_everything(seed, workers=True, verbose=False)


def quiet() -> None:
    """Silence what Lightning says at every start and no user acts on."""
    logging.getLogger("pytorch_lightning.utilities.rank_zero").setLevel(logging.WARNING)
    logging.getLogger("pytorch_lightning.accelerators.cuda").setLevel(logging.WARNING)
    for message in (
        ".*does not have many workers.*",
        ".*number of training batches.*smaller than the logging interval.*",
        ".*Checkpoint directory .* exists and is not empty.*",
        ".*GPU available but not used.*",
        ".*treespec, LeafSpec.*",
        ".*Trying to infer the `batch_size`.*",
    ):
        warnings.filterwarnings("ignore", message=message)


def _compare(before: Mapping[str, Any], now: Mapping[str, Any], folder: Path) -> None:
    """Refuse to continue a run with other options of the method than it was started with."""
    for key in now:
        if key not in CHANGEABLE and key in before and before[key] != now[key]:
            raise InputError(
                f"--resume: {key} was {before[key]} in {folder}/config.yaml and is {now[key]} now; give the same value,"
                " or another --out"
            )


def _device_name() -> str:
    return torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"
