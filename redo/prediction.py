"""Object masks of every image of a split at its own size, over any number of processes, resumable.

    <out>/regions/<image>.png   label map of the regions 0 .. n-1
    <out>/masks/<image>.png     1 on the object
    <out>/<split>.csv           prediction split: Pred is the mask, Regions the label map

The networks see squares. A longer image is covered by overlapping ones, the centred one of the training among them;
their soft masks are averaged with weights that fall towards their ends.
"""

import hashlib
from collections.abc import Sequence
from math import ceil
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import Dataset
from tqdm import tqdm

from common.errors import InputError
from common.files import check_writable, read_image, read_labels, write_labels
from common.inputs import input_split, predictions_folder
from common.messages import is_main_process, tell
from common.options import TrainerFlags
from common.overlays import write_overlays
from common.prediction import ItemWriter, claim, predict_items
from common.splits import Split, read_split, relative_cell, write_split
from redo.evaluation import hard_regions
from redo.options import PredictOptions
from redo.preparation import centre_offsets, network_images, with_short_side
from redo.restore import Trained, restore
from redo.square_cache import channels_of


def predict(options: PredictOptions, flags: TrainerFlags) -> Path:
    """Predict everything that the options name.

    Returns:
        The prediction split's CSV file; of several processes, the first writes it.

    Raises:
        InputError: Input, checkpoint or options that cannot be used.
    """
    check(options)
    trained = restore(options.model_dir)
    out = options.out or predictions_folder(options.model_dir, options.input)
    check_writable(out)
    if options.object is not None and not 0 <= options.object < trained.options.nMasks:
        raise InputError(f"--object {options.object}: the network has the regions 0 to {trained.options.nMasks - 1}")
    if options.data_file is not None:
        split = read_split(options.data_file, base_dir=options.base_dir)
    else:
        assert options.input is not None
        split = input_split(options.input, out)
    split = split.take(split.available("Image"))
    if not len(split):
        raise InputError(f"{split.file}: the 'Image' column is empty; nothing to predict")
    data = WholeImages(split, trained.options.sizex, trained.options.nx)
    source = {"checkpoint": file_hash(trained.file), "split": split.hash(), "threshold": options.threshold}
    claim(out, source)
    files = region_files(split, out)
    predict_items(
        MaskPredictor(trained.network("M")),
        data,
        [i for i, file in enumerate(files) if not file.exists()],
        RegionWriter(files, options.threshold),
        flags=flags,
        gpus=options.gpus,
        batch_size=1,
        num_workers=options.num_workers,
        collate_fn=_only,
    )
    written = out / f"{split.name}.csv"
    if is_main_process():
        write_predictions(split, files, out, written, chosen_region(options, trained, files))
        if options.overlay:
            write_overlays(read_split(written, base_dir=split.base_dir), out / "overlays")
    return written


def check(options: PredictOptions) -> None:
    """Refuse options that mean nothing.

    Raises:
        InputError: Names the flag.
    """
    if (options.input is None) == (options.data_file is None):
        raise InputError("give either a picture, folder or video, or --data_file with a split")
    if not 0 < options.threshold < 1:
        raise InputError(f"--threshold {options.threshold}: give a number between 0 and 1, usually .5")


class WholeImages(Dataset[dict[str, Any]]):
    """The images of a split, each as the squares that cover it.

    Args:
        split: Rows with ``Image``.
        size: Side S.
        channels: 3 or 1.
    """

    def __init__(self, split: Split, size: int, channels: int) -> None:
        self.split, self.size, self.channels = split, size, channels

    def __len__(self) -> int:
        return len(self.split)

    def __getitem__(self, index: int) -> dict[str, Any]:
        position = index if index >= 0 else ~index
        file = self.split.path(position, "Image")
        image = read_image(file)
        small = with_short_side(channels_of(image, self.channels), self.size)
        offsets = covering_offsets(small.shape[:2], self.size)
        squares = [small[r : r + self.size, c : c + self.size] for r, c in offsets]
        return {
            "image": torch.from_numpy(np.stack(squares).astype(np.uint8)),
            "offsets": offsets,
            "small": small.shape[:2],
            "full": image.shape[:2],
            "index": position,
            "weight": float(index >= 0),
        }


