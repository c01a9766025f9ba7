"""Images with masks for Mask R-CNN: read, flipped and resized as (seed, epoch, image) say."""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytorch_lightning as pl
import torch
from numpy.typing import NDArray
from PIL import Image
from torch.utils.data import Dataset

from common.errors import InputError
from common.sampling import EpochSampler, ResumableLoader, generator, ranks, resumable_loader
from maskdistill import rle
from maskdistill.coco_files import CocoFile, Entry, file_hash, read_coco
from maskdistill.images import find_image, read_sized
from maskdistill.options import DetectionDataOptions, DetectorOptions


class KeyedSampler(EpochSampler):
    """An ``EpochSampler`` that gives (epoch, index): random numbers of a sample depend on both."""

    def __iter__(self) -> Iterator[Any]:
        indices = super().__iter__()
        return ((self.epoch, index) for index in indices)


class MaskImages(Dataset[dict[str, Any]]):
    """The images of a COCO file.

    Args:
        content: The file.
        folder: Its images are below it.
        min_sizes: Shorter sides to choose from; without ``seed`` the first one.
        max_size: Bound of the longer side.
        flip: Chance of a horizontal flip.
        seed: Of the draws; None for prediction and validation.
        with_masks: Also give the targets; images without a mask are left out.
    """

    def __init__(
        self,
        content: CocoFile,
        folder: Path,
        *,
        min_sizes: Sequence[int],
        max_size: int,
        flip: float = 0.0,
        seed: int | None = None,
        with_masks: bool = True,
    ) -> None:
        by_image: dict[Any, list[Entry]] = defaultdict(list)
        for entry in content.annotations:
            if with_masks and entry.get("segmentation") and min(entry["bbox"][2:]) > 0:
                by_image[entry["image_id"]].append(entry)
        self.images = [image for image in content.images if by_image[image["id"]] or not with_masks]
        self.entries = [by_image[image["id"]] for image in self.images]
        self.labels = {entry["id"]: place for place, entry in enumerate(sorted_categories(content.categories), start=1)}
        self.min_sizes, self.max_size, self.flip, self.seed = list(min_sizes), max_size, flip, seed
        self.with_masks = with_masks
        self.files = [find_image(folder, image["file_name"]) for image in self.images]
        missing = [file for file in self.files if not file.is_file()]
        if missing:
            shown = ", ".join(file.name for file in missing[:5])
            raise InputError(f"--image_dir {folder}: lacks {len(missing)} of {len(self.files)} images (first: {shown})")

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, key: int | tuple[int, int]) -> dict[str, Any]:
        epoch, index = key if isinstance(key, tuple) else (0, key)
        row = index if index >= 0 else ~index
        size = self.size(row)
        image = read_sized(self.files[row], size)
        shorter, flipped = self.min_sizes[0], False
        if self.seed is not None:
            draw = generator(self.seed, "augment", epoch, row)
            shorter = self.min_sizes[int(torch.randint(len(self.min_sizes), (), generator=draw))]
            flipped = float(torch.rand((), generator=draw)) < self.flip
        scaled = resized_size(size, shorter, self.max_size)
        image = np.asarray(Image.fromarray(image).resize(scaled[::-1], Image.Resampling.BILINEAR))
        image = image[:, ::-1] if flipped else image
        item = {
            "index": row,
            "weight": float(index >= 0),
            "path": str(self.files[row]),
            "image": torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1))),
            "size": size,
        }
        if self.with_masks:
            item["target"] = self._target(row, size, scaled, flipped)
        return item

    def size(self, row: int) -> tuple[int, int]:
        """(H, W) of an image as its file says."""
        return int(self.images[row]["height"]), int(self.images[row]["width"])

    def _target(
        self, row: int, size: tuple[int, int], scaled: tuple[int, int], flipped: bool
    ) -> dict[str, torch.Tensor]:
        """Boxes (from the boxes of the entries), labels and masks at the scaled size."""
        masks, boxes = [], []
        for entry in self.entries[row]:
            mask = rle.decode(entry["segmentation"], size).astype(np.uint8)
            mask = np.asarray(cv2.resize(mask, scaled[::-1], interpolation=cv2.INTER_NEAREST), np.uint8)
            masks.append(mask[:, ::-1] if flipped else mask)
            x, y, w, h = (float(side) for side in entry["bbox"])
            x = size[1] - x - w if flipped else x
            boxes.append([x, y, x + w, y + h])
        factors = [scaled[1] / size[1], scaled[0] / size[0]] * 2
        labels = [self.labels[entry["category_id"]] for entry in self.entries[row]]
        return {
            "boxes": torch.tensor(boxes, dtype=torch.float32) * torch.tensor(factors),
            "labels": torch.tensor(labels, dtype=torch.int64),
            "masks": torch.from_numpy(np.stack(masks)),
        }


def sorted_categories(categories: Sequence[Entry]) -> list[Entry]:
    """Categories by id, without the background that the original's lists end with."""
    return sorted((entry for entry in categories if entry["name"] != "background"), key=lambda entry: entry["id"])


