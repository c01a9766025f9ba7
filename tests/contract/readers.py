"""Readers of the methods that take or give more than a path does, for ``tests/common/reading_limits.py``."""

from pathlib import Path

import torch

from common.makers.matlab import bsds_annotations
from common.metrics.protocol import read_scores
from common.tfrecord import parse_example, read_records
from maskdistill.backbones import make_backbone
from maskdistill.coco import by_image
from maskdistill.coco_files import read_coco, read_results
from maskdistill.voc import parse_boxes
from stflow.flow_estimation import load_weights


def vit(path: Path) -> object:
    """The backbone of stages A and B."""
    return make_backbone(str(path))


def raft(path: Path) -> None:
    """Weights of the network for optical flow."""
    load_weights(torch.nn.Linear(3, 4), path)


def detections(path: Path) -> object:
    """A results list by image."""
    return by_image(read_results(path))


def coco(path: Path) -> object:
    """A COCO file and the sizes of its images."""
    return read_coco(path).sizes()


def examples(path: Path) -> object:
    """The records of a TFRecord file."""
    return [parse_example(payload, path) for payload in read_records(path)]


def annotation(path: Path) -> object:
    """The boxes of a VOC annotation."""
    return parse_boxes(path.read_text(encoding="utf-8", errors="replace"), str(path)).boxes


def segmentations(path: Path) -> object:
    """What the annotators of BSDS500 drew."""
    return bsds_annotations(path)


def scores(path: Path) -> object:
    """The scores of an evaluation."""
    return read_scores(path)
