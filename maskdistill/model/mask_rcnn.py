"""Mask R-CNN on a ResNet-50 without feature pyramid (C4), of torchvision's parts.

Equal to detectron2's network of that name, weights included, but for two losses: torchvision's smooth L1 is rounded
off below 1/9 where detectron2's recipe takes plain L1, and its base anchors are rounded to whole pixels.
"""

from collections import OrderedDict

from torch import Tensor, nn
from torchvision.models import resnet50
from torchvision.models.detection import MaskRCNN
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor
from torchvision.models.detection.mask_rcnn import MaskRCNNPredictor
from torchvision.ops import MultiScaleRoIAlign, roi_align

ANCHOR_SIZES_PX = (32, 64, 128, 256, 512)
ASPECT_RATIOS = (0.5, 1.0, 2.0)
STRIDE_PX = 16
POOLED = 14


class C4Backbone(nn.Module):
    """The stem and the first three stages of a ResNet-50, stride 16.

    Args:
        freeze_at: How many of (stem, layer1, layer2, layer3) are frozen: no gradient, batch norms in eval mode.
    """

    out_channels = 1024

    def __init__(self, freeze_at: int = 2):
        super().__init__()
        net = resnet50(weights=None)
        self.conv1, self.bn1, self.relu, self.maxpool = net.conv1, net.bn1, net.relu, net.maxpool
        self.layer1, self.layer2, self.layer3 = net.layer1, net.layer2, net.layer3
        self.freeze_at = freeze_at
        for stage in self._frozen_stages():
            stage.requires_grad_(False).eval()

    def train(self, mode: bool = True) -> "C4Backbone":
        """Switch the mode; frozen stages stay in eval mode."""
        super().train(mode)
        for stage in self._frozen_stages():
            stage.eval()
        return self

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """One feature map (B, 1024, H/16, W/16), as the dictionary that the detector expects."""
        features = self.maxpool(self.relu(self.bn1(self.conv1(images))))
        return OrderedDict([("0", self.layer3(self.layer2(self.layer1(features))))])

    def _frozen_stages(self) -> list[nn.Module]:
        if self.freeze_at < 1:
            return []
        return [self.conv1, self.bn1, *[self.layer1, self.layer2, self.layer3][: self.freeze_at - 1]]


class Res5(nn.Module):
    """The last stage of a ResNet-50 on pooled regions, averaged: the box head.

    Args:
        extra_norm: Normalise the stage's output, for masks too (the recipe of MoCo's detection experiments).
    """

    def __init__(self, extra_norm: bool = True):
        super().__init__()
        self.layer4 = resnet50(weights=None).layer4
        self.norm = nn.BatchNorm2d(2048) if extra_norm else nn.Identity()

    def features(self, regions: Tensor) -> Tensor:
        """(R, 2048, 7, 7) of regions (R, 1024, 14, 14)."""
        features: Tensor = self.norm(self.layer4(regions))
        return features

    def forward(self, regions: Tensor) -> Tensor:
        """(R, 2048) of regions (R, 1024, 14, 14)."""
        return self.features(regions).mean((2, 3))


class SharedRes5(nn.Module):
    """The mask head: the features of the box head's stage, which is not registered a second time."""

    def __init__(self, res5: Res5):
        super().__init__()
        self._res5 = (res5,)

    def forward(self, regions: Tensor) -> Tensor:
        """(R, 2048, 7, 7) of regions (R, 1024, 14, 14)."""
        return self._res5[0].features(regions)


class RoIAlignV2(MultiScaleRoIAlign):  # torchvision has no type hints
    """RoIAlign with the half-pixel shift, on the single map of the backbone; torchvision's own lacks the shift."""

    def __init__(self) -> None:
        super().__init__(featmap_names=["0"], output_size=POOLED, sampling_ratio=0)

    def forward(self, x: dict[str, Tensor], boxes: list[Tensor], image_shapes: list[tuple[int, int]]) -> Tensor:
        """Regions (R, C, 14, 14) of boxes in pixels."""
        size = (POOLED, POOLED)
        regions: Tensor = roi_align(x["0"], boxes, size, 1.0 / STRIDE_PX, sampling_ratio=0, aligned=True)
        return regions


class MaskRCNNC4(MaskRCNN):
    """Mask R-CNN R50-C4 with the recipe of prior work (section 2.C); images are RGB in 0..1, labels start at 1.

    Args:
        num_classes: Without background.
        extra_norm: See :class:`Res5`.
        freeze_at: See :class:`C4Backbone`.
        min_size_px: Shorter sides to choose from in training.
        max_size_px: Bound of the longer side.
        score_threshold: Detections below it are dropped.
        nms_threshold: IoU above which the weaker of two detections of a class is dropped.
    """

    def __init__(
        self,
        num_classes: int = 20,
        *,
        extra_norm: bool = True,
        freeze_at: int = 2,
        min_size_px: tuple[int, ...] = tuple(range(480, 801, 32)),
        max_size_px: int = 1333,
        score_threshold: float = 0.05,
        nms_threshold: float = 0.5,
    ):
        res5 = Res5(extra_norm)
        super().__init__(
            C4Backbone(freeze_at),
            num_classes=None,
            min_size=min_size_px,
            max_size=max_size_px,
            rpn_anchor_generator=AnchorGenerator((ANCHOR_SIZES_PX,), (ASPECT_RATIOS,)),
            rpn_pre_nms_top_n_train=12000,
            rpn_pre_nms_top_n_test=6000,
            rpn_post_nms_top_n_train=2000,
            rpn_post_nms_top_n_test=1000,
            box_roi_pool=RoIAlignV2(),
            box_head=res5,
            box_predictor=FastRCNNPredictor(2048, num_classes + 1),
            box_score_thresh=score_threshold,
            box_nms_thresh=nms_threshold,
            box_detections_per_img=100,
            mask_roi_pool=RoIAlignV2(),
            mask_head=SharedRes5(res5),
            mask_predictor=MaskRCNNPredictor(2048, 256, num_classes + 1),
        )
