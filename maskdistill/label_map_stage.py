"""Stage D: one label map per image from the confident detections, with a data split and scores where asked for."""

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from common.errors import InputError
from common.files import read_labels, write_labels
from common.messages import tell, warn
from common.metrics.confusion import class_iou, contingency, mean_over_classes
from common.prediction import claim
from common.splits import relative_cell, write_split
from maskdistill import rle
from maskdistill.coco import by_image
from maskdistill.coco_files import CocoFile, Entry, file_hash, read_coco, read_results, write_coco
from maskdistill.images import find_image, label_name, read_sized
from maskdistill.instance_evaluation import evaluate_instances
from maskdistill.label_maps import LabelMap, keep_confident, label_map
from maskdistill.options import LabelMapOptions

VOID = 255
SPLIT_NAME = "label_maps.csv"


def paint_label_maps(options: LabelMapOptions) -> Path:
    """Write a label map per image, the kept detections, and the split of the label maps.

    Maps that stand already are kept when they were painted with the same options from the same files.

    Returns:
        The split, whose paths are relative to ``save_dir``.

    Raises:
        InputError: Files or options that cannot be used; maps of another origin.
    """
    _check(options)
    content = read_coco(options.gt_file)
    detections = read_results(options.input_file, content, options.gt_file)
    if not detections:
        warn(f"{options.input_file}: no detections; all label maps will be {options.missing}")
    kept = keep_confident(detections, options.threshold)
    if options.overwrite:
        shutil.rmtree(options.save_dir, ignore_errors=True)
    claim(options.save_dir, _source(options), "give --overwrite, or another --save_dir")
    stems = [Path(image["file_name"]).stem for image in content.images]
    names = [label_name(image["file_name"], len(set(stems)) == len(stems)) for image in content.images]
    groups, dropped = by_image(kept), _dropped(detections, kept, options.uncertain)
    images = _image_files(options, content)
    pending = [row for row, name in enumerate(names) if not (options.save_dir / name).exists()]
    for row in tqdm(pending, desc="label maps", disable=len(pending) < 20):
        image = content.images[row]
        labels = _paint(options, image, groups.get(image["id"], []), dropped.get(image["id"], []), images)
        write_labels(options.save_dir / names[row], labels)
    write_coco(options.output_file, content.images, kept, content.categories)
    file = _write_split(options, names, images, content)
    without = sum(image["id"] not in groups for image in content.images)
    tell(f"{file}: {len(names)} label maps, {len(kept)} of {len(detections)} detections painted, {without} without any")
    _tell_scores(options, content, kept, names)
    return file


def _paint(
    options: LabelMapOptions,
    image: Entry,
    kept: Sequence[Entry],
    dropped: Sequence[Entry],
    files: Mapping[Any, Path],
) -> LabelMap:
    size = (int(image["height"]), int(image["width"]))
    if not kept:
        return np.full(size, VOID if options.missing == "ignore" else 0, dtype=np.uint8)
    pixels = None
    if options.mask_type == "grabcut":
        pixels = np.ascontiguousarray(read_sized(files[image["id"]], size)[..., ::-1])
    labels = label_map(kept, size, mask_type=options.mask_type, overlap=options.overlap, image=pixels)
    for detection in dropped:
        labels[rle.decode(detection["segmentation"], size) & (labels == 0)] = VOID
    return labels


def _dropped(detections: Sequence[Entry], kept: Sequence[Entry], uncertain: float | None) -> dict[Any, list[Entry]]:
    """The detections that were not kept though their score reaches ``uncertain``, by image."""
    if uncertain is None:
        return {}
    counts = {image_id: len(group) for image_id, group in by_image(kept).items()}
    return {
        image_id: [entry for entry in group[counts[image_id] :] if entry["score"] >= uncertain]
        for image_id, group in by_image(detections).items()
    }


