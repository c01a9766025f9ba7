"""M: the mask network, which cuts an image into regions.

A residual network at a quarter of the resolution, a pyramid of pooled 1-channel contexts (the idea of PSPNet), and a
decoder. Instance norms everywhere and no spectral norm, so training and evaluation mode are the same.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from redo.model.layers import double_then_conv


class MaskBlock(nn.Module):
    """Two convolutions beside an identity; the norm comes after the sum."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.norm1 = nn.InstanceNorm2d(width, affine=True)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1)
        self.norm2 = nn.InstanceNorm2d(width, affine=True)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W), the same out."""
        y = self.conv2(F.relu(self.norm1(self.conv1(x))))
        return F.relu(self.norm2(y + x))


class MaskNetwork(nn.Module):
    """Soft masks of n regions, one of which every pixel belongs to.

    Args:
        num_masks: Regions n, 2 or more. With 2 there is one logit, and the second mask is what the first leaves.
        width: Channels at a quarter of the resolution.
        num_blocks: Residual blocks.
        size: Side S of the square images, a multiple of 4, at least 24.
        in_channels: Image channels.
        temperature: Divides the logits.
    """

    def __init__(
        self,
        *,
        num_masks: int = 2,
        width: int = 64,
        num_blocks: int = 3,
        size: int = 128,
        in_channels: int = 3,
        temperature: float = 1.0,
    ) -> None:
        super().__init__()
        self.size, self.num_masks, self.temperature = size, num_masks, temperature
        half, quarter = width // 2, width // 4
        self.stem = nn.Sequential(
            nn.Conv2d(in_channels, quarter, 7, padding=3, padding_mode="reflect", bias=False),
            nn.InstanceNorm2d(quarter, affine=True),
            nn.ReLU(),
            nn.Conv2d(quarter, half, 3, stride=2, padding=1, bias=False),
            nn.InstanceNorm2d(half, affine=True),
            nn.ReLU(),
            nn.Conv2d(half, width, 3, stride=2, padding=1, bias=False),
            nn.InstanceNorm2d(width, affine=True),
            nn.ReLU(),
        )
        self.blocks = nn.Sequential(*(MaskBlock(width) for _ in range(num_blocks)))
        side = size // 4
        self.pool_sizes = (side, side // 2, side // 3, side // 6)
        self.pyramid = nn.ModuleList(nn.Conv2d(width, 1, 1) for _ in self.pool_sizes)
        joint = width + len(self.pool_sizes)
        self.up1 = nn.Conv2d(joint, joint // 2, 3, padding=1, bias=False)
        self.up1_norm = nn.InstanceNorm2d(joint // 2, affine=True)
        self.up2 = nn.Conv2d(joint // 2, joint // 4, 3, padding=1, bias=False)
        self.up2_norm = nn.InstanceNorm2d(joint // 4, affine=True)
        num_logits = 1 if num_masks == 2 else num_masks
        self.head = nn.Conv2d(joint // 4, num_logits, 7, padding=3, padding_mode="reflect")

    def forward(self, images: Tensor) -> Tensor:
        """Masks (B, n, S, S) in [0, 1], float32, summing to 1, of images (B, 3, S, S) in [-1, 1]."""
        logits = self.logits(images).float() / self.temperature
        if self.num_masks > 2:
            return logits.softmax(dim=1)
        first = logits.sigmoid()
        return torch.cat([first, 1 - first], dim=1)

    def logits(self, images: Tensor) -> Tensor:
        """What the masks are computed from: (B, 1, S, S) for two regions, else (B, n, S, S)."""
        if images.shape[-2:] != (self.size, self.size):
            raise ValueError(f"images of {tuple(images.shape[-2:])}, but the mask network is for {self.size} square")
        x = self.blocks(self.stem(images))  # (B,C,S/4,S/4)
        x = torch.cat([x, *self._contexts(x)], dim=1)
        x = F.relu(self.up1_norm(double_then_conv(x, self.up1.weight)))  # (B,C/2,S/2,S/2)
        x = F.relu(self.up2_norm(double_then_conv(x, self.up2.weight)))  # (B,C/4,S,S)
        return self.head(x)

    def _contexts(self, x: Tensor) -> list[Tensor]:
        """One channel per pool size; a size that does not divide the side leaves out the last rows and columns."""
        side = x.shape[-2:]
        return [
            F.interpolate(conv(F.avg_pool2d(x, pool)), size=side, mode="bilinear", align_corners=False)
            for conv, pool in zip(self.pyramid, self.pool_sizes, strict=True)
        ]
