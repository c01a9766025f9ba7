"""Segmenter: a vision transformer, a linear or a mask-transformer decoder, bilinear upsampling (arXiv 2105.05633).

Attribute names are those of published state dicts.

Symbols: B images, H W pixels, P patch size, h w token grid, N = h w tokens, D width, K classes.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.init import trunc_normal_

from transformer_seg.vit import VisionTransformer, initialise, transformer_block

HEAD_WIDTH = 64  # width of one attention head of the decoder


class LinearDecoder(nn.Module):
    """A score per token and class."""

    def __init__(self, width: int, num_classes: int):
        super().__init__()
        self.head = nn.Linear(width, num_classes)
        self.apply(initialise)

    def forward(self, tokens: Tensor) -> Tensor:
        """(B, N, D) to (B, N, K)."""
        return self.head(tokens)


class MaskTransformer(nn.Module):
    """Class embeddings and patches in joint attention; the score is the cosine of both, normalised over the classes.

    Args:
        width: D, a multiple of 64.
        num_classes: K.
        depth: Number of blocks.
        dropout: Everywhere in the blocks.
        drop_path: Rate of the last block; see `VisionTransformer`.
    """

    def __init__(self, width: int, num_classes: int, *, depth: int = 2, dropout: float = 0.1, drop_path: float = 0.0):
        super().__init__()
        self.num_classes = num_classes
        self.proj_dec = nn.Linear(width, width)
        self.cls_emb = nn.Parameter(torch.empty(1, num_classes, width))
        rates = torch.linspace(0, drop_path, depth, device="cpu").tolist()
        self.blocks = nn.ModuleList(
            transformer_block(width, width // HEAD_WIDTH, dropout=dropout, drop_path=rate) for rate in rates
        )
        self.decoder_norm = nn.LayerNorm(width)
        self.proj_patch = nn.Parameter(width**-0.5 * torch.randn(width, width))
        self.proj_classes = nn.Parameter(width**-0.5 * torch.randn(width, width))
        self.mask_norm = nn.LayerNorm(num_classes)
        self.apply(initialise)
        trunc_normal_(self.cls_emb, std=0.02)

    def joint_tokens(self, tokens: Tensor) -> Tensor:
        """What enters the first block: projected patches, then classes, (B, N, D) to (B, N + K, D)."""
        return torch.cat([self.proj_dec(tokens), self.cls_emb.expand(len(tokens), -1, -1)], dim=1)

    def forward(self, tokens: Tensor) -> Tensor:
        """(B, N, D) to (B, N, K)."""
        x = self.joint_tokens(tokens)
        for block in self.blocks:
            x = block(x)
        x = self.decoder_norm(x)
        patches, classes = x[:, : -self.num_classes] @ self.proj_patch, x[:, -self.num_classes :] @ self.proj_classes
        patches = patches / patches.norm(dim=-1, keepdim=True)
        classes = classes / classes.norm(dim=-1, keepdim=True)
        return self.mask_norm(patches @ classes.transpose(1, 2))


class Segmenter(nn.Module):
    """Image to class logits.

    Args:
        encoder: Its extra tokens are dropped.
        decoder: Tokens (B, N, D) to scores (B, N, K).
    """

    def __init__(self, encoder: VisionTransformer, decoder: nn.Module):
        super().__init__()
        self.encoder = encoder
        self.decoder = decoder

    def forward(self, image: Tensor) -> Tensor:
        """Logits (B, K, H, W) of normalised images (B, 3, H, W) of any size.

        Images are padded by zeros on the right and at the bottom up to whole patches, logits cropped.
        """
        H, W = image.shape[-2:]
        logits = self.token_logits(image)
        h, w = (side * self.encoder.patch_size for side in logits.shape[-2:])
        return F.interpolate(logits, size=(h, w), mode="bilinear", align_corners=False)[..., :H, :W]

    def token_logits(self, image: Tensor) -> Tensor:
        """Logits on the token grid (B, K, h, w), h and w rounded up to whole patches."""
        P = self.encoder.patch_size
        H, W = image.shape[-2:]
        padded = F.pad(image, (0, -W % P, 0, -H % P))
        tokens = self.encoder(padded)[:, self.encoder.extra :]
        grid = (padded.shape[-2] // P, padded.shape[-1] // P)
        return self.decoder(tokens).transpose(1, 2).unflatten(2, grid)
