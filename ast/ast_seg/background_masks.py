"""From a background prediction to 8-bit pictures and the foreground mask of the background stage.

Source: arXiv 2112.08001; the constants and the truncation are those of the published code.
"""

from dataclasses import dataclass
from typing import Literal

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Bytes = NDArray[np.uint8]
Rounding = Literal["trunc", "round"]
Cleaning = Literal["published", "none", "morphology", "median"]

ALPHA_1 = 96 / 255
ALPHA_2 = 7.0
CLEANED_FROM = 400
"""Pixels of a side from which on masks are cleaned by morphology."""
MEDIAN_SHARE = 35
"""Longer side over the window of the median."""


@dataclass(frozen=True)
class ForegroundMasks:
    """Masks of a batch and what they come from, uint8 (B, H, W) each."""

    masks: Bytes
    """0 or 255."""
    thresholded: Bytes
    """0 or 255, before morphology."""
    difference: Bytes
    """Mean absolute difference of image and background."""
    noise: Bytes
    """Predicted error."""


def to_bytes(values: Tensor, rounding: Rounding = "trunc") -> Bytes:
    """uint8 of values in 0..255; ``trunc`` is what the published code does and loses half a level on average."""
    values = values.detach().clamp(0, 255)
    return (values.round() if rounding == "round" else values).to(torch.uint8).cpu().numpy()


def foreground_masks(
    images: Tensor,
    prediction: Tensor,
    *,
    alpha_1: float = ALPHA_1,
    alpha_2: float = ALPHA_2,
    cleaning: Cleaning = "published",
) -> ForegroundMasks:
    """Where an image differs from its background by more than the background's own error and light explain.

    Args:
        images: (B, 3, H, W) in 0..255.
        prediction: (B, 4, H, W) in 0..255, RGB and predicted error.
        alpha_1: Threshold as a share of the background's mean brightness.
        alpha_2: How many predicted errors to allow.
        cleaning: See :func:`clean`.
    """
    background = prediction[:, :3]
    difference = to_bytes(0.333 * (images - background).abs().sum(1))
    noise = to_bytes(prediction[:, 3])
    brightness = background.detach().mean((1, 2, 3)).cpu().numpy()[:, None, None]
    excess = np.maximum(0.0, difference - alpha_2 * noise)
    thresholded = (255 * (3 * excess > alpha_1 * brightness)).astype(np.uint8)
    masks = np.stack([clean(mask, cleaning) for mask in thresholded])
    return ForegroundMasks(masks, thresholded, difference, noise)


def clean(mask: Bytes, cleaning: Cleaning = "published") -> Bytes:
    """A 0/255 mask (H, W) without small gaps and specks.

    Args:
        mask: The mask.
        cleaning: ``morphology`` closes gaps of 5 x 5 and drops specks of 7 x 7 pixels; ``published`` does so from 400
            pixels a side on, and else nothing; ``median`` lets the majority decide in a window of about a
            thirty-fifth of the longer side, which is kinder to small objects than morphology.
    """
    longer = max(mask.shape)
    if cleaning == "morphology" or (cleaning == "published" and longer >= CLEANED_FROM):
        closed = cv2.morphologyEx(mask, cv2.MORPH_CLOSE, np.ones((5, 5), np.uint8))
        return cv2.morphologyEx(closed, cv2.MORPH_OPEN, np.ones((7, 7), np.uint8)).astype(np.uint8)
    if cleaning == "median":
        return np.asarray(cv2.medianBlur(mask, 2 * round(longer / MEDIAN_SHARE / 2) + 1), np.uint8)
    return mask
