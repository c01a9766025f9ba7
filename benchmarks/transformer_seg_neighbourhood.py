"""Which patches are neighbours: four nested loops, beside a comparison of rows and columns."""

import torch
from measuring import Benchmark
from torch import Tensor

from transformer_seg.dino.propagation import neighbourhood

RADIUS = 12


def build(tiny: bool) -> Benchmark:
    """A grid of 30 x 53 patches, as of 480p video with patches of 16."""
    h, w = (6, 8) if tiny else (30, 53)
    return Benchmark(
        f"neighbourhood of {h} x {w} patches, radius {RADIUS}",
        lambda: textbook_neighbourhood(h, w),
        lambda: neighbourhood(range(h), range(w), range(h), range(w), RADIUS),
        lambda a, b: torch.testing.assert_close(b, a),
        least_bytes=(h * w) ** 2,
    )


def textbook_neighbourhood(h: int, w: int) -> Tensor:
    """Every patch with every other, bool (h w, h w)."""
    mask = torch.zeros(h, w, h, w, dtype=torch.bool)
    for i in range(h):
        for j in range(w):
            for p in range(2 * RADIUS + 1):
                for q in range(2 * RADIUS + 1):
                    y, x = i - RADIUS + p, j - RADIUS + q
                    if 0 <= y < h and 0 <= x < w:
                        mask[i, j, y, x] = True
    return mask.reshape(h * w, h * w)
