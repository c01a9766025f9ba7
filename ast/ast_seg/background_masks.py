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

ALPHA_1 = 96 / 255
ALPHA_2 = 7.0
CLEANED_FROM = 400
"""Pixels of a side from which on masks are cleaned by morphology."""


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
    clean_masks: bool | None = None,
) -> ForegroundMasks:
    """Where an image differs from its background by more than the background's own error and light explain.

    Args:
        images: (B, 3, H, W) in 0..255.
        prediction: (B, 4, H, W) in 0..255, RGB and predicted error.
        alpha_1: Threshold as a share of the background's mean brightness.
        alpha_2: How many predicted errors to allow.
        clean_masks: Whether masks are cleaned by morphology; None: from 400 pixels a side on, as published.
    """
    if clean_masks is None:
        clean_masks = max(images.shape[-2:]) >= CLEANED_FROM
    background = prediction[:, :3]
    difference = to_bytes(0.333 * (images - background).abs().sum(1))
    noise = to_bytes(prediction[:, 3])
    brightness = background.detach().mean((1, 2, 3)).cpu().numpy()[:, None, None]
    excess = np.maximum(0.0, difference - alpha_2 * noise)
    thresholded = (255 * (3 * excess > alpha_1 * brightness)).astype(np.uint8)
    masks = np.stack([clean(mask) for mask in thresholded]) if clean_masks else thresholded
    return ForegroundMasks(masks, thresholded, difference, noise)


def clean(mask: Bytes) -> Bytes:
    """Close gaps of 5 x 5 and drop specks of 7 x 7 in a 0/255 mask (H, W)."""
    closed = cv2.morphologyEx(mask, cv2.MORPH_CLOSE, np.ones((5, 5), np.uint8))
    return cv2.morphologyEx(closed, cv2.MORPH_OPEN, np.ones((7, 7), np.uint8)).astype(np.uint8)
