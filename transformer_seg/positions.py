"""Position embeddings at another size: the two published rules, which are not interchangeable.

Symbols: E extra tokens (class, distillation) in front, h w token grid, D width.
"""

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from common.errors import InputError

Grid = tuple[int, int]


def square_grid(positions: Tensor, extra: int) -> Grid:
    """The (h, w) that stored positions (1, E + h w, D) were trained at; published ones are square.

    Raises:
        InputError: The number of tokens is no square.
    """
    count = positions.shape[1] - extra
    side = math.isqrt(max(count, 0))
    if side * side != count or side == 0:
        raise InputError(f"pos_embed has {count} positions beside {extra} extra tokens, which is no square grid")
    return side, side


def resize_bilinear(positions: Tensor, grid: Grid, new_grid: Grid, extra: int = 1) -> Tensor:
    """The rule of Segmenter: bilinear, pixel centres aligned, no antialiasing; unchanged at its own grid.

    Args:
        positions: (1, E + h w, D).
        grid: Their (h, w).
        new_grid: (h, w) of the result.
        extra: Tokens E that have no place and stay as they are.

    Returns:
        (1, E + new h * new w, D)
    """
    if grid == new_grid:
        return positions
    maps = _to_maps(positions[:, extra:], grid)
    resized = F.interpolate(maps, size=new_grid, mode="bilinear", align_corners=False)
    return torch.cat([positions[:, :extra], resized.flatten(2).transpose(1, 2)], dim=1)


def resize_bicubic(positions: Tensor, new_grid: Grid, extra: int = 1) -> Tensor:
    """The rule of DINO: bicubic, with a step of side / (n + 0.1) instead of side / n between samples.

    A resize to the same size without the 0.1, or with antialiasing, differs by as much as the embedding is large.
    Unchanged at its own square grid.

    Args:
        positions: (1, E + side * side, D).
        new_grid: (h, w) of the result.
        extra: Tokens E that have no place and stay as they are.

    Returns:
        (1, E + h w, D)
    """
    side, _ = grid = square_grid(positions, extra)
    if new_grid == grid:
        return positions
    maps = _to_maps(positions[:, extra:], grid)
    scale = [(length + 0.1) / side for length in new_grid]
    # The scale must reach the kernel: given a size, it would sample at side / n.
    resized = F.interpolate(maps, scale_factor=scale, mode="bicubic", align_corners=False, recompute_scale_factor=False)
    return torch.cat([positions[:, :extra], resized.flatten(2).transpose(1, 2)], dim=1)


def _to_maps(positions: Tensor, grid: Grid) -> Tensor:
    return positions.transpose(1, 2).unflatten(2, grid)
