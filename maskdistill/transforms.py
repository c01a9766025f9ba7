"""Image and label map together through the published augmentations; OpenCV, whose rounding they were made with.

Images are RGB uint8 (H, W, 3), label maps uint8 (H, W). Uniform numbers in 0..1 come from outside, for instance
``numpy.random.default_rng(seed).random``; how many are drawn, and in which order, is part of the published transform.
"""

from collections.abc import Callable
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Image = NDArray[Any]
Labels = NDArray[Any]
Pair = tuple[Image, Labels]
Uniform = Callable[[], float]

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


def train_pascal(
    image: Image,
    labels: Labels,
    uniform: Uniform,
    *,
    size_px: int = 512,
    border_label: int = 0,
    max_rotation_deg: float = 5.0,
    max_scaling: float = 0.25,
) -> Pair:
    """The training transform: flip, rotation with scaling about the centre, fixed size (section 6.6, ``fblib_pascal``).

    Args:
        image: RGB.
        labels: Label map of the same size.
        uniform: Drawn three times: flip if below one half, rotation, scale.
        size_px: Side of the square result; the aspect is not kept.
        border_label: Label of what comes in from outside, black in the image. The published 0 makes it background,
            255 would make it void.
        max_rotation_deg: Largest rotation either way.
        max_scaling: Largest change of scale either way.

    Returns:
        The pair, not normalised.
    """
    flip, turn, scaling = uniform(), uniform(), uniform()
    if flip < 0.5:
        image, labels = flipped(image, labels)
    rotation_deg = 2 * max_rotation_deg * turn - max_rotation_deg
    scale = 1 + 2 * max_scaling * scaling - max_scaling
    H, W = image.shape[:2]
    matrix = cv2.getRotationMatrix2D((W / 2, H / 2), rotation_deg, scale)
    image = cv2.warpAffine(image, matrix, (W, H), flags=cv2.INTER_CUBIC)
    labels = cv2.warpAffine(labels, matrix, (W, H), flags=cv2.INTER_NEAREST, borderValue=border_label)
    return resized(image, labels, (size_px, size_px))


def train_vanilla(image: Image, labels: Labels, uniform: Uniform, *, size_px: int = 513) -> Pair:
    """The plain transform: random scale 0.5 to 2, random square crop, flip (section 6.6, ``vanilla_pascal``).

    Args:
        image: RGB.
        labels: Label map of the same size.
        uniform: Drawn for scale, top, left, flip; not for top and left if the scaled image has the crop's size.
        size_px: Side of the crop; an image that is smaller is first scaled up.

    Returns:
        The pair, not normalised.
    """
    factor = 0.5 + 1.5 * uniform()
    H, W = image.shape[:2]
    image, labels = resized(image, labels, (int(H * factor), int(W * factor)))
    H, W = image.shape[:2]
    if image.shape[:2] != (size_px, size_px):
        if min(H, W) < size_px:
            factor = size_px / min(H, W)
            image, labels = resized(image, labels, (int(factor * H + 1), int(factor * W + 1)))
            H, W = image.shape[:2]
        top, left = int(uniform() * (H - size_px)), int(uniform() * (W - size_px))
        window = np.s_[top : top + size_px, left : left + size_px]
        image, labels = image[window], labels[window]
    return flipped(image, labels) if uniform() < 0.5 else (image, labels)


def flipped(image: Image, labels: Labels) -> Pair:
    """The pair mirrored left to right."""
    return np.ascontiguousarray(image[:, ::-1]), np.ascontiguousarray(labels[:, ::-1])


def resized(image: Image, labels: Labels, size: tuple[int, int]) -> Pair:
    """The pair at ``size`` (rows, columns): the image bicubically, labels by nearest neighbour."""
    target = (size[1], size[0])
    return (
        cv2.resize(image, target, interpolation=cv2.INTER_CUBIC),
        cv2.resize(labels, target, interpolation=cv2.INTER_NEAREST),
    )


def normalise(image: Image) -> Tensor:
    """An RGB image (H, W, 3) in 0..255 as float32 (3, H, W) with ImageNet statistics."""
    values = torch.tensor(np.ascontiguousarray(image)).permute(2, 0, 1).float() / 255.0
    mean, std = (torch.tensor(numbers)[:, None, None] for numbers in (IMAGENET_MEAN, IMAGENET_STD))
    return (values - mean) / std
