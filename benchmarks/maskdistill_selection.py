"""The object of an image from queries and keys: all attention logits and the whole similarity graph, beside ours."""

import numpy as np
import torch
from ceilings import num_bytes
from measuring import Benchmark
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor

from maskdistill.mask_generator import ObjectMask, mass_threshold, object_mask

HEADS, LEADING, TOPK, SHARE = 6, 5, 0.4, 0.5


def build(tiny: bool) -> Benchmark:
    """A grid of 40 x 54 patches, as of an image of 640 x 864 pixels, with a planted object."""
    grid = (8, 10) if tiny else (40, 54)
    queries, keys = planted(grid)

    def check(textbook: NDArray[np.bool_], ours: ObjectMask) -> None:
        np.testing.assert_array_equal(textbook, ours.mask)

    return Benchmark(
        f"object of {grid[0] * grid[1]} patches, 6 heads of 64",
        lambda: textbook_object(queries, keys, grid),
        lambda: object_mask(queries[:, 0], keys, grid, heads=LEADING, topk=TOPK, share=SHARE),
        check,
        least_bytes=num_bytes(queries[:, 0], keys),
    )


def planted(grid: tuple[int, int], sigma: float = 1.0) -> tuple[Tensor, Tensor]:
    """Queries and keys (6, 1 + N, 64) of an ellipse: along one direction per head inside, against it outside."""
    draw = torch.Generator().manual_seed(0)
    h, w = grid
    y, x = torch.meshgrid(torch.arange(h), torch.arange(w), indexing="ij")
    inside = ((y - 0.45 * h) / (0.3 * h)) ** 2 + ((x - 0.55 * w) / (0.25 * w)) ** 2 < 1
    sign = torch.where(inside, 1.0, -0.35).flatten()
    directions = torch.nn.functional.normalize(torch.randn(HEADS, 64, generator=draw), dim=1)
    keys = 2 * directions[:, None] * sign[None, :, None]
    keys = keys + sigma * 2 * torch.randn(keys.shape, generator=draw) / 8
    keys = torch.cat([directions[:, None], keys], 1)
    return directions[:, None].expand_as(keys).contiguous(), keys


def textbook_object(queries: Tensor, keys: Tensor, grid: tuple[int, int]) -> NDArray[np.bool_]:
    """Attention logits of all tokens, the graph of all patches, then the selection on both."""
    logits = queries @ keys.transpose(1, 2)
    product = logits[:LEADING, 0, 1:].mean(0)
    masked = product * mass_threshold(product, SHARE)
    N = len(product)
    candidates = masked.topk(int(TOPK * N)).indices
    candidates = candidates[masked[candidates] > 0]
    graph = (keys[:, 1:] @ keys[:, 1:].transpose(1, 2)).sum(0)
    seed = int(candidates[0])
    nodes = candidates[graph[seed, candidates] > 0]
    similar = (graph[nodes].sum(0) > 0).reshape(grid).numpy()
    components, _ = ndimage.label(similar)
    return np.asarray(components == components[divmod(seed, grid[1])])
