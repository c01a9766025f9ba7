"""Single pictures with class maps from CSV splits, as WNet and Segmenter are trained on them.

An item is a dictionary: ``image`` float32 (3, h, w) and ``label`` int64 (h, w) as the transform gives them, ``index``
its position, ``path`` its picture, ``weight`` 0 for a repeat that only keeps processes in step. Each augmentation is
drawn by (seed, epoch, position), so that a resumed run and a run on several processes see the same pictures.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import Any, Protocol

import numpy as np
import pytorch_lightning as pl
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset
from tqdm import tqdm

from common.errors import InputError
from common.files import image_size, read_image, read_labels
from common.messages import warn
from common.sampling import EpochSampler, ResumableLoader, generator, ranks, resumable_loader
from common.splits import Split, read_split
from transformer_seg.options import ImageDataOptions

VOID = 255
BAD_SHARE = 0.01  # of the pictures of a split that may be unreadable

Picture = NDArray[np.uint8]
Labels = NDArray[np.int64]
Transform = Callable[[Picture, Labels, torch.Generator], tuple[Tensor, Tensor]]


class Transforms(Protocol):
    """What a system does with a picture and its labels before they enter a batch."""

    def of_step(self, step: str) -> Transform:
        """The transform of ``train``, ``val`` or ``test``."""


class SplitImages(Dataset[dict[str, Any]]):
    """The pictures of one split.

    Args:
        split: With ``Image``, and ``GtSemantic`` where there are labels.
        transform: Picture (H, W, 3) uint8 and labels (H, W), 255 everywhere without a map, to tensors.
        seed: Seed of the augmentation.
        num_classes: Labels must be below it, or 255; None: any.
    """

    def __init__(self, split: Split, transform: Transform, seed: int, num_classes: int | None = None) -> None:
        self.split, self.transform, self.seed, self.num_classes = split, transform, seed, num_classes
        self.paths = [str(cell) for cell in split.column("Image")]
        self.has_labels = "GtSemantic" in split.columns
        self.rows = np.arange(len(split))

    def check(self) -> None:
        """Look at the heads of all files: unreadable pictures are left out with a warning, up to one in a hundred.

        Raises:
            InputError: more of them, a missing or unreadable class map, or one of another size than its picture.
        """
        good, bad = [], []
        for row in tqdm(range(len(self.split)), desc=f"checking {self.split.name}", unit="image", disable=None):
            try:
                size = image_size(self.split.path(row, "Image"))
            except InputError as error:
                bad.append(str(error))
                continue
            if self.has_labels and self.split.available("GtSemantic")[row]:
                self._check_size(row, size)
            good.append(row)
        if len(bad) > BAD_SHARE * len(self.split):
            raise InputError(f"{bad[0]} ({len(bad)} of {len(self.split)} pictures of {self.split.file} are unreadable)")
        for message in bad:
            warn(f"left out: {message}")
        self.rows = np.array(good)

    def _check_size(self, row: int, size: tuple[int, int]) -> None:
        file = self.split.path(row, "GtSemantic")
        found = image_size(file)
        if found != size:
            raise InputError(
                f"{file}: class map of {found[0]}x{found[1]} pixels, but its picture has {size[0]}x{size[1]}; name the"
                " right files in the split"
            )

    def labels(self, row: int, size: tuple[int, int]) -> Labels:
        """Class map (H, W) of a row, void everywhere when it has none."""
        if not (self.has_labels and self.split.available("GtSemantic")[row]):
            return np.full(size, VOID, dtype=np.int64)
        file = self.split.path(row, "GtSemantic")
        labels = read_labels(file)
        if self.num_classes is not None:
            known = labels[labels != VOID]
            if known.size and int(known.max()) >= self.num_classes:
                raise InputError(
                    f"{file}: label {int(known.max())}, but there are {self.num_classes} classes from 0 on; give"
                    " --num_classes, or make the split anew (ADE20K: common/make_split.py ade20k)"
                )
        return labels

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, key: int | tuple[int, int]) -> dict[str, Any]:
        index, epoch = key if isinstance(key, tuple) else (key, 0)
        position = index if index >= 0 else ~index
        row = int(self.rows[position])
        picture = read_image(self.split.path(row, "Image"))
        labels = self.labels(row, (picture.shape[0], picture.shape[1]))
        image, label = self.transform(picture, labels, generator(self.seed, "augment", epoch, position))
        return {
            "image": image,
            "label": label,
            "index": position,
            "path": self.paths[row],
            "weight": float(index >= 0),
        }


def as_lists(items: list[dict[str, Any]]) -> dict[str, list[Any]]:
    """A batch of items of different sizes."""
    return {key: [item[key] for item in items] for key in items[0]}


class DrawSampler(EpochSampler):
    """Pairs (index, epoch), so that the data set's augmentation can depend on the epoch in any process."""

    def __iter__(self) -> Iterator[Any]:
        return ((index, self.epoch) for index in super().__iter__())


class ImageDataModule(pl.LightningDataModule):
    """Train and validation pictures of a split; every loader can be resumed in the middle of an epoch."""

    def __init__(
        self,
        options: ImageDataOptions,
        transforms: Transforms,
        *,
        num_classes: int | None = None,
        collate_val: Callable[[list[Any]], Any] | None = None,
    ) -> None:
        """Make it.

        Args:
            options: Where the data is.
            transforms: What becomes of a picture.
            num_classes: See `SplitImages`.
            collate_val: Joins validation pictures to a batch; default for pictures of one size.
        """
        super().__init__()
        self.options, self.transforms = options, transforms
        self.num_classes, self.collate_val = num_classes, collate_val
        self.images: dict[str, SplitImages] = {}
        self._checked = False

    def prepare(self, *steps: str) -> None:
        """Read the splits of the given steps.

        Raises:
            InputError: missing file or column, empty split.
        """
        options = self.options
        assert options.data_file is not None
        for step in steps:
            split = read_split(options.data_file, step, options.base_dir)
            self.images[step] = SplitImages(split, self.transforms.of_step(step), options.seed, self.num_classes)

    def prepare_data(self) -> None:
        """Refuse files that cannot be used; one process per machine does this, once."""
        if not self._checked:
            self._check()

    def setup(self, stage: str) -> None:
        """Every process must leave out the same pictures."""
        if not self._checked:
            self._check()

    def _check(self) -> None:
        for images in self.images.values():
            images.check()
        self._checked = True

    def split_hash(self) -> Mapping[str, str]:
        """Content hash of each split, for provenance."""
        return {step: images.split.hash() for step, images in self.images.items()}

    def train_dataloader(self) -> ResumableLoader:
        """Shuffled pictures, in an order that depends on seed and epoch only."""
        return self._loader("train", shuffle=True)

    def val_dataloader(self) -> ResumableLoader:
        """All validation pictures in order."""
        return self._loader("val", shuffle=False)

    def _loader(self, step: str, shuffle: bool) -> ResumableLoader:
        assert self.trainer is not None
        sampler = (DrawSampler if shuffle else EpochSampler)(
            len(self.images[step]),
            shuffle=shuffle,
            seed=self.options.seed,
            **ranks(self.trainer),
            mark_repeats=not shuffle,
        )
        return resumable_loader(
            self.images[step],
            sampler,
            batch_size=self.options.batch_size,
            num_workers=self.options.num_workers,
            collate_fn=None if shuffle else self.collate_val,
        )
