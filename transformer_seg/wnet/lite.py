"""The small W-Net: two U-Nets of three levels (the ``lite`` variant), 0.63 million parameters with 20 segments.

Attribute names are those of the published state dict. Symbols: B images, K segments, H W pixels.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from transformer_seg.wnet.model import pad_to_multiple

MULTIPLE = 8  # three halvings
SLOPE = 0.1  # of the leaky ReLU


class Down(nn.Module):
    """Batch normalisation, a 5 x 5 and a 3 x 3 convolution, leaky ReLU, half the size."""

    def __init__(self, inputs: int, outputs: int):
        super().__init__()
        self.layers = nn.Sequential(
            nn.BatchNorm2d(inputs),
            nn.ReplicationPad2d(2),
            nn.Conv2d(inputs, outputs, 5),
            nn.ReplicationPad2d(1),
            nn.Conv2d(outputs, outputs, 3),
            nn.LeakyReLU(SLOPE),
            nn.MaxPool2d(2),
        )

    def forward(self, x: Tensor) -> Tensor:
        """(B, inputs, H, W) to (B, outputs, H/2, W/2)."""
        return self.layers(x)


class Up(nn.Module):
    """Batch normalisation, two transposed convolutions of which the second doubles the size, leaky ReLU."""

    def __init__(self, inputs: int, outputs: int):
        super().__init__()
        self.layers = nn.Sequential(
            nn.BatchNorm2d(inputs),
            nn.ConvTranspose2d(inputs, outputs, 5, padding=2),
            nn.ConvTranspose2d(outputs, outputs, 2, stride=2),
            nn.LeakyReLU(SLOPE),
        )

    def forward(self, x: Tensor) -> Tensor:
        """(B, inputs, H, W) to (B, outputs, 2H, 2W)."""
        return self.layers(x)


class Output(nn.Module):
    """Two 3 x 3 convolutions and a 1 x 1 one, nothing between them."""

    def __init__(self, inputs: int, outputs: int):
        super().__init__()
        self.layers = nn.Sequential(
            nn.ReplicationPad2d(1),
            nn.Conv2d(inputs, outputs, 3),
            nn.ReplicationPad2d(1),
            nn.Conv2d(outputs, outputs, 3),
            nn.Conv2d(outputs, outputs, 1),
        )

    def forward(self, x: Tensor) -> Tensor:
        """(B, inputs, H, W) to (B, outputs, H, W)."""
        return self.layers(x)


class LiteUNet(nn.Module):
    """Three levels down and up, skip connections at two of them."""

    def __init__(self, inputs: int, outputs: int):
        super().__init__()
        self.conv1, self.conv2, self.conv3 = Down(inputs, 32), Down(32, 32), Down(32, 64)
        self.deconv1, self.deconv2, self.deconv3 = Up(64, 32), Up(64, 32), Up(64, 32)
        self.output = Output(32, outputs)

    def forward(self, x: Tensor) -> Tensor:
        """(B, inputs, H, W) to (B, outputs, H, W), H and W multiples of 8."""
        x1 = self.conv1(x)
        x2 = self.conv2(x1)
        x = self.deconv1(self.conv3(x2))
        x = self.deconv2(torch.cat([x2, x], dim=1))
        x = self.deconv3(torch.cat([x1, x], dim=1))
        return self.output(x)


class LiteWNet(nn.Module):
    """Image to segment logits (``encoder``), and segment probabilities to image (``decoder``).

    Args:
        num_segments: Segments K.
        channels: Channels of the image.
    """

    def __init__(self, *, num_segments: int = 20, channels: int = 3):
        super().__init__()
        self.encoder = LiteUNet(channels, num_segments)
        self.decoder = LiteUNet(num_segments, channels)

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Logits (B, K, H, W) and reconstruction >= 0 (B, C, H, W) of images (B, C, H, W) in [0, 1].

        Any size from 8 pixels on; see `transformer_seg.wnet.model.WNet.forward`.
        """
        H, W = image.shape[-2:]
        logits = self.encoder(pad_to_multiple(image, MULTIPLE))
        reconstruction = F.relu(self.decoder(logits.softmax(dim=1)))
        return logits[..., :H, :W], reconstruction[..., :H, :W]

    def segment(self, image: Tensor) -> Tensor:
        """The logits (B, K, H, W) alone."""
        H, W = image.shape[-2:]
        return self.encoder(pad_to_multiple(image, MULTIPLE))[..., :H, :W]
