"""Images with label maps for the semantic network, as a LightningDataModule.

A sample is a dictionary: ``image`` float32 (3, S, S) with ImageNet statistics, ``semseg`` uint8 (S, S) class indices or
255, ``index`` its position, ``path`` the image, ``size`` the image's (H, W), ``weight`` 0 for a repeat that only keeps
processes in step. Images are read as stored, without their EXIF orientation, because their label maps are.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from numpy.typing import NDArray
from torch.utils.data import Dataset
from tqdm import tqdm

from common.errors import InputError
from common.files import image_size, read_image, read_labels
from common.messages import warn
from common.sampling import EpochSampler, ResumableLoader, generator, resumable_loader
from common.splits import Split
from maskdistill.losses import VOID
from maskdistill.segmentation.options import SegmentationDataOptions
from maskdistill.segmentation.sources import label_files, step_split
from maskdistill.transforms import Pair, Uniform, normalise, resized, train_pascal, train_vanilla

DEFAULT_PX = {"fblib_pascal": 512, "vanilla_pascal": 513, "none": 512}


def side_px(options: SegmentationDataOptions) -> int:
    """Side of the network's square input.

    Raises:
        InputError: Smaller than the network's stride.
    """
    side = options.image_px or DEFAULT_PX[options.transforms]
    if side < 16:
        raise InputError(f"--image_px {side}: give at least 16")
    return side


def augmentation(options: SegmentationDataOptions) -> Callable[[NDArray[Any], NDArray[Any], Uniform], Pair]:
    """The training transform of the options: image, labels and a source of uniform numbers to the network's size."""
    side, kind = side_px(options), options.transforms
    if kind == "fblib_pascal":
        return lambda image, labels, uniform: train_pascal(
            image, labels, uniform, size_px=side, border_label=options.border_label
        )
    if kind == "vanilla_pascal":
        return lambda image, labels, uniform: train_vanilla(image, labels, uniform, size_px=side)
    return lambda image, labels, uniform: resized(image, labels, (side, side))


class LabelledImages(Dataset[dict[str, Any]]):
    """Images of a split at the network's size, with label maps where they are given.

    Args:
        split: Its Image column is read.
        labels: File of each row's label map, or None for images alone.
        num_classes: Labels are below it, or 255.
        options: Size and transforms.
        sampler: Where the epoch stands, for the augmentation; None = no augmentation.
        upright: Turn images as their EXIF orientation says; label maps of data sets are of the pixels as stored.
    """

    def __init__(
        self,
        split: Split,
        labels: Sequence[Path] | None,
        num_classes: int,
        options: SegmentationDataOptions,
        sampler: EpochSampler | None = None,
        upright: bool = False,
    ) -> None:
        self.split, self.options, self.num_classes = split, options, num_classes
        self.images = [split.path(row, "Image") for row in range(len(split))]
        self.labels = list(labels) if labels is not None else None
        self.side = side_px(options)
        self.sampler, self.upright = sampler, upright

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> dict[str, Any]:
        position = index if index >= 0 else ~index
        image = read_image(self.images[position], self.upright)
        size = image.shape[:2]
        labels = self._labels(position, size)
        if self.sampler is not None:
            draw = generator(self.options.seed, "transform", self.sampler.epoch, position)
            image, labels = augmentation(self.options)(image, labels, lambda: float(torch.rand((), generator=draw)))
        else:
            image, labels = resized(image, labels, (self.side, self.side))
        return {
            "image": normalise(image),
            "semseg": torch.from_numpy(np.ascontiguousarray(labels)),
            "index": position,
            "path": str(self.images[position]),
            "size": torch.tensor(size),
            "weight": float(index >= 0),
        }

    def _labels(self, position: int, size: tuple[int, ...]) -> NDArray[np.uint8]:
        if self.labels is None:
            return np.full(size, VOID, dtype=np.uint8)
        return read_label_map(self.labels[position], size, self.num_classes, self.options.resize_labels)


