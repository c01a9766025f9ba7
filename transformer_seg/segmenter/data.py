"""Pictures as Segmenter is trained on them: random size, crop, flip and colours, normalised (section 4 of the paper).

The steps and their order are those of the published training: resize keeping the shape, crop until no class fills more
than a share, flip, distort the colours, normalise, pad at the right and bottom.
"""

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from transformer_seg.backbones import MEAN_STD
from transformer_seg.images import VOID, Labels, Picture, Transform
from transformer_seg.segmenter.options import SegmenterDataOptions
from transformer_seg.segmenter.windows import keep_ratio_size

SCALE = (0.5, 2.0)
CROPS = 10  # that are tried
BRIGHTNESS, HUE = 32.0, 18.0
FACTORS = (0.5, 1.5)  # of contrast and saturation


class SegmenterTransforms:
    """Crops in training; in validation the whole picture, resized, with the class map as it is on disk.

    Args:
        options: Data options.
        normalisation: Key of ``MEAN_STD``.
    """

    def __init__(self, options: SegmenterDataOptions, normalisation: str) -> None:
        self.options, self.normalisation = options, normalisation
        low, high = options.random_scale or SCALE
        self.scale = (float(low), float(high))

    def of_step(self, step: str) -> Transform:
        """See the class."""
        return self._train if step == "train" else self._whole

    def _whole(self, picture: Picture, labels: Labels, draw: torch.Generator) -> tuple[Tensor, Tensor]:
        image = resized_picture(picture, self.options.image_size, self.options.max_ratio)
        return normalised(image, self.normalisation), torch.from_numpy(labels)

    def _train(self, picture: Picture, labels: Labels, draw: torch.Generator) -> tuple[Tensor, Tensor]:
        options, side = self.options, self.options.crop_size
        if options.augment:
            scale = uniform(*self.scale, draw)
            picture, labels = resized_pair(picture, labels, options.image_size * scale, options.max_ratio)
            top, left = random_corner(labels, side, options.cat_max_ratio, draw)
        else:
            picture, labels = resized_pair(picture, labels, options.image_size, options.max_ratio)
            top, left = 0, 0
        part = (slice(top, top + side), slice(left, left + side))
        picture, labels = picture[part], labels[part]
        if options.augment:
            if uniform(0, 1, draw) < 0.5 and options.flip:
                picture, labels = picture[:, ::-1], labels[:, ::-1]
            if options.distort:
                picture = distorted(np.ascontiguousarray(picture), draw)
        return padded(normalised(picture, self.normalisation), labels, side)


def uniform(low: float, high: float, draw: torch.Generator) -> float:
    """A number between two others."""
    return low + (high - low) * float(torch.rand((), generator=draw, dtype=torch.float64))


def _integer(highest: int, draw: torch.Generator) -> int:
    """A whole number from 0 to ``highest``."""
    return int(torch.randint(highest + 1, (), generator=draw))


def resized_picture(picture: Picture, short_side: float, max_ratio: float) -> Picture:
    """The picture (H, W, 3) with sides of at most ``short_side`` and ``max_ratio`` times it, its shape kept."""
    size = keep_ratio_size((picture.shape[0], picture.shape[1]), short_side * max_ratio, short_side)
    size = (max(size[0], 1), max(size[1], 1))
    if picture.shape[:2] == size:
        return picture
    return np.asarray(cv2.resize(picture, size[::-1], interpolation=cv2.INTER_LINEAR), np.uint8)


def resized_pair(picture: Picture, labels: Labels, short_side: float, max_ratio: float) -> tuple[Picture, Labels]:
    """As ``resized_picture``, with the class map by nearest neighbour."""
    small = resized_picture(picture, short_side, max_ratio)
    maps = cv2.resize(labels.astype(np.int32), small.shape[1::-1], interpolation=cv2.INTER_NEAREST)
    return small, np.asarray(maps, np.int64)


def random_corner(labels: Labels, side: int, cat_max_ratio: float, draw: torch.Generator) -> tuple[int, int]:
    """First row and column of a crop, redrawn while one class fills that share of its labelled pixels; 1: never."""
    H, W = labels.shape
    top = left = 0
    for _ in range(CROPS if cat_max_ratio < 1 else 1):
        top, left = _integer(max(H - side, 0), draw), _integer(max(W - side, 0), draw)
        part = labels[top : top + side, left : left + side]
        counts = np.bincount(part[part != VOID])
        if np.count_nonzero(counts) > 1 and counts.max() < cat_max_ratio * counts.sum():
            break
    return top, left


def distorted(picture: Picture, draw: torch.Generator) -> Picture:
    """Brightness, contrast, saturation and hue changed, each in every second picture; contrast before or after.

    Args:
        picture: uint8 (H, W, 3).
        draw: Random numbers.
    """
    chance = [uniform(0, 1, draw) < 0.5 for _ in range(5)]
    brightness, contrast = uniform(-BRIGHTNESS, BRIGHTNESS, draw), uniform(*FACTORS, draw)
    saturation, hue = uniform(*FACTORS, draw), uniform(-HUE, HUE, draw)
    before = chance[4]
    if chance[0]:
        picture = _to_bytes(picture + np.float32(brightness))
    if before and chance[1]:
        picture = _to_bytes(picture * np.float32(contrast))
    if chance[2] or chance[3]:
        hsv = cv2.cvtColor(picture, cv2.COLOR_RGB2HSV).astype(np.float32)
        if chance[2]:
            hsv[..., 1] = np.clip(hsv[..., 1] * saturation, 0, 255)
        if chance[3]:
            hsv[..., 0] = (hsv[..., 0] + hue) % 180
        picture = np.asarray(cv2.cvtColor(hsv.astype(np.uint8), cv2.COLOR_HSV2RGB), np.uint8)
    if not before and chance[1]:
        picture = _to_bytes(picture * np.float32(contrast))
    return picture


def _to_bytes(picture: NDArray[np.floating]) -> Picture:
    return np.clip(picture, 0, 255).astype(np.uint8)


def normalised(picture: Picture, normalisation: str) -> Tensor:
    """Network input float32 (3, H, W) of a picture (H, W, 3) uint8."""
    mean, std = (torch.tensor(values)[:, None, None] for values in MEAN_STD[normalisation])
    image = torch.from_numpy(np.ascontiguousarray(picture.transpose(2, 0, 1))).float().div_(255)
    return (image - mean) / std


def padded(image: Tensor, labels: Labels, side: int) -> tuple[Tensor, Tensor]:
    """Both at side x side: image by 0 after its normalisation, labels by void."""
    maps = torch.from_numpy(np.ascontiguousarray(labels))
    missing = (0, side - maps.shape[1], 0, side - maps.shape[0])
    return F.pad(image, missing), F.pad(maps, missing, value=VOID)
