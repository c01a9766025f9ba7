"""Stage B's input: the crop of each mask's box, its feature, and the class that the ground truth gives it."""

import base64
import hashlib
import json
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from numpy.typing import NDArray
from torch.utils.data import Dataset

from common.errors import InputError
from common.files import write_array
from common.messages import is_main_process, tell, warn
from common.options import TrainerFlags
from common.prediction import ItemWriter, predict_items
from maskdistill.backbones import Backbone, weights_hash
from maskdistill.boxes import box_iou, corners, rounded_corners
from maskdistill.coco import image_number, most_confident
from maskdistill.coco_files import CocoFile, Parts, is_results_list, read_coco, read_results
from maskdistill.distillation import pad_to_patches
from maskdistill.images import find_image, read_sized
from maskdistill.mask_stage import filled, same_shape
from maskdistill.transforms import normalise
from maskdistill.voc import parse_boxes

NO_TARGET = -1


@dataclass(frozen=True)
class MaskSet:
    """The masks of one input file."""

    content: CocoFile
    """Images, one entry per mask, categories of the ground truth if there is one."""
    files: dict[Any, Path]
    """Image file by image id."""

    def box(self, index: int) -> tuple[int, int, int, int]:
        """Crop (top, bottom, left, right) of a mask's box, rounded."""
        x, y, w, h = self.content.annotations[index]["bbox"]
        return max(round(y), 0), max(round(y + h), 0), max(round(x), 0), max(round(x + w), 0)


def read_masks(path: Path, root: Path | None, truth: CocoFile | None) -> MaskSet:
    """The masks of stage A, or the most confident detection of each image of a results list.

    Raises:
        InputError: Unreadable, no folder of images, images that are not there.
    """
    if root is None:
        raise InputError(f"{path}: give --dataset_root with it, the folder of its images")
    if not root.is_dir():
        raise InputError(f"--dataset_root {root}: no such folder")
    if is_results_list(path):
        if truth is None:
            raise InputError(f"{path}: a results list; give --gt_file with it, the COCO file that names its images")
        found = most_confident(read_results(path, truth._replace(categories=[])))
        content = CocoFile(truth.images, found, truth.categories)
    else:
        content = read_coco(path)
    used = {entry["image_id"] for entry in content.annotations}
    files = {image["id"]: find_image(root, image["file_name"]) for image in content.images if image["id"] in used}
    missing = [file for file in files.values() if not file.is_file()]
    if missing:
        shown = ", ".join(file.name for file in missing[:5])
        raise InputError(f"{path}: {len(missing)} of {len(files)} images are not in {root} (first: {shown})")
    if not content.annotations:
        raise InputError(f"{path}: has no masks")
    return MaskSet(content, files)


