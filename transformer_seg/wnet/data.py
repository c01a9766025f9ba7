"""Pictures as WNet sees them: square, in [0, 1]."""

import math

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from transformer_seg.images import Labels, Picture, Transform
from transformer_seg.wnet.options import WnetDataOptions

SCALES = (0.5, 1.0)  # share of the picture that a random resized crop keeps
RATIOS = (3 / 4, 4 / 3)  # its shape, columns to rows


class WnetTransforms:
    """Crop and flip in training; the whole picture resized in validation."""

    def __init__(self, options: WnetDataOptions) -> None:
        self.options = options

    def of_step(self, step: str) -> Transform:
        """See the class."""
        return self._train if step == "train" else self._whole

    def _whole(self, picture: Picture, labels: Labels, draw: torch.Generator) -> tuple[Tensor, Tensor]:
        return to_tensors(*resized(picture, labels, (self.options.image_size,) * 2))

    def _train(self, picture: Picture, labels: Labels, draw: torch.Generator) -> tuple[Tensor, Tensor]:
        side = self.options.image_size
        H, W = labels.shape
        if self.options.crop == "random":
            if min(H, W) < side:
                scale = side / min(H, W)
                H, W = max(side, round(H * scale)), max(side, round(W * scale))
                picture, labels = resized(picture, labels, (H, W))
            top, left, height, width = _integer(H - side, draw), _integer(W - side, draw), side, side
        elif self.options.crop == "random_resized":
            top, left, height, width = random_box(H, W, draw)
        else:
            top, left, height, width = 0, 0, H, W
        part = (slice(top, top + height), slice(left, left + width))
        picture, labels = resized(picture[part], labels[part], (side, side))
        if self.options.flip and uniform(0, 1, draw) < 0.5:
            picture, labels = picture[:, ::-1], labels[:, ::-1]
        return to_tensors(picture, labels)


def uniform(low: float, high: float, draw: torch.Generator) -> float:
    """A number between two others."""
    return low + (high - low) * float(torch.rand((), generator=draw, dtype=torch.float64))


def _integer(highest: int, draw: torch.Generator) -> int:
    """A whole number from 0 to ``highest``."""
    return int(torch.randint(highest + 1, (), generator=draw))


def random_box(H: int, W: int, draw: torch.Generator) -> tuple[int, int, int, int]:
    """Top, left, rows and columns of a part of an H x W picture, of ``SCALES`` of its area and of ``RATIOS``."""
    for _ in range(10):
        area = H * W * uniform(*SCALES, draw)
        ratio = math.exp(uniform(math.log(RATIOS[0]), math.log(RATIOS[1]), draw))
        height, width = round((area / ratio) ** 0.5), round((area * ratio) ** 0.5)
        if 0 < height <= H and 0 < width <= W:
            return _integer(H - height, draw), _integer(W - width, draw), height, width
    return 0, 0, H, W


def resized(picture: Picture, labels: Labels, size: tuple[int, int]) -> tuple[Picture, Labels]:
    """Both at (rows, columns): the picture bilinearly, averaged when shrinking, the labels by nearest neighbour."""
    if labels.shape == size:
        return picture, labels
    shrinks = labels.shape[0] > size[0] and labels.shape[1] > size[1]
    method = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    image = cv2.resize(picture, size[::-1], interpolation=method)
    rows, columns = (
        np.minimum(((np.arange(new) + 0.5) * old / new).astype(np.int64), old - 1)
        for new, old in zip(size, labels.shape, strict=True)
    )
    return np.asarray(image, np.uint8), labels[rows[:, None], columns]


def to_tensors(picture: Picture, labels: NDArray[np.int64]) -> tuple[Tensor, Tensor]:
    """Image float32 (3, H, W) in [0, 1] and labels int64 (H, W)."""
    image = torch.from_numpy(np.ascontiguousarray(picture.transpose(2, 0, 1))).float().div_(255)
    return image, torch.from_numpy(np.ascontiguousarray(labels))
