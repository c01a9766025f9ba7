"""The vision transformer that Segmenter and DINO share; blocks are timm's, names those of published state dicts.

The two differ in the epsilon of their normalisations (1e-5 and 1e-6) and in how they resize position embeddings; both
show in the results, so both are arguments.

Symbols: B images, H W pixels, P patch size, h w = H / P, W / P token grid, E extra tokens, N = h w, D width, A heads.
"""

from collections.abc import Iterator
from functools import partial
from typing import Any, Literal

import torch
from timm.models.vision_transformer import Block
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.init import trunc_normal_

from common.errors import InputError
from transformer_seg.positions import Grid, resize_bicubic, resize_bilinear

PositionRule = Literal["bilinear", "bicubic"]


def transformer_block(width: int, heads: int, eps: float = 1e-5, dropout: float = 0.0, drop_path: float = 0.0) -> Block:
    """A pre-norm block: attention with biased query, key and value, then an MLP four times as wide with exact GELU."""
    norm: Any = partial(nn.LayerNorm, eps=eps)
    return Block(
        width, heads, qkv_bias=True, attn_drop=dropout, proj_drop=dropout, drop_path=drop_path, norm_layer=norm
    )


class PatchEmbedding(nn.Module):
    """Each patch of P x P pixels to a token."""

    def __init__(self, patch_size: int, width: int):
        super().__init__()
        self.proj = nn.Conv2d(3, width, patch_size, stride=patch_size)

    def forward(self, image: Tensor) -> tuple[Tensor, Grid]:
        """(B, 3, H, W) to tokens (B, N, D) and their grid (h, w); pixels beyond the last whole patch are left out."""
        maps = self.proj(image)
        return maps.flatten(2).transpose(1, 2), (maps.shape[2], maps.shape[3])