def read_label_map(path: Path, size: Sequence[int], num_classes: int, resize: bool = False) -> NDArray[np.uint8]:
    """A label map (H, W) of an image of this size.

    Raises:
        InputError: Not readable, another size (unless it is to be resized), or values that are no classes.
    """
    labels = read_labels(path)
    wrong = [int(value) for value in np.unique(labels) if value >= num_classes and value != VOID]
    if wrong:
        shown = ", ".join(map(str, wrong[:5]))
        raise InputError(
            f"{path}: value(s) {shown} are none of {num_classes} classes (0..{num_classes - 1}, 255 = void); raise"
            " --num_classes, or name the right label maps"
        )
    narrow = labels.astype(np.uint8)
    if labels.shape != tuple(size):
        if not resize:
            raise InputError(
                f"{path}: label map of {labels.shape[0]}x{labels.shape[1]} pixels, but its image has"
                f" {size[0]}x{size[1]}; name the right files, or resize with --resize_labels"
            )
        narrow = resized(narrow, narrow, (size[0], size[1]))[1]
    return narrow


class SegmentationData(pl.LightningDataModule):
    """Training and validation images; every loader can be resumed in the middle of an epoch."""

    def __init__(self, options: SegmentationDataOptions, num_classes: int, num_true_classes: int) -> None:
        super().__init__()
        self.options = options
        self.num_classes, self.num_true_classes = num_classes, num_true_classes
        self.splits: dict[str, Split] = {}
        self.sets: dict[str, LabelledImages] = {}
        self.samplers: dict[str, EpochSampler] = {}
        self._prepared = False

    @property
    def has_ground_truth(self) -> bool:
        """Whether all validation images have a GtSemantic."""
        split = self.splits["val"]
        return "GtSemantic" in split.columns and bool(split.available("GtSemantic").all())

    def prepare(self) -> None:
        """Read the splits and find the files, before any training starts.

        Raises:
            InputError: Missing files, empty lists.
        """
        for step in ("train", "val"):
            split = step_split(self.options, step)
            if self.options.skip_bad:
                split = readable(split)
            self.splits[step] = split
        truth = None
        if self.has_ground_truth:
            val = self.splits["val"]
            truth = [val.path(row, "GtSemantic") for row in range(len(val))]
        train = self.splits["train"]
        self.samplers["train"] = self._sampler(len(train), True)
        self.sets["train"] = LabelledImages(
            train, label_files(self.options, train), self.num_classes, self.options, self.samplers["train"]
        )
        self.sets["val"] = LabelledImages(self.splits["val"], truth, self.num_true_classes, self.options)

    def prepare_data(self) -> None:
        """Look at the images' and label maps' headers; one process per machine does this, once."""
        if self._prepared:
            return
        for dataset in self.sets.values():
            for position in tqdm(range(len(dataset)), desc="looking at images", unit="file", disable=None):
                image_size(dataset.images[position], upright=False)
                if dataset.labels is not None:
                    image_size(dataset.labels[position], upright=False)
        self._prepared = True

    def train_dataloader(self) -> ResumableLoader:
        """Shuffled images, augmented; an order and draws that depend on seed and epoch only. Odd ends are dropped."""
        return self._loader("train")

    def val_dataloader(self) -> ResumableLoader:
        """All validation images in order."""
        return self._loader("val")

    def _sampler(self, count: int, shuffle: bool) -> EpochSampler:
        return EpochSampler(count, shuffle=shuffle, seed=self.options.seed, mark_repeats=not shuffle)

    def _loader(self, step: str) -> ResumableLoader:
        assert self.trainer is not None
        sampler = self.samplers.setdefault(step, self._sampler(len(self.sets[step]), False))
        sampler.rank, sampler.world_size = self.trainer.global_rank, self.trainer.world_size
        return resumable_loader(
            self.sets[step],
            sampler,
            batch_size=self.options.batch_size,
            num_workers=self.options.num_workers,
            drop_last=step == "train" and len(sampler) >= self.options.batch_size,
        )


def readable(split: Split) -> Split:
    """The rows whose image can be read, with a warning for each of the others.

    Raises:
        InputError: None can.
    """
    good = []
    for row in tqdm(range(len(split)), desc="reading images", unit="file", disable=None):
        try:
            read_image(split.path(row, "Image"), upright=False)
            good.append(row)
        except InputError as error:
            warn(f"left out: {error}")
    if not good:
        raise InputError(f"{split.file}: no image that can be read")
    return split.take(good)
