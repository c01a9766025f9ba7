"""Probabilities of every window of some splits, one file per window, over any number of processes, resumable.

The layout is the original's: ``<folder>/<flow path without .flo>_proba.npy``, float32 (L, T, I, J), and beside it
``..._features.npy`` where asked for. What stands already is not computed again; ``source.json`` says which checkpoint
and data the files belong to.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch.utils.data import Dataset

from common.files import write_array
from common.options import TrainerFlags
from common.prediction import ItemWriter, claim, predict_items
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


class WindowWriter(ItemWriter):
    """Writes each window as soon as it is predicted."""

    def __init__(self, files: WindowFiles) -> None:
        super().__init__()
        self.files = files

    def write(self, batch: Any, prediction: Prediction) -> None:
        """Write the windows of a batch."""
        if prediction.features is not None:  # first: a window is done by all its files, a reader looks for the other
            self._write(batch, prediction.features, FEATURES)
        self._write(batch, prediction.proba, PROBA)

    def _write(self, batch: Any, values: torch.Tensor, ending: str) -> None:
        arrays = values.float().cpu().numpy().astype(self.files.dtype, copy=False)
        for path, weight, array in zip(batch["path"], batch["weight"].tolist(), arrays, strict=True):
            if weight > 0:
                write_array(output_file(self.files.folder, path, f"{ending}.npy"), array)


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
    claim(files.folder, source, remedy)
    module.keep_features = files.features
    return predict_items(
        module,
        _DistinctWindows(windows),
        _pending(module, windows, files, done),
        WindowWriter(files),
        flags=flags,
        gpus=gpus,
        batch_size=batch_size,
        num_workers=num_workers,
    )


class _DistinctWindows(Dataset[dict[str, Any]]):
    """The windows of several splits by their position, all splits counted on; as long as there are distinct ones."""

    def __init__(self, windows: Sequence[FlowWindows]) -> None:
        self.windows = windows
        self.places = [(part, item) for part, one in enumerate(windows) for item in range(len(one))]
        self.num_distinct = len({path for part in windows for path in part.paths})

    def __len__(self) -> int:
        return self.num_distinct

    def __getitem__(self, index: int) -> dict[str, Any]:
        part, item = self.places[index if index >= 0 else ~index]
        return self.windows[part][item if index >= 0 else ~item]


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
