"""Callbacks that every method's training uses: exact logs after a resume, graceful stop, pictures, collapse watch."""

import csv
import signal
from collections.abc import Sequence
from pathlib import Path
from types import FrameType
from typing import Any, Protocol, runtime_checkable

import numpy as np
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Checkpoint
from pytorch_lightning.loggers import TensorBoardLogger, WandbLogger
from pytorch_lightning.utilities import rank_zero_only

from common.checkpoint_files import remove_leftovers
from common.errors import Interrupted, RunFailed
from common.files import write_image
from common.loggers import CsvLogger
from common.messages import warn

say = rank_zero_only(print)


class LogPosition(pl.Callback):
    """Keeps the length of ``metrics.csv`` in the checkpoint, so that a resumed run doubles no rows."""

    def __init__(self, logger: CsvLogger) -> None:
        self.logger = logger

    def state_dict(self) -> dict[str, int]:
        """Rows logged so far; they are written first, so a checkpoint never counts rows that are not on disk."""
        self.logger.save()
        return {"rows": len(self.logger.rows)}

    def load_state_dict(self, state_dict: dict[str, int]) -> None:
        """Drop the rows that came after the checkpoint."""
        self.logger.restore(state_dict["rows"])


class CsvRows(pl.Callback):
    """An append-only CSV file of a run (e.g. ``results.csv``) whose length is part of the checkpoint."""

    def __init__(self, path: Path, columns: Sequence[str]) -> None:
        self.path, self.columns = path, list(columns)
        self._keep = 0

    @rank_zero_only
    def append(self, rows: Sequence[Sequence[Any]]) -> None:
        """Append rows; the header is written with the first ones."""
        new = not self.path.exists() or self.path.stat().st_size == 0
        with self.path.open("a", newline="") as file:
            writer = csv.writer(file)
            if new:
                writer.writerow(self.columns)
            writer.writerows(rows)

    def state_dict(self) -> dict[str, int]:
        """Size of the file in bytes."""
        return {"bytes": self.path.stat().st_size if self.path.exists() else 0}

    def load_state_dict(self, state_dict: dict[str, int]) -> None:
        """Remember the size to cut the file back to."""
        self._keep = state_dict["bytes"]

    @rank_zero_only
    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Cut off what an interrupted run wrote after its checkpoint; all of it when it made none."""
        if self.path.exists() and self.path.stat().st_size > self._keep:
            with self.path.open("r+b") as file:
                file.truncate(self._keep)


class LastCheckpoint(Checkpoint):
    """Keeps ``last.ckpt``, the state that ``--resume`` continues from, and ends a run gracefully on a signal.

    It is written after every epoch (validation included), every ``save_every`` steps within one, and on SIGINT and
    SIGTERM after the running batch; a second signal ends the run at once. The last batch of an epoch is never saved on
    its own: Lightning would take the epoch as done and leave out its validation.

    Args:
        path: ``last.ckpt``.
        save_every: Optimiser steps; 0 = only after each epoch.
    """

    def __init__(self, path: Path, save_every: int = 0) -> None:
        self.path, self.save_every = path, save_every
        self.received: int | None = None
        self._previous: dict[int, Any] = {}

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Take over the signals, and tidy up after a killed run."""
        if trainer.is_global_zero:
            remove_leftovers(self.path.parent)
        for number in (signal.SIGINT, signal.SIGTERM):
            self._previous[number] = signal.signal(number, self._on_signal)

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Give the signals back."""
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        self._previous.clear()

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if self.received is not None:
            raise KeyboardInterrupt
        self.received = number
        say(f"\n{signal.Signals(number).name}: stopping after this batch (once more: at once)")

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Save when it is time, and leave when asked to."""
        if trainer.is_last_batch:
            return
        stop = self._asked_to_stop(trainer)
        if stop or (self.save_every and trainer.global_step % self.save_every == 0):
            self._save(trainer, stop)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Save, and leave when asked to."""
        self._save(trainer, self._asked_to_stop(trainer))

    def _asked_to_stop(self, trainer: pl.Trainer) -> bool:
        asked = self.received is not None
        if trainer.world_size > 1:  # all processes must save together
            asked = trainer.strategy.reduce_boolean_decision(asked, all=False)
        return asked

    def _save(self, trainer: pl.Trainer, stop: bool) -> None:
        trainer.save_checkpoint(self.path, False)  # the whole state, not the weights alone
        if stop:
            raise Interrupted(f"state saved in {self.path}; the same command with --resume continues")


@runtime_checkable
class DrawsSamples(Protocol):
    """A LightningModule that can show what it does."""

    def sample_pictures(self) -> dict[str, np.ndarray]:
        """Named pictures, uint8 (H, W, 3), of the last validation batch."""
        ...


class SamplePictures(pl.Callback):
    """Writes the module's sample pictures to ``samples/`` after a validation and sends them to the loggers."""

    def __init__(self, folder: Path, every: int) -> None:
        self.folder, self.every = folder, every
        self._drawn: int | None = None

    @rank_zero_only
    def on_validation_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Draw, write, send."""
        epoch = trainer.current_epoch
        if not self.every or trainer.sanity_checking:
            return
        if self._drawn is not None and epoch - self._drawn < self.every:
            return
        self._drawn = epoch
        assert isinstance(pl_module, DrawsSamples)
        for name, picture in pl_module.sample_pictures().items():
            write_image(self.folder / f"{name}_epoch={epoch:04d}.png", picture)
            for logger in trainer.loggers:
                if isinstance(logger, WandbLogger):
                    logger.log_image(f"samples/{name}", [picture])
                elif isinstance(logger, TensorBoardLogger):
                    logger.experiment.add_image(f"samples/{name}", picture, trainer.global_step, dataformats="HWC")


class LossWatch(pl.Callback):
    """Stops a run whose loss is no longer a number, naming the samples of the batch."""

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Look at the loss of the batch."""
        loss = outputs["loss"] if isinstance(outputs, dict) else outputs
        if isinstance(loss, torch.Tensor) and not torch.isfinite(loss).all():
            names = batch.get("path", []) if isinstance(batch, dict) else []
            raise RunFailed(
                f"loss is {loss.item()} at step {trainer.global_step}: lower the learning rate or look at the samples"
                f" of this batch: {', '.join(names)}"
            )


class CollapseWatch(pl.Callback):
    """Warns when a metric stays on one side of a bound for several epochs: the sign of a collapsed model.

    Args:
        metric: Name in the logged metrics, e.g. ``train/mask_usage``.
        below: The bound.
        epochs: Epochs in a row before the warning.
        advice: What to change.
    """

    def __init__(self, metric: str, below: float, epochs: int, advice: str) -> None:
        self.metric, self.below, self.epochs, self.advice = metric, below, epochs, advice
        self.count = 0

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Count the epochs."""
        value = trainer.callback_metrics.get(self.metric)
        self.count = self.count + 1 if value is not None and value < self.below else 0
        if self.count == self.epochs:
            warn(f"{self.metric} stayed below {self.below} for {self.epochs} epochs: {self.advice}")

    def state_dict(self) -> dict[str, int]:
        """Epochs counted so far."""
        return {"count": self.count}

    def load_state_dict(self, state_dict: dict[str, int]) -> None:
        """Continue counting."""
        self.count = state_dict["count"]
