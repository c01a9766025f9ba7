"""X: one generator per region, each drawing its region from fresh noise and nothing of the image but the mask."""

from collections.abc import Iterator
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from redo.model.layers import SelfAttention, SpectralConv2d, double, double_then_conv

CAP = 16  # no layer is wider than 16 times the base width


class GeneratorBlock(nn.Module):
    """Doubles the side: two convolutions behind modulated instance norms, beside a 1x1 shortcut."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.conv_a = SpectralConv2d(in_channels + 1, out_channels, 3, bias=False)
        self.conv_b = SpectralConv2d(out_channels, out_channels, 3)
        self.shortcut = SpectralConv2d(in_channels, out_channels, 1)

    def forward(self, x: Tensor, mask: Tensor, modulations: Iterator[tuple[Tensor, Tensor]]) -> Tensor:
        """(B, C, H, W) with the region's mask (B, 1, H, W) to (B, C', 2H, 2W)."""
        y = torch.cat([modulated(x, *next(modulations)), mask], dim=1)
        y = double_then_conv(y, self.conv_a.normalised_weight())
        y = self.conv_b(modulated(y, *next(modulations)))
        return y + double(self.shortcut(x))  # a 1x1 convolution and doubling commute


def modulated(x: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    """relu(instance norm of x (B, C, H, W) * scale + shift), with scale and shift (B, C)."""
    return F.relu(F.instance_norm(x) * scale[:, :, None, None] + shift[:, :, None, None])


class RegionGenerator(nn.Module):
    """The generator of one region.

    Noise enters through the first layer and, by scales and shifts of the instance norms, at every level. All those
    linear maps of the noise are the rows of one matrix: scales of all norms first, then shifts.

    Args:
        width: Channels of the last block.
        noise_size: Noise numbers nz.
        size: Side S of the images, a power of two, at least 16.
        attention: Self-attention before the last block.
        out_channels: Image channels.
    """

    def __init__(
        self, *, width: int = 64, noise_size: int = 32, size: int = 128, attention: bool = False, out_channels: int = 3
    ) -> None:
        super().__init__()
        num_blocks = (size // 4).bit_length() - 1
        widths = [width * min(CAP, 2**level) for level in range(num_blocks, -1, -1)]
        self.norm_widths = [w for pair in pairwise(widths) for w in pair] + [width]
        self.attention = SelfAttention(widths[-2]) if attention else None
        self.dense = nn.Linear(noise_size, widths[0] * 16)
        self.modulation = nn.Linear(noise_size, 2 * sum(self.norm_widths))
        self.blocks = nn.ModuleList(GeneratorBlock(i, o) for i, o in pairwise(widths))
        self.head = SpectralConv2d(width + 1, out_channels, 3)

    def forward(self, mask: Tensor, noise: Tensor) -> Tensor:
        """The region drawn and cut out, (B, 3, S, S) in [-1, 1], for its mask (B, 1, S, S) and noise (B, nz)."""
        scales, shifts = self.modulation(noise).chunk(2, dim=1)
        parts = zip(scales.split(self.norm_widths, dim=1), shifts.split(self.norm_widths, dim=1), strict=True)
        modulations = iter(parts)
        x = self.dense(noise).unflatten(1, (-1, 4, 4))
        masks = self._mask_pyramid(mask)
        last = len(self.blocks) - 1
        for level, block in enumerate(self.blocks):
            if level == last and self.attention is not None:
                x = self.attention(x)
            x = block(x, masks[level], modulations)
        x = torch.cat([modulated(x, *next(modulations)), mask.to(x.dtype)], dim=1)
        return self.head(x).float().tanh() * mask

    def _mask_pyramid(self, mask: Tensor) -> list[Tensor]:
        """The mask at the input side of each block: S/4 ... 2 times smaller."""
        masks = [mask]
        for _ in self.blocks:
            masks.append(F.avg_pool2d(masks[-1], 2))
        return masks[:0:-1]


class Generators(nn.ModuleList):
    """The n region generators, without shared weights."""

    def __init__(
        self,
        *,
        num_masks: int = 2,
        width: int = 64,
        noise_size: int = 32,
        size: int = 128,
        attention: bool = False,
        out_channels: int = 3,
    ) -> None:
        super().__init__(
            RegionGenerator(
                width=width, noise_size=noise_size, size=size, attention=attention, out_channels=out_channels
            )
            for _ in range(num_masks)
        )

    def forward(self, masks: Tensor, noise: Tensor) -> Tensor:
        """Every region drawn and cut out, (B, n, 3, S, S), for masks (B, n, S, S) and noise (B, n, nz, 1, 1)."""
        drawings = [region(masks[:, k : k + 1], noise[:, k].flatten(1)) for k, region in enumerate(self)]
        return torch.stack(drawings, dim=1)
