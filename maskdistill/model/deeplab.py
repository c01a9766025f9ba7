"""The semantic networks: DeepLab-v3, FCN and a linear probe, all on a dilated ResNet-50 of torchvision.

Attributes bear the names of the published checkpoints, except for the FCN's trunk, which is ``backbone`` here too. A
ResNet-18, also with a quarter of its channels, may stand in for the ResNet-50: no published network, but it learns
small scenes in minutes on a CPU.
"""

from collections.abc import Mapping, Sequence
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models import ResNet, resnet18, resnet50
from torchvision.models.resnet import BasicBlock
from torchvision.models.segmentation.deeplabv3 import DeepLabHead

NUM_CLASSES = 21
"""Background and the twenty classes of PASCAL VOC."""

ASPP_RATES = (12, 24, 36)

Trunk = Literal["resnet50", "resnet18", "small"]


class DilatedResNet50(nn.Module):
    """The convolutional part of a ResNet-50 whose last stages keep their resolution by dilation.

    Args:
        output_stride: 8 (layers 3 and 4 dilated) or 16 (layer 4 dilated).
    """

    width: ClassVar[int] = 2048
    """Channels of the features."""

    def __init__(self, output_stride: int = 8):
        super().__init__()
        net = self._network(output_stride)
        self.conv1, self.bn1, self.relu, self.maxpool = net.conv1, net.bn1, net.relu, net.maxpool
        self.layer1, self.layer2, self.layer3, self.layer4 = net.layer1, net.layer2, net.layer3, net.layer4
        self.num_frozen = 0

    def _network(self, output_stride: int) -> ResNet:
        net = resnet50(weights=None, replace_stride_with_dilation=[False, output_stride == 8, True])
        if output_stride == 16:
            # Here every 3x3 of layer 4 is dilated; torchvision leaves the first of a dilated stage as it was.
            net.layer4[0].conv2.dilation = net.layer4[0].conv2.padding = (2, 2)
        return net

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


class DilatedResNet18(DilatedResNet50):
    """The same of a ResNet-18, dilated after the same rule."""

    width: ClassVar[int] = 512

    def _network(self, output_stride: int) -> ResNet:
        net = self._undilated()
        stages = [(net.layer3, 1, 2), (net.layer4, 2, 4)] if output_stride == 8 else [(net.layer4, 2, 2)]
        for stage, first, others in stages:
            stage[0].conv1.stride = stage[0].downsample[0].stride = (1, 1)
            for conv in (module for module in stage.modules() if isinstance(module, nn.Conv2d)):
                if conv.kernel_size == (3, 3):
                    dilation = first if conv is stage[0].conv1 else others
                    conv.dilation = conv.padding = (dilation, dilation)
        return net

    def _undilated(self) -> ResNet:
        return resnet18(weights=None)


class SmallDilatedResNet(DilatedResNet18):
    """The same with a quarter of the channels."""

    width: ClassVar[int] = 128

    def _undilated(self) -> ResNet:
        net = resnet18(weights=None)
        net.inplanes = 16
        net.conv1, net.bn1 = nn.Conv2d(3, 16, 7, stride=2, padding=3, bias=False), nn.BatchNorm2d(16)
        net.layer1 = net._make_layer(BasicBlock, 16, 2)
        net.layer2, net.layer3, net.layer4 = (net._make_layer(BasicBlock, C, 2, stride=2) for C in (32, 64, 128))
        for conv in (module for module in net.modules() if isinstance(module, nn.Conv2d)):
            nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
        return net


TRUNKS: Mapping[Trunk, type[DilatedResNet50]] = {
    "resnet50": DilatedResNet50,
    "resnet18": DilatedResNet18,
    "small": SmallDilatedResNet,
}


def make_trunk(trunk: Trunk, output_stride: int = 8) -> DilatedResNet50:
    """A dilated trunk by name."""
    return TRUNKS[trunk](output_stride)


class SampleDropout(nn.Dropout):
    """Dropout whose mask may depend on the sample alone: not on its place in a batch, the process, or earlier draws.

    With ``keys``, one seed per sample of the batch, a run that is resumed or spread over processes draws the same
    masks. Without, it is PyTorch's.
    """

    keys: Sequence[int] | None = None

    def forward(self, features: Tensor) -> Tensor:
        """Features (B, ...) with a share ``p`` of them zero and the others scaled up, in training mode."""
        if not self.training or self.p == 0 or self.keys is None:
            return super().forward(features)
        draws = torch.empty(features.shape, device=features.device, dtype=torch.float32)
        for draw, key in zip(draws, self.keys, strict=True):
            draw.uniform_(generator=torch.Generator(features.device).manual_seed(key))
        return features * (draws >= self.p) / (1 - self.p)


