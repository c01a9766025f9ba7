"""Stages A to D as functions: each makes its files, leaves alone what stands, goes on where it was stopped.

Every one gives the path of what it made; the commands and ``run.py`` call them. Heavy imports wait for the call.
"""

from pathlib import Path

from common.options import RunOptions, TrainerFlags
from maskdistill.options import (
    ClusterOptions,
    DetectionDataOptions,
    DetectOptions,
    DetectorOptions,
    LabelMapOptions,
    MaskOptions,
    SolverOptions,
)


def make_masks(options: MaskOptions, flags: TrainerFlags) -> Path | None:
    """A: the COCO file ``pred_json_path`` with one class-agnostic mask per image."""
    from maskdistill.mask_stage import make_masks

    return make_masks(options, flags)


def cluster_masks(options: ClusterOptions, flags: TrainerFlags) -> Path | None:
    """B: the COCO file ``output_file``, masks with the class of their cluster."""
    from maskdistill.cluster_stage import cluster_masks

    return cluster_masks(options, flags)


def train_detector(
    model: DetectorOptions, solver: SolverOptions, data: DetectionDataOptions, run: RunOptions, flags: TrainerFlags
) -> Path:
    """C: the run directory with the trained Mask R-CNN; a finished one is left as it is with ``run.resume``."""
    from maskdistill.detector_training import train_detector

    return train_detector(model, solver, data, run, flags)


def detect(options: DetectOptions, flags: TrainerFlags) -> Path:
    """C, prediction: the results list ``mask_rcnn_<set>.json``; ``gt_<set>.json`` stands beside it."""
    from maskdistill.detection import detect

    return detect(options, flags)


def paint_label_maps(options: LabelMapOptions) -> Path:
    """D: the split ``<save_dir>/label_maps.csv``, whose Pred column names a label map per image."""
    from maskdistill.label_map_stage import paint_label_maps

    return paint_label_maps(options)
