"""Names and layouts of detectron2, both ways: the ResNet-50 it starts from and the Mask R-CNN it trains.

The two libraries order anchors and put the background otherwise:

| weights | detectron2 | torchvision |
|---|---|---|
| anchors of the RPN | 3 * size + ratio | 5 * ratio + size |
| class scores | background last | background first |
| box deltas, masks | none for background | four rows, one channel, unused |

The way back drops what was added, so a round trip is bit-exact.
"""

import re
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from common.errors import InputError

Weights = Mapping[str, Tensor]

NUM_SIZES, NUM_RATIOS = 5, 3
# Buffers of some versions that hold settings, not weights
SETTINGS = ("pixel_mean", "pixel_std", "proposal_generator.anchor_generator.")

TO_TORCHVISION = {
    "proposal_generator.rpn_head.conv": "rpn.head.conv.0.0",
    "proposal_generator.rpn_head.objectness_logits": "rpn.head.cls_logits",
    "proposal_generator.rpn_head.anchor_deltas": "rpn.head.bbox_pred",
    "roi_heads.box_predictor.cls_score": "roi_heads.box_predictor.cls_score",
    "roi_heads.box_predictor.bbox_pred": "roi_heads.box_predictor.bbox_pred",
    "roi_heads.mask_head.deconv": "roi_heads.mask_predictor.conv5_mask",
    "roi_heads.mask_head.predictor": "roi_heads.mask_predictor.mask_fcn_logits",
}
TO_DETECTRON2 = {theirs: ours for ours, theirs in TO_TORCHVISION.items()}


def resnet_name_to_detectron2(name: str) -> str:
    """A weight of torchvision's ResNet in detectron2's names.

    >>> resnet_name_to_detectron2("layer1.0.downsample.1.bias")
    'res2.0.shortcut.norm.bias'
    """
    name = re.sub(r"^layer(\d)", lambda match: f"res{int(match[1]) + 1}", name)
    name = re.sub(r"\bbn(\d)", r"conv\1.norm", name)
    name = name.replace("downsample.0.", "shortcut.").replace("downsample.1.", "shortcut.norm.")
    return name if name.startswith("res") else f"stem.{name}"


def resnet_name_from_detectron2(name: str) -> str:
    """The inverse of :func:`resnet_name_to_detectron2`."""
    name = re.sub(r"^res(\d)", lambda match: f"layer{int(match[1]) - 1}", name.removeprefix("stem."))
    name = name.replace("shortcut.norm.", "downsample.1.").replace("shortcut.", "downsample.0.")
    return re.sub(r"\bconv(\d)\.norm\.", r"bn\1.", name)


def resnet_to_detectron2(weights: Weights) -> dict[str, Any]:
    """What detectron2 wants in the pickle of MODEL.WEIGHTS, from a ResNet in torchvision's names without classifier."""
    model = {resnet_name_to_detectron2(name): value.detach().cpu().numpy() for name, value in weights.items()}
    return {"model": model, "__author__": "MaskDistill", "matching_heuristics": True}


def mask_rcnn_from_detectron2(weights: Weights) -> dict[str, Tensor]:
    """The weights of a Mask R-CNN R50-C4 of detectron2 for :class:`~maskdistill.model.mask_rcnn.MaskRCNNC4`.

    Args:
        weights: With or without the extra norm after res5, with or without batch norms' step counters.

    Raises:
        InputError: A name that such a network does not have.
    """
    own = {}
    for key, value in weights.items():
        if key.startswith(SETTINGS):
            continue
        name, _, kind = key.rpartition(".")
        if key.startswith("backbone."):
            own[f"backbone.{resnet_name_from_detectron2(key.removeprefix('backbone.'))}"] = value
        elif key.startswith("roi_heads.res5.norm."):
            own[f"roi_heads.box_head.norm.{kind}"] = value
        elif key.startswith("roi_heads.res5."):
            own[f"roi_heads.box_head.{resnet_name_from_detectron2(key.removeprefix('roi_heads.'))}"] = value
        elif name in TO_TORCHVISION:
            own[f"{TO_TORCHVISION[name]}.{kind}"] = _IMPORT.get(name, _unchanged)(value)
        else:
            raise InputError(f"{key}: no weight of a Mask R-CNN R50-C4; FPN models cannot be imported")
    return own


def mask_rcnn_to_detectron2(weights: Weights) -> dict[str, Tensor]:
    """The inverse of :func:`mask_rcnn_from_detectron2`."""
    theirs = {}
    for key, value in weights.items():
        name, _, kind = key.rpartition(".")
        if key.startswith("backbone."):
            theirs[f"backbone.{resnet_name_to_detectron2(key.removeprefix('backbone.'))}"] = value
        elif key.startswith("roi_heads.box_head.norm."):
            theirs[f"roi_heads.res5.norm.{kind}"] = value
        elif key.startswith("roi_heads.box_head."):
            theirs[f"roi_heads.{resnet_name_to_detectron2(key.removeprefix('roi_heads.box_head.'))}"] = value
        else:
            original = TO_DETECTRON2[name]
            theirs[f"{original}.{kind}"] = _EXPORT.get(original, _unchanged)(value)
    return theirs


def _unchanged(value: Tensor) -> Tensor:
    return value


def _swap_anchors(rows: int, columns: int, width: int) -> Callable[[Tensor], Tensor]:
    """Reorder anchors numbered ``columns * row + column``, each of ``width`` channels, to ``rows * column + row``."""
    return lambda value: value.reshape(rows, columns, width, *value.shape[1:]).transpose(0, 1).flatten(0, 2)


def _rows_in_front(count: int) -> Callable[[Tensor], Tensor]:
    return lambda value: torch.cat([value.new_zeros(count, *value.shape[1:]), value])


_IMPORT: dict[str, Callable[[Tensor], Tensor]] = {
    "proposal_generator.rpn_head.objectness_logits": _swap_anchors(NUM_SIZES, NUM_RATIOS, 1),
    "proposal_generator.rpn_head.anchor_deltas": _swap_anchors(NUM_SIZES, NUM_RATIOS, 4),
    "roi_heads.box_predictor.cls_score": lambda value: value.roll(1, 0),
    "roi_heads.box_predictor.bbox_pred": _rows_in_front(4),
    "roi_heads.mask_head.predictor": _rows_in_front(1),
}
_EXPORT: dict[str, Callable[[Tensor], Tensor]] = {
    "proposal_generator.rpn_head.objectness_logits": _swap_anchors(NUM_RATIOS, NUM_SIZES, 1),
    "proposal_generator.rpn_head.anchor_deltas": _swap_anchors(NUM_RATIOS, NUM_SIZES, 4),
    "roi_heads.box_predictor.cls_score": lambda value: value.roll(-1, 0),
    "roi_heads.box_predictor.bbox_pred": lambda value: value[4:],
    "roi_heads.mask_head.predictor": lambda value: value[1:],
}
