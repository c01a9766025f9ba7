"""Mask R-CNN for training on several devices: torchvision's parts with losses and sampling that can be repeated.

torchvision's own model draws regions from the global random state, averages losses over what a process happens to see,
and fixes the smooth L1 of boxes at 1/9. Here every image's regions are drawn from a generator of its own, losses are
sums over counts that all processes share, and the L1 is plain if asked for, as in detectron2's recipe. So a resumed run
and a run on several processes do what one that was never interrupted does.

Sizes: R regions of a batch, C classes without background, M side of a mask.
"""

from collections.abc import Callable, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models import resnet18, resnet50
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.backbone_utils import BackboneWithFPN
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.mask_rcnn import MaskRCNNHeads, MaskRCNNPredictor
from torchvision.models.detection.roi_heads import RoIHeads, project_masks_on_boxes
from torchvision.models.detection.rpn import RegionProposalNetwork, RPNHead, concat_box_prediction_layers
from torchvision.ops import FrozenBatchNorm2d, MultiScaleRoIAlign

from maskdistill.model.mask_rcnn import ASPECT_RATIOS, C4Backbone, Res5, RoIAlignV2, SharedRes5
from maskdistill.transforms import IMAGENET_MEAN, IMAGENET_STD

Target = dict[str, Tensor]
Norm = Literal["batch", "frozen", "group"]

RPN_ANCHORS_PER_IMAGE = 256
GROUPS = 8


