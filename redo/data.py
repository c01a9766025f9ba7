"""Squares of a CSV split as a LightningDataModule.

A training batch holds two independent draws of images, ``image`` that is cut and redrawn and ``real`` that the
discriminator sees. An evaluation batch holds ``image`` and its object. Images stay uint8 (B, S, S, channels) until they
are on the device.

Both draws are endless streams of shuffled passes, as in the original: a pass gives whole batches and leaves the rest
out. The place in a stream is a function of (seed, iteration) alone, so a run can stop anywhere and continue exactly,
and P processes with batch size b see what one with P * b sees.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from numpy.typing import NDArray
from torch.utils.data import Dataset

from common.errors import InputError
from common.messages import warn
from common.sampling import EpochSampler, ResumableLoader, generator, ranks, resumable_loader
from common.splits import Split, read_split
from redo.options import DataOptions
from redo.square_cache import NO_OBJECT_KNOWN, SquareCache, image_cache, mask_cache

Pair = tuple[int, int]
ADVISED_BATCH = 20


class SquareImages(Dataset[dict[str, Any]]):
    """The images of a split as squares, and their objects where something is scored.

    Args:
        split: Rows with ``Image``, for scores also ``GtMask``.
        size: Side S.
        channels: 3 or 1.
        options: Encoding of masks, cache, unreadable images to accept.
        scored: Read the masks too; otherwise they are never opened.
    """

    def __init__(self, split: Split, size: int, channels: int, options: DataOptions, scored: bool) -> None:
        shown = split.available("Image")
        if not shown.any():
            raise InputError(f"{split.file}: the 'Image' column is empty; nothing to look at")
        self.split = split.take(shown)
        rows = range(len(self.split))
        self.paths = [str(cell) for cell in self.split.column("Image")]
        files = [self.split.path(row, "Image") for row in rows]
        self.images = image_cache(files, size, channels, options.cache_dir, options.skip_bad)
        self.objects: SquareCache | None = None
        if scored and "GtMask" in self.split.columns and self.split.available("GtMask").any():
            known = self.split.available("GtMask")
            masks = [self.split.path(row, "GtMask") if known[row] else None for row in rows]
            self.objects = mask_cache(masks, files, size, options.mask_encoding, options.cache_dir)
        self.kept: NDArray[np.int64] = np.arange(len(self.split))

    def build(self) -> None:
        """Fill the caches and leave out unreadable images.

        Raises:
            InputError: Too many unreadable images, an unreadable mask, or no image left.
        """
        self.images.build()
        if self.objects is not None:
            self.objects.build()
        self.kept = np.setdiff1d(np.arange(len(self.split)), list(self.images.bad))
        if not len(self.kept):
            raise InputError(f"{self.split.file}: no readable image")

    def tell(self) -> None:
        """Warn of images that are left out."""
        for message in self.images.bad.values():
            warn(f"left out: {message}")

    def __len__(self) -> int:
        return len(self.kept)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """One item, without a batch axis; see `__getitems__`."""
        return {key: value[0] for key, value in self.__getitems__([index]).items()}

    def __getitems__(self, indices: Sequence[int] | Sequence[Pair]) -> dict[str, Any]:
        """A whole batch: of pairs in training, of positions in evaluation (``~index``: a repeat of weight 0)."""
        if isinstance(indices[0], tuple):
            first, second = np.array(indices).T
            return {**self._images(first), "real": torch.from_numpy(self.images[self.kept[second]])}
        given = np.array(indices)
        positions = np.where(given >= 0, given, ~given)
        batch = {**self._images(positions), "weight": torch.from_numpy((given >= 0).astype(np.float32))}
        batch["object"] = torch.from_numpy(self._objects(positions))
        return batch

    def _images(self, positions: NDArray[np.int64]) -> dict[str, Any]:
        rows = self.kept[positions]
        return {
            "image": torch.from_numpy(self.images[rows]),
            "index": torch.from_numpy(positions),
            "path": [self.paths[row] for row in rows],
        }

    def _objects(self, positions: NDArray[np.int64]) -> NDArray[np.uint8]:
        """1 on the object, 0 beside it, `NO_OBJECT_KNOWN` everywhere in an image without annotation."""
        if self.objects is None:
            side = self.images.shape[0]
            return np.full((len(positions), side, side), NO_OBJECT_KNOWN, np.uint8)
        return self.objects[self.kept[positions]]


class PairSampler(EpochSampler):
    """Pairs of images, two independent streams of shuffled passes; an epoch is a stretch of so many iterations.

    Args:
        num_images: Images that there are, at least one whole batch of all processes.
        batch_size: Per process.
        iterations: Of one epoch.
        first_iteration: Of epoch 0.
        seed: Of the order.
        rank: Of this process.
        world_size: Number of processes.
    """

    def __init__(
        self,
        num_images: int,
        *,
        batch_size: int,
        iterations: int,
        first_iteration: int,
        seed: int,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        total = batch_size * world_size
        super().__init__(iterations * total, shuffle=True, seed=seed, rank=rank, world_size=world_size)
        self.num_images, self.batch_size, self.iterations = num_images, batch_size, iterations
        self.first_iteration = first_iteration

    def __iter__(self) -> Iterator[Pair]:  # type: ignore[override]
        start = self.first_iteration + self.epoch * self.iterations
        skip, self.skip = self.skip // self.batch_size, 0
        for iteration in range(start + skip, start + self.iterations):
            yield from zip(self._draw("cut", iteration), self._draw("real", iteration), strict=True)

    def _draw(self, stream: str, iteration: int) -> list[int]:
        """This process's images of an iteration."""
        total = self.batch_size * self.world_size
        shuffle, batch = divmod(iteration, self.num_images // total)
        order = _permutation(self.num_images, self.seed, stream, shuffle)
        return order[batch * total : (batch + 1) * total][self.rank :: self.world_size]


_LATEST: dict[tuple[str, int], tuple[int, int, list[int]]] = {}


def _permutation(count: int, seed: int, stream: str, shuffle: int) -> list[int]:
    """The order of a pass; the latest one of each stream is remembered, as a pass serves many batches."""
    found = _LATEST.get((stream, seed))
    if found is None or found[:2] != (count, shuffle):
        order = torch.randperm(count, generator=generator(seed, "order", stream, shuffle)).tolist()
        found = _LATEST[stream, seed] = (count, shuffle, order)
    return found[2]


def whole_batch(batch: Any) -> Any:
    """The batch as ``__getitems__`` made it."""
    return batch


class RedoDataModule(pl.LightningDataModule):
    """Training pairs, validation images; every loader can be resumed in the middle of an epoch.

    Args:
        options: Data; ``data_file`` must be set.
        size: Side of the squares.
        channels: 3 or 1.
        iterations: Of one epoch.
        first_iteration: Where it begins.
        seed: Of the order.
    """

    def __init__(
        self,
        options: DataOptions,
        size: int,
        channels: int = 3,
        *,
        iterations: int = 1,
        first_iteration: int = 0,
        seed: int = 123,
    ) -> None:
        super().__init__()
        self.options, self.size, self.channels, self.seed = options, size, channels, seed
        self.iterations, self.first_iteration = iterations, first_iteration
        self.images: dict[str, SquareImages] = {}
        self._told = False

    def prepare(self, *steps: str) -> None:
        """Read the splits of the given steps, before any training starts.

        Raises:
            InputError: Missing file or column, empty split.
        """
        assert self.options.data_file is not None
        for step in steps:
            split = read_split(self.options.data_file, step, self.options.base_dir)
            scored = step != "train" or self.options.evalTrain != 0
            self.images[step] = SquareImages(split, self.size, self.channels, self.options, scored)

    def prepare_data(self) -> None:
        """Read the images and refuse what cannot be used; one process per machine does this, once."""
        for images in self.images.values():
            images.build()
        if not self._told:
            for images in self.images.values():
                images.tell()
        self._told = True
        self._check_batch(1)

    def setup(self, stage: str) -> None:
        """Open the caches in every process."""
        for images in self.images.values():
            images.build()
        if self.trainer is not None:
            self._check_batch(self.trainer.world_size)

    def _check_batch(self, world_size: int) -> None:
        total = self.options.batchSize * world_size
        if "train" in self.images and len(self.images["train"]) < total:
            count = len(self.images["train"])
            raise InputError(
                f"--batchSize {self.options.batchSize}: {total} images per step, but {self.images['train'].split.file}"
                f" has {count}; give at most {count // world_size}"
            )

    def train_dataloader(self) -> ResumableLoader:
        """Pairs, in an order that depends on seed and iteration only."""
        assert self.trainer is not None
        sampler = PairSampler(
            len(self.images["train"]),
            batch_size=self.options.batchSize,
            iterations=self.iterations,
            first_iteration=self.first_iteration,
            seed=self.seed,
            **ranks(self.trainer),
        )
        return self._loader("train", sampler, self.options.batchSize)

    def val_dataloader(self) -> list[ResumableLoader]:
        """All validation images in order, and those training images that are scored."""
        loaders = [self._evaluation("val")]
        if self.options.evalTrain and self.images["train"].objects is not None:
            loaders.append(self._evaluation("train"))
        return loaders

    def _evaluation(self, step: str) -> ResumableLoader:
        assert self.trainer is not None
        count = len(self.images[step])
        if step == "train" and 0 < self.options.evalTrain < count:
            count = self.options.evalTrain
        sampler = EpochSampler(
            count,
            shuffle=False,
            seed=self.seed,
            **ranks(self.trainer),
            mark_repeats=True,
        )
        return self._loader(step, sampler, min(64, count))

    def _loader(self, step: str, sampler: EpochSampler, batch_size: int) -> ResumableLoader:
        return resumable_loader(
            self.images[step],
            sampler,
            batch_size=batch_size,
            collate_fn=whole_batch,
            num_workers=self.options.workers,
        )


def split_files(data_file: Path) -> dict[str, Path]:
    """The CSV files of a split prefix by step, those that there are."""
    files = {step: Path(f"{data_file}_{step}.csv") for step in ("train", "val", "test")}
    return {step: file for step, file in files.items() if file.exists()}
