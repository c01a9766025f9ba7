"""What every ``<system>_images.py`` shares: photos on the disk, and their prediction from files to files.

Reading, resizing, network, what follows it and writing, by the system's own data set, module and writer; weights are
random. Starting Python and loading a checkpoint are not counted.
"""

import atexit
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
from measuring import Benchmark
from numpy.typing import NDArray
from torch.utils.data import Dataset

from common.files import read_labels, write_image
from common.options import TrainerFlags
from common.prediction import ItemWriter, predict_items
from common.splits import Split
from common.toy_scenes import semantic_scene

FLAGS = TrainerFlags(enable_progress_bar=False)
EQUAL_SHARE = 0.999  # of the values; batches round otherwise than single images


@dataclass(frozen=True)
class System:
    """A system that is ready to predict.

    Attributes:
        module: Its ``predict_step``.
        data: Makes the data set, with all that is read before the first batch.
        results: Of a folder: the writer into it, and the file that each item becomes.
        batch_size: The command's default.
        collate: As of ``DataLoader``.
    """

    module: pl.LightningModule
    data: Callable[[], Dataset[dict[str, Any]]]
    results: Callable[[Path], tuple[ItemWriter, list[Path]]]
    batch_size: int = 1
    collate: Callable[[Any], Any] | None = None


def prediction(
    step: str, system: System, read: Callable[[Path], NDArray[Any]] = read_labels, tolerance: float = 0
) -> Benchmark:
    """The benchmark of a system: its batches beside one item at a time; alone where it takes one at a time anyway.

    Args:
        step: What is predicted, with its sizes.
        system: How.
        read: Reads a result.
        tolerance: Up to which two values of a result count as equal.
    """
    folder = temporary_folder()

    def predicted(out: Path, batch_size: int) -> list[Path]:
        writer, files = system.results(out)
        pending = range(len(files))
        predict_items(
            system.module,
            system.data(),
            pending,
            writer,
            flags=FLAGS,
            gpus=0,
            batch_size=batch_size,
            collate_fn=system.collate,
        )
        return files

    def check(textbook: list[Path] | None, ours: list[Path]) -> None:
        for one, other in zip(textbook or ours, ours, strict=True):
            expected, found = (read(file).astype(np.float64) for file in (one, other))
            assert np.isfinite(found).all()
            assert (np.abs(expected - found) <= tolerance).mean() >= EQUAL_SHARE

    several = system.batch_size > 1
    _, files = system.results(folder)
    return Benchmark(
        f"{step}, batches of {min(system.batch_size, len(files))}",
        (lambda: predicted(folder / "one", 1)) if several else None,
        lambda: predicted(folder / "ours", system.batch_size),
        check,
        frames=len(files),
    )


def photos(count: int, height: int, width: int) -> Split:
    """Scenes as JPEG files, and the split that names them."""
    folder = temporary_folder()
    rows = []
    for number in range(count):
        scene = semantic_scene(number, style="patterned", height=height, width=width)
        noise = np.random.default_rng(number).normal(0, 4, scene.image.shape)  # as a camera's, or JPEG has little to do
        write_image(folder / f"{number}.jpg", (scene.image + noise).clip(0, 255).astype(np.uint8))
        rows.append({"Sequence": "photos", "Sequence_Index": number, "Image": f"{number}.jpg"})
    return Split.from_rows(rows, folder, folder / "photos.csv")


def temporary_folder() -> Path:
    """A folder that is removed with the process."""
    folder = Path(tempfile.mkdtemp(prefix="benchmark-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder
