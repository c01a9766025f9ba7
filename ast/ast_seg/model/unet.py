"""The U-Net that draws attention logits and slot features at the image's resolution (the v1 paper's generator)."""

from collections.abc import Sequence
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor, nn

from ast_seg.model.celu import celu
from common.errors import InputError

SMALL_WIDTHS = (80, 128, 192, 256, 256, 256)
LARGE_WIDTHS = (48, 64, 96, 128, 128, 256, 256)


def published_widths(height: int, width: int) -> tuple[int, ...]:
    """Channels of each level in the published models: five halvings below 200 x 200 pixels, six from there on."""
    return SMALL_WIDTHS if height < 200 and width < 200 else LARGE_WIDTHS


Normalisation = Literal["batch", "group"]
GROUP = 8  # channels


def normalised(channels: int, kind: Normalisation) -> nn.Module:
    """Batch normalisation, or normalisation of each image by groups of eight channels."""
    if kind == "batch":
        return nn.BatchNorm2d(channels)
    return nn.GroupNorm(channels // GROUP if channels % GROUP == 0 else 1, channels)


class ConvNorm(nn.Module):
    """Convolution without bias, normalisation, CELU."""

    def __init__(self, conv: nn.Conv2d, kind: Normalisation = "batch") -> None:
        super().__init__()
        self.conv = conv
        self.norm = normalised(conv.out_channels, kind)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W)."""
        return celu(self.norm(self.conv(x)))


def conv3x3(in_channels: int, out_channels: int, kind: Normalisation = "batch") -> ConvNorm:
    """The convolution that keeps the resolution."""
    return ConvNorm(nn.Conv2d(in_channels, out_channels, 3, padding=1, bias=False), kind)


class Down(nn.Module):
    """Half the resolution, then a residual convolution."""

    def __init__(self, in_channels: int, out_channels: int, kind: Normalisation = "batch") -> None:
        super().__init__()
        self.halve = ConvNorm(nn.Conv2d(in_channels, out_channels, 4, stride=2, padding=1, bias=False), kind)
        self.refine = conv3x3(out_channels, out_channels, kind)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) to (B, C', H // 2, W // 2)."""
        x = self.halve(x)
        return self.refine(x) + x


class Up(nn.Module):
    """A residual convolution over the deeper map and the skipped one, then twice the resolution."""

    def __init__(self, in_channels: int, out_channels: int, kind: Normalisation = "batch") -> None:
        super().__init__()
        self.refine = conv3x3(2 * in_channels, 2 * in_channels, kind)
        self.enlarge = nn.ConvTranspose2d(2 * in_channels, out_channels, 4, stride=2, padding=1, bias=False)
        self.norm = normalised(out_channels, kind)

    def forward(self, x: Tensor, skipped: Tensor, size: Sequence[int]) -> Tensor:
        """Two (B, C, h, w) to (B, C', *size), ``size`` being that of the level above."""
        x = torch.cat([x, skipped], dim=1)
        x = self.refine(x) + x
        return celu(self.norm(self.enlarge(x, output_size=list(size))))


class UNet(nn.Module):
    """Feature maps at full resolution.

    Args:
        out_channels: Maps to draw (attention logits of the slots, then their features).
        widths: Channels at full resolution and after each halving; see :func:`published_widths`.
        normalisation: ``batch`` as published, or ``group``, which depends on neither batch size nor processes.
    """

    def __init__(
        self, out_channels: int, widths: Sequence[int] = SMALL_WIDTHS, normalisation: Normalisation = "batch"
    ) -> None:
        super().__init__()
        kind = normalisation
        self.first = conv3x3(3, widths[0], kind)
        self.downs = nn.ModuleList([Down(*pair, kind) for pair in pairwise(widths)])
        self.centre = conv3x3(widths[-1], widths[-1], kind)
        self.ups = nn.ModuleList([Up(below, above, kind) for above, below in pairwise(widths)])
        self.last_skip = conv3x3(2 * widths[0], out_channels, kind)
        self.last_residual = nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False)
        self.last = nn.Conv2d(out_channels, out_channels, 1, bias=False)

    def map_size(self, height: int, width: int) -> tuple[int, int]:
        """Size of the maps of an image."""
        return height, width

    def forward(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) in [0, 1] to (B, C, H, W).

        Raises:
            InputError: The image is too small for the number of halvings.
        """
        height, width = images.shape[-2:]
        if min(height, width) < 2 ** len(self.downs):
            raise InputError(
                f"image size {height}x{width}: the U-Net halves it {len(self.downs)} times and needs at least "
                f"{2 ** len(self.downs)} pixels a side; use fewer levels or larger images"
            )
        levels = [self.first(images)]
        for down in self.downs:
            levels.append(down(levels[-1]))
        x = self.centre(levels[-1])
        for i in reversed(range(len(self.ups))):
            x = self.ups[i](x, levels[i + 1], levels[i].shape[-2:])
        x = self.last_skip(torch.cat([x, levels[0]], dim=1))
        return self.last(self.last_residual(x) + x)
