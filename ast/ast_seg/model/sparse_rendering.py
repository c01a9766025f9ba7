"""Rendering of the covered pixels only: most objects cover a hundredth of an image, and the rest of a layer is empty.

A *pair* is a slot and a pixel under its glimpse. All values of all slots are lists over pairs; sums over layers are
scatter-adds onto the pixels. The result is that of whole layers.

Symbols: B batch, K slots, N = K B objects, G glimpse side, E columns (or rows) of all objects, M pairs.
"""

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from ast_seg.model.rendering import NO_WEIGHT, TINY, Rendering


@dataclass(frozen=True)
class AxisSamples:
    """Along one axis: the pixels that each object covers, and the two glimpse pixels that each lies between."""

    count: Tensor
    """Covered pixels of each object, int64 (N,)."""
    pixel: Tensor
    """int64 (E,), object by object."""
    source: Tensor
    """Glimpse pixels, int64 (2, E)."""
    share: Tensor
    """Their weights (2, E); 0 for a glimpse pixel outside the glimpse."""


def axis_samples(centre: Tensor, scale: Tensor, size: int, glimpse: int) -> AxisSamples:
    """Where the pixels of an axis lie in the glimpses.

    Args:
        centre: Objects' centres (N,) in [-1, 1].
        scale: Image side over glimpse side (N,).
        size: Pixels of the image.
        glimpse: Pixels of the glimpse.
    """
    with torch.no_grad():
        reach = (1 + 1 / glimpse) / scale  # the outermost glimpse pixels fade to 0 half a pixel beyond the edge
        first = ((centre - reach + 1) * (size / 2) - 0.5).ceil().clamp(0, size).long()
        last = ((centre + reach + 1) * (size / 2) - 0.5).floor().clamp(-1, size - 1).long()
        count = (last - first + 1).clamp(min=0)
        owner = torch.repeat_interleave(count)
        pixel = torch.arange(len(owner), device=count.device) - (count.cumsum(0) - count - first)[owner]
    where = scale[owner] * ((2 * pixel + 1) / size - 1 - centre[owner])
    position = ((where + 1) * glimpse - 1) / 2
    low = position.detach().floor()
    low_index = low.long()
    source = torch.stack([low_index, low_index + 1])
    share = torch.stack([low + 1 - position, position - low])
    return AxisSamples(
        count, pixel, source.clamp(0, glimpse - 1), torch.where((source >= 0) & (source < glimpse), share, 0.0)
    )


@dataclass(frozen=True)
class Pairs:
    """Slots and the pixels under their glimpses."""

    slot: Tensor
    """Object k B + b of each pair, int64 (M,)."""
    pixel: Tensor
    """Pixel b H W + y W + x of each pair, int64 (M,)."""
    values: Tensor
    """Red, green, blue and mask (4, M)."""


def sample_pairs(glimpses: Tensor, columns: AxisSamples, rows: AxisSamples, shape: tuple[int, int, int]) -> Pairs:
    """Bilinear samples of glimpses (N, 4, G, G) at all pairs of images of a shape (B, H, W)."""
    batch, height, width = shape
    G, device = glimpses.shape[-1], glimpses.device
    areas = columns.count * rows.count
    slot = torch.repeat_interleave(areas)
    within = torch.arange(len(slot), device=device) - (areas.cumsum(0) - areas)[slot]
    wide = columns.count[slot]
    y = within // wide
    x = within - y * wide + (columns.count.cumsum(0) - columns.count)[slot]
    y = y + (rows.count.cumsum(0) - rows.count)[slot]
    pixel = (slot % batch) * (height * width) + rows.pixel[y] * width + columns.pixel[x]
    shares = rows.share[:, None, y] * columns.share[None, :, x]  # (2,2,M)
    sources = G * rows.source[:, None, y] + columns.source[None, :, x]
    channel = torch.arange(4, device=device)[:, None, None, None] * (G * G)
    index = (4 * G * G) * slot + channel + sources  # (4,2,2,M)
    # one gather: the gradient of each would fill, and then add, glimpses of zeros
    corners = glimpses.flatten().gather(0, index.flatten()).view(index.shape)
    values = (corners * shares).sum((1, 2))
    return Pairs(slot, pixel, values)


