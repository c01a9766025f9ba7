"""Images for the attention network, and pictures of what it attends to.

Symbols: A heads, h w token grid, P patch size, H W pixels.
"""

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from transformer_seg.backbones import MEAN_STD

Picture = NDArray[np.uint8]


def attention_input(image: Picture, size: tuple[int, int], patch_size: int) -> Tensor:
    """A photo as the backbone wants it.

    Args:
        image: RGB (H, W, 3).
        size: (height, width) to resize to, bilinear with antialiasing.
        patch_size: The right and lower margins beyond whole patches are cut off.

    Returns:
        Normalised (3, height, width), both multiples of P.
    """
    height, width = size
    resized = Image.fromarray(image).resize((width, height), Image.Resampling.BILINEAR)
    mean, std = (torch.tensor(values)[:, None, None] for values in MEAN_STD["deit"])
    tensor = torch.from_numpy(np.array(resized)).permute(2, 0, 1).float() / 255
    tensor = (tensor - mean) / std
    return tensor[:, : height - height % patch_size, : width - width % patch_size]


def mean_attention(attention: Tensor, patch_size: int) -> Tensor:
    """Mean over heads of the class token's attention (A, h, w), each patch as P x P equal pixels (P h, P w)."""
    mean = attention.mean(dim=0)
    return mean.repeat_interleave(patch_size, 0).repeat_interleave(patch_size, 1)


def colour_map(
    values: NDArray[np.floating], name: str = "inferno", limits: tuple[float, float] | None = None
) -> Picture:
    """Values (H, W) in the colours of a matplotlib map, RGB (H, W, 3).

    Args:
        values: Finite.
        name: inferno in videos, viridis in pictures of single heads.
        limits: Values of the first and the last colour; None takes the least and the largest.
    """
    import matplotlib

    low, high = limits if limits is not None else (float(values.min()), float(values.max()))
    scaled = (values - low) / (high - low) if high > low else np.zeros_like(values)
    return matplotlib.colormaps[name](np.clip(scaled, 0, 1), bytes=True)[..., :3]