def category_ids(content: CocoFile) -> list[int]:
    """The category id of each label 1, 2 ..."""
    return [int(entry["id"]) for entry in sorted_categories(content.categories)]


def resized_size(size: tuple[int, int], shorter: int, longest: int) -> tuple[int, int]:
    """(H, W) with the given shorter side, or a smaller one whose longer side fits."""
    scale = min(shorter / min(size), longest / max(size))
    return max(round(size[0] * scale), 1), max(round(size[1] * scale), 1)


def collate(items: list[dict[str, Any]]) -> dict[str, Any]:
    """A batch of images of any sizes."""
    batch: dict[str, Any] = {key: [item[key] for item in items] for key in items[0]}
    batch["index"] = torch.tensor(batch["index"])
    batch["weight"] = torch.tensor(batch["weight"], dtype=torch.float64)
    return batch


class DetectionData(pl.LightningDataModule):
    """Training masks, and ground truth to validate on if there is some."""

    def __init__(self, options: DetectionDataOptions, model: DetectorOptions) -> None:
        super().__init__()
        self.options = options
        self.content = checked_masks(options.input_file)
        train = MaskImages(
            self.content,
            options.image_dir,
            min_sizes=model.min_size_train,
            flip=options.flip,
            seed=options.seed,
            max_size=model.max_size,
        )
        if not len(train):
            raise InputError(f"{options.input_file}: has no masks to train on")
        self.train, self.val = train, None
        if options.val_file is not None:
            content = checked_masks(options.val_file)
            unknown = set(category_ids(content)) ^ set(category_ids(self.content))
            if unknown:
                raise InputError(
                    f"{options.val_file}: its categories are not those of {options.input_file} (differs: id"
                    f" {sorted(unknown)[0]})"
                )
            folder = options.val_image_dir or options.image_dir
            self.val = MaskImages(content, folder, min_sizes=[model.min_size_test], max_size=model.max_size)
            self.val_content = content

    def hashes(self) -> dict[str, str]:
        """Content hash of each file, for provenance."""
        files = {"train": self.options.input_file, "val": self.options.val_file}
        return {step: file_hash(file) for step, file in files.items() if file is not None}

    def train_dataloader(self) -> ResumableLoader:
        """Shuffled images, in an order that depends on seed and epoch only."""
        return self._loader(self.train, shuffle=True)

    def val_dataloader(self) -> ResumableLoader | list[Any]:
        """All validation images in order."""
        return self._loader(self.val, shuffle=False) if self.val is not None else []

    def _loader(self, data: MaskImages, shuffle: bool) -> ResumableLoader:
        assert self.trainer is not None
        sampler = KeyedSampler(
            len(data),
            shuffle=shuffle,
            seed=self.options.seed,
            **ranks(self.trainer),
            mark_repeats=not shuffle,
        )
        return resumable_loader(
            data,
            sampler,
            batch_size=self.options.batch_size,
            num_workers=self.options.num_workers,
            collate_fn=collate,
        )


def checked_masks(path: Path) -> CocoFile:
    """A COCO file whose entries have known categories and masks that fit their images.

    Raises:
        InputError: An entry that does not, by number.
    """
    content = read_coco(path)
    known = {entry["id"] for entry in content.categories}
    sizes = content.sizes()
    for index, entry in enumerate(content.annotations):
        if entry["category_id"] not in known:
            raise InputError(
                f"{path}: annotations[{index}] has category_id {entry['category_id']!r}, not in categories"
            )
        segmentation = entry.get("segmentation")
        if isinstance(segmentation, dict) and tuple(segmentation.get("size", ())) != sizes[entry["image_id"]]:
            raise InputError(
                f"{path}: annotations[{index}] has a mask of size {segmentation.get('size')}, its image"
                f" {list(sizes[entry['image_id']])}"
            )
    return content


def detections_to_entries(
    found: dict[str, torch.Tensor], image: Entry, scaled: tuple[int, int], categories: Sequence[int]
) -> list[Entry]:
    """Results of one image in the pixels of its file, by falling score.

    Args:
        found: Of ``Detector.detect``.
        image: Its entry.
        scaled: (H, W) that was worked at.
        categories: Category id of each label 1, 2 ...
    """
    from torchvision.models.detection.roi_heads import paste_masks_in_image

    H, W = int(image["height"]), int(image["width"])
    factors = torch.tensor([W / scaled[1], H / scaled[0]] * 2)
    boxes = found["boxes"].float().cpu() * factors
    order = found["scores"].float().cpu().sort(descending=True, stable=True).indices
    if not len(order):
        return []
    masks = paste_masks_in_image(found["masks"].float().cpu()[order], boxes[order], (H, W))[:, 0] >= 0.5
    entries = []
    for place, index in enumerate(order.tolist()):
        x0, y0, x1, y1 = boxes[index].tolist()
        mask: NDArray[np.bool_] = masks[place].numpy()
        entries.append(
            {
                "image_id": image["id"],
                "category_id": categories[int(found["labels"][index]) - 1],
                "bbox": [x0, y0, x1 - x0, y1 - y0],
                "score": float(found["scores"][index]),
                "segmentation": rle.encode(mask),
            }
        )
    return entries
