"""The semantic networks: DeepLab-v3, FCN and a linear probe, all on a dilated ResNet-50 of torchvision.

Attributes bear the names of the published checkpoints, except for the FCN's trunk, which is ``backbone`` here too.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models import resnet50
from torchvision.models.segmentation.deeplabv3 import DeepLabHead

NUM_CLASSES = 21
"""Background and the twenty classes of PASCAL VOC."""

FEATURE_WIDTH = 2048


class DilatedResNet50(nn.Module):
    """The convolutional part of a ResNet-50 whose last stages keep their resolution by dilation.

    Args:
        output_stride: 8 (layers 3 and 4 dilated) or 16 (layer 4 dilated).
    """

    def __init__(self, output_stride: int = 8):
        super().__init__()
        net = resnet50(weights=None, replace_stride_with_dilation=[False, output_stride == 8, True])
        if output_stride == 16:
            # Here every 3x3 of layer 4 is dilated; torchvision leaves the first of a dilated stage as it was.
            net.layer4[0].conv2.dilation = net.layer4[0].conv2.padding = (2, 2)
        self.conv1, self.bn1, self.relu, self.maxpool = net.conv1, net.bn1, net.relu, net.maxpool
        self.layer1, self.layer2, self.layer3, self.layer4 = net.layer1, net.layer2, net.layer3, net.layer4
        self.num_frozen = 0

    def freeze(self, num_layers: int) -> None:
        """Take the first stages out of training: no gradient, batch norms in eval mode.

        Args:
            num_layers: 2: up to ``layer2``; 3: ``layer3`` too; 4: ``layer4`` too; less than 2 freezes nothing.
        """
        self.num_frozen = num_layers if num_layers >= 2 else 0
        for stage in self._frozen_stages():
            stage.requires_grad_(False)
        self.train(self.training)

    def train(self, mode: bool = True) -> "DilatedResNet50":
        """Switch the mode; frozen stages stay in eval mode."""
        super().train(mode)
        for stage in self._frozen_stages():
            stage.eval()
        return self

    def forward(self, images: Tensor) -> Tensor:
        """Features (B, 2048, H/s, W/s) of images (B, 3, H, W), s the output stride, sizes rounded up."""
        with torch.set_grad_enabled(torch.is_grad_enabled() and self.num_frozen < 2):
            features = self.layer2(self.layer1(self.maxpool(self.relu(self.bn1(self.conv1(images))))))
        deep: Tensor = self.layer4(self.layer3(features))
        return deep

    def _frozen_stages(self) -> Sequence[nn.Module]:
        if not self.num_frozen:
            return []
        layers = [self.layer1, self.layer2, self.layer3, self.layer4]
        return [self.conv1, self.bn1, *layers[: self.num_frozen]]


class DeepLabV3(nn.Module):
    """DeepLab-v3 of output stride 8 with ASPP rates 12, 24, 36 (arXiv 1706.05587)."""

    def __init__(self, num_classes: int = NUM_CLASSES):
        super().__init__()
        self.backbone = DilatedResNet50(output_stride=8)
        self.head = DeepLabHead(FEATURE_WIDTH, num_classes, atrous_rates=(12, 24, 36))

    def forward(self, images: Tensor) -> Tensor:
        """Logits (B, C, H, W) of images (B, 3, H, W)."""
        return upsample(self.logits_low(images), images.shape[-2:])

    def logits_low(self, images: Tensor) -> Tensor:
        """Logits at the network's own resolution (B, C, ceil(H/8), ceil(W/8))."""
        logits: Tensor = self.head(self.backbone(images))
        return logits

    def probe(self) -> list[nn.Parameter]:
        """Prepare a linear probe: all frozen but a fresh 1x1 classifier, N(0, 0.01) with zero bias (section 4.2).

        The model belongs in eval mode while the probe trains.

        Returns:
            The classifier's parameters.
        """
        self.requires_grad_(False)
        classifier = self.head[4]
        nn.init.normal_(classifier.weight, std=0.01)
        nn.init.zeros_(classifier.bias)
        return list(classifier.requires_grad_(True).parameters())


class FCN(nn.Module):
    """A fully convolutional network of output stride 16 with two dilated 3x3 convolutions before the classifier."""

    def __init__(self, num_classes: int = NUM_CLASSES):
        super().__init__()
        self.backbone = DilatedResNet50(output_stride=16)
        self.decoder = nn.Sequential(
            *_dilated(FEATURE_WIDTH, 256), *_dilated(256, 256), nn.Conv2d(256, num_classes, 1, bias=False)
        )

    def forward(self, images: Tensor) -> Tensor:
        """Logits (B, C, H, W) of images (B, 3, H, W)."""
        return upsample(self.logits_low(images), images.shape[-2:])

    def logits_low(self, images: Tensor) -> Tensor:
        """Logits at the network's own resolution (B, C, ceil(H/16), ceil(W/16))."""
        logits: Tensor = self.decoder(self.backbone(images))
        return logits


class LinearProbe(nn.Module):
    """One 1x1 convolution on a dilated ResNet-50 that is not trained."""

    def __init__(self, num_classes: int = NUM_CLASSES):
        super().__init__()
        self.backbone = DilatedResNet50(output_stride=8).requires_grad_(False)
        self.head = nn.Conv2d(FEATURE_WIDTH, num_classes, 1)

    def forward(self, images: Tensor) -> Tensor:
        """Logits (B, C, H, W) of images (B, 3, H, W)."""
        return upsample(self.logits_low(images), images.shape[-2:])

    def logits_low(self, images: Tensor) -> Tensor:
        """Logits at the network's own resolution (B, C, ceil(H/8), ceil(W/8))."""
        with torch.no_grad():
            features = self.backbone(images)
        logits: Tensor = self.head(features)
        return logits


def upsample(logits: Tensor, size: Sequence[int]) -> Tensor:
    """Logits (B, C, h, w) bilinearly at ``size`` (rows, columns), pixel centres aligned."""
    return F.interpolate(logits, size=tuple(size), mode="bilinear", align_corners=False)


def _dilated(in_channels: int, out_channels: int) -> list[nn.Module]:
    return [
        nn.Conv2d(in_channels, out_channels, 3, padding=6, dilation=6, bias=False),
        nn.BatchNorm2d(out_channels),
        nn.ReLU(),
    ]
