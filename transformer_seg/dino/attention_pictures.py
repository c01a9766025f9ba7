"""Pictures of attention, under the published script's names: ``img.png``, ``attn-head0.png``, ``mask_th0.6_head0.png``.

Symbols: A heads, h w token grid, P patch size.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from common.files import write_image
from common.visualize import image_grid, overlay, voc_palette
from transformer_seg.backbones import MEAN_STD
from transformer_seg.dino.pictures import Picture, colour_map


@dataclass(frozen=True)
class PictureOptions:
    """What is drawn.

    Attributes:
        threshold: Share of the attention that the masks keep, for their names.
        heatmaps: Draw the attention itself too.
    """

    threshold: float
    heatmaps: bool


def write_pictures(
    folder: Path, image: Tensor, attention: dict[str, Tensor], masks: Tensor, options: PictureOptions
) -> None:
    """Write the pictures of one image.

    Args:
        folder: Where.
        image: What the network saw, normalised (3, P h, P w).
        attention: ``heads`` (A, h, w); ``points`` and ``layers`` (n, h, w) where there are such.
        masks: bool (A + 1, h, w), that of the heads' mean last.
        options: What is drawn.
    """
    picture = shown(image)
    patch = picture.shape[0] // masks.shape[1]
    heads = attention["heads"]
    names = [*(f"head{head}" for head in range(len(heads))), "mean"]
    values = torch.cat([heads, heads.mean(dim=0, keepdim=True)])
    write_image(folder / "img.png", picture)
    cells, captions = [picture], ["input"]
    for number, (name, one, mask) in enumerate(zip(names, values, masks, strict=True)):
        heat = colour_map(enlarged(one, patch), "viridis")
        cut = overlay(picture, enlarged(mask, patch).astype(np.int64), palette=one_colour(number))
        if options.heatmaps:
            write_image(folder / f"attn-{name}.png", heat)
            cells.append(heat)
            captions.append(name)
        write_image(folder / f"mask_th{options.threshold}_{name}.png", cut)
        cells.append(cut)
        captions.append(f"{name}, {options.threshold:g} kept")
    for kind in ("points", "layers"):
        for number, one in enumerate(attention.get(kind, ())):
            heat = colour_map(enlarged(one, patch), "viridis")
            write_image(folder / f"attn-{kind[:-1]}{number}.png", heat)
            cells.append(heat)
            captions.append(f"{kind[:-1]} {number}")
    write_image(folder / "overview.png", image_grid(cells, columns=min(len(cells), 5), captions=captions))


def shown(image: Tensor) -> Picture:
    """A normalised image (3, H, W) as a picture."""
    mean, std = (torch.tensor(values)[:, None, None] for values in MEAN_STD["deit"])
    return ((image.float() * std + mean).clamp(0, 1) * 255).round().to(torch.uint8).permute(1, 2, 0).numpy()


def enlarged(values: Tensor, patch: int) -> NDArray[Any]:
    """Values (h, w) of patches as pixels (P h, P w)."""
    return values.numpy().repeat(patch, 0).repeat(patch, 1)


def one_colour(number: int) -> Picture:
    """A palette (256, 3) in which label 1 has the colour of a head."""
    palette = voc_palette().copy()
    palette[1] = palette[number % 20 + 1]
    return palette
