"""Stage A: one object mask per image, batched by padded size, over any number of processes, resumable."""

import hashlib
import json
import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytorch_lightning as pl
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset
from tqdm import tqdm

from common.errors import InputError
from common.files import image_size, read_image
from common.messages import is_main_process, tell, warn
from common.options import TrainerFlags
from common.prediction import ItemWriter, predict_items
from maskdistill.annotations import annotation_entry, category_table, image_entry, patches_to_pixels, resize_mask
from maskdistill.backbones import Backbone, make_backbone, weights_hash
from maskdistill.coco import agnostic, subset
from maskdistill.coco_files import Entry, Parts, iterate_entries, stands, write_coco
from maskdistill.distillation import pad_to_patches, patches_to_image, resize_shorter
from maskdistill.images import ImageTable, image_table
from maskdistill.mask_generator import object_masks
from maskdistill.options import MaskOptions
from maskdistill.transforms import normalise

EXECUTION = {"overwrite", "batch_size", "num_workers", "gpus", "pred_json_path", "skip_bad"}
"""Options that do not change what the masks are."""


class Found(NamedTuple):
    """The masks of one image."""

    position: int
    patches: list[NDArray[np.bool_]]
    doubtful: bool
    size: tuple[int, int]
    """(H, W) of the image; zeros for one that could not be read."""
    input_size: tuple[int, int]
    """Rows and columns of the network's input without its padding."""