class SeededSampler:
    """Chooses positive and negative samples of each image with a generator of its own.

    Args:
        num_samples: Per image.
        positive_fraction: Largest share of positive ones.
    """

    def __init__(self, num_samples: int, positive_fraction: float) -> None:
        self.num_samples, self.positive_fraction = num_samples, positive_fraction
        self.generators: Sequence[torch.Generator] = ()

    def __call__(self, labels: Sequence[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """Masks of positive and negative samples; labels are at least 1, 0, or -1 for neither."""
        positives: list[Tensor] = []
        negatives: list[Tensor] = []
        for of_image, generator in zip(labels, self.generators, strict=True):
            positive, negative = (of_image >= 1).nonzero()[:, 0], (of_image == 0).nonzero()[:, 0]
            num_positive = min(len(positive), int(self.num_samples * self.positive_fraction))
            num_negative = min(len(negative), self.num_samples - num_positive)
            for found, pool, count in ((positives, positive, num_positive), (negatives, negative, num_negative)):
                mask = torch.zeros_like(of_image, dtype=torch.uint8)
                order = torch.randperm(len(pool), generator=generator)[:count]
                mask[pool[order.to(pool.device)]] = 1
                found.append(mask)
        return positives, negatives


class Detector(nn.Module):
    """Mask R-CNN; images are uint8 RGB (3, H, W) at the size to work at, boxes and masks in their pixels.

    Args:
        backbone: Images (B, 3, H, W) to a dictionary of feature maps.
        rpn: Its sampler is replaced.
        roi_heads: Likewise.
        smooth_l1_beta: Where the L1 of boxes turns quadratic; 0 for never.
        divisor: Batches are padded to multiples of it.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        backbone: nn.Module,
        rpn: RegionProposalNetwork,
        roi_heads: RoIHeads,
        *,
        smooth_l1_beta: float = 0.0,
        divisor: int = 32,
    ) -> None:
        super().__init__()
        self.backbone, self.rpn, self.roi_heads = backbone, rpn, roi_heads
        self.smooth_l1_beta, self.divisor = smooth_l1_beta, divisor
        self.rpn_sampler = SeededSampler(RPN_ANCHORS_PER_IMAGE, 0.5)
        previous = roi_heads.fg_bg_sampler
        self.roi_sampler = SeededSampler(previous.batch_size_per_image, previous.positive_fraction)
        rpn.fg_bg_sampler, roi_heads.fg_bg_sampler = self.rpn_sampler, self.roi_sampler
        self.register_buffer("mean", torch.tensor(IMAGENET_MEAN)[:, None, None], persistent=False)
        self.register_buffer("std", torch.tensor(IMAGENET_STD)[:, None, None], persistent=False)

    def batched(self, images: Sequence[Tensor]) -> ImageList:
        """Images normalised and padded to one size."""
        sizes = [(image.shape[1], image.shape[2]) for image in images]
        H, W = (-(-max(side) // self.divisor) * self.divisor for side in zip(*sizes, strict=True))
        batch = self.mean.new_zeros(len(images), 3, H, W)
        for place, image in zip(batch, images, strict=True):
            place[:, : image.shape[1], : image.shape[2]] = (image.float() / 255 - self.mean) / self.std
        return ImageList(batch, sizes)

    def losses(
        self,
        images: Sequence[Tensor],
        targets: Sequence[Target],
        generators: Sequence[torch.Generator],
        share: Callable[[Tensor], Tensor] = lambda counts: counts,
    ) -> dict[str, Tensor]:
        """The five losses of Mask R-CNN.

        Args:
            images: uint8.
            targets: Of each image ``boxes`` (N, 4) x0 y0 x1 y1, ``labels`` (N,) from 1, ``masks`` uint8 (N, H, W).
            generators: One per image, for the choice of anchors and regions.
            share: From this process's counts of anchors, regions and positive regions to those by which sums are
                divided: their mean over all processes.
        """
        self.rpn_sampler.generators = self.roi_sampler.generators = generators
        batch = self.batched(images)
        features = self.backbone(batch.tensors)
        proposals, objectness, deltas, anchors = self._propose(batch, features)
        labels, matched = self.rpn.assign_targets_to_anchors(anchors, list(targets))
        goals = self.rpn.box_coder.encode(matched, anchors)
        positive, negative = (torch.cat(part).bool() for part in self.rpn_sampler(labels))
        chosen, wanted = positive | negative, torch.cat(labels)
        sums = {
            "objectness": F.binary_cross_entropy_with_logits(objectness[chosen, 0], wanted[chosen], reduction="sum"),
            "rpn_box": self._l1(deltas[positive], torch.cat(goals)[positive]),
        }
        region_sums, regions, positives = self._region_losses(features, proposals, list(targets), batch)
        counts = share(torch.stack([chosen.sum(), regions, positives]).float().to(objectness.device)).clamp(min=1)
        divisors = {"objectness": 0, "rpn_box": 0, "class": 1, "box": 1, "mask": 2}
        return {name: value / counts[divisors[name]] for name, value in (sums | region_sums).items()}

    def detect(self, images: Sequence[Tensor]) -> list[dict[str, Tensor]]:
        """Of each image ``boxes`` (D, 4), ``labels`` (D,) from 1, ``scores`` (D,), ``masks`` (D, 1, M, M) in 0..1.

        In eval mode only.
        """
        batch = self.batched(images)
        features = self.backbone(batch.tensors)
        proposals = self._propose(batch, features)[0]
        found, _ = self.roi_heads(features, proposals, batch.image_sizes)
        detections: list[dict[str, Tensor]] = found
        return detections

    def _propose(
        self, batch: ImageList, features: dict[str, Tensor]
    ) -> tuple[list[Tensor], Tensor, Tensor, list[Tensor]]:
        """Proposals by image; objectness (A, 1) and box deltas (A, 4) of all anchors; anchors by image."""
        rpn, maps = self.rpn, list(features.values())
        objectness, deltas = rpn.head(maps)
        anchors = rpn.anchor_generator(batch, maps)
        per_level = [level[0].numel() for level in objectness]
        objectness, deltas = concat_box_prediction_layers(objectness, deltas)
        boxes = rpn.box_coder.decode(deltas.detach(), anchors).view(len(anchors), -1, 4)
        proposals, _ = rpn.filter_proposals(boxes, objectness, batch.image_sizes, per_level)
        return proposals, objectness, deltas, anchors

    def _region_losses(
        self, features: dict[str, Tensor], proposals: list[Tensor], targets: list[Target], batch: ImageList
    ) -> tuple[dict[str, Tensor], Tensor, Tensor]:
        """Sums of the losses of the second stage, number of regions, number of positive ones."""
        heads = self.roi_heads
        proposals, matched, labels, goals = heads.select_training_samples(proposals, targets)
        pooled = heads.box_roi_pool(features, proposals, batch.image_sizes)
        logits, deltas = heads.box_predictor(heads.box_head(pooled))
        wanted, goal = torch.cat(labels), torch.cat(goals)
        rows = (wanted > 0).nonzero()[:, 0]
        deltas = deltas.reshape(len(wanted), -1, 4)[rows, wanted[rows]]
        sums = {
            "class": F.cross_entropy(logits, wanted, reduction="sum"),
            "box": self._l1(deltas, goal[rows]),
        }
        kept = [(of_image > 0).nonzero()[:, 0] for of_image in labels]
        boxes = [part[index] for part, index in zip(proposals, kept, strict=True)]
        pooled = heads.mask_roi_pool(features, boxes, batch.image_sizes)
        predicted = heads.mask_predictor(heads.mask_head(pooled))  # (R+,C+1,M,M)
        M = predicted.shape[-1]
        masks = [
            project_masks_on_boxes(target["masks"], box, index[chosen], M)
            for target, box, index, chosen in zip(targets, boxes, matched, kept, strict=True)
        ]
        own = predicted[torch.arange(len(rows), device=rows.device), wanted[rows]]
        sums["mask"] = F.binary_cross_entropy_with_logits(own, torch.cat(masks), reduction="sum") / M**2
        return sums, torch.tensor(len(wanted)), torch.tensor(len(rows))

    def _l1(self, found: Tensor, wanted: Tensor) -> Tensor:
        return F.smooth_l1_loss(found, wanted, beta=self.smooth_l1_beta, reduction="sum")


def fpn_detector(
    num_classes: int,
    *,
    trunk: Literal["resnet50", "resnet18"] = "resnet50",
    norm: Norm = "batch",
    freeze_at: int = 2,
    width: int = 256,
    anchor_px: Sequence[int] = (32, 64, 128, 256, 512),
    **common: Any,
) -> Detector:
    """Mask R-CNN on a feature pyramid of five levels, strides 4 to 64.

    Args:
        num_classes: Without background.
        trunk: Residual network below the pyramid.
        norm: Its normalisation.
        freeze_at: How many of (stem, layer1, layer2, layer3, layer4) are frozen.
        width: Channels of pyramid and mask head; a quarter of the box head's.
        anchor_px: Anchor size of each level.
        **common: See :func:`_heads`.
    """
    norms: dict[str, Any] = {
        "batch": nn.BatchNorm2d,
        "frozen": FrozenBatchNorm2d,
        "group": lambda channels: nn.GroupNorm(GROUPS, channels),
    }
    body = {"resnet50": resnet50, "resnet18": resnet18}[trunk](weights=None, norm_layer=norms[norm])
    channels = [body.fc.in_features // factor for factor in (8, 4, 2, 1)]
    backbone = FrozenStages(
        BackboneWithFPN(body, {f"layer{k + 1}": str(k) for k in range(4)}, channels, width), freeze_at
    )
    levels = ["0", "1", "2", "3"]
    anchors = AnchorGenerator(tuple((size,) for size in anchor_px), (ASPECT_RATIOS,) * len(anchor_px))
    head = RPNHead(width, len(ASPECT_RATIOS))
    parts = {
        "box_roi_pool": MultiScaleRoIAlign(levels, 7, 2),
        "box_head": TwoMLPHead(width * 49, 4 * width),
        "box_predictor": FastRCNNPredictor(4 * width, num_classes + 1),
        "mask_roi_pool": MultiScaleRoIAlign(levels, 14, 2),
        "mask_head": MaskRCNNHeads(width, (width,) * 4, 1),
        "mask_predictor": MaskRCNNPredictor(width, width, num_classes + 1),
    }
    return _assembled(backbone, anchors, head, parts, divisor=32, box_weights=None, **common)


def c4_detector(
    num_classes: int,
    *,
    extra_norm: bool = True,
    freeze_at: int = 2,
    anchor_px: Sequence[int] = (32, 64, 128, 256, 512),
    **common: Any,
) -> Detector:
    """Mask R-CNN R50-C4, whose weights are those of detectron2's network of that name; see ``model/mask_rcnn.py``."""
    res5 = Res5(extra_norm)
    parts = {
        "box_roi_pool": RoIAlignV2(),
        "box_head": res5,
        "box_predictor": FastRCNNPredictor(2048, num_classes + 1),
        "mask_roi_pool": RoIAlignV2(),
        "mask_head": SharedRes5(res5),
        "mask_predictor": MaskRCNNPredictor(2048, 256, num_classes + 1),
    }
    anchors = AnchorGenerator((tuple(anchor_px),), (ASPECT_RATIOS,))
    head = RPNHead(C4Backbone.out_channels, len(anchor_px) * len(ASPECT_RATIOS))
    return _assembled(C4Backbone(freeze_at), anchors, head, parts, divisor=1, box_weights=None, **common)


def _assembled(
    backbone: nn.Module,
    anchors: AnchorGenerator,
    head: RPNHead,
    parts: dict[str, nn.Module],
    *,
    divisor: int,
    box_weights: tuple[float, ...] | None,
    pre_nms: Sequence[int] = (12000, 6000),
    post_nms: Sequence[int] = (2000, 1000),
    rois_per_image: int = 512,
    score_threshold: float = 0.05,
    nms_threshold: float = 0.5,
    max_detections: int = 100,
    smooth_l1_beta: float = 0.0,
) -> Detector:
    """Backbone, proposals and heads as one network; IoU thresholds are .7 / .3 for anchors and .5 for regions."""
    numbers = [dict(zip(("training", "testing"), pair, strict=True)) for pair in (pre_nms, post_nms)]
    rpn = RegionProposalNetwork(anchors, head, 0.7, 0.3, RPN_ANCHORS_PER_IMAGE, 0.5, *numbers, 0.7)
    thresholds = (0.5, 0.5, rois_per_image, 0.25, box_weights, score_threshold, nms_threshold, max_detections)
    boxes = (parts["box_roi_pool"], parts["box_head"], parts["box_predictor"])
    masks = (parts["mask_roi_pool"], parts["mask_head"], parts["mask_predictor"])
    roi_heads = RoIHeads(*boxes, *thresholds, *masks)
    return Detector(backbone, rpn, roi_heads, smooth_l1_beta=smooth_l1_beta, divisor=divisor)


class FrozenStages(nn.Module):
    """A pyramid whose first stages stay as they are: no gradient, normalisations in eval mode.

    Args:
        pyramid: With ``body`` (a residual network) and ``fpn``.
        freeze_at: How many of (stem, layer1, layer2, layer3, layer4).
    """

    def __init__(self, pyramid: BackboneWithFPN, freeze_at: int) -> None:
        super().__init__()
        self.body, self.fpn, self.out_channels = pyramid.body, pyramid.fpn, pyramid.out_channels
        self.freeze_at = freeze_at
        for stage in self._frozen():
            stage.requires_grad_(False).eval()

    def train(self, mode: bool = True) -> "FrozenStages":
        """Switch the mode; frozen stages stay in eval mode."""
        super().train(mode)
        for stage in self._frozen():
            stage.eval()
        return self

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Feature maps by level."""
        maps: dict[str, Tensor] = self.fpn(self.body(images))
        return maps

    def _frozen(self) -> list[nn.Module]:
        if self.freeze_at < 1:
            return []
        stages = [self.body[name] for name in ("layer1", "layer2", "layer3", "layer4")]
        return [self.body["conv1"], self.body["bn1"], *stages[: self.freeze_at - 1]]
