"""Label maps of the pictures of a split, one picture at a time, resumable; what WNet and Segmenter share.

Each picture goes through the network on its own, so that its result depends neither on its neighbours in a batch nor on
where a run was stopped.
"""

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
from numpy.typing import NDArray
from torch.utils.data import Dataset

from common.errors import InputError
from common.files import check_writable, read_image, write_image, write_labels
from common.inputs import input_split, predictions_folder
from common.messages import is_main_process
from common.options import TrainerFlags
from common.overlays import write_overlays
from common.prediction import ItemWriter, claim, predict_items
from common.splits import Split, read_split, relative_cell, write_classes, write_split
from common.visualize import colourise_labels, image_grid
from transformer_seg.images import Picture, as_lists
from transformer_seg.options import PredictOptions

LEGEND_SQUARE_PX = 48


class PredictionImages(Dataset[dict[str, Any]]):
    """The pictures of a split: ``image`` as the network takes it, ``picture`` (H, W, 3) uint8 as it is on disk.

    Args:
        split: With ``Image``.
        prepare: From a picture to what ``predict_step`` takes.
    """

    def __init__(self, split: Split, prepare: Callable[[Picture], Any]) -> None:
        self.split, self.prepare = split, prepare

    def __len__(self) -> int:
        return len(self.split)

    def __getitem__(self, index: int) -> dict[str, Any]:
        row = index if index >= 0 else ~index
        picture = read_image(self.split.path(row, "Image"))
        return {"row": row, "image": self.prepare(picture), "picture": picture, "weight": float(index >= 0)}


@dataclass(frozen=True)
class OutputFiles:
    """Where the files of a picture go: ``<folder>/<kind>/<sequence>/<index>.<suffix>``."""

    split: Split
    folder: Path

    def of(self, row: int, kind: str, suffix: str = "png") -> Path:
        """The file of a row."""
        name = f"{int(self.split.index[row]):05d}.{suffix}"
        return self.folder / kind / self.split.cell(row, "Sequence") / name


class MapWriter(ItemWriter):
    """Writes what a picture's prediction becomes.

    Args:
        files: Where.
        finish: From picture and prediction to the label map (H, W); writes further files if there are any.
    """

    def __init__(self, files: OutputFiles, finish: Callable[[int, Picture, Any], NDArray[np.integer]]) -> None:
        super().__init__()
        self.files, self.finish = files, finish

    def write(self, batch: Any, prediction: Any) -> None:
        """Write the pictures of a batch; the label map last, for it says that a picture is done."""
        for row, picture, weight, found in zip(
            batch["row"], batch["picture"], batch["weight"], prediction, strict=True
        ):
            if weight > 0:
                write_labels(self.files.of(row, "Pred"), self.finish(row, picture, found))


def predict_maps(
    module: pl.LightningModule,
    split: Split,
    out: Path,
    *,
    prepare: Callable[[Picture], Any],
    finish: Callable[[int, Picture, Any], NDArray[np.integer]],
    source: Mapping[str, Any],
    options: PredictOptions,
    flags: TrainerFlags,
    further: Mapping[str, tuple[str, str]] | None = None,
    classes: Mapping[int, str] | None = None,
) -> Path:
    """Predict what has no label map yet, and write the prediction split, overlays and legend.

    Args:
        module: Its ``predict_step`` gives a prediction per picture.
        split: Pictures.
        out: Folder.
        prepare: See `PredictionImages`.
        finish: See `MapWriter`.
        source: What the files depend on (checkpoint, options); a folder of another source is refused.
        options: The command's.
        flags: Trainer flags.
        further: Column -> kind and suffix of further files that ``finish`` writes.
        classes: Names by label.

    Returns:
        The prediction split's CSV file.

    Raises:
        InputError: pictures that cannot be read, a folder with other predictions.
    """
    files = OutputFiles(split, out)
    claim(out, {**source, "split": split.hash()})
    predict_items(
        module,
        PredictionImages(split, prepare),
        [row for row in range(len(split)) if not files.of(row, "Pred").exists()],
        MapWriter(files, finish),
        flags=flags,
        gpus=options.gpus,
        batch_size=1,
        num_workers=options.num_workers,
        collate_fn=as_lists,
    )
    written = out / f"{split.name}.csv"
    if not is_main_process():
        return written
    columns = {"Pred": ("Pred", "png"), **(further or {})}
    rows = []
    for row in range(len(split)):
        cells = {column: split.cell(row, column) for column in split.columns}
        found = {column: relative_cell(files.of(row, *place), split.base_dir) for column, place in columns.items()}
        rows.append({**cells, **found})
    write_split(written, rows)
    if classes:
        write_classes(written, classes)
    if options.overlay:
        write_overlays(read_split(written, base_dir=split.base_dir), out / "overlays")
        if classes and (out / "Pred").exists():
            write_image(out / "legend.png", legend(classes))
    return written


def named_split(options: PredictOptions, out: Path) -> Split:
    """The pictures that the options name.

    Raises:
        InputError: neither or both of input and --data_file, nothing there.
    """
    if (options.input is None) == (options.data_file is None):
        raise InputError("give either a picture, a folder or a video, or --data_file with a split")
    if options.data_file is not None:
        return read_split(options.data_file, base_dir=options.base_dir or options.data_file.parent)
    assert options.input is not None
    check_writable(out)
    return input_split(options.input, out, options.base_dir, options.clip)


def output_folder(options: PredictOptions, file: Path) -> Path:
    """Where the predictions go: --out, else beside the checkpoint."""
    model = options.model_dir if options.model_dir.is_dir() else file
    return options.out or predictions_folder(model, options.input)


def file_hash(file: Path) -> str:
    """Content hash of a checkpoint."""
    return hashlib.sha256(file.read_bytes()).hexdigest()


def legend(classes: Mapping[int, str], columns: int = 5) -> NDArray[np.uint8]:
    """Colours and names of the classes, as label maps and overlays show them."""
    indices = [index for index in sorted(classes) if index <= 255]
    squares = [colourise_labels(np.full((LEGEND_SQUARE_PX, 4 * LEGEND_SQUARE_PX), index)) for index in indices]
    return image_grid(squares, min(columns, len(squares)), [f"{index} {classes[index]}" for index in indices])