def covering_offsets(shape: tuple[int, ...], size: int) -> list[tuple[int, int]]:
    """Corners (row, column) of squares that cover an image whose shorter side is ``size``; the middle one is centred.

    On each side of it there are so many that neighbours overlap by half a square at least.
    """
    row, column = centre_offsets(shape, size)
    excess = max(shape) - size
    if excess <= 0:
        return [(row, column)]
    steps = ceil(excess / size)
    centre, end = max(row, column), excess
    places = [*np.linspace(0, centre, steps + 1)[:-1], centre, *np.linspace(centre, end, steps + 1)[1:]]
    lie = shape[1] > shape[0]
    return [(0, round(p)) if lie else (round(p), 0) for p in places]


class MaskPredictor(pl.LightningModule):
    """The mask network for ``Trainer.predict``, an image at a time: a result must not depend on its batch."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def predict_step(self, batch: dict[str, Any], batch_idx: int) -> Tensor:
        """Soft masks of a whole image (n, H, W), at its own size."""
        masks = self.network(network_images(batch["image"])).float()
        return whole_masks(masks, batch["offsets"], batch["small"], batch["full"])


def whole_masks(
    masks: Tensor, offsets: Sequence[tuple[int, int]], small: tuple[int, int], full: tuple[int, int]
) -> Tensor:
    """The masks of squares (k, n, S, S) put together over an image of size ``small``, at size ``full``: (n, H, W)."""
    _, n, size, _ = masks.shape
    place = (torch.arange(size, device=masks.device) + 0.5) / size
    tent = torch.minimum(place, 1 - place)
    lie = small[1] > small[0]
    weight = tent[None, :] if lie else tent[:, None]
    sums = masks.new_zeros(n, *small)
    weights = masks.new_zeros(*small)
    for mask, (row, column) in zip(masks, offsets, strict=True):
        sums[:, row : row + size, column : column + size] += mask * weight
        weights[row : row + size, column : column + size] += weight
    whole = (sums / weights)[None]
    return F.interpolate(whole, size=full, mode="bilinear", align_corners=False)[0]


class RegionWriter(ItemWriter):
    """Writes the label map of each image as soon as it is predicted."""

    def __init__(self, files: Sequence[Path], threshold: float) -> None:
        super().__init__()
        self.files, self.threshold = list(files), threshold

    def write(self, batch: Any, prediction: Tensor) -> None:
        """Write the image of a batch of one."""
        if batch["weight"] > 0:
            regions = hard_regions(prediction[None], self.threshold)[0]
            write_labels(self.files[batch["index"]], regions.cpu().numpy().astype(np.uint8))


def _only(items: list[Any]) -> Any:
    return items[0]


def region_files(split: Split, out: Path) -> list[Path]:
    """Where the label map of each row goes.

    Raises:
        InputError: Two rows would share a file.
    """
    names = [
        f"{sequence}/{index:05d}.png" for sequence, index in zip(split.column("Sequence"), split.index, strict=True)
    ]
    return [out / "regions" / name for name in names]


def chosen_region(options: PredictOptions, trained: Trained, files: Sequence[Path]) -> int:
    """The region that is the object: as told, as the run's validation data had it, or by the images' borders."""
    if options.object is not None:
        return options.object
    if trained.object_region is not None:
        return trained.object_region
    region = region_off_the_border(files, trained.options.nMasks)
    tell(f"object: region {region}, the one least seen at the border of the images (--object to choose another)")
    return region


def region_off_the_border(files: Sequence[Path], num_regions: int) -> int:
    """The region whose share of border pixels, relative to its share of all pixels, is smallest; empty ones aside."""
    border, whole = np.zeros(num_regions), np.zeros(num_regions)
    for file in files:
        labels = read_labels(file)
        edge = np.concatenate([labels[0], labels[-1], labels[:, 0], labels[:, -1]])
        border += np.bincount(edge, minlength=num_regions) / edge.size
        whole += np.bincount(labels.ravel(), minlength=num_regions) / labels.size
    return int(np.argmin(np.where(whole > 0, border / np.maximum(whole, 1e-12), np.inf)))


def write_predictions(split: Split, files: Sequence[Path], out: Path, written: Path, region: int) -> None:
    """Write the object masks and the prediction split."""
    rows = split.frame.to_dict("records")
    for row, file in tqdm(zip(rows, files, strict=True), total=len(rows), desc="masks", unit="file", disable=None):
        mask = out / "masks" / file.relative_to(out / "regions")
        write_labels(mask, (read_labels(file) == region).astype(np.uint8))
        row["Pred"], row["Regions"] = (relative_cell(path, split.base_dir) for path in (mask, file))
    write_split(written, [{str(key): value for key, value in row.items()} for row in rows])


def file_hash(file: Path) -> str:
    """Content hash of a file."""
    digest = hashlib.sha256()
    with file.open("rb") as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
