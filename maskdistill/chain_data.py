"""The data of a chain as a pair of splits and, where there is ground truth, COCO files of its objects."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common.errors import InputError
from common.files import image_size, read_labels
from common.inputs import input_split
from common.layouts import partition
from common.splits import Split, read_classes, read_split, relative_cell, write_classes, write_split
from common.synthetic import SceneOptions
from common.synthetic import run as make_synthetic
from maskdistill.annotations import category_table, image_entry
from maskdistill.chain_options import ChainDataOptions
from maskdistill.coco_files import write_coco
from maskdistill.images import image_table
from maskdistill.options import MaskOptions
from maskdistill.segmentation.sources import VOC_NAMES, voc_split
from maskdistill.voc import object_entries

EMBEDDED = SceneOptions(out=Path(), num=96, num_val=24, height=96, width=128, num_classes=3, max_objects=2)


@dataclass(frozen=True)
class ChainData:
    """What the chain works on."""

    name: Path
    """Split prefix."""
    base_dir: Path
    train: Split
    val: Split
    classes: dict[int, str] | None
    """Names of the true classes, where there is ground truth."""

    def has_objects(self, split: Split) -> bool:
        """Whether every image has class and object maps."""
        known = self.classes is not None
        return known and all(
            column in split.columns and bool(split.available(column).all()) for column in ("GtSemantic", "GtInstance")
        )

    def has_classes(self, split: Split) -> bool:
        """Whether every image has a class map."""
        return "GtSemantic" in split.columns and bool(split.available("GtSemantic").all())


def chain_data(options: ChainDataOptions, out: Path) -> ChainData:
    """The splits of whatever the options name; made in ``out`` where they are not given.

    Raises:
        InputError: Nothing there, or more than one thing named.
    """
    named = [name for name in ("images", "data_file", "dataset") if getattr(options, name) is not None]
    if len(named) > 1:
        raise InputError(f"--{named[0]} and --{named[1]} both name data: give only one of them")
    if options.data_file is not None:
        return _of_split(options.data_file, options.base_dir)
    if options.images is not None:
        pictures = input_split(options.images, out)
        rows = [{str(key): str(value) for key, value in row.items()} for row in pictures.frame.to_dict("records")]
        return _written(partition(rows, (0.9, 0.1, 0.0)), out / "data", None)
    if options.dataset is not None:
        return _of_data_set(options, out)
    make_synthetic(SceneOptions(**{**vars(EMBEDDED), "out": out / "scenes"}))
    return _of_split(out / "scenes" / "scenes", out / "scenes")


def _of_split(name: Path, base_dir: Path) -> ChainData:
    train, val = (read_split(name, step, base_dir) for step in ("train", "val"))
    truth = any("GtSemantic" in split.columns for split in (train, val))
    return ChainData(name, base_dir, train, val, read_classes(name) if truth else None)


def _of_data_set(options: ChainDataOptions, out: Path) -> ChainData:
    root = options.dataset_root
    if root is None:
        raise InputError(f"--dataset {options.dataset}: name its folder with --dataset_root")
    if options.dataset == "VOC":
        splits = {step: voc_split(root, name) for step, name in (("train", "trainaug"), ("val", "val"))}
        rows = {
            step: [_moved(row, root, out) for row in split.frame.to_dict("records")] for step, split in splits.items()
        }
        return _written(rows, out, dict(enumerate(VOC_NAMES)))
    table = image_table(MaskOptions(dataset="COCO20k", dataset_root=root, image_list=options.image_list))
    found = [
        {"Sequence": Path(name).stem, "Sequence_Index": "0", "Image": relative_cell(file, out)}
        for name, file in zip(table.names, table.files, strict=True)
    ]
    return _written(partition(found, (0.9, 0.1, 0.0)), out, None)


def _moved(row: Mapping[Any, str], old: Path, new: Path) -> dict[str, str]:
    return {
        key: relative_cell(old / value, new) if key in ("Image", "GtSemantic") else value for key, value in row.items()
    }


def _written(rows: Mapping[str, Any], out: Path, classes: dict[int, str] | None) -> ChainData:
    name = out / "images"
    for step in ("train", "val"):
        write_split(out / f"images_{step}.csv", rows[step])
    if classes is not None:
        write_classes(name, classes)
    train, val = (read_split(name, step, out) for step in ("train", "val"))
    return ChainData(name, out, train, val, classes)


def write_objects(data: ChainData, split: Split, file: Path) -> Path:
    """Ground truth of a split's objects as a COCO file; images are numbered as stage A numbers them."""
    assert data.classes is not None
    cells = [str(cell) for cell in split.column("Image")]
    images = [image_entry(cell, image_size(split.path(row, "Image"), False), row) for row, cell in enumerate(cells)]
    names = [name for index, name in sorted(data.classes.items()) if 0 < index < 255]
    return write_coco(file, images, _objects(split), category_table(names))


def write_images(split: Split, file: Path, upright: bool = False) -> Path:
    """The images of a split as a COCO file without annotations, with sizes as stored or as their EXIF turns them."""
    cells = [str(cell) for cell in split.column("Image")]
    images = [image_entry(cell, image_size(split.path(row, "Image"), upright), row) for row, cell in enumerate(cells)]
    return write_coco(file, images, [], category_table([""]))


def _objects(split: Split) -> Iterator[dict[str, Any]]:
    count = 0
    for row in range(len(split)):
        classes, objects = (read_labels(split.path(row, column)) for column in ("GtSemantic", "GtInstance"))
        entries = object_entries(classes, objects, row, count, segmentation_format="rle")
        count += len(entries)
        yield from entries
