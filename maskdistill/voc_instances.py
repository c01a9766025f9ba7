"""Object maps of VOC as COCO ground truth."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tqdm import tqdm

from common.errors import InputError
from common.files import check_file, image_size, read_labels
from common.layouts import files_by_stem
from common.splits import read_classes
from maskdistill import voc
from maskdistill.annotations import category_table, image_entry
from maskdistill.coco_files import write_coco
from maskdistill.images import find_image, voc_folder
from maskdistill.options import ConvertVocOptions


def convert(options: ConvertVocOptions) -> Path:
    """Write the objects of the segmentation set as COCO entries.

    Raises:
        InputError: No object maps, images of the list that have none, maps of different sizes, unknown classes.
    """
    root = voc_folder(options.dataset_root)
    stems = _stems(root, options.image_list)
    names = _class_names(options.classes)
    images = []
    for number, stem in enumerate(stems):
        size = image_size(root / "SegmentationObject" / f"{stem}.png", upright=False)
        file = find_image(root / "JPEGImages", stem)
        name = file.name if file.is_file() else f"{stem}.jpg"
        images.append(image_entry(name, size, number if options.int_ids else stem))
    categories = category_table([""] if options.agnostic else names)
    entries = _entries(root, stems, images, options, len(names))
    write_coco(options.out_file, images, entries, categories)
    print(f"{options.out_file}: {len(stems)} images, {len(categories)} categories")
    return options.out_file


def _stems(root: Path, image_list: Path | None) -> list[str]:
    folder = root / "SegmentationObject"
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder; it holds the object maps of the segmentation set")
    there = files_by_stem(folder, (".png",))
    if image_list is None:
        if not there:
            raise InputError(f"{folder}: no object map (.png)")
        return list(there)
    stems = voc.read_list(check_file(image_list, "image list").read_text().splitlines())
    missing = [stem for stem in stems if stem not in there]
    if missing:
        raise InputError(
            f"{image_list}: {len(missing)} of {len(stems)} images have no object map in {folder} (first:"
            f" {', '.join(missing[:5])})"
        )
    return stems


def _class_names(classes: Path | None) -> list[str]:
    """Names of the object classes, the background left out."""
    if classes is None:
        return list(voc.CLASSES)
    return [name for index, name in sorted(read_classes(classes).items()) if index not in (voc.BACKGROUND, voc.VOID)]


def _entries(
    root: Path, stems: list[str], images: list[dict[str, Any]], options: ConvertVocOptions, num_classes: int
) -> Iterator[dict[str, Any]]:
    count = 0
    for stem, image in tqdm(list(zip(stems, images, strict=True)), desc="objects", disable=len(stems) < 50):
        classes, objects = (
            read_labels(root / name / f"{stem}.png") for name in ("SegmentationClass", "SegmentationObject")
        )
        entries = voc.object_entries(
            classes,
            objects,
            image["id"],
            count,
            agnostic=options.agnostic,
            segmentation_format=options.segmentation_format,
        )
        wrong = [entry for entry in entries if not 0 <= entry["category_id"] < max(num_classes, 1)]
        if wrong:
            file = root / "SegmentationClass" / f"{stem}.png"
            raise InputError(
                f"{file}: class {wrong[0]['category_id'] + 1}, there are {num_classes}; name yours with --classes"
            )
        count += len(entries)
        yield from entries
