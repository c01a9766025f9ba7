"""Probabilities of every window of some splits, one file per window, over any number of processes, resumable.

The layout is the original's: ``<folder>/<flow path without .flo>_proba.npy``, float32 (L, T, I, J), and beside it
``..._features.npy`` where asked for. What stands already is not computed again; ``source.json`` says which checkpoint
and data the files belong to.
"""

import json
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import BasePredictionWriter
from torch import distributed
from torch.utils.data import DataLoader, Dataset

from common.errors import InputError
from common.files import atomic_path, write_array
from common.options import TrainerFlags, resolve_gpus
from common.sampling import EpochSampler
from common.training import checked_trainer, plain_failures, quiet
from stflow.data import FlowWindows
from stflow.module import MotionSegmenter, Prediction
from stflow.sequence_files import FEATURES, PROBA, output_file, proba_file

FloatType = Literal["float32", "float16"]


@dataclass(frozen=True)
class WindowFiles:
    """Where and how the arrays of windows are kept."""

    folder: Path
    features: bool = False
    """Also keep the features before the last convolution, (features_start, T, I, J)."""
    dtype: FloatType = "float32"

    def wanted(self, flow_cell: str, module: MotionSegmenter, size: tuple[int, int]) -> dict[Path, tuple[int, ...]]:
        """Files of a window and the shapes of their arrays."""
        T = len(module.options.inputs)
        files: dict[Path, tuple[int, ...]] = {}
        files[proba_file(self.folder, flow_cell)] = (module.options.nAffineMasks, T, *size)
        if self.features:
            file = output_file(self.folder, flow_cell, f"{FEATURES}.npy")
            files[file] = (module.options.unet.features_start, T, *size)
        return files


def stands(file: Path, shape: tuple[int, ...], dtype: str = "float32") -> bool:
    """Whether a file holds a whole array of this shape and type (looks at header and length only)."""
    if not file.exists():
        return False
    try:
        with file.open("rb") as stream:
            version = np.lib.format.read_magic(stream)
            read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
            found, _, kind = read(stream)
            length = stream.tell() + int(np.prod(found)) * kind.itemsize
    except ValueError:
        return False
    return found == shape and kind == np.dtype(dtype) and file.stat().st_size == length


class WindowWriter(BasePredictionWriter):
    """Writes each window as soon as it is predicted."""

    def __init__(self, files: WindowFiles) -> None:
        super().__init__("batch")
        self.files = files

    def write_on_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        prediction: Prediction,
        batch_indices: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int,
    ) -> None:
        """Write the windows of a batch; repeats that keep processes in step are left out."""
        if prediction.features is not None:  # first: a window is done by all its files, a reader looks for the other
            self._write(batch, prediction.features, FEATURES)
        self._write(batch, prediction.proba, PROBA)

    def _write(self, batch: Any, values: torch.Tensor, ending: str) -> None:
        arrays = values.float().cpu().numpy().astype(self.files.dtype, copy=False)
        for path, weight, array in zip(batch["path"], batch["weight"].tolist(), arrays, strict=True):
            if weight > 0:
                write_array(output_file(self.files.folder, path, f"{ending}.npy"), array)

    def on_predict_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Wait for all processes: whoever goes on finds every file."""
        trainer.strategy.barrier()


def predict_windows(
    module: MotionSegmenter,
    windows: Sequence[FlowWindows],
    files: WindowFiles,
    *,
    source: dict[str, Any],
    flags: TrainerFlags,
    gpus: int | None = None,
    batch_size: int = 10,
    num_workers: int = 0,
    done: Collection[str] = (),
    remedy: str = "remove them, or give another --out",
) -> int:
    """Predict every window that has no file yet.

    Args:
        module: Trained segmenter.
        windows: Windows of one or more splits, of one size, their caches built.
        files: Where the arrays go and which are kept.
        source: What the files depend on (checkpoint, data); written to ``source.json`` and compared.
        flags: Trainer flags: devices, strategy, precision ...
        gpus: The ``--gpus`` flag.
        batch_size: Windows per batch and process; the same value gives the same files, bit for bit on a CPU.
        num_workers: Loader processes.
        done: Flow cells of windows that are kept elsewhere already.
        remedy: What to do about predictions of another source.

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
        callbacks=[WindowWriter(files)],
    )
    _claim(files.folder, source, remedy)
    pending = _agreed(_pending(module, windows, files, done))
    if not pending:
        return 0
    module.keep_features = files.features
    total = len({path for part in windows for path in part.paths})
    batch_size = min(batch_size, total)
    # Batches are filled up with repeats: results differ in the last bits between batch sizes, and must depend neither
    # on the number of processes nor on where a run was stopped.
    repeats = -len(pending) % (batch_size * trainer.world_size)
    data = _SomeWindows(windows, pending, repeats)
    sampler = EpochSampler(
        len(data), shuffle=False, seed=0, rank=trainer.global_rank, world_size=trainer.world_size, mark_repeats=True
    )
    loader = DataLoader(data, sampler=sampler, batch_size=batch_size, num_workers=num_workers)
    with plain_failures():
        trainer.predict(module, loader, return_predictions=False)
    return len(pending)


def _pending(
    module: MotionSegmenter, windows: Sequence[FlowWindows], files: WindowFiles, done: Collection[str]
) -> list[int]:
    """Positions of the windows without files, each flow field once; half-written files are removed."""
    paths = [path for part in windows for path in part.paths]
    first = {path: position for position, path in reversed(list(enumerate(paths))) if path not in done}
    size = windows[0].size
    pending = sorted(
        position
        for path, position in first.items()
        if not all(stands(file, shape, files.dtype) for file, shape in files.wanted(path, module, size).items())
    )
    for folder in {proba_file(files.folder, paths[position]).parent for position in pending}:
        for ending in (PROBA, FEATURES):
            for leftover in folder.glob(f".*{ending}.*.tmp.npy"):  # of a run that was killed while writing
                leftover.unlink(missing_ok=True)
    return pending


def _agreed(pending: list[int]) -> list[int]:
    """The first process's list in every process: one may already write while another still looks."""
    if not (distributed.is_available() and distributed.is_initialized()):
        return pending
    box = [pending]
    distributed.broadcast_object_list(box)
    return box[0]


class _SomeWindows(Dataset[dict[str, Any]]):
    """Some windows of several splits, and at the end repeats of the first that count for nothing."""

    def __init__(self, windows: Sequence[FlowWindows], positions: Sequence[int], repeats: int) -> None:
        self.windows = windows
        places = [(part, item) for part, one in enumerate(windows) for item in range(len(one))]
        self.places = [places[position] for position in positions]
        part, item = self.places[0]
        self.places += [(part, ~item)] * repeats

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, index: int) -> dict[str, Any]:
        part, item = self.places[index]
        return self.windows[part][item]


def _claim(folder: Path, source: dict[str, Any], remedy: str) -> None:
    """Mark the folder as holding predictions of this source, or refuse."""
    file = folder / "source.json"
    if file.exists():
        before = json.loads(file.read_text())
        changed = [key for key in source if before.get(key) != source[key]]
        if changed:
            raise InputError(
                f"{folder}: holds predictions of another {changed[0]} ({_short(before.get(changed[0]))}, now"
                f" {_short(source[changed[0]])}); {remedy}"
            )
        return
    with atomic_path(file) as temporary:
        temporary.write_text(json.dumps(source, indent=2) + "\n")


def _short(value: Any) -> str:
    return str(value)[:16]
