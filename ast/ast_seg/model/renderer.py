"""The renderer: slot latents and a background to an image, one layer per slot, mixed by activation and mask.

Layer weights are proportional to exp(activation) * mask, the background's mask being 1 everywhere; the activation is
depth order at the same time. They are computed as a softmax over log-weights, which neither overflows nor loses the
slots that are still faint. Activations are never expanded to images. Source: arXiv 2205.13271, section 3.

Symbols: B batch, K slots, Z appearance size, S scales, G glimpse size, L = Z + 3 + S latents.
"""

import torch
from torch import Tensor, nn

from ast_seg.model.glimpses import GlimpseGenerator, glimpse_size
from ast_seg.model.rendering import NO_WEIGHT, DenseRendering, Rendering
from ast_seg.model.sparse_rendering import SparseRendering, axis_samples, sample_pairs

SPARSE_BELOW = 0.1
"""Share of all layers' pixels that lie under a glimpse, below which only those are computed, on a CPU."""


class Renderer(nn.Module):
    """Glimpses, their placement and the mixing of layers.

    Args:
        height: Rows of the images.
        width: Columns of the images.
        what_dim: Z (``z_what_dim``).
        isotropic: One scale for both axes (``isotropic_scaling``).
        max_scale: Largest scale; an object covers 1/scale of the image's side (``max_scaling_factor``).
        min_scale: Smallest scale (``min_scaling_factor``).
        background_logit: Initial activation of the background (``initial_background_activation_logit``).
        variable_background: Learn an activation of the background per pixel as well, for images of this size
            (``variable_background_activation``).
        mask_floor: Added to every placed mask, also outside its glimpse: 1e-5 in the v1 paper, else 0.
        largest_glimpse: Bound on the glimpses' side: 64 in the v1 paper.
        legacy_isotropic_activation: Read an isotropic slot's activation from the first appearance latent, as the
            published code does, and not from its own.
    """

    def __init__(
        self,
        *,
        height: int,
        width: int,
        what_dim: int,
        isotropic: bool = False,
        max_scale: float = 24.0,
        min_scale: float = 1.3,
        background_logit: float = 11.0,
        variable_background: bool = False,
        mask_floor: float = 0.0,
        largest_glimpse: int = 128,
        legacy_isotropic_activation: bool = True,
    ) -> None:
        super().__init__()
        self.num_scales = 1 if isotropic else 2
        self.activation_index = 4 if legacy_isotropic_activation else 2 + self.num_scales
        self.what_dim, self.min_scale, self.max_scale, self.mask_floor = what_dim, min_scale, max_scale, mask_floor
        self.glimpses = GlimpseGenerator(what_dim, glimpse_size(height, width, largest_glimpse))
        self.background_logit = nn.Parameter(torch.full((1, 1), float(background_logit)))
        self.local_background_logit: nn.Parameter | None = None
        if variable_background:
            self.local_background_logit = nn.Parameter(torch.zeros(1, 1, 1, height, width))

    def place(self, latents: Tensor) -> tuple[Tensor, Tensor]:
        """Centre and scale of each slot.

        Args:
            latents: (..., L).

        Returns:
            Centre (..., 2) as x, y in [-1, 1], the image's edges; scale (..., 2) along x and y.
        """
        centre = latents[..., :2].clamp(-1, 1)
        scale = latents[..., 2 : 2 + self.num_scales].sigmoid()
        scale = self.min_scale + (self.max_scale - self.min_scale) * scale
        return centre, scale.expand(*centre.shape)

    def resize(self, height: int, width: int) -> None:
        """Make ready for images of another size: only the background's activation per pixel depends on it."""
        logits = self.local_background_logit
        if logits is not None and logits.shape[-2:] != (height, width):
            resized = nn.functional.interpolate(logits[0], (height, width), mode="bilinear", align_corners=False)
            self.local_background_logit = nn.Parameter(resized[None])

    def forward(self, latents: Tensor, background: Tensor) -> Rendering:
        """Render a batch in float32.

        Args:
            latents: (K, B, L): x, y, S scale logits, activation, Z of appearance.
            background: (B, 3, H, W) in [0, 1].
        """
        K, B, _ = latents.shape
        H, W = background.shape[-2:]
        glimpses = self.glimpses(latents[..., 3 + self.num_scales :].flatten(0, 1))
        with torch.autocast(latents.device.type, enabled=False):
            latents, background = latents.float(), background.float()
            centre, scale = self.place(latents.flatten(0, 1))
            activation = latents[..., self.activation_index]
            if self._covers_little(centre, scale):
                columns, rows = (
                    axis_samples(centre[:, i], scale[:, i], size, glimpses.shape[-1]) for i, size in enumerate((W, H))
                )
                pairs = sample_pairs(glimpses.float(), columns, rows, (B, H, W))
                own = self._background_logit().expand(1, B, 1, H, W)
                return SparseRendering(pairs, activation.flatten(), own, background)
            placed = warp(glimpses.float(), centre, scale, H, W).unflatten(0, (K, B))
            log_weights = self._log_weights(activation[..., None, None, None], placed[:, :, 3:])
            return DenseRendering(log_weights, placed[:, :, :3], background)

    def _covers_little(self, centre: Tensor, scale: Tensor) -> bool:
        """Whether so little lies under glimpses that lists of pixels are quicker than whole layers.

        Only in training: the two forms round differently, and a prediction must not depend on its batch mates.
        """
        if self.mask_floor or centre.device.type != "cpu" or torch.compiler.is_compiling():
            return False
        if not torch.is_grad_enabled():
            return False
        reach = 1 / scale.detach()
        centre = centre.detach()
        covered = ((centre + reach).clamp(max=1) - (centre - reach).clamp(min=-1)).prod(-1) / 4
        return float(covered.mean()) < SPARSE_BELOW

    def _log_weights(self, activation: Tensor, masks: Tensor) -> Tensor:
        """(K, B, 1, 1, 1) and (K, B, 1, H, W) to normalised log-weights (K+1, B, 1, H, W)."""
        if self.mask_floor:
            masks = masks + self.mask_floor
        inside = masks > 0
        # log's argument must be positive on both branches, else the unused branch sends back NaN
        log_masks = torch.where(inside, masks, 1.0).log()
        slots = torch.where(inside, activation + log_masks, NO_WEIGHT)
        return torch.cat([self._background_logit().expand_as(slots[:1]), slots]).log_softmax(dim=0)

    def _background_logit(self) -> Tensor:
        """Activation of the background (1, 1, 1, 1, 1), or (1, 1, 1, H, W) where it varies."""
        logit = self.background_logit.float()[..., None, None, None]
        return logit if self.local_background_logit is None else logit + self.local_background_logit.float()


def warp(glimpses: Tensor, centre: Tensor, scale: Tensor, height: int, width: int) -> Tensor:
    """Place glimpses in images: bilinear, zero outside, without rotation.

    Args:
        glimpses: (M, C, G, G).
        centre: x, y of the glimpse's centre in the image (M, 2), in [-1, 1], the image's edges.
        scale: Image side over glimpse side along x and y (M, 2).
        height: Rows of the images.
        width: Columns of the images.

    Returns:
        (M, C, H, W).
    """
    x, y = (
        scale[:, i, None] * (_pixel_centres(size, centre) - centre[:, i, None])
        for i, size in enumerate((width, height))
    )
    # Two broadcast axes instead of affine_grid's matrix product
    grid = torch.stack([x[:, None].expand(-1, height, -1), y[:, :, None].expand(-1, -1, width)], dim=-1)
    return nn.functional.grid_sample(glimpses, grid, mode="bilinear", padding_mode="zeros", align_corners=False)


def _pixel_centres(size: int, like: Tensor) -> Tensor:
    return (2 * torch.arange(size, device=like.device, dtype=like.dtype) + 1) / size - 1