class Crops(Dataset[dict[str, Any]]):
    """The crop of each mask's box, at the resolution of the image, padded to whole patches; nothing is resized."""

    def __init__(self, masks: MaskSet, patch_size: int) -> None:
        self.masks, self.patch_size = masks, patch_size
        self.sizes = masks.content.sizes()
        self._read: tuple[Any, NDArray[np.uint8] | None] = (None, None)

    def __len__(self) -> int:
        return len(self.masks.content.annotations)

    def __getitem__(self, index: int) -> dict[str, Any]:
        row = index if index >= 0 else ~index
        crop = self.crop(row)
        image = pad_to_patches(normalise(crop), self.patch_size) if crop.size else torch.zeros(3, 0, 0)
        return {"index": row, "weight": float(index >= 0), "image": image}

    def crop(self, row: int) -> NDArray[np.uint8]:
        """The pixels (h, w, 3) of a mask's box; empty when its rounded box is."""
        image_id = self.masks.content.annotations[row]["image_id"]
        if self._read[0] != image_id:
            self._read = (image_id, read_sized(self.masks.files[image_id], self.sizes[image_id]))
        top, bottom, left, right = self.masks.box(row)
        image = self._read[1]
        assert image is not None
        return image[top:bottom, left:right]

    def by_padded_size(self, rows: Sequence[int]) -> list[int]:
        """The same rows, crops of one padded size next to each other."""

        def key(row: int) -> tuple[int, int, int]:
            top, bottom, left, right = self.masks.box(row)
            return -(-(bottom - top) // self.patch_size), -(-(right - left) // self.patch_size), row

        return sorted(rows, key=key)


class CropEncoder(pl.LightningModule):
    """The network with the features of crops as its prediction."""

    def __init__(self, network: Backbone) -> None:
        super().__init__()
        self.network = network

    def predict_step(self, batch: list[dict[str, Any]], batch_idx: int) -> dict[int, NDArray[np.float32]]:
        """Feature by mask; none for a crop without pixels."""
        found = {}
        for items in same_shape([item for item in batch if item["weight"] > 0]):
            if items[0]["image"].numel():
                images = filled([item["image"] for item in items], len(batch)).to(self.device)
                features = self.network(images)[: len(items)].float().cpu().numpy()
                found.update({item["index"]: feature for item, feature in zip(items, features, strict=True)})
            else:
                found.update({item["index"]: np.zeros(0, np.float32) for item in items})
        return found

    def transfer_batch_to_device(self, batch: Any, device: torch.device, dataloader_idx: int) -> Any:
        """Crops go to the device as stacks, in ``predict_step``."""
        return batch


class _FeatureWriter(ItemWriter):
    def __init__(self, parts: Parts) -> None:
        super().__init__()
        self.parts = parts

    def write(self, batch: Any, prediction: dict[int, NDArray[np.float32]]) -> None:
        """One record per mask."""
        for index, feature in prediction.items():
            self.parts.add({"key": index, "feature": base64.b64encode(feature.tobytes()).decode("ascii")})


def features_of(
    masks: MaskSet,
    network: Backbone,
    folder: Path,
    *,
    batch_size: int,
    num_workers: int,
    flags: TrainerFlags,
    gpus: int | None,
) -> NDArray[np.float32]:
    """The feature (M, D) of each mask, NaN for a crop without pixels; kept in ``folder`` by content.

    Args:
        masks: Their boxes.
        network: Gives the feature of a crop.
        folder: Cache; a file's name is a hash of boxes, images and weights.
        batch_size: Crops per batch and process.
        num_workers: Loader processes.
        flags: Trainer flags.
        gpus: The ``--gpus`` flag.

    Returns:
        In the first process; no columns in the others.
    """
    key = _content_hash(masks, network)
    output = folder / f"features_{key}.npy"
    if output.exists():
        tell(f"{output}: features stand already")
        return np.load(output, allow_pickle=False)
    crops, parts = Crops(masks, network.patch_size), Parts(output, {"content": key})
    records = parts.open()
    pending = crops.by_padded_size([row for row in range(len(crops)) if row not in records])
    predict_items(
        CropEncoder(network),
        crops,
        pending,
        _FeatureWriter(parts),
        flags=flags,
        gpus=gpus,
        batch_size=batch_size,
        num_workers=num_workers,
        collate_fn=list,
    )
    parts.close()
    if not is_main_process():  # the first process goes on alone
        return np.zeros((len(crops), 0), np.float32)
    records = parts.open()
    rows = [np.frombuffer(base64.b64decode(records[row]["feature"]), np.float32) for row in range(len(crops))]
    width = max(len(row) for row in rows)
    if not width:
        raise InputError(f"all {len(rows)} crops are empty: the boxes of the masks have no pixels")
    features = np.stack([row if len(row) else np.full(width, np.nan, np.float32) for row in rows])
    empty = [masks.content.annotations[row].get("id", row) for row in np.flatnonzero(np.isnan(features[:, 0]))]
    if empty:
        warn(f"{len(empty)} masks have a box without pixels and are left out (first: annotation {empty[0]})")
    write_array(output, features)
    parts.finish()
    return features


def _content_hash(masks: MaskSet, network: Backbone) -> str:
    digest = hashlib.sha256(weights_hash(network).encode())
    for entry in masks.content.annotations:
        digest.update(json.dumps([entry["image_id"], entry["bbox"]]).encode())
    for image_id, file in masks.files.items():
        digest.update(f"{image_id} {file.name} {file.stat().st_size}".encode())
    return digest.hexdigest()[:16]


def targets_of(masks: MaskSet, truth: CocoFile | None, root: Path | None) -> NDArray[np.int64] | None:
    """The class (M,) of the object whose box overlaps each mask's most, -1 where an image has none.

    Args:
        masks: The masks.
        truth: COCO ground truth, whose boxes are rounded; None: VOC's annotations below ``root``, if there are any.
        root: Folder with ``Annotations/*.xml``.

    Returns:
        None without any ground truth.
    """
    if truth is not None:
        boxes = _coco_boxes(masks, truth)
    else:
        boxes = _voc_boxes(masks, root)
        if not boxes:
            return None
    targets = np.full(len(masks.content.annotations), NO_TARGET, np.int64)
    for row, entry in enumerate(masks.content.annotations):
        objects, classes = boxes.get(entry["image_id"], ([], []))
        if len(classes):
            targets[row] = classes[int(box_iou(corners(entry["bbox"]), objects).argmax())]
    without = int((targets == NO_TARGET).sum())
    if without:
        warn(f"{without} of {len(targets)} masks lie in images without an object; they count for no class")
    return targets


Boxes = dict[Any, tuple[Any, Any]]


def _coco_boxes(masks: MaskSet, truth: CocoFile) -> Boxes:
    """Boxes and classes by image id of the masks; images are the same by their stem, or by COCO's number."""
    own = {_stem(image["file_name"]): image["id"] for image in masks.content.images}
    translated = {image["id"]: own.get(_stem(image["file_name"])) for image in truth.images}
    if not any(value is not None for value in translated.values()):
        raise InputError("--gt_file: none of its images is among those of --input_file; name the right ground truth")
    found: dict[Any, tuple[list[Any], list[int]]] = defaultdict(lambda: ([], []))
    for entry in truth.annotations:
        objects, classes = found[translated[entry["image_id"]]]
        objects.append(rounded_corners(entry["bbox"]))
        classes.append(int(entry["category_id"]))
    return dict(found)


def _stem(file_name: str) -> str | int:
    name = Path(file_name).name.split(".")[0]
    return image_number(file_name) if name.startswith("COCO_") else name


def _voc_boxes(masks: MaskSet, root: Path | None) -> Boxes:
    folder = (root or Path()) / "Annotations"
    found: Boxes = {}
    for image in masks.content.images:
        file = folder / f"{Path(image['file_name']).name.split('.')[0]}.xml"
        if file.is_file():
            boxes = parse_boxes(file.read_text(encoding="utf-8", errors="replace"), str(file))
            found[image["id"]] = (boxes.boxes, boxes.classes)
    return found
