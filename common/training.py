"""One way to train for every method: run directory, seeds, loggers, checkpoints, signals, resume, provenance.

    run directory
      config.yaml        the resolved options, ready for --config
      provenance.json    code, versions, machine, seed, data, duration, memory
      checkpoints/       last.ckpt, the best by the monitored metric
      metrics.csv        every logged metric
      samples/           pictures during training

A method brings a LightningModule, a LightningDataModule and callbacks of its own; everything else stands here once.
"""

import json
import logging
import re
import signal
import warnings
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, is_dataclass, replace
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
import yaml
from pytorch_lightning.callbacks import ModelCheckpoint
from pytorch_lightning.loggers import WandbLogger
from pytorch_lightning.utilities.exceptions import MisconfigurationException

from common.allocation import keep_freed_memory
from common.callbacks import LastCheckpoint, LogPosition, LossWatch, SamplePictures
from common.checkpoint_files import WholeCheckpoints
from common.compiling import compile_networks
from common.errors import InputError, Interrupted, RunFailed
from common.files import atomic_path, check_writable
from common.loggers import CsvLogger, make_loggers
from common.messages import is_first_process
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
    forced: Mapping[str, Any] | None = None,
    changeable: Collection[str] = (),
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
        forced: Trainer flags that the method sets itself; config.yaml keeps those that were given.
        changeable: Options of the method that a resumed run may have changed.

    Nothing is written before the options, the flags and the data have been found good: ``datamodule.prepare_data``
    reads the data here first, and again when Lightning calls it, which must cost nothing.

    Raises:
        InputError: the run directory is taken, cannot be written, or was made with other options; flags or data that
            cannot be used.
        Interrupted: a signal stopped the run, after saving its state.
        RunFailed: out of memory.
    """
    assert run.out is not None
    config: dict[str, Any] = {}
    for part in (*options, run, flags):
        config.update(to_plain(part))
    resume_from = check_run(run.out, run, config, changeable)
    facts = {"method": type(module).__module__.rpartition(".")[0], "device": _device_name(), **(facts or {})}
    provenance = Provenance(**facts)
    trainer = make_trainer(run, replace(flags, **(forced or {})), monitor, mode, callbacks)
    if is_first_process():
        datamodule.prepare_data()
        _check_interval(trainer, datamodule, flags)
        with atomic_path(run.out / "config.yaml") as temporary:
            temporary.write_text(yaml.safe_dump(config, sort_keys=False))
    file = run.out / "provenance.json"
    before = file.read_text() if resume_from is not None and file.exists() else None
    if trainer.is_global_zero:
        provenance.write(file, finished=False)
        for logger in trainer.loggers:
            if isinstance(logger, WandbLogger):  # dashboards find the runs of a method by its name
                logger.log_hyperparams({"method": facts["method"], "options": config})
    if run.compile:
        compile_networks(module)
    with plain_failures():
        trainer.fit(module, datamodule=datamodule, ckpt_path=resume_from, weights_only=True)
    if trainer.is_global_zero and before is not None and _was_finished(before, trainer.global_step):
        with atomic_path(file) as temporary:  # nothing was trained: what stood there is still true
            temporary.write_text(before)
        print(f"{run.out}: finished already after {trainer.current_epoch} epochs; a larger --max_epochs goes on")
    elif trainer.is_global_zero:
        peak = torch.cuda.max_memory_allocated() // 2**20 if torch.cuda.is_available() else None
        state = {"epochs": trainer.current_epoch, "steps": trainer.global_step, "peak_gpu_memory_mb": peak}
        provenance.write(file, finished=True, **state)
    return trainer


def _check_interval(trainer: pl.Trainer, datamodule: pl.LightningDataModule, flags: TrainerFlags) -> None:
    """Refuse what Lightning refuses too, but before anything is written.

    Raises:
        InputError: ``val_check_interval`` counts more batches than an epoch has.
    """
    interval, limit = flags.val_check_interval, flags.limit_train_batches
    if interval is None or interval <= 1 or flags.check_val_every_n_epoch is None or flags.fast_dev_run:
        return
    datamodule.trainer = trainer
    datamodule.setup("fit")
    batches = len(datamodule.train_dataloader())
    if limit is not None:
        batches = min(batches, int(limit if limit > 1 else limit * batches))
    if interval > batches:
        raise InputError(
            f"--val_check_interval {interval:g}: an epoch has {batches} training batches; give at most that many, a "
            "share of them (0.5), or --check_val_every_n_epoch null to count on over epochs"
        )


@contextmanager
def plain_failures() -> Iterator[None]:
    """Around a Trainer's work: what a user can mend becomes one line, defects stay as they are.

    Raises:
        RunFailed: out of memory, or another process of the run has ended.
        InputError: a Trainer flag that does not fit the data or the machine.
        Interrupted: Ctrl-C, which Lightning turns into an exit.
    """
    handler = signal.getsignal(signal.SIGINT)
    try:
        yield
    except SystemExit as error:
        signal.signal(signal.SIGINT, handler)  # Lightning leaves it ignored
        raise Interrupted("the same command goes on with what stands") from error
    except torch.OutOfMemoryError as error:
        raise RunFailed("out of GPU memory: lower --batch_size or the image size, or use --precision bf16-mixed") from (
            error
        )
    except MisconfigurationException as error:
        raise InputError(f"Trainer flags: {_first_sentence(error)}; see --help") from error
    except (RuntimeError, ValueError) as error:
        if "/gloo/" in str(error) or type(error).__name__.startswith("Dist"):  # torch.distributed may be missing
            raise RunFailed(
                "another process of this run has ended, so this one cannot go on; give the same command again (a "
                "training with --resume)"
            ) from error
        if type(error).__module__.startswith(("torch._dynamo", "torch._inductor")):
            raise RunFailed(
                f"--compile: torch.compile failed ({_first_sentence(error)[:300]}); leave it out"
            ) from error
        if "can't allocate memory" in str(error):  # torch's CPU allocator
            raise RunFailed("out of memory: lower --batch_size or the image size") from error
        if "val_check_interval" in str(error):
            raise InputError(f"Trainer flags: {_first_sentence(error)}; see --help") from error
        raise


def make_trainer(
    run: RunOptions, flags: TrainerFlags, monitor: str, mode: str, callbacks: Iterable[pl.Callback]
) -> pl.Trainer:
    """A Trainer with this project's loggers and callbacks.

    Raises:
        InputError: a flag that Lightning refuses, with its reason.
    """
    assert run.out is not None
    quiet()
    arguments = resolve_gpus(run.gpus, flags.arguments(), torch.cuda.device_count())
    loggers = make_loggers(run.logger, run.out, run.project)
    assert isinstance(loggers[0], CsvLogger)
    saving = [] if flags.fast_dev_run else checkpoint_callbacks(run, flags, monitor, mode)
    return checked_trainer(
        **arguments,
        default_root_dir=run.out,
        plugins=[WholeCheckpoints()],
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


def checked_trainer(**arguments: Any) -> pl.Trainer:
    """``pl.Trainer``, whose objections to flags become one line.

    Raises:
        InputError: Lightning's reason; it names flag and value.
    """
    try:
        trainer = pl.Trainer(**arguments)
    except (MisconfigurationException, ValueError, TypeError) as error:
        raise InputError(f"Trainer flags: {_first_sentence(error)}; see --help") from error
    if trainer.strategy.root_device.type == "cpu":
        keep_freed_memory()
    return trainer


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
        enable_version_counter=False,  # a kill between this file and last.ckpt: the same name again, no second file
        every_n_epochs=flags.check_val_every_n_epoch or 1,
        save_on_train_epoch_end=True,
    )
    return [best, LastCheckpoint(folder / "last.ckpt", run.save_every)]


def check_run(
    folder: Path, run: RunOptions, config: Mapping[str, Any], changeable: Collection[str] = ()
) -> Path | None:
    """Whether a run directory can be started or continued; nothing is written.

    Args:
        folder: The run directory.
        run: Its options.
        config: All options as they will stand in config.yaml.
        changeable: Options that may differ from those of the run so far.

    Returns:
        The checkpoint to resume from, or None for a new run.

    Raises:
        InputError: the folder cannot be written, holds another run, or was made with other options.
    """
    last = folder / "checkpoints" / "last.ckpt"
    if not is_first_process():  # the first process checks
        return last if run.resume and last.exists() else None
    for name in ("save_every", "sample_every"):
        if getattr(run, name) < 0:
            raise InputError(f"--{name} {getattr(run, name)}: give 0 for never, or a positive number")
    check_writable(folder)
    if last.exists() and not run.resume:
        raise InputError(f"{folder}: holds a run already; add --resume to continue it, or give another --out")
    if run.resume and (folder / "config.yaml").exists():
        _compare(_read_config(folder / "config.yaml"), config, folder, changeable)
    if run.resume and not last.exists():
        print(f"{folder}: no checkpoint yet, starting from the beginning")
    return last if run.resume and last.exists() else None


def _was_finished(provenance: str, steps: int) -> bool:
    """Whether a run's provenance says that it ended after so many steps."""
    try:
        facts = json.loads(provenance)
    except json.JSONDecodeError:
        return False
    return bool(facts.get("finished")) and facts.get("steps") == steps