def _image_files(options: LabelMapOptions, content: CocoFile) -> dict[Any, Path]:
    if options.image_dir is None:
        return {}
    files = {image["id"]: find_image(options.image_dir, image["file_name"]) for image in content.images}
    missing = [file for file in files.values() if not file.is_file()]
    if missing:
        shown = ", ".join(file.name for file in missing[:5])
        raise InputError(
            f"--image_dir {options.image_dir}: lacks {len(missing)} of {len(files)} images (first: {shown})"
        )
    return files


def _write_split(options: LabelMapOptions, names: Sequence[str], files: Mapping[Any, Path], content: CocoFile) -> Path:
    rows = []
    for name, image in zip(names, content.images, strict=True):
        row: dict[str, Any] = {"Sequence": name.removesuffix(".png"), "Sequence_Index": 0}
        if files:
            row["Image"] = relative_cell(files[image["id"]], options.save_dir)
        rows.append({**row, "Pred": name})
    return write_split(options.save_dir / SPLIT_NAME, rows).file


def _tell_scores(options: LabelMapOptions, content: CocoFile, kept: Sequence[Entry], names: Sequence[str]) -> None:
    if content.annotations:
        ap50 = 100 * evaluate_instances(content.as_dict(), kept, "bbox").ap50
        tell(f"box AP50 of the kept detections is {ap50:.2f}")
    if options.eval is not None:
        table = [entry["name"] for entry in content.categories if entry["name"] != "background"]
        iou, miou, count = score_label_maps(options.save_dir, options.eval, names, len(table) + 1)
        for name, value in zip(["background", *table], iou, strict=True):
            tell(f"IoU class {name} is {100 * value:.2f}")
        tell(f"mIoU is {100 * miou:.2f} ({count} images)")


def score_label_maps(
    folder: Path, truth: Path, names: Sequence[str], num_classes: int
) -> tuple[NDArray[np.float64], float, int]:
    """IoU per class (absent: 0), their mean, and the number of images that have ground truth.

    Raises:
        InputError: No ground truth at all, other sizes, or values that are no classes.
    """
    counts, scored = np.zeros((num_classes, num_classes), dtype=np.int64), 0
    for name in names:
        file = truth / Path(name).name
        if not file.is_file():
            continue
        wanted, found = read_labels(file), read_labels(folder / name)
        if wanted.shape != found.shape:
            raise InputError(f"{file}: label map of size {wanted.shape}, its prediction has {found.shape}")
        values = np.unique(wanted)
        if ((values >= num_classes) & (values != VOID)).any():
            raise InputError(f"{file}: label {values[values != VOID].max()}, there are classes 0 to {num_classes - 1}")
        uncertain = found == VOID  # counts as background: the map says of no class that it is there
        counts += contingency(np.where(uncertain, 0, found), wanted, num_predicted=num_classes, num_classes=num_classes)
        scored += 1
    if not scored:
        raise InputError(f"--eval {truth}: holds no ground truth <stem>.png for any of the {len(names)} label maps")
    iou = np.nan_to_num(class_iou(counts))
    return iou, float(mean_over_classes(class_iou(counts), "zero")), scored


def _source(options: LabelMapOptions) -> dict[str, Any]:
    """What the label maps depend on."""
    settings = {name: getattr(options, name) for name in ("threshold", "mask_type", "overlap", "uncertain", "missing")}
    return {"detections": file_hash(options.input_file), "images": file_hash(options.gt_file), **settings}


def _check(options: LabelMapOptions) -> None:
    if options.mask_type == "grabcut" and options.image_dir is None:
        raise InputError("--mask_type grabcut needs --image_dir, the folder of the images")
    if not 0 <= options.threshold <= 1:
        raise InputError(f"--threshold {options.threshold}: scores lie in 0 to 1")
    if options.uncertain is not None and not 0 <= options.uncertain <= 1:
        raise InputError(f"--uncertain {options.uncertain}: scores lie in 0 to 1")
