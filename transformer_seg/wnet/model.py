"""The W-Net: two U-Nets of nine modules, one from image to segment logits, one from segments back to the image.

Topology of Xia and Kulis (arXiv 1711.08506, section 3): modules 1, 9, 10 and 18 use dense 3 x 3 convolutions, the other
fourteen depthwise-separable ones. With 64 channels and 64 segments it has 19.3 million parameters. Attribute names are
those of published state dicts.

Symbols: B images, K segments, H W pixels.
"""

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from common.errors import InputError

Order = Literal["bn_relu", "relu_bn"]
MULTIPLE = 16  # four halvings


class DenseModule(nn.Module):
    """Two 3 x 3 convolutions, each followed by batch normalisation and ReLU.

    Args:
        inputs: Input channels.
        outputs: Output channels.
        order: ``bn_relu`` normalises before the ReLU, ``relu_bn`` (the paper) after it.
    """

    def __init__(self, inputs: int, outputs: int, order: Order):
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, padding=1)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1)
        self.batchnorm1 = nn.BatchNorm2d(outputs)
        self.batchnorm2 = nn.BatchNorm2d(outputs)
        self.order = order

    def forward(self, x: Tensor) -> Tensor:
        """(B, inputs, H, W) to (B, outputs, H, W)."""
        x = normalise_and_rectify(self.conv1(x), self.batchnorm1, self.order)
        return normalise_and_rectify(self.conv2(x), self.batchnorm2, self.order)


class SeparableModule(nn.Module):
    """As `DenseModule`, each convolution split into a depthwise 3 x 3 and a pointwise 1 x 1 one.

    Args:
        inputs: Input channels.
        outputs: Output channels.
        order: See `DenseModule`.
        dropout: Share of output values dropped while training (the paper: 0.65).
    """

    def __init__(self, inputs: int, outputs: int, order: Order, dropout: float):
        super().__init__()
        self.spatial1 = nn.Conv2d(inputs, inputs, 3, padding=1, groups=inputs)
        self.depth1 = nn.Conv2d(inputs, outputs, 1)
        self.spatial2 = nn.Conv2d(outputs, outputs, 3, padding=1, groups=outputs)
        self.depth2 = nn.Conv2d(outputs, outputs, 1)
        self.batchnorm1 = nn.BatchNorm2d(outputs)
        self.batchnorm2 = nn.BatchNorm2d(outputs)
        self.order = order
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        """(B, inputs, H, W) to (B, outputs, H, W)."""
        x = normalise_and_rectify(self.depth1(self.spatial1(x)), self.batchnorm1, self.order)
        x = normalise_and_rectify(self.depth2(self.spatial2(x)), self.batchnorm2, self.order)
        return self.dropout(x)


def normalise_and_rectify(x: Tensor, norm: Callable[[Tensor], Tensor], order: Order) -> Tensor:
    """Batch normalisation and ReLU in either order."""
    return F.relu(norm(x)) if order == "bn_relu" else norm(F.relu(x))


class UNet(nn.Module):
    """Nine modules: down to a sixteenth of the size, and up again with a skip connection at each level.

    Args:
        inputs: Input channels.
        outputs: Output channels, after a last 1 x 1 convolution.
        width: Channels of the first module, doubled at each level.
        order: See `DenseModule`.
        dropout: See `SeparableModule`.
    """

    def __init__(self, inputs: int, outputs: int, width: int, order: Order, dropout: float):
        super().__init__()
        c1, c2, c3, c4, c5 = (width * 2**level for level in range(5))
        self.enc1 = DenseModule(inputs, c1, order)
        self.enc2 = SeparableModule(c1, c2, order, dropout)
        self.enc3 = SeparableModule(c2, c3, order, dropout)
        self.enc4 = SeparableModule(c3, c4, order, dropout)
        self.middle = SeparableModule(c4, c5, order, dropout)
        self.up1, self.dec1 = doubling(c5, c4), SeparableModule(c5, c4, order, dropout)
        self.up2, self.dec2 = doubling(c4, c3), SeparableModule(c4, c3, order, dropout)
        self.up3, self.dec3 = doubling(c3, c2), SeparableModule(c3, c2, order, dropout)
        self.up4, self.dec4 = doubling(c2, c1), DenseModule(c2, c1, order)
        self.final = nn.Conv2d(c1, outputs, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, inputs, H, W) to (B, outputs, H, W), H and W multiples of 16."""
        x1 = self.enc1(x)
        x2 = self.enc2(F.max_pool2d(x1, 2))
        x3 = self.enc3(F.max_pool2d(x2, 2))
        x4 = self.enc4(F.max_pool2d(x3, 2))
        x = self.middle(F.max_pool2d(x4, 2))
        x = self.dec1(torch.cat([x4, self.up1(x)], dim=1))
        x = self.dec2(torch.cat([x3, self.up2(x)], dim=1))
        x = self.dec3(torch.cat([x2, self.up3(x)], dim=1))
        x = self.dec4(torch.cat([x1, self.up4(x)], dim=1))
        return self.final(x)


def doubling(inputs: int, outputs: int) -> nn.ConvTranspose2d:
    """A transposed 3 x 3 convolution that doubles height and width."""
    return nn.ConvTranspose2d(inputs, outputs, 3, stride=2, padding=1, output_padding=1)


class WNet(nn.Module):
    """Image to segment logits (``UEnc``), and segment probabilities to image (``UDec``).

    Args:
        num_segments: Segments K.
        width: Channels of the first module of each U-Net.
        channels: Channels of the image.
        order: See `DenseModule`; published weights are ``bn_relu``.
        dropout: See `SeparableModule`.
    """

    def __init__(
        self,
        *,
        num_segments: int = 64,
        width: int = 64,
        channels: int = 3,
        order: Order = "bn_relu",
        dropout: float = 0.0,
    ):
        super().__init__()
        self.UEnc = UNet(channels, num_segments, width, order, dropout)
        self.UDec = UNet(num_segments, channels, width, order, dropout)

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Logits (B, K, H, W) and reconstruction (B, C, H, W) of images (B, C, H, W) in [0, 1].

        Any size from 16 pixels on: images are padded by reflection on the right and at the bottom, results cropped.

        Raises:
            InputError: A side is below 16 pixels.
        """
        H, W = image.shape[-2:]
        logits = self.UEnc(pad_to_multiple(image, MULTIPLE))
        reconstruction = self.UDec(logits.softmax(dim=1))
        return logits[..., :H, :W], reconstruction[..., :H, :W]

    def segment(self, image: Tensor) -> Tensor:
        """The logits (B, K, H, W) alone, at half the cost; see `forward`."""
        H, W = image.shape[-2:]
        return self.UEnc(pad_to_multiple(image, MULTIPLE))[..., :H, :W]


def pad_to_multiple(image: Tensor, multiple: int) -> Tensor:
    """Reflection on the right and at the bottom up to sides that are multiples of ``multiple``.

    Raises:
        InputError: A side is below ``multiple`` pixels.
    """
    H, W = image.shape[-2:]
    if min(H, W) < multiple:
        raise InputError(f"image of {H} x {W} pixels: WNet needs at least {multiple} x {multiple}, resize it")
    if H % multiple == 0 and W % multiple == 0:
        return image
    return F.pad(image, (0, -W % multiple, 0, -H % multiple), mode="reflect")