def _read_config(file: Path) -> dict[str, Any]:
    try:
        content = yaml.safe_load(file.read_text())
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise InputError(f"{file}: not readable YAML; mend it, or give another --out") from error
    if not isinstance(content, dict):
        raise InputError(f"{file}: holds no options; remove it, or give another --out")
    return content


def to_plain(value: Any) -> Any:
    """Dataclasses, paths and tuples as dictionaries, strings and lists: what YAML and a safe checkpoint can hold."""
    if is_dataclass(value) and not isinstance(value, type):
        return to_plain(asdict(value))
    if isinstance(value, Mapping):
        return {key: to_plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [to_plain(item) for item in value]
    return str(value) if isinstance(value, Path) else value


def log_epoch(module: pl.LightningModule, values: Mapping[str, torch.Tensor], shown: Collection[str] = ()) -> None:
    """Log the values of an epoch at once; call it in an epoch-end hook of the module.

    ``module.log`` alone writes them after all hooks: too late for the checkpoint of the same epoch, which would not
    count their row, and a run resumed from it would lack them.

    Args:
        module: The module whose hook is running.
        values: Scalars by name, ``stage/metric``.
        shown: Names for the progress bar.
    """
    for name, value in values.items():
        module.log(name, value, prog_bar=name in shown, logger=False)
    trainer = module.trainer
    row = {name: float(value) for name, value in values.items()}
    for logger in trainer.loggers:
        logger.log_metrics({**row, "epoch": trainer.current_epoch}, max(trainer.global_step - 1, 0))


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
        ".*You requested to overfit but enabled.*",
        ".*Trying to infer the `batch_size`.*",
        ".*recommended to use.*sync_dist=True.*",  # log_epoch gets what all processes agree on
        ".*functional.all_gather is deprecated.*",
    ):
        warnings.filterwarnings("ignore", message=message)


def _compare(before: Mapping[str, Any], now: Mapping[str, Any], folder: Path, changeable: Collection[str]) -> None:
    """Refuse to continue a run with other options of the method than it was started with."""
    for key in now:
        if key not in CHANGEABLE and key not in changeable and key in before and before[key] != now[key]:
            if now[key] in _moved(before[key], before.get("out"), folder):
                continue
            raise InputError(
                f"--resume: {key} was {before[key]} in {folder}/config.yaml and is {now[key]} now; give the same value,"
                " or another --out"
            )


def _moved(value: Any, old: Any, new: Path) -> list[str]:
    """What a path below a run, or below the folder of its chain, is called now that the folder has another place."""
    if not (isinstance(value, str) and isinstance(old, str)):
        return []
    places = ((Path(old), new), (Path(old).parent, new.parent))
    return [str(now / Path(value).relative_to(was)) for was, now in places if Path(value).is_relative_to(was)]


def _first_sentence(error: Exception) -> str:
    text = " ".join(str(error).split())
    return re.split(r"(?<=[^.])\. (?=[A-Z])", text)[0].rstrip(".")


def _device_name() -> str:
    return torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"
