"""Training of ReDO from options: networks, data, collapse watch; and again with another seed after a collapse."""

from dataclasses import replace
from math import ceil
from pathlib import Path

import pytorch_lightning as pl
from pytorch_lightning.callbacks import ModelCheckpoint
from torch import distributed

from common.errors import InputError
from common.messages import is_main_process, tell, warn
from common.options import RunOptions, TrainerFlags
from common.training import fit, seed_everything
from redo.data import ADVISED_BATCH, RedoDataModule
from redo.module import Redrawer
from redo.named_data import with_split
from redo.options import DataOptions, ModelOptions, WatchOptions, check_options
from redo.restarts import Collapsed, CollapseWatch, GivenUp, Restarts, attempt_seed
from redo.restore import load_weights
from redo.states import OriginalStates, take_up_state

CHANGEABLE = ("nIteration", "autoRestart", "maxRestarts", "restartUntil", "stuckError", "stuckAfter", "clean", "silent")


def train(model: ModelOptions, watch: WatchOptions, data: DataOptions, run: RunOptions, flags: TrainerFlags) -> None:
    """Train from options; see ``common.training.fit`` for what the run directory holds.

    Raises:
        InputError: Options or data that cannot be trained on.
        GivenUp: Too many collapses in a row.
    """
    assert run.out is not None
    check_options(model, watch, data)
    data = with_split(data)
    if data.batchSize < ADVISED_BATCH and data.batchSize * _processes(flags) < ADVISED_BATCH and model.sizex >= 128:
        warn(f"--batchSize {data.batchSize}: the authors advise against fewer than {ADVISED_BATCH} images per step")
    restarts = Restarts(run.out)
    while True:
        attempt = restarts.count() if run.resume else 0
        if not run.resume and restarts.file.exists():
            raise InputError(f"{run.out}: holds a run already; add --resume to continue it, or give another --out")
        if attempt > watch.maxRestarts:
            raise GivenUp(
                f"{run.out}: all {attempt} attempts collapsed or got stuck, see restarts.csv; {_advice(watch)}"
            )
        try:
            _attempt(attempt, model, watch, data, run, flags, restarts)
        except Collapsed as collapse:
            _agree()
            if is_main_process():
                restarts.set_aside(collapse.row, watch.clean)
            _agree()
            run = replace(run, resume=True)  # the next attempt of this run, and nobody else's folder
            attempt += 1
            seed, limit = attempt_seed(data.seed, attempt), watch.maxRestarts
            again = f"starting again with seed {seed} (restart {attempt} of {limit})"
            tell(f"\n{collapse}; {again if attempt <= limit else 'giving up'}")
        else:
            return


def _attempt(
    attempt: int,
    model: ModelOptions,
    watch: WatchOptions,
    data: DataOptions,
    run: RunOptions,
    flags: TrainerFlags,
    restarts: Restarts,
) -> pl.Trainer:
    """One training from its beginning (or checkpoint) to its end.

    Raises:
        Collapsed: When it is time to start again.
    """
    assert run.out is not None
    seed = attempt_seed(data.seed, attempt)
    seed_everything(seed)
    module = Redrawer(model, seed, attempt, watch.nTest)
    begin: list[pl.Callback] = []
    first = watch.iteration if attempt == 0 else 0
    if first:
        begin.append(take_up_state(module, run.out, first))
    elif run.ckpt_path is not None and not run.resume:
        load_weights(module, run.ckpt_path)
    iterations, epochs = stretches(model.nIteration, first, watch.checkpointFreq)
    if flags.max_epochs is not None and flags.max_epochs >= 0:
        epochs = min(epochs, flags.max_epochs)
    datamodule = RedoDataModule(
        data,
        model.sizex,
        model.nx,
        iterations=iterations,
        first_iteration=first,
        seed=seed,
    )
    datamodule.prepare("train", "val")
    check_sheet(datamodule, watch)
    scored = datamodule.images["val"].objects is not None
    return fit(
        module,
        datamodule,
        run=run,
        flags=flags,
        options=(model, watch, data),
        callbacks=[
            *begin,
            WholeStretches(watch.checkpointFreq),
            CollapseWatch(watch, restarts),
            *([best_by_score(run.out)] if scored and not flags.fast_dev_run else []),
            *([] if flags.fast_dev_run else [OriginalStates(run.out, watch)]),
        ],
        facts={
            "seed": seed,
            "attempt": attempt,
            "split_hash": {step: images.split.hash() for step, images in datamodule.images.items()},
        },
        forced={
            "max_epochs": epochs,
            # each step leaves some networks out
            "strategy": "ddp_find_unused_parameters_true" if flags.strategy == "ddp" else flags.strategy,
            "enable_progress_bar": False if watch.silent else flags.enable_progress_bar,
        },
        changeable=CHANGEABLE,
    )


def stretches(iterations: int, first: int, frequency: int) -> tuple[int, int]:
    """Length and number of the stretches between evaluations, which are Lightning's epochs here.

    They are whole: what came after the last evaluation would neither be scored nor kept.

    Raises:
        InputError: Nothing to do.
    """
    left = iterations - first
    if left < 1:
        raise InputError(f"--nIteration {iterations}: nothing to do after --iteration {first}")
    if left <= frequency:
        return left, 1
    count = ceil(left / frequency)
    if count * frequency != left:
        tell(f"--nIteration {iterations} becomes {first + count * frequency}: whole stretches of --checkpointFreq")
    return frequency, count


def best_by_score(out: Path) -> ModelCheckpoint:
    """The checkpoint with the best validation IoU: the authors' choice, which looks at annotations."""
    monitor = "val/iou_per_image"
    return ModelCheckpoint(
        out / "checkpoints",
        filename="best-epoch={epoch:03d}-val_iou={" + monitor + ":.4f}",
        monitor=monitor,
        mode="max",
        auto_insert_metric_name=False,
        enable_version_counter=False,
        save_on_train_epoch_end=True,
    )


class WholeStretches(pl.Callback):
    """Refuses to go on after a last stretch that was shorter than the others."""

    def __init__(self, iterations: int) -> None:
        self.iterations = iterations

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Compare iterations and epochs of a resumed run."""
        assert isinstance(pl_module, Redrawer)
        first = trainer.datamodule.first_iteration  # type: ignore[attr-defined]
        if pl_module.iteration < first + trainer.current_epoch * self.iterations:
            raise InputError(
                f"--nIteration: the run ended at iteration {pl_module.iteration}, between two evaluations; it cannot be"
                f" made longer. Use multiples of --checkpointFreq ({self.iterations}) for runs to be continued"
            )


def check_sheet(datamodule: RedoDataModule, watch: WatchOptions) -> None:
    """Refuse a sheet of more images than there are.

    Raises:
        InputError: Names the numbers.
    """
    images = datamodule.images["val"]
    if len(images.split) < watch.nTest:
        raise InputError(
            f"--nTest {watch.nTest}: {images.split.file} has {len(images.split)} images; give at most that"
        )


def _processes(flags: TrainerFlags) -> int:
    return int(flags.devices) * flags.num_nodes if flags.devices.isdigit() else 1


def _advice(watch: WatchOptions) -> str:
    return f"more --maxRestarts than {watch.maxRestarts}, another --seed, or a smaller --lrM may help"


def _agree() -> None:
    """Wait for all processes of a run."""
    if distributed.is_available() and distributed.is_initialized():
        distributed.barrier()
