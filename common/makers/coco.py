"""Images with COCO annotations: label maps of classes and instances painted from them."""

from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from common.errors import InputError
from common.files import check_file, write_labels
from common.layouts import Row, relative_cell
from common.makers.writing import write_steps

VOID = 255


@dataclass(frozen=True)
class Options:
    """Images with COCO annotations (instances_*.json)."""

    input: str = field(metadata={"positional": True})
    """Folder that holds annotations/ and the folders of images."""
    out: str
    """Prefix of the files to write; the label maps go to NAME_maps/."""
    base_dir: str = "."
    """Folder that the paths in the split are relative to."""
    train: str = "train2017"
    """Training set: annotations/instances_<name>.json and the folder <name>; empty for none."""
    val: str = "val2017"
    """Validation set; empty for none."""
    image_list: str = ""
    """File with the image names to use of the training set, one per line, with or without folder (COCO20k)."""


def make(options: Options) -> int:
    """Paint the annotations of COCO as label maps and write the splits.

    Class i of GtSemantic is the i-th category by id (80 in COCO, not its ids up to 90); crowds are 255. Where objects
    overlap the smaller one is on top.
    """
    root, maps = Path(options.input), Path(f"{options.out}_maps")
    steps: dict[str, list[Row]] = {}
    names: dict[int, str] = {}
    for step, name in (("train", options.train), ("val", options.val)):
        if name:
            content = _read(root / "annotations" / f"instances_{name}.json")
            places = _places(content)
            found = {0: "background", **{places[entry["id"]]: entry["name"] for entry in content["categories"]}}
            if names and names != found:
                raise InputError(f"{root}: the categories of {options.train} and {options.val} differ")
            names = found
            chosen = Path(options.image_list) if options.image_list and step == "train" else None
            steps[step] = _rows(content, places, root / name, maps / name, Path(options.base_dir), chosen)
    return write_steps(options.out, steps, names)


def _read(file: Path) -> dict[str, Any]:
    import json

    try:
        content = json.loads(check_file(file, "annotation").read_text(encoding="utf-8"))
    except ValueError as error:
        raise InputError(f"{file}: not JSON ({' '.join(str(error).split())[:100]})") from error
    if not isinstance(content, dict) or not {"images", "annotations", "categories"} <= set(content):
        raise InputError(f"{file}: needs images, annotations and categories, as instances_*.json of COCO has")
    return content


def _places(content: dict[str, Any]) -> dict[int, int]:
    """Class index from 1 by category id."""
    return {number: place for place, number in enumerate(sorted(entry["id"] for entry in content["categories"]), 1)}


def _rows(
    content: dict[str, Any], places: dict[int, int], images: Path, maps: Path, base: Path, image_list: Path | None
) -> list[Row]:
    entries = defaultdict(list)
    for entry in content["annotations"]:
        entries[entry["image_id"]].append(entry)
    chosen = content["images"]
    if image_list is not None:
        by_name = {image["file_name"]: image for image in chosen}
        wanted = [Path(line).name for line in check_file(image_list, "image list").read_text().split()]
        missing = [name for name in wanted if name not in by_name]
        if missing:
            raise InputError(
                f"{image_list}: {len(missing)} images have no annotation (first: {', '.join(missing[:5])})"
            )
        chosen = [by_name[name] for name in wanted]
    there = [image for image in chosen if (images / image["file_name"]).is_file()]
    if not there:
        raise InputError(f"{images}: holds none of the {len(chosen)} images")
    if len(there) < len(chosen):
        print(f"{images}: holds {len(there)} of {len(chosen)} images; the others are left out")
    rows = []
    for image in tqdm(there, desc=images.name, disable=len(there) < 100):
        stem = Path(image["file_name"]).stem
        files = [maps / kind / f"{stem}.png" for kind in ("classes", "instances")]
        if not all(file.exists() for file in files):
            for file, labels in zip(files, paint(entries[image["id"]], image, places), strict=True):
                write_labels(file, labels)
        rows.append(
            {
                "Sequence": stem,
                "Sequence_Index": "0",
                "Image": relative_cell(images / image["file_name"], base),
                "GtSemantic": relative_cell(files[0], base),
                "GtInstance": relative_cell(files[1], base),
            }
        )
    return rows


def paint(
    entries: list[dict[str, Any]], image: dict[str, Any], places: dict[int, int]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Label maps (H, W) of classes and of instances (numbered from 1), 255 on crowds.

    Of more than 254 instances the smallest ones come first and the rest is void: the maps are 8 bit.
    """
    from pycocotools import mask as coco_mask

    H, W = int(image["height"]), int(image["width"])
    classes, instances = np.zeros((H, W), np.int64), np.zeros((H, W), np.int64)
    order = sorted(entries, key=lambda entry: (not entry.get("iscrowd"), -float(entry["area"])))
    number = max(len([entry for entry in order if not entry.get("iscrowd")]), 0)
    for entry in order:
        code = entry["segmentation"]
        if isinstance(code, list):
            code = coco_mask.merge(coco_mask.frPyObjects(code, H, W))
        elif isinstance(code["counts"], list):
            code = coco_mask.frPyObjects(code, H, W)
        mask = coco_mask.decode(code).astype(bool)
        if entry.get("iscrowd"):
            classes[mask] = instances[mask] = VOID
            continue
        classes[mask] = places[entry["category_id"]]
        instances[mask] = number if number < VOID else VOID
        number -= 1
    return classes, instances
