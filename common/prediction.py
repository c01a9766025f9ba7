"""Predictions of many items over any number of processes, resumable: what stands already is not computed again.

    claim(out, {"checkpoint": ..., "split": ...}, "remove them, or give another --out")
    pending = [i for i in range(len(data)) if not stands(i)]
    predict_items(module, data, pending, MyWriter(out), flags=flags, gpus=gpus, batch_size=8)

Each item is written by the process that predicted it, as soon as it is predicted.
"""

import json
import os
import re
import shutil
from abc import abstractmethod
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import BasePredictionWriter
from torch import distributed
from torch.utils.data import DataLoader, Dataset

from common.errors import InputError
from common.files import atomic_path
from common.messages import is_first_process, tell
from common.options import TrainerFlags, resolve_gpus
from common.sampling import EpochSampler
from common.training import checked_trainer, plain_failures, quiet

HALF_WRITTEN = re.compile(r"\..*\.[0-9a-f]{8}\.tmp(\.\w+)?")  # the names of `atomic_path`
KEPT_FLAGS = ("accelerator", "strategy", "devices", "num_nodes", "precision", "enable_progress_bar")


class ItemWriter(BasePredictionWriter):
    """Base of a method's writer: give it ``write``."""

    def __init__(self) -> None:
        super().__init__("batch")

    @abstractmethod
    def write(self, batch: Any, prediction: Any) -> None:
        """Write the items of a batch, but none with ``weight`` 0: those only keep processes in step."""

    def write_on_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        prediction: Any,
        batch_indices: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int,
    ) -> None:
        """Hand a batch to ``write``."""
        self.write(batch, prediction)

    def on_predict_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Wait for all processes: whoever goes on finds every file."""
        trainer.strategy.barrier()


def prediction_flags(flags: TrainerFlags) -> TrainerFlags:
    """The flags that mean something to a prediction: devices, precision, progress bar."""
    return TrainerFlags(**{name: getattr(flags, name) for name in KEPT_FLAGS})


def predict_items(
    module: pl.LightningModule,
    dataset: Dataset[dict[str, Any]],
    pending: Sequence[int],
    writer: ItemWriter,
    *,
    flags: TrainerFlags,
    gpus: int | None = None,
    batch_size: int = 8,
    num_workers: int = 0,
    collate_fn: Callable[[Any], Any] | None = None,
) -> int:
    """Predict some items of a data set through ``Trainer.predict``.

    Args:
        module: Its ``predict_step`` gives what the writer takes.
        dataset: Items are dictionaries with ``weight``; asked for ``~index`` it gives that item with weight 0.
        pending: Positions to predict; of several processes, the first one's list counts.
        writer: Writes each batch.
        flags: Trainer flags: devices, strategy, precision ...
        gpus: The ``--gpus`` flag.
        batch_size: Items per batch and process; the same value gives the same files, bit for bit on a CPU, whatever
            the number of processes and wherever a run was stopped: batches are filled up with repeats, because results
            differ in the last bits between batch sizes.
        num_workers: Loader processes.
        collate_fn: As of ``DataLoader``.

    Returns:
        Number of items that were predicted now.

    Raises:
        InputError: flags that do not fit the machine.
        Interrupted: a signal; the same command goes on with what stands.
        RunFailed: out of memory.
    """
    quiet()
    trainer = checked_trainer(
        **resolve_gpus(gpus, flags.arguments(), torch.cuda.device_count()),
        logger=False,
        enable_checkpointing=False,
        use_distributed_sampler=False,
        callbacks=[writer],
    )
    positions = agreed(list(pending))
    if not positions:
        return 0
    batch_size = min(batch_size, len(dataset))  # type: ignore[arg-type]
    repeats = -len(positions) % (batch_size * trainer.world_size)
    data = _SomeItems(dataset, [*positions, *[~positions[0]] * repeats])
    sampler = EpochSampler(
        len(data), shuffle=False, seed=0, rank=trainer.global_rank, world_size=trainer.world_size, mark_repeats=True
    )
    loader = DataLoader(data, sampler=sampler, batch_size=batch_size, num_workers=num_workers, collate_fn=collate_fn)
    with plain_failures():
        trainer.predict(module, loader, return_predictions=False)
    return len(positions)


class _SomeItems(Dataset[dict[str, Any]]):
    """Some positions of a data set, in order."""

    def __init__(self, dataset: Dataset[dict[str, Any]], positions: Sequence[int]) -> None:
        self.dataset, self.positions = dataset, positions

    def __len__(self) -> int:
        return len(self.positions)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return self.dataset[self.positions[index]]


def agreed(pending: list[int]) -> list[int]:
    """The first process's list in every process: one may already write while another still looks."""
    if not (distributed.is_available() and distributed.is_initialized()):
        return pending
    box = [pending]
    distributed.broadcast_object_list(box)
    return box[0]


def claim(folder: Path, source: dict[str, Any], remedy: str = "remove them, or give another --out") -> None:
    """Mark a folder as holding predictions of this source (checkpoint, data ...) in ``source.json``, or refuse.

    Of a folder that is gone on with, the first process removes what a killed one left half written.

    Args:
        folder: Made if it is not there.
        source: Plain values, all of what the files depend on.
        remedy: What to do about predictions of another source.

    Raises:
        InputError: it holds predictions of another source, or cannot be read.
    """
    file = folder / "source.json"
    if not file.exists():
        with atomic_path(file) as temporary:
            temporary.write_text(json.dumps(source, indent=2) + "\n")
        return
    try:
        before = json.loads(file.read_text())
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise InputError(f"{file}: not readable, so nobody knows what the files beside it are; {remedy}") from error
    changed = [key for key in source if before.get(key) != source[key]]
    if changed:
        old, new = str(before.get(changed[0]))[:16], str(source[changed[0]])[:16]
        raise InputError(f"{folder}: holds predictions of another {changed[0]} ({old}, now {new}); {remedy}")
    if is_first_process():  # nobody writes before all processes have come this far
        for place, _, names in os.walk(folder):
            for name in names:
                if HALF_WRITTEN.fullmatch(name):
                    Path(place, name).unlink(missing_ok=True)


def forget_older(folder: Path, checkpoint: str) -> None:
    """Remove predictions that a run made of an older checkpoint of its own: its training has gone on since.

    Only for folders that belong to a chain; what a user named is refused by `claim` instead.

    Args:
        folder: As given to `claim`.
        checkpoint: The value that its source will have now.
    """
    file = folder / "source.json"
    if is_first_process() and file.is_file():
        with suppress(ValueError, AttributeError):  # `claim` says what is wrong with it
            if json.loads(file.read_text()).get("checkpoint") != checkpoint:
                shutil.rmtree(folder)
                tell(f"{folder}: was of an earlier checkpoint; predicting anew")
    agreed([])  # nobody looks before the first process has
