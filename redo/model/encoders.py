"""D and Z: the discriminator, and the network that must recover the noise from a drawing. One architecture."""

from itertools import pairwise

import torch.nn.functional as F
from torch import Tensor, nn

from redo.model.layers import SelfAttention, SpectralConv2d, conv_then_halve

CAP = 16  # no layer is wider than 16 times the base width


class HalvingBlock(nn.Module):
    """Halves the side: two convolutions beside a 1x1 shortcut.

    Args:
        in_channels: Channels in.
        out_channels: Channels out.
        activate: An activation in front of the convolutions (never of the shortcut); the first block has none.
    """

    def __init__(self, in_channels: int, out_channels: int, activate: bool = True) -> None:
        super().__init__()
        self.activate = activate
        self.conv1 = SpectralConv2d(in_channels, out_channels, 3)
        self.conv2 = SpectralConv2d(out_channels, out_channels, 3)
        self.shortcut = SpectralConv2d(in_channels, out_channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) to (B, C', H/2, W/2)."""
        y = F.relu(self.conv1(F.relu(x) if self.activate else x))
        y = conv_then_halve(y, self.conv2.normalised_weight(), self.conv2.bias)
        return y + self.shortcut(F.avg_pool2d(x, 2))


class LastBlock(nn.Module):
    """Keeps the size, beside an identity."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = SpectralConv2d(channels, channels, 3)
        self.conv2 = SpectralConv2d(channels, channels, 3)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W), the same out."""
        return x + self.conv2(F.relu(self.conv1(F.relu(x))))


class ResidualEncoder(nn.Module):
    """An image to some numbers: halved down to 4x4, summed over places, one linear layer.

    Args:
        num_outputs: Numbers per image.
        width: Channels of the first block.
        size: Side S of the images, a power of two, at least 16.
        in_channels: Image channels.
        attention: Self-attention after the first block.
    """

    def __init__(
        self, num_outputs: int, *, width: int = 64, size: int = 128, in_channels: int = 3, attention: bool = False
    ) -> None:
        super().__init__()
        num_halvings = (size // 4).bit_length() - 1
        widths = [width * min(CAP, 2**level) for level in range(num_halvings)]
        self.first = HalvingBlock(in_channels, width, activate=False)
        self.attention = SelfAttention(width) if attention else None
        down = [HalvingBlock(i, o) for i, o in pairwise(widths)]
        self.blocks = nn.Sequential(*down, LastBlock(widths[-1]))
        self.dense = nn.Linear(widths[-1], num_outputs)

    def forward(self, images: Tensor) -> Tensor:
        """(N, 3, S, S) to float32 (N, num_outputs)."""
        x = self.first(images)
        if self.attention is not None:
            x = self.attention(x)
        return self.dense(self.blocks(x).sum(dim=(2, 3))).float()


class Discriminator(ResidualEncoder):
    """D: one score per image, (N, 1), high for real ones."""

    def __init__(self, *, width: int = 64, size: int = 128, in_channels: int = 3, attention: bool = False) -> None:
        super().__init__(1, width=width, size=size, in_channels=in_channels, attention=attention)


class NoiseEncoder(ResidualEncoder):
    """Z: the noise that an image was drawn from, as far as it shows."""

    def __init__(
        self, *, num_masks: int = 2, noise_size: int = 32, width: int = 64, size: int = 128, in_channels: int = 3
    ) -> None:
        super().__init__(num_masks * noise_size, width=width, size=size, in_channels=in_channels)
        self.num_masks = num_masks

    def forward(self, images: Tensor) -> Tensor:
        """(N, 3, S, S) to float32 (N, n, nz, 1, 1)."""
        return super().forward(images).unflatten(1, (self.num_masks, -1))[..., None, None]