class MaskInputs(Dataset[dict[str, Any]]):
    """Images as the network takes them: resized, normalised, padded to whole patches.

    Args:
        table: The images.
        options: ``resize``, ``patch_size``, ``exif``, ``skip_bad``.
    """

    def __init__(self, table: ImageTable, options: MaskOptions) -> None:
        self.table, self.options = table, options

    def __len__(self) -> int:
        return len(self.table)

    def __getitem__(self, index: int) -> dict[str, Any]:
        row = index if index >= 0 else ~index
        try:
            image = read_image(self.table.files[row], self.options.exif)
        except InputError as error:
            if not self.options.skip_bad:
                raise InputError(f"{error}; --skip_bad leaves such images out") from error
            warn(f"left out: {error}")
            return {"index": row, "weight": float(index >= 0), "image": torch.zeros(3, 0, 0), "size": (0, 0)}
        pixels = normalise(resize_shorter(image, self.options.resize))
        return {
            "index": row,
            "weight": float(index >= 0),
            "image": pad_to_patches(pixels, self.options.patch_size),
            "size": image.shape[:2],
            "input_size": tuple(pixels.shape[-2:]),
        }

    def by_padded_size(self, rows: Sequence[int]) -> list[int]:
        """The same rows, images of one padded size next to each other."""
        keys = {}
        for row in tqdm(rows, desc="sizes", disable=len(rows) < 2000):
            try:
                H, W = image_size(self.table.files[row], self.options.exif)
            except InputError:
                H, W = 1, 1
            scale = self.options.resize / min(H, W)
            P = self.options.patch_size
            keys[row] = (-(-int(H * scale) // P), -(-int(W * scale) // P))
        return sorted(rows, key=lambda row: (keys[row], row))


class MaskDistiller(pl.LightningModule):
    """The network with the selection of object masks as its prediction."""

    def __init__(self, network: Backbone, options: MaskOptions) -> None:
        super().__init__()
        self.network, self.options = network, options

    def predict_step(self, batch: list[dict[str, Any]], batch_idx: int) -> list[Found]:
        """The masks of the images of a batch."""
        found = []
        for items in same_shape([item for item in batch if item["weight"] > 0]):
            if not items[0]["image"].numel():
                found += [Found(item["index"], [], False, (0, 0), (0, 0)) for item in items]
                continue
            images = filled([item["image"] for item in items], len(batch)).to(self.device)
            queries, keys = (part[: len(items)] for part in self.network.queries_keys(images))
            found += [
                self._select(item, q[:, 0].float(), k.float()) for item, q, k in zip(items, queries, keys, strict=True)
            ]
        return found

    def _select(self, item: dict[str, Any], queries_cls: Tensor, keys: Tensor) -> Found:
        options, (H, W) = self.options, item["image"].shape[-2:]
        masks = object_masks(
            queries_cls,
            keys,
            (H // options.patch_size, W // options.patch_size),
            num_masks=options.num_masks,
            heads=options.heads,
            topk=options.topk,
            share=options.share,
            ties="legacy" if options.legacy_ties else "strict",
        )
        doubtful = any(mask.doubtful for mask in masks)
        return Found(item["index"], [mask.mask for mask in masks], doubtful, tuple(item["size"]), item["input_size"])

    def transfer_batch_to_device(self, batch: Any, device: torch.device, dataloader_idx: int) -> Any:
        """Images go to the device as stacks, in ``predict_step``."""
        return batch


def same_shape(items: Sequence[dict[str, Any]]) -> Iterator[list[dict[str, Any]]]:
    """The items in groups whose images have one shape."""
    groups: dict[Any, list[dict[str, Any]]] = defaultdict(list)
    for item in items:
        groups[tuple(item["image"].shape)].append(item)
    yield from groups.values()


def filled(images: Sequence[Tensor], size: int) -> Tensor:
    """The images (n, 3, H, W) and repeats of the last one up to ``size``.

    Results differ in the last bits between batch sizes, and how many images of one shape meet in a batch depends on how
    the work was shared out and where it was stopped.
    """
    return torch.stack([*images, *[images[-1]] * (size - len(images))])


class MaskWriter(ItemWriter):
    """Keeps the entries of each image as soon as they are there."""

    def __init__(self, parts: Parts, table: ImageTable, options: MaskOptions) -> None:
        super().__init__()
        self.parts, self.table, self.options = parts, table, options

    def write(self, batch: Any, prediction: list[Found]) -> None:
        """One record per image: its size, its masks' entries, and whether they are doubtful."""
        for found in prediction:
            self.parts.add(
                {
                    "key": found.position,
                    "size": list(found.size),
                    "entries": self._entries(found) if found.size[0] else [],
                    "doubtful": found.doubtful,
                }
            )

    def _entries(self, found: Found) -> list[Entry]:
        options, entries = self.options, []
        for patches in found.patches:
            if options.mask_resize == "nearest":
                mask = patches_to_image(patches, options.patch_size, found.input_size, found.size)
            else:
                pixels = patches_to_pixels(patches, options.patch_size, found.input_size)
                mask = resize_mask(pixels, found.size, options.mask_resize)
            entry = annotation_entry(
                mask,
                annotation_id=0,
                image_id=self.table.ids[found.position],
                segmentation_format=options.segmentation_format,
            )
            if entry is not None:
                entries.append(entry)
        return entries


def make_masks(options: MaskOptions, flags: TrainerFlags) -> Path | None:
    """Stage A: write ``pred_json_path``; nothing is done where it stands already.

    Returns:
        The file, or None without ``pred_json_path``: the masks are made and counted only.

    Raises:
        InputError: Data, weights or options that cannot be used; an output of another origin.
    """
    _check(options)
    table = image_table(options)
    if options.dataset == "COCO20k":
        write_coco20k(options)
    network = make_backbone(options.weights, options.model, options.patch_size, options.seed)
    output = options.pred_json_path
    source = mask_source(options, table, network)
    if output is not None and stands(output, source, options.overwrite, "--pred_json_path"):
        tell(f"{output}: stands already")
        return output
    inputs = MaskInputs(table, options)
    parts = Parts(output or Path("masks.json"), source)
    records = parts.open() if output is not None else {}
    if records:
        tell(f"{parts.folder}: {len(records)} of {len(table)} images stand already")
    writer = MaskWriter(parts, table, options) if output is not None else _Nothing()
    pending = inputs.by_padded_size([row for row in range(len(table)) if row not in records])
    predict_items(
        MaskDistiller(network, options),
        inputs,
        pending,
        writer,
        flags=flags,
        gpus=options.gpus,
        batch_size=options.batch_size,
        num_workers=options.num_workers,
        collate_fn=list,
    )
    parts.close()
    if output is None:
        tell(f"{len(table)} images; nothing is written without --pred_json_path")
        return None
    if is_main_process():
        _assemble(output, parts, table)
    return output


class _Nothing(ItemWriter):
    def write(self, batch: Any, prediction: list[Found]) -> None:
        """Nothing is written."""


def _assemble(output: Path, parts: Parts, table: ImageTable) -> None:
    """The records of all images as one COCO file, annotation ids running in the order of the images."""
    records = parts.open()
    counts, images = Counter[str](), []
    for row in range(len(table)):
        record = records[row]
        if record["size"][0]:
            images.append(image_entry(table.names[row], tuple(record["size"]), table.ids[row]))
            counts.update(
                rows=1, empty=not record["entries"], doubtful=record["doubtful"], masks=len(record["entries"])
            )
    entries = (entry for row in range(len(table)) for entry in records[row]["entries"])
    numbered = ({**entry, "id": number} for number, entry in enumerate(entries))
    write_coco(output, images, numbered, category_table([""]))
    parts.finish()
    rows, empty, doubtful = counts["rows"], counts["empty"], counts["doubtful"]
    if empty == rows:
        warn(f"{output}: all {empty} masks are empty; the weights are probably not those of a DINO network")
    elif empty:
        warn(f"{empty} of {rows} images have no mask")
    if doubtful:
        warn(f"{doubtful} of {rows} masks are doubtful: the products with CLS cancel out or none is positive")
    print(f"{output}: {counts['masks']} masks of {rows} images ({len(table) - rows} left out)")


def mask_source(options: MaskOptions, table: ImageTable, network: Backbone) -> dict[str, Any]:
    """What the masks depend on."""
    kept = {key: value for key, value in asdict(options).items() if key not in EXECUTION}
    plain = json.loads(json.dumps(kept, default=str))
    for name in ("dataset_root", "data_file", "base_dir", "image_list", "weights"):
        plain.pop(name, None)
    names = "\n".join(f"{number} {name}" for number, name in zip(table.ids, table.names, strict=True))
    return {
        "weights": weights_hash(network),
        "images": hashlib.sha256(names.encode()).hexdigest()[:16],
        **{key: plain[key] for key in ("resize", "heads", "topk", "share", "num_masks", "mask_resize", "exif")},
        **{key: plain[key] for key in ("segmentation_format", "legacy_ties")},
    }


def write_coco20k(options: MaskOptions) -> None:
    """The annotations of the subset of COCO, with their classes and with a single one, where they are missing.

    Raises:
        InputError: The annotations of train2014 are needed and not there.
    """
    wanted = {"class": options.gt_json_path_coco, "agnostic": options.gt_json_path_coco_agn}
    missing = [kind for kind, path in wanted.items() if path is not None and not path.exists()]
    if not missing or not is_main_process():
        return
    root = options.dataset_root
    assert root is not None
    assert options.image_list is not None
    folder = root / "MS-COCO2014" if (root / "MS-COCO2014").is_dir() else root
    found = sorted((folder / "annotations").glob("instances_train20*.json"))
    if not found:
        raise InputError(f"{folder / 'annotations'}: no instances_train2014.json to make --gt_json_path_coco from")
    lists: dict[str, list[Entry]] = {"images": [], "annotations": [], "categories": []}
    for name, entry in iterate_entries(found[0]):
        lists.get(name, []).append(entry)
    chosen = subset(lists, options.image_list.read_text().splitlines())
    for kind in missing:
        path = wanted[kind]
        assert path is not None
        write_coco(path, **(chosen if kind == "class" else agnostic(chosen)))
        print(f"{path}: {len(chosen['annotations'])} objects of {len(chosen['images'])} images")


def _check(options: MaskOptions) -> None:
    for name, low in (("resize", 8), ("batch_size", 1), ("heads", 1), ("num_masks", 1)):
        if getattr(options, name) < low:
            raise InputError(f"--{name} {getattr(options, name)}: give at least {low}")
    for name in ("topk", "share"):
        if not 0 < getattr(options, name) <= 1:
            raise InputError(f"--{name} {getattr(options, name)}: give a share between 0 and 1")
    if options.resize < options.patch_size:
        raise InputError(f"--resize {options.resize}: smaller than a patch of {options.patch_size} px")
    if options.patch_size not in (8, 16) and not re.search(r"contrast|random", options.weights):
        raise InputError(f"--patch_size {options.patch_size}: the published weights have 8 or 16")
