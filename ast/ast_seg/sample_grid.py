"""The stack of sample pictures of the published code: its colours, rows and order."""

import colorsys
from typing import Literal

import torch
from torch import Tensor

Palette = Literal["default", "seaborn"]

COLOURS = (
    (0, 0, 0),
    (255, 0, 0),
    (0, 128, 0),
    (0, 0, 255),
    (255, 255, 0),
    (141, 211, 199),
    (255, 255, 179),
    (190, 186, 218),
    (251, 128, 114),
    (128, 177, 211),
    (253, 180, 98),
    (179, 222, 105),
    (252, 205, 229),
    (217, 217, 217),
)
"""8-bit RGB of labels 0..13; label 0 is the background."""
NUM_DEFAULT = 40
HUE_OFFSET, LIGHTNESS, SATURATION = 0.01, 0.6, 0.65


def label_colours(num_slots: int, palette: Palette = "default") -> Tensor:
    """Colours of labels, background first: (P, 3) in [0, 1].

    Args:
        num_slots: K.
        palette: ``default``: 14 colours, then those but black again, 40 in all; ``seaborn``: black and K evenly spaced
            hues, the "hls" palette of that package.
    """
    if palette == "default":
        cycled = (COLOURS + 3 * COLOURS[1:])[:NUM_DEFAULT]
        return torch.tensor(cycled, dtype=torch.float32) / 255
    hues = [(i / num_slots + HUE_OFFSET) % 1 for i in range(num_slots)]
    return torch.tensor([(0.0, 0.0, 0.0), *(colorsys.hls_to_rgb(hue, LIGHTNESS, SATURATION) for hue in hues)])


def colour_labels(labels: Tensor, colours: Tensor) -> Tensor:
    """Pictures (B, 3, H, W) of integer labels (B, H, W); labels beyond the palette start again after black."""
    last = len(colours) - 1
    index = torch.where(labels > last, (labels - 1) % last + 1, labels)
    return colours[index.long()].movedim(-1, 1)


def sample_stack(
    images: Tensor,
    reconstruction: Tensor,
    weights: Tensor,
    foreground: Tensor | None = None,
    targets: Tensor | None = None,
    palette: Palette = "default",
) -> Tensor:
    """One picture after the other: inputs, true labels if any, reconstructions, predicted labels, foreground.

    Args:
        images: (B, 3, H, W) in [0, 1].
        reconstruction: (B, 3, H, W) in [0, 1].
        weights: (K+1, B, 1, H, W), background first.
        foreground: (B, 1, H, W) in [0, 1]; None gives a white row, as in the published sampling command.
        targets: True labels (B, H, W).
        palette: See :func:`label_colours`.

    Returns:
        (R * B, 3, H, W) for R rows; ``torchvision.utils.save_image(stack, nrow=B, pad_value=1)`` draws them.
    """
    colours = label_colours(len(weights) - 1, palette).to(images)
    last = torch.ones_like(images) if foreground is None else foreground.expand_as(images)
    rows = [images, reconstruction, colour_labels(weights.argmax(0)[:, 0], colours), last]
    if targets is not None:
        rows.insert(1, colour_labels(targets, colours))
    return torch.cat(rows)


def grid_order(num_pictures: int, columns: int = 4) -> Tensor:
    """The order (N,) in which the published sampling command puts the pictures of a stack into its grid."""
    return torch.arange(num_pictures).view(-1, columns).t().flatten()