class _RateConv2d(nn.Conv2d):
    """A dilated 3x3 convolution that leaves out rows and columns of its kernel which lie wholly in the padding.

    On a map no larger than the dilation the outer taps meet zeros only: there the kernel is 1 x 3, 3 x 1 or 1 x 1.
    """

    def _conv_forward(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        rate = self.dilation[0]
        rows, columns = (slice(1, 2) if size <= rate else slice(None) for size in input.shape[-2:])
        weight = weight[:, :, rows, columns]
        padding = [rate if size == 3 else 0 for size in weight.shape[-2:]]
        return F.conv2d(input, weight, bias, self.stride, padding, self.dilation)


def _aspp_head(width: int, num_classes: int) -> DeepLabHead:
    """The head of torchvision with the two replacements above; the names stay as they are."""
    head = DeepLabHead(width, num_classes, atrous_rates=ASPP_RATES)
    aspp = head[0]
    aspp.project[3] = SampleDropout(aspp.project[3].p)
    for branch, rate in zip(aspp.convs[1:4], ASPP_RATES, strict=True):
        branch[0] = _RateConv2d(width, branch[0].out_channels, 3, padding=rate, dilation=rate, bias=False)
    return head


class DeepLabV3(nn.Module):
    """DeepLab-v3 of output stride 8 with ASPP rates 12, 24, 36 (arXiv 1706.05587)."""

    def __init__(self, num_classes: int = NUM_CLASSES, trunk: Trunk = "resnet50"):
        super().__init__()
        self.backbone = make_trunk(trunk)
        self.head = _aspp_head(self.backbone.width, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        """Logits (B, C, H, W) of images (B, 3, H, W)."""
        return upsample(self.logits_low(images), images.shape[-2:])

    def logits_low(self, images: Tensor) -> Tensor:
        """Logits at the network's own resolution (B, C, ceil(H/8), ceil(W/8))."""
        logits: Tensor = self.classifier(self.features(images))
        return logits

    def features(self, images: Tensor) -> Tensor:
        """What the classifier sees (B, 256, ceil(H/8), ceil(W/8))."""
        features = self.backbone(images)
        for layer in list(self.head)[:-1]:
            features = layer(features)
        return features

    @property
    def classifier(self) -> nn.Conv2d:
        """The 1x1 convolution to the classes."""
        classifier: nn.Conv2d = self.head[4]
        return classifier

    @property
    def dropout(self) -> SampleDropout:
        """The only dropout there is."""
        dropout: SampleDropout = self.head[0].project[3]
        return dropout

    def probe(self, num_classes: int | None = None) -> list[nn.Parameter]:
        """Prepare a linear probe: all frozen but a fresh 1x1 classifier, N(0, 0.01) with zero bias (section 4.2).

        The model belongs in eval mode while the probe trains.

        Args:
            num_classes: Of the probe; default as many as before.

        Returns:
            The classifier's parameters.
        """
        self.requires_grad_(False)
        self.head[4] = nn.Conv2d(self.classifier.in_channels, num_classes or self.classifier.out_channels, 1)
        classifier = self.classifier
        nn.init.normal_(classifier.weight, std=0.01)
        assert classifier.bias is not None
        nn.init.zeros_(classifier.bias)
        return list(classifier.requires_grad_(True).parameters())


class FCN(nn.Module):
    """A fully convolutional network of output stride 16 with two dilated 3x3 convolutions before the classifier."""

    def __init__(self, num_classes: int = NUM_CLASSES, trunk: Trunk = "resnet50"):
        super().__init__()
        self.backbone = make_trunk(trunk, output_stride=16)
        self.decoder = nn.Sequential(
            *_dilated(self.backbone.width, 256), *_dilated(256, 256), nn.Conv2d(256, num_classes, 1, bias=False)
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

    def __init__(self, num_classes: int = NUM_CLASSES, trunk: Trunk = "resnet50"):
        super().__init__()
        self.backbone = make_trunk(trunk).requires_grad_(False)
        self.head = nn.Conv2d(self.backbone.width, num_classes, 1)

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
