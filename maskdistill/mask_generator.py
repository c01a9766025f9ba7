"""One object mask per image from the last block's queries and keys of a self-supervised ViT, in closed form.

The textbook form builds the similarity of every pair of patches. Only sums of its rows are used, so with the keys K
(N, L*d) concatenated over heads: row s is K K_s, and the sum of the rows S is K (sum of K_j over S). Time and memory
are O(N L d) instead of O(N^2 L d).

Reference: arXiv 2206.06363, section 3.1; seed expansion after LOST, arXiv 2109.14279.
"""

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor

Ties = Literal["strict", "legacy"]

CANCELLED_SUM = 1e-6
"""A sum of logits smaller than this share of the sum of their magnitudes is rounding noise."""


@dataclass(frozen=True)
class ObjectMask:
    """The mask of one image and how it came about."""

    mask: NDArray[np.bool_]
    """(h, w) patches of the object, 4-connected, never empty."""
    cls_mean: Tensor
    """(N,) mean query-key product of CLS and patch over the leading heads."""
    kept: Tensor
    """(N,) patches that hold the larger part of the mass of ``cls_mean``."""
    source: int
    """The seed patch, row-major."""
    nodes: Tensor
    """Candidates that are similar to the seed, ascending."""
    similarity: Tensor
    """(N,) summed similarity to ``nodes``; the mask is where it is positive and connected to the seed."""
    doubtful: bool
    """The mass is numerically arbitrary, or no kept patch has a positive product: the mask may mean little."""


def object_mask(
    queries_cls: Tensor,
    keys: Tensor,
    grid: tuple[int, int],
    *,
    heads: int = 5,
    topk: float = 0.4,
    share: float = 0.5,
    ties: Ties = "strict",
) -> ObjectMask:
    """The object of one image.

    Args:
        queries_cls: (L, d) queries of the CLS token, without the factor 1/sqrt(d).
        keys: (L, 1 + N, d) keys, CLS first.
        grid: (h, w) with h * w = N.
        heads: Number of leading heads averaged in the product with CLS.
        topk: Candidates as a share of N, rounded down.
        share: See :func:`mass_threshold`.
        ties: ``strict``: only kept patches can be candidates. ``legacy``: where too few have a positive product, the
            published code fills up with dropped patches, as the device's top-k happens to order them.
    """
    h, w = grid
    N = h * w
    if keys.shape[1] != N + 1:
        raise ValueError(f"{keys.shape[1]} keys do not fit the grid {h} x {w} and CLS ({N + 1})")
    queries_cls, keys = queries_cls.float(), keys.float()
    patches = keys[:, 1:]  # (L,N,d); no copy is made, products go head by head
    cls_mean = _products(patches[:heads], queries_cls[:heads]) / heads
    kept = mass_threshold(cls_mean, share)
    doubtful = bool(cls_mean.sum().abs() < CANCELLED_SUM * cls_mean.abs().sum())
    candidates = _candidates(cls_mean, kept, max(int(topk * N), 1), ties)
    doubtful |= not bool((cls_mean[candidates] * kept[candidates] > 0).any())

    source = int(candidates[0])
    near = _products(patches, patches[:, source])[candidates] > 0
    near[0] = True  # the seed is similar to itself, whatever rounding says
    nodes = candidates[near].sort().values
    chosen = torch.zeros_like(cls_mean)
    chosen[nodes] = 1
    total = torch.matmul(chosen, patches)  # (L,d), the sum of the nodes' keys
    similarity = _products(patches, total)
    positive = (similarity > 0).reshape(h, w).cpu().numpy()
    row, column = divmod(source, w)
    positive[row, column] = True
    components, _ = ndimage.label(positive)  # the default structure is the 4-neighbourhood
    return ObjectMask(
        mask=components == components[row, column],
        cls_mean=cls_mean,
        kept=kept,
        source=source,
        nodes=nodes,
        similarity=similarity,
        doubtful=doubtful,
    )


def _products(patches: Tensor, vectors: Tensor) -> Tensor:
    """Products (N,) of patches (L, N, d) with one vector per head (L, d), summed over heads."""
    # Head by head is quicker than one batched product: each is a matrix with a vector, bound by memory alone.
    return torch.stack([torch.mv(*pair) for pair in zip(patches, vectors, strict=True)]).sum(0)


def object_masks(
    queries_cls: Tensor, keys: Tensor, grid: tuple[int, int], *, num_masks: int = 1, **options: Any
) -> list[ObjectMask]:
    """Several objects of one image: the selection repeated on the patches that are left.

    Patches of earlier objects have the product and the keys 0. It ends early when a fortieth of the patches is left or
    the next object would be a tenth of the first.

    Args:
        queries_cls: See :func:`object_mask`.
        keys: Likewise.
        grid: Likewise.
        num_masks: Most objects.
        **options: Likewise.
    """
    found = [object_mask(queries_cls, keys, grid, **options)]
    free = torch.ones(grid[0] * grid[1], dtype=keys.dtype, device=keys.device)
    while len(found) < num_masks:
        free[torch.from_numpy(found[-1].mask).reshape(-1).to(free.device)] = 0
        if free.mean() < 1 / 40:
            break
        left = torch.cat([keys[:, :1], keys[:, 1:] * free[None, :, None]], 1)
        following = object_mask(queries_cls, left, grid, **options)
        if following.mask.sum() < 0.1 * found[0].mask.sum() or not free[following.source]:
            break
        found.append(following)
    return found


def mass_threshold(values: Tensor, share: float) -> Tensor:
    """The largest entries that hold a share of the total.

    Entries are sorted, divided by their PLAIN sum and cumulated; those are kept whose cumulative value exceeds
    1 - share. On raw logits of negative sum the signs flip and nearly everything is kept.

    Args:
        values: (..., N), of any sign.
        share: In 0..1.

    Returns:
        bool (..., N).
    """
    ascending, order = values.sort(dim=-1)
    cumulative = (ascending / ascending.sum(-1, keepdim=True)).cumsum(-1)
    return torch.zeros_like(order, dtype=torch.bool).scatter(-1, order, cumulative > 1 - share)


def _candidates(cls_mean: Tensor, kept: Tensor, count: int, ties: Ties) -> Tensor:
    """Patch indices by falling ``cls_mean``, dropped patches counting as 0; never empty."""
    masked = cls_mean * kept
    if ties == "legacy":
        return masked.cpu().topk(count).indices.to(masked.device)
    # A stable sort orders equal values alike on every device.
    top = masked.sort(descending=True, stable=True).indices[:count]
    top = top[kept[top]]
    if len(top) and bool((masked[top] > 0).any()):
        return top
    pool = kept if bool(kept.any()) else torch.ones_like(kept)
    best = torch.where(pool, cls_mean, -torch.inf).sort(descending=True, stable=True).indices
    return best[: min(count, int(pool.sum()))]