class SparseRendering(Rendering):
    """From pairs.

    Args:
        pairs: Slots and pixels with their colours and masks.
        activation: Of the objects (N,).
        background_logit: Activation of the background, broadcast to (B, 1, H, W).
        background: (B, 3, H, W).
    """

    def __init__(self, pairs: Pairs, activation: Tensor, background_logit: Tensor, background: Tensor) -> None:
        self._pairs, self._num_slots = pairs, len(activation) // len(background)
        mask = pairs.values[3]
        inside = mask > 0
        # log's argument must be positive on both branches, else the unused branch sends back NaN
        log_mask = torch.where(inside, mask, 1.0).log()
        logit = torch.where(inside, activation[pairs.slot] + log_mask, NO_WEIGHT)
        own = background_logit.flatten()
        with torch.no_grad():
            top = own.scatter_reduce(0, pairs.pixel, logit, "amax")
        shifted = logit - top[pairs.pixel]
        total = (own - top).exp().scatter_add(0, pairs.pixel, shifted.exp())
        log_total = total.log()
        self._slots = shifted - log_total[pairs.pixel]  # log-weights (M,)
        self._own = own - top - log_total  # log-weights (B H W,)
        self._slot_weights, self._own_weights = self._slots.exp(), self._own.exp()
        reconstruction = background * self._own_weights.view(len(background), 1, *background.shape[-2:])
        super().__init__(self._added(reconstruction), background)

    def _added(self, image: Tensor) -> Tensor:
        """An image (B, 3, H, W) with the slots' weighted colours added."""
        area = image.shape[-2] * image.shape[-1]
        first = self._pairs.pixel + 2 * area * (self._pairs.pixel // area)
        index = first + area * torch.arange(3, device=image.device)[:, None]
        colours = self._pairs.values[:3] * self._slot_weights
        return image.flatten().scatter_add(0, index.flatten(), colours.flatten()).view(image.shape)

    @cached_property
    def entropy(self) -> Tensor:
        """See `Rendering`."""
        own = self._own_weights * (self._own_weights + TINY).log()
        slots = self._slot_weights * (self._slot_weights + TINY).log()
        summed = own.scatter_add(0, self._pairs.pixel, slots)
        return summed.view(len(self.background), 1, *self.background.shape[-2:])

    @property
    def peaks(self) -> Tensor:
        """Largest weight of each slot (K, B)."""
        batch = len(self.background)
        none = torch.zeros(self._num_slots * batch, device=self._slots.device)
        return none.scatter_reduce(0, self._pairs.slot, self._slot_weights.detach(), "amax").view(-1, batch)

    def _log_weights(self) -> Tensor:
        batch, _, height, width = self.background.shape
        size = batch * height * width
        layers = torch.full(((self._num_slots + 1) * size,), NO_WEIGHT, device=self._own.device)
        layers = torch.cat([self._own, layers[size:].scatter(0, self._place(), self._slots)])
        return layers.view(self._num_slots + 1, batch, 1, height, width)

    def _colours(self) -> Tensor:
        batch, _, height, width = self.background.shape
        area = height * width
        empty = torch.zeros(self._num_slots * batch * 3 * area, device=self._own.device)
        first = 3 * area * self._pairs.slot + self._pairs.pixel % area
        index = first + area * torch.arange(3, device=empty.device)[:, None]
        filled = empty.scatter(0, index.flatten(), self._pairs.values[:3].flatten())
        return filled.view(self._num_slots, batch, 3, height, width)

    def _place(self) -> Tensor:
        """Index of each pair in (K, B, H, W)."""
        area = self.background.shape[-2] * self.background.shape[-1]
        return self._pairs.slot * area + self._pairs.pixel % area