class VisionTransformer(nn.Module):
    """Image to tokens.

    Args:
        image_size: Side in pixels of the square images that the position embedding is for.
        patch_size: P.
        width: D.
        depth: Number of blocks.
        heads: A.
        eps: Epsilon of every normalisation: 1e-5 for Segmenter, 1e-6 for DINO and timm.
        position_rule: How positions are resized: ``bilinear`` for Segmenter, ``bicubic`` for DINO.
        distilled: There is a distillation token after the class token.
        num_classes: Rows of the classification head; 0 for none.
        dropout: Everywhere in the blocks and after the embedding.
        drop_path: Share of samples that skip a branch of the last block; it rises linearly from 0 at the first.
    """

    def __init__(
        self,
        *,
        image_size: int,
        patch_size: int,
        width: int,
        depth: int,
        heads: int,
        eps: float,
        position_rule: PositionRule,
        distilled: bool = False,
        num_classes: int = 0,
        dropout: float = 0.0,
        drop_path: float = 0.0,
    ):
        super().__init__()
        if image_size % patch_size:
            raise InputError(f"image size {image_size} is no multiple of the patch size {patch_size}")
        self.patch_size, self.position_rule, self.distilled = patch_size, position_rule, distilled
        self.extra = 2 if distilled else 1
        side = image_size // patch_size
        self.grid = (side, side)
        self.patch_embed = PatchEmbedding(patch_size, width)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, width))
        if distilled:
            self.dist_token = nn.Parameter(torch.zeros(1, 1, width))
        self.pos_embed = nn.Parameter(torch.zeros(1, self.extra + side * side, width))
        self.dropout = nn.Dropout(dropout)
        rates = torch.linspace(0, drop_path, depth, device="cpu").tolist()
        self.blocks = nn.ModuleList(transformer_block(width, heads, eps, dropout, rate) for rate in rates)
        self.norm = nn.LayerNorm(width, eps=eps)
        if num_classes:
            self.head = nn.Linear(width, num_classes)
            if distilled:
                self.head_dist = nn.Linear(width, num_classes)
        self.apply(initialise)
        for token in (self.cls_token, self.pos_embed, *([self.dist_token] if distilled else [])):
            trunc_normal_(token, std=0.02)

    def embed(self, image: Tensor) -> Tensor:
        """Patches with positions, extra tokens first: (B, 3, H, W) to (B, E + N, D).

        Raises:
            InputError: The image is smaller than a patch.
        """
        if min(image.shape[-2:]) < self.patch_size:
            size = " x ".join(map(str, image.shape[-2:]))
            raise InputError(f"image of {size} pixels is smaller than a patch of {self.patch_size}: resize it")
        tokens, grid = self.patch_embed(image)
        extra = [self.cls_token, self.dist_token] if self.distilled else [self.cls_token]
        tokens = torch.cat([*(token.expand(len(image), -1, -1) for token in extra), tokens], dim=1)
        return self.dropout(tokens + self.positions(grid))

    def positions(self, grid: Grid) -> Tensor:
        """Position embedding (1, E + h w, D) of a token grid (h, w)."""
        if self.position_rule == "bilinear":
            return resize_bilinear(self.pos_embed, self.grid, grid, self.extra)
        return resize_bicubic(self.pos_embed, grid, self.extra)

    def after_blocks(self, image: Tensor) -> Iterator[Tensor]:
        """Tokens (B, E + N, D) as they enter the first block, then as they leave each block, not normalised."""
        x = self.embed(image)
        yield x
        for block in self.blocks:
            x = block(x)
            yield x

    def forward(self, image: Tensor) -> Tensor:
        """Normalised tokens (B, E + N, D) of normalised images (B, 3, H, W)."""
        x = self.embed(image)
        for block in self.blocks:
            x = block(x)
        return self.norm(x)

    def last_tokens(self, image: Tensor, count: int = 1) -> list[Tensor]:
        """Normalised tokens (B, E + N, D) of the last ``count`` blocks, the last one last."""
        states = list(self.after_blocks(image))
        return [self.norm(x) for x in states[len(states) - count :]]

    def classify(self, image: Tensor) -> Tensor:
        """Class scores (B, num_classes): of the class token, with distillation the mean of both tokens' heads."""
        tokens = self(image)
        scores = self.head(tokens[:, 0])
        return (scores + self.head_dist(tokens[:, 1])) / 2 if self.distilled else scores

    def _before_last_block(self, image: Tensor) -> Tensor:
        x = self.embed(image)
        for block in self.blocks[:-1]:
            x = block(x)
        return x

    def last_attention(self, image: Tensor) -> Tensor:
        """Attention of the last block (B, A, E + N, E + N); its rows sum to one."""
        return attention_weights(self.blocks[-1], self._before_last_block(image))

    @torch.no_grad()
    def class_attention(self, image: Tensor) -> Tensor:
        """What the class token attends to in the last block, extra tokens left out: (B, A, h, w), sums below one.

        Only this row is computed, and nothing is kept for a gradient, so that memory grows with N and not with its
        square, nor with the depth.
        """
        h, w = (side // self.patch_size for side in image.shape[-2:])
        rows = attention_weights(self.blocks[-1], self._before_last_block(image), queries=1)
        return rows[:, :, 0, self.extra :].unflatten(-1, (h, w))


def attention_weights(block: Any, tokens: Tensor, queries: int | list[int] | None = None) -> Tensor:
    """Attention weights of a block.

    Args:
        block: One of `transformer_block`, or of timm's plain transformers.
        tokens: What enters it (B, N, D).
        queries: Only the rows of so many first tokens, or of the tokens listed; None for all.

    Returns:
        (B, A, N or queries, N)
    """
    attention = block.attn
    x = block.norm1(tokens)
    chosen = x[:, queries] if isinstance(queries, list) else x[:, :queries]
    query_weight, key_weight, _ = attention.qkv.weight.chunk(3)
    biases = (None, None) if attention.qkv.bias is None else attention.qkv.bias.chunk(3)[:2]
    query = F.linear(chosen, query_weight, biases[0]).unflatten(-1, (attention.num_heads, -1))
    key = F.linear(x, key_weight, biases[1]).unflatten(-1, (attention.num_heads, -1))
    query, key = attention.q_norm(query), attention.k_norm(key)
    scores = query.transpose(1, 2) @ key.permute(0, 2, 3, 1) * attention.scale
    return scores.softmax(dim=-1)


def initialise(module: nn.Module) -> None:
    """Linear weights from a normal distribution of deviation 0.02, biases 0; other layers keep PyTorch's defaults."""
    if isinstance(module, nn.Linear):
        trunc_normal_(module.weight, std=0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
