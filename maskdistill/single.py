"""Label map, instances and overlay of single pictures, folders and videos."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from common.errors import InputError
from common.files import read_labels, write_labels
from common.inputs import input_split
from common.messages import is_first_process, is_main_process
from common.options import TrainerFlags
from common.prediction import prediction_flags
from common.splits import Split, read_split, relative_cell, write_split
from maskdistill import rle
from maskdistill.chain_data import write_images
from maskdistill.coco import by_image
from maskdistill.coco_files import read_coco, read_results
from maskdistill.final_network import final_network
from maskdistill.options import DetectOptions
from maskdistill.predict_options import PredictOptions
from maskdistill.segmentation.label_writer import LabelRule
from maskdistill.segmentation.labelling import Machine, label_images
from maskdistill.segmentation.sources import label_names
from maskdistill.stages import detect

Labels = NDArray[np.int64]


def predict(options: PredictOptions, flags: TrainerFlags) -> Path:
    """Write ``labels/``, ``instances/`` and ``labels/overlays/`` for the input.

    Returns:
        The prediction split, with Pred (label map) and PredInstance.

    Raises:
        InputError: Input, weights or options that cannot be used.
    """
    restored = final_network(options.model_dir, options.select)
    split = input_split(options.input, options.out, options.base_dir)
    labels = label_images(
        restored,
        split,
        options.out / "labels",
        LabelRule(options.crf_postprocess, options.predict_resize, options.crf_min_probability, upright=True),
        Machine(flags, options.gpus, options.batch_size, options.num_workers, options.crf_workers),
        image_px=options.image_px or restored.image_px or 512,
        overwrite=options.overwrite,
    )
    found = _detections(options, split, flags)
    if not is_main_process():
        return labels
    predicted = read_split(labels, base_dir=split.base_dir)
    cells = []
    for row, name in enumerate(label_names(split)):
        semantic = read_labels(predicted.path(row, "Pred"))
        instances = regions(semantic) if found is None else painted(found.get(row, []), semantic.shape)
        write_labels(options.out / "instances" / name, instances)
        cells.append(relative_cell(options.out / "instances" / name, split.base_dir))
    written = options.out / f"{split.name}.csv"
    write_split(written, predicted.frame.assign(PredInstance=cells))
    return written


def _detections(options: PredictOptions, split: Split, flags: TrainerFlags) -> Mapping[Any, list[Any]] | None:
    """Detections by row from --threshold on, or None without a detector."""
    folder = options.detector_dir or options.model_dir / "C_detector"
    if not folder.exists():
        if options.detector_dir is not None:
            raise InputError(f"--detector_dir {folder}: no such run directory or checkpoint")
        return None
    images = options.out / "data" / "images.json"
    if is_first_process():
        write_images(split, images, upright=True)
    results = detect(
        DetectOptions(
            model_dir=folder,
            images=images,
            image_dir=split.base_dir,
            out=options.out / "detections",
            set="input",
            overwrite=options.overwrite,
            batch_size=options.batch_size,
            num_workers=options.num_workers,
            gpus=options.gpus,
        ),
        prediction_flags(flags),
    )
    entries = read_results(results, read_coco(images)._replace(categories=[]), images)
    return by_image([entry for entry in entries if entry["score"] >= options.threshold])


def painted(entries: list[Any], size: tuple[int, ...]) -> Labels:
    """Instance numbers from 1 (H, W), the best detection on top."""
    instances = np.zeros(size, dtype=np.int64)
    best_first = sorted(entries, key=lambda entry: -entry["score"])[:254]
    for number, entry in enumerate(best_first, start=1):
        instances[rle.decode(entry["segmentation"], (size[0], size[1])) & (instances == 0)] = number
    return instances


def regions(labels: Labels) -> Labels:
    """Instance numbers from 1 (H, W) of the connected regions of each class, the largest 254."""
    instances = np.zeros(labels.shape, dtype=np.int64)
    masks = []
    for value in np.unique(labels):
        if value not in (0, 255):
            count, parts = cv2.connectedComponents((labels == value).astype(np.uint8), connectivity=4)
            masks += [parts == part for part in range(1, count)]
    for number, mask in enumerate(sorted(masks, key=lambda mask: -int(mask.sum()))[:254], start=1):
        instances[mask] = number
    return instances
