"""Probabilities of every window of a split, one file per window, over any number of processes, resumable.

The layout is the original's: ``<folder>/<flow path without .flo>_proba.npy``, float32 (L, T, I, J). What stands already
is not computed again; ``source.json`` says which checkpoint and data the files belong to.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import BasePredictionWriter
from torch.utils.data import DataLoader, Subset

from common.errors import InputError
from common.files import atomic_path, write_array
from common.options import TrainerFlags, resolve_gpus
from common.sampling import EpochSampler
from common.training import checked_trainer, plain_failures, quiet
from stflow.data import FlowWindows
from stflow.module import MotionSegmenter


def proba_file(folder: Path, flow_cell: str) -> Path:
    """Where the probabilities of the window around a flow field are kept."""
    parts = [part for part in Path(flow_cell).with_suffix("").parts if part not in ("/", "..")]
    return folder.joinpath(*parts[:-1], f"{parts[-1]}_proba.npy")


def stands(file: Path, shape: tuple[int, ...]) -> bool:
    """Whether a file holds a whole array of this shape (looks at header and length only)."""
    if not file.exists():
        return False
    try:
        with file.open("rb") as stream:
            version = np.lib.format.read_magic(stream)
            read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
            found, _, dtype = read(stream)
            length = stream.tell() + int(np.prod(found)) * dtype.itemsize
    except ValueError:
        return False
    return found == shape and file.stat().st_size == length


class ProbaWriter(BasePredictionWriter):
    """Writes each window as soon as it is predicted."""

    def __init__(self, folder: Path) -> None:
        super().__init__("batch")
        self.folder = folder

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
        """Write the windows of a batch; repeats that keep processes in step are left out."""
        probas = prediction.cpu().numpy()
        for path, weight, proba in zip(batch["path"], batch["weight"].tolist(), probas, strict=True):
            if weight > 0:
                write_array(proba_file(self.folder, path), proba)


def predict_windows(
    module: MotionSegmenter,
    windows: FlowWindows,
    folder: Path,
    *,
    source: dict[str, Any],
    flags: TrainerFlags,
    gpus: int | None = None,
    batch_size: int = 10,
    num_workers: int = 0,
) -> int:
    """Predict every window that has no file yet.

    Args:
        module: Trained segmenter.
        windows: Windows of a split, their cache built.
        folder: Where the files go.
        source: What the files depend on (checkpoint, data); written to ``source.json`` and compared.
        flags: Trainer flags: devices, strategy, precision ...
        gpus: The ``--gpus`` flag.
        batch_size: Windows per batch and process.
        num_workers: Loader processes.

    Returns:
        Number of windows that were predicted now.

    Raises:
        InputError: the folder holds predictions of another checkpoint or of other data.
    """
    quiet()
    trainer = checked_trainer(
        **resolve_gpus(gpus, flags.arguments(), torch.cuda.device_count()),
        logger=False,
        enable_checkpointing=False,
        use_distributed_sampler=False,
        callbacks=[ProbaWriter(folder)],
    )
    _claim(folder, source)
    shape = (module.options.nAffineMasks, len(module.options.inputs), *windows.size)
    pending = [i for i, path in enumerate(windows.paths) if not stands(proba_file(folder, path), shape)]
    if not pending:
        return 0
    sampler = EpochSampler(
        len(pending),
        shuffle=False,
        seed=0,
        rank=trainer.global_rank,
        world_size=trainer.world_size,
        mark_repeats=True,
    )
    loader = DataLoader(_Pending(windows, pending), sampler=sampler, batch_size=batch_size, num_workers=num_workers)
    with plain_failures():
        trainer.predict(module, loader, return_predictions=False)
    return len(pending)


class _Pending(Subset[dict[str, Any]]):
    """Some windows of a split; a negative index marks a repeat, as in FlowWindows."""

    def __getitem__(self, index: Any) -> dict[str, Any]:
        position = self.indices[index if index >= 0 else ~index]
        return self.dataset[position if index >= 0 else ~position]

    def __getitems__(self, indices: list[int]) -> list[dict[str, Any]]:
        return [self[index] for index in indices]


def _claim(folder: Path, source: dict[str, Any]) -> None:
    """Mark the folder as holding predictions of this source, or refuse."""
    file = folder / "source.json"
    if file.exists():
        before = json.loads(file.read_text())
        changed = [key for key in source if before.get(key) != source[key]]
        if changed:
            raise InputError(
                f"{folder}: holds predictions of another {changed[0]} ({before.get(changed[0])}, now"
                f" {source[changed[0]]}); remove the folder or give another --out"
            )
        return
    with atomic_path(file) as temporary:
        temporary.write_text(json.dumps(source, indent=2) + "\n")
