"""From feature maps to slots: soft-argmax pooling and a transformer that settles who explains what.

The first K maps are attention logits. Their softmax over positions gives each slot one probability map, with which the
position and all other maps are averaged (soft-argmax). A transformer over the K slots then refines these latents.
Source: Sauvalle and de La Fortelle, "Unsupervised Multi-object Segmentation Using Attention and Soft-argmax", WACV 2023
(arXiv 2205.13271), section 3.

Symbols: B batch, K slots, Z appearance size, S scales (1 isotropic, 2 not), L = Z + 3 + S latents.
"""

import torch
from torch import Tensor, nn


def num_feature_maps(num_slots: int, what_dim: int, isotropic: bool) -> int:
    """Maps to draw: K attention logits, then S scales, one activation, Z of appearance."""
    return num_slots + num_latents(what_dim, isotropic) - 2


def num_latents(what_dim: int, isotropic: bool) -> int:
    """L: two coordinates, S scales, one activation, Z of appearance."""
    return what_dim + (4 if isotropic else 5)


def position_map(height: int, width: int, exact: bool = False, device: torch.device | None = None) -> Tensor:
    """The x and y of every pixel's centre: (2, H, W) in [-1, 1].

    Args:
        height: Rows.
        width: Columns.
        exact: -1 and 1 are the image's edges, as the renderer has them. Otherwise, as published, they are the centres
            of the border pixels, which is off by a factor of W / (W - 1).
        device: Where to put it.
    """
    y, x = (_centres(size, exact, device) for size in (height, width))
    return torch.stack([x.expand(height, -1), y[:, None].expand(-1, width)])


def _centres(size: int, exact: bool, device: torch.device | None) -> Tensor:
    edge = (size - 1) / size if exact or size == 1 else 1.0
    return torch.linspace(-edge, edge, size, device=device)


def soft_argmax(feature_maps: Tensor, positions: Tensor, num_slots: int) -> Tensor:
    """Pool the position and all feature maps with each slot's attention.

    A batched matrix product: the (B, K, L, h, w) product of attention and maps is never formed.

    Args:
        feature_maps: (B, K + L - 2, h, w), attention logits first.
        positions: (2, h, w), see :func:`position_map`.
        num_slots: K.

    Returns:
        (K, B, L) in float32: x, y, then the other maps in their order.
    """
    maps = feature_maps.flatten(2)
    with torch.autocast(feature_maps.device.type, enabled=False):
        # split: the gradients of two slices would each fill, and then add, maps of zeros
        logits, features = maps.float().split([num_slots, maps.shape[1] - num_slots], dim=1)
        attention = logits.softmax(dim=-1)
        where = attention @ positions.flatten(1).t().to(attention)
        what = attention @ features.transpose(1, 2)
        return torch.cat([where, what], dim=-1).transpose(0, 1)


class SlotEncoder(nn.Module):
    """Images to the latents of K slots.

    Args:
        feature_maps: Network that draws :func:`num_feature_maps` maps of an image: ``UNet`` or ``SegformerMaps``.
        num_slots: K (``max_set_size``).
        what_dim: Z (``z_what_dim``).
        isotropic: One scale for both axes (``isotropic_scaling``).
        dim: Width of the transformer.
        num_heads: Its attention heads.
        num_layers: Its layers.
        feedforward_dim: Its inner width.
        dropout: Its dropout.
        exact_coordinates: See :func:`position_map`.
    """

    def __init__(
        self,
        feature_maps: nn.Module,
        *,
        num_slots: int,
        what_dim: int,
        isotropic: bool = False,
        dim: int = 256,
        num_heads: int = 8,
        num_layers: int = 6,
        feedforward_dim: int = 512,
        dropout: float = 0.1,
        exact_coordinates: bool = False,
    ) -> None:
        super().__init__()
        self.num_slots, self.what_dim, self.isotropic = num_slots, what_dim, isotropic
        self.exact_coordinates = exact_coordinates
        latents = num_latents(what_dim, isotropic)
        self.feature_maps = feature_maps
        self.embedding = nn.Linear(latents, dim)
        layer = nn.TransformerEncoderLayer(dim, num_heads, feedforward_dim, dropout)
        self.transformer = nn.TransformerEncoder(layer, num_layers, enable_nested_tensor=False)
        self.projection = nn.Linear(dim, latents)

    def pooled(self, feature_maps: Tensor) -> Tensor:
        """Latents before the transformer: (B, C, h, w) to (K, B, L)."""
        height, width = feature_maps.shape[-2:]
        positions = position_map(height, width, self.exact_coordinates, feature_maps.device)
        return soft_argmax(feature_maps, positions, self.num_slots)

    def refined(self, pooled: Tensor) -> Tensor:
        """Latents after the transformer: (K, B, L) to (K, B, L)."""
        return self.projection(self.transformer(self.embedding(pooled)))

    def attended(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Attention logits (B, K, h, w), and latents before the transformer (K, B, L), of images in [0, 1]."""
        drawn = self.feature_maps(images)
        return drawn[:, : self.num_slots], self.pooled(drawn)

    def forward(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) in [0, 1] to latents (K, B, L): x, y, S scale logits, activation, Z of appearance."""
        return self.refined(self.attended(images)[1])
