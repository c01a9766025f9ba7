"""The vision transformer of DINO, on images of any size.

Blocks are timm's; positions are resampled as the published features need it, which is not timm's way.
"""

from functools import partial
from typing import Any

import torch
from timm.models.vision_transformer import Block
from torch import Tensor, nn
from torch.nn import functional as F

WIDTHS = {"small": 384, "base": 768}
"""Token width by model name; a head is 64 wide in both."""

HEAD_WIDTH = 64
TRAINING_SIZE_PX = 224


class PatchEmbed(nn.Module):
    """Non-overlapping patches to tokens: one convolution whose stride is its kernel."""

    def __init__(self, patch_size: int, width: int):
        super().__init__()
        self.proj = nn.Conv2d(3, width, kernel_size=patch_size, stride=patch_size)

    def forward(self, images: Tensor) -> Tensor:
        """Tokens (B, N, D) of images (B, 3, H, W), rows first."""
        patches: Tensor = self.proj(images)
        return patches.flatten(2).transpose(1, 2)


class VisionTransformer(nn.Module):
    """ViT-S or ViT-B of twelve blocks with a CLS token and no classifier (arXiv 2010.11929, weights of 2104.14294).

    Images are normalised with the ImageNet statistics; their sides are multiples of the patch.

    Args:
        size: ``small`` (384 wide, 6 heads) or ``base`` (768 wide, 12 heads).
        patch_size: Side of a patch in pixels, 8 or 16 for the published weights.
        depth: Number of blocks.
    """

    def __init__(self, size: str = "small", patch_size: int = 16, depth: int = 12):
        super().__init__()
        width = WIDTHS[size]
        self.patch_size = patch_size
        self.num_heads = width // HEAD_WIDTH
        self.patch_embed = PatchEmbed(patch_size, width)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, width))
        self.pos_embed = nn.Parameter(torch.zeros(1, 1 + (TRAINING_SIZE_PX // patch_size) ** 2, width))
        norm_layer: Any = partial(nn.LayerNorm, eps=1e-6)
        self.blocks = nn.ModuleList(
            Block(width, self.num_heads, mlp_ratio=4.0, qkv_bias=True, norm_layer=norm_layer) for _ in range(depth)
        )
        self.norm = norm_layer(width)
        nn.init.trunc_normal_(self.cls_token, std=0.02)
        nn.init.trunc_normal_(self.pos_embed, std=0.02)

    def forward(self, images: Tensor) -> Tensor:
        """The feature of each image: its CLS token after the final norm (B, D)."""
        feature: Tensor = self.norm(self.encode(images)[:, 0])
        return feature

    def encode(self, images: Tensor, num_blocks: int | None = None) -> Tensor:
        """Tokens (B, 1+N, D), CLS first, after the first ``num_blocks`` blocks; None: after all, before the norm."""
        H, W = images.shape[-2:]
        if H % self.patch_size or W % self.patch_size:
            raise ValueError(f"image sides {H} x {W} are no multiples of the patch ({self.patch_size} px): pad first")
        patches = self.patch_embed(images)
        tokens = torch.cat([self.cls_token.expand(len(images), -1, -1), patches], dim=1)
        tokens = tokens + interpolate_positions(self.pos_embed, H // self.patch_size, W // self.patch_size)
        for block in self.blocks[:num_blocks]:
            tokens = block(tokens)
        return tokens

    def queries_keys(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Queries and keys of the last block, each (B, L, 1+N, d), with bias and without the factor 1/sqrt(d).

        The block's attention, values and MLP are not computed.
        """
        last: Any = self.blocks[-1]
        tokens = last.norm1(self.encode(images, len(self.blocks) - 1))
        B, T, D = tokens.shape
        projection = F.linear(tokens, last.attn.qkv.weight[: 2 * D], last.attn.qkv.bias[: 2 * D])
        projection = projection.view(B, T, 2, self.num_heads, HEAD_WIDTH).permute(2, 0, 3, 1, 4)
        return projection[0], projection[1]


def interpolate_positions(pos_embed: Tensor, grid_height: int, grid_width: int) -> Tensor:
    """Position embeddings resampled from their square training grid to another grid; that of CLS stays.

    Bicubic with SCALE FACTORS (h + 0.1) / G and (w + 0.1) / G, so the sampling step is G / (h + 0.1): asking for the
    target size instead, as timm does, gives other values.

    Args:
        pos_embed: (1, 1 + G * G, D), CLS first.
        grid_height: Rows of patches.
        grid_width: Columns of patches.

    Returns:
        (1, 1 + grid_height * grid_width, D).
    """
    side = round((pos_embed.shape[1] - 1) ** 0.5)
    if (grid_height, grid_width) == (side, side):
        return pos_embed
    cls, patches = pos_embed[:, :1], pos_embed[:, 1:]
    grid = patches.reshape(1, side, side, -1).permute(0, 3, 1, 2)
    factors = ((grid_height + 0.1) / side, (grid_width + 0.1) / side)
    grid = F.interpolate(grid, scale_factor=factors, mode="bicubic", align_corners=False)
    if grid.shape[-2:] != (grid_height, grid_width):
        raise ValueError(f"positions came out as {tuple(grid.shape[-2:])}, expected {(grid_height, grid_width)}")
    return torch.cat([cls, grid.flatten(2).transpose(1, 2)], dim=1)
