"""Crops of pictures from CSV splits, folders or videos, as a LightningDataModule.

A sample is a dictionary: ``crops`` a list of tensors (3, S, S), the two large ones first; ``index`` its position,
``path`` the picture's file, ``weight`` 0 for a repeat that only keeps processes in step; of validation also ``image``
(3, G, G), the whole picture. The crops are a function of seed, epoch and position alone.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from PIL import Image
from torch.utils.data import Dataset

from common.errors import InputError
from common.files import IMAGE_SUFFIXES, read_image
from common.inputs import input_split
from common.layouts import folder_rows
from common.makers.video import VIDEO_SUFFIXES
from common.messages import warn
from common.sampling import EpochSampler, ResumableLoader, generator, ranks, resumable_loader
from common.splits import Split, read_split
from transformer_seg.dino.crops import CropOptions, MultiCrop
from transformer_seg.dino.options import DinoDataOptions
from transformer_seg.dino.pictures import attention_input

BAD_SHARE = 0.01  # of the pictures may be unreadable


class EpochCrops(EpochSampler):
    """`EpochSampler` that also says which epoch it is: loader processes have no other way to know."""

    def __iter__(self) -> Iterator[tuple[int, int]]:  # type: ignore[override]
        return ((self.epoch, index) for index in super().__iter__())


class CropDataset(Dataset[dict[str, Any]]):
    """The pictures of one split as crops."""

    def __init__(self, split: Split, options: DinoDataOptions, step: str) -> None:
        known = split.available("Image")
        if not known.any():
            raise InputError(f"{split.file}: the 'Image' column is empty; name the pictures in it")
        self.split = split.take(known)
        self.options, self.step = options, step
        self.files = [self.split.path(row, "Image") for row in range(len(self.split))]
        low, high = options.global_crops_scale
        local_low, local_high = options.local_crops_scale
        self.crops = MultiCrop(
            CropOptions(
                (low, high),
                (local_low, local_high),
                options.local_crops_number,
                options.global_crop_size,
                options.local_crop_size,
            )
        )
        self.bad: dict[int, str] = {}

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, key: tuple[int, int]) -> dict[str, Any]:
        epoch, index = key
        position = index if index >= 0 else ~index
        read, picture = self._readable(position)
        item = {
            "crops": self._crops(Image.fromarray(picture), epoch, position),
            "index": position,
            "path": str(self.files[read]),
            "weight": float(index >= 0),
        }
        if self.step != "train":
            side = self.options.global_crop_size
            item["image"] = attention_input(picture, (side, side), 1)
        return item

    def _crops(self, picture: Image.Image, epoch: int, position: int) -> list[torch.Tensor]:
        draw = generator(self.options.seed, "crops", self.step, epoch if self.step == "train" else 0, position)
        with torch.random.fork_rng(devices=[]):
            torch.random.set_rng_state(draw.get_state())
            return self.crops(picture)

    def _readable(self, position: int) -> tuple[int, np.ndarray]:
        """The picture at a position or, when that cannot be read, the next one that can.

        Raises:
            InputError: More than one in a hundred cannot be read.
        """
        for place in range(position, position + len(self)):
            read = place % len(self)
            if read in self.bad:
                continue
            try:
                return read, read_image(self.files[read])
            except InputError as error:
                self.bad[read] = str(error)
                if len(self.bad) > BAD_SHARE * len(self):
                    raise InputError(
                        f"{error} ({len(self.bad)} of {len(self)} pictures unreadable, 1 % is the limit; remove them)"
                    ) from error
                warn(f"left out: {error}")
        raise InputError(f"{self.split.file}: none of its {len(self)} pictures can be read")


class DinoDataModule(pl.LightningDataModule):
    """Training and validation crops; every loader can be resumed in the middle of an epoch.

    Args:
        options: Data and crops.
        out: Run directory, where the frames of a video go.
    """

    def __init__(self, options: DinoDataOptions, out: Path) -> None:
        super().__init__()
        self.options = options
        self.sets = {step: CropDataset(split, options, step) for step, split in read_splits(options, out).items()}

    def check(self, processes: int) -> None:
        """Whether there is a whole batch.

        Raises:
            InputError: Fewer training pictures than a batch of all processes; the remedy is named.
        """
        count, needed = len(self.sets["train"]), self.options.batch_size * processes
        if count < needed:
            over = f" on {processes} processes" if processes > 1 else ""
            raise InputError(
                f"{self.sets['train'].split.file}: {count} training pictures, but a batch takes {needed}{over}; give"
                f" --batch_size {max(count // processes, 1)} or more pictures"
            )

    def prepare_data(self) -> None:
        """Read the first picture of each set, so that a wrong --base_dir is found before anything is written."""
        for data in self.sets.values():
            read_image(data.files[0])

    def train_dataloader(self) -> ResumableLoader:
        """Shuffled pictures, in an order that depends on seed and epoch only; an incomplete last batch is left out."""
        return self._loader("train", shuffle=True)

    def val_dataloader(self) -> ResumableLoader:
        """All validation pictures in order, always with the same crops."""
        return self._loader("val", shuffle=False)

    def _loader(self, step: str, shuffle: bool) -> ResumableLoader:
        assert self.trainer is not None
        sampler = EpochCrops(
            len(self.sets[step]),
            shuffle=shuffle,
            seed=self.options.seed,
            **ranks(self.trainer),
            mark_repeats=not shuffle,
        )
        return resumable_loader(
            self.sets[step],
            sampler,
            batch_size=self.options.batch_size,
            num_workers=self.options.num_workers,
            drop_last=shuffle,
        )


def read_splits(options: DinoDataOptions, out: Path) -> dict[str, Split]:
    """The training and the validation split that the options name.

    Raises:
        InputError: Nothing there, or fewer than two pictures.
    """
    if options.data_file is not None:
        return {step: read_split(options.data_file, step, options.base_dir) for step in ("train", "val")}
    path = options.data_path
    assert path is not None
    if path.is_dir() and all((path / step).is_dir() for step in ("train", "val")):
        return {step: _folder_split(path / step) for step in ("train", "val")}
    video = path.suffix.lower() in VIDEO_SUFFIXES
    if not path.is_dir() and not video:
        what = "neither a folder nor a video" if path.exists() else "no such folder or video"
        raise InputError(f"--data_path {path}: {what}; give a folder of pictures ({', '.join(IMAGE_SUFFIXES)})")
    split = input_split(path, out) if video else _folder_split(path)
    count = len(split)
    if count < 2:
        raise InputError(f"--data_path {path}: {count} picture; two are needed, one of them to watch the loss on")
    held_out = min(max(1, round(options.val_share * count)), count - 1)
    # Neighbouring frames are nearly the same picture, so a video gives its end and not a random share.
    order = np.arange(count) if video else np.random.default_rng(options.seed).permutation(count)
    return {"train": split.take(np.sort(order[: count - held_out])), "val": split.take(np.sort(order[-held_out:]))}


def _folder_split(path: Path) -> Split:
    return Split.from_rows(folder_rows(path, path), path, path)
