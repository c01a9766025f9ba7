"""Label propagation through a video by the similarity of features (arXiv 2104.14294, section 4.2.2; DAVIS-2017).

The first frame's labels and those found in the last few frames are mixed into each new one: every patch takes the soft
labels of its few most similar patches within a square neighbourhood.

Symbols: D width, C labels with background, h w token grid, S source frames, P patch size, R radius.
"""

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from common.errors import InputError

MEAN, STD = (0.485, 0.456, 0.406), (0.228, 0.224, 0.225)  # 0.228 and not 0.229, as in published results
MULTIPLE = 64  # of the longer side


@dataclass(frozen=True)
class PropagationOptions:
    """How labels travel.

    Attributes:
        previous_frames: Source frames besides the first one.
        radius: Sources are at most so many patches away in each direction; 0 takes all patches.
        top: Sources that count; ties with the last of them count too.
        temperature: Of the affinity exp(cosine / temperature).
    """

    previous_frames: int = 7
    radius: int = 12
    top: int = 5
    temperature: float = 0.1


class LabelPropagator:
    """Propagates labels frame by frame, holding features and labels of the sources only.

    Args:
        features: Of the first frame (D, h, w).
        labels: Its soft or one-hot labels (C, h, w).
        options: None takes the published ones.
    """

    def __init__(self, features: Tensor, labels: Tensor, options: PropagationOptions | None = None):
        self.options = options or PropagationOptions()
        self.first = (F.normalize(features, dim=0), labels)
        self.recent: deque[tuple[Tensor, Tensor]] = deque(maxlen=self.options.previous_frames)

    def step(self, features: Tensor) -> Tensor:
        """Soft labels (C, h, w) of the next frame, from its features (D, h, w)."""
        target = F.normalize(features, dim=0)
        sources = [self.first, *self.recent]
        labels = propagate(
            target,
            torch.stack([source for source, _ in sources]),
            torch.stack([labels for _, labels in sources]),
            self.options,
        )
        self.recent.append((target, labels))
        return labels


@torch.no_grad()
def propagate(target: Tensor, sources: Tensor, labels: Tensor, options: PropagationOptions) -> Tensor:
    """Soft labels of a frame.

    The work goes tile by tile, each compared only with the patches that its neighbourhoods reach, instead of one
    affinity of all pairs of patches.

    Args:
        target: Features of unit length (D, h, w).
        sources: Features of unit length (S, D, h, w).
        labels: Soft labels of the sources (S, C, h, w).
        options: See `PropagationOptions`.

    Returns:
        (C, h, w)
    """
    h, w = target.shape[-2:]
    found = labels.new_empty(labels.shape[1], h, w)
    for rows, columns in _tiles(h, w, options.radius):
        reach = _reach(rows, h, options.radius), _reach(columns, w, options.radius)
        near = neighbourhood(rows, columns, *reach, options.radius, target.device)
        seen = (slice(None), slice(None), slice(reach[0].start, reach[0].stop), slice(reach[1].start, reach[1].stop))
        tile = (slice(None), slice(rows.start, rows.stop), slice(columns.start, columns.stop))
        keys = sources[seen].transpose(0, 1).flatten(1)  # D, S patches
        scores = (target[tile].flatten(1).T / options.temperature) @ keys
        scores.unflatten(1, (len(sources), -1)).masked_fill_(~near[:, None], -torch.inf)
        mixed = _mix(scores, labels[seen].transpose(0, 1).flatten(1), options.top)
        found[tile] = mixed.unflatten(1, (len(rows), len(columns)))
    return found


def _mix(scores: Tensor, labels: Tensor, top: int) -> Tensor:
    """Labels (C, n) as the softmax over each row's best scores, ties with the last of them included.

    Args:
        scores: (n, M); -inf is no neighbour.
        labels: Of the sources (C, M).
        top: How many count.
    """
    best = scores.topk(min(top, scores.shape[1]), dim=1).values
    row, source = (scores >= best[:, -1:]).nonzero(as_tuple=True)  # few: all else is done on these alone
    weights = (scores[row, source] - best[row, 0]).exp()
    total = weights.new_zeros(len(scores)).index_add_(0, row, weights)
    mixed = labels.new_zeros(len(labels), len(scores))
    return mixed.index_add_(1, row, labels[:, source] * (weights / total[row]).to(labels.dtype))


def _tiles(h: int, w: int, radius: int) -> Iterator[tuple[range, range]]:
    """Squares as wide as the radius; single rows without a radius."""
    height, width = (max(radius, 4), max(radius, 4)) if radius else (1, w)
    for top in range(0, h, height):
        for left in range(0, w, width):
            yield range(top, min(top + height, h)), range(left, min(left + width, w))


def _reach(places: range, length: int, radius: int) -> range:
    return range(max(places.start - radius, 0), min(places.stop + radius, length)) if radius else range(length)


def neighbourhood(
    rows: range,
    columns: range,
    source_rows: range,
    source_columns: range,
    radius: int,
    device: torch.device | None = None,
) -> Tensor:
    """Which patches of one rectangle are neighbours of which of another: both distances at most the radius.

    Returns:
        bool (patches, source patches); all True for radius 0.
    """

    def near(first: range, second: range) -> Tensor:
        a, b = (torch.tensor(list(places), device=device) for places in (first, second))
        return (a[:, None] - b).abs() <= (radius or max(first.stop, second.stop))

    both = near(rows, source_rows)[:, None, :, None] & near(columns, source_columns)[None, :, None, :]
    return both.flatten(2).flatten(0, 1)


def first_labels(annotation: NDArray[np.integer], grid: tuple[int, int]) -> Tensor:
    """One-hot labels (C, h, w) of the first annotation (H, W), resized to the token grid by nearest neighbour.

    C counts up to the largest label of the whole annotation: an object that vanishes on the grid keeps its channel.
    """
    h, w = grid
    small = Image.fromarray(annotation.astype(np.uint8)).resize((w, h), Image.Resampling.NEAREST)
    indices = torch.from_numpy(np.array(small).astype(np.int64))
    return F.one_hot(indices, int(annotation.max()) + 1).permute(2, 0, 1).float()


def stretched(soft: Tensor) -> Tensor:
    """Each channel (C, H, W) from 0 to 1; one that is nowhere positive, or constant, stays as it is."""
    flat = soft.flatten(1)
    low, high = flat.amin(dim=1)[:, None, None], flat.amax(dim=1)[:, None, None]
    usable = (high > 0) & (high > low)
    return torch.where(usable, (soft - low) / torch.where(usable, high - low, 1), soft)


def enlarged(soft: Tensor, patch_size: int) -> Tensor:
    """Soft labels (C, h, w) at the size of the frame (C, P h, P w): bilinear, then each channel from 0 to 1."""
    h, w = soft.shape[-2:]
    size = (h * patch_size, w * patch_size)
    return stretched(F.interpolate(soft[None], size=size, mode="bilinear", align_corners=False)[0])


def hard_labels(soft: Tensor, patch_size: int) -> Tensor:
    """The strongest of the `enlarged` labels, uint8 (P h, P w), from soft ones (C, h, w)."""
    return enlarged(soft, patch_size).argmax(dim=0).to(torch.uint8)


def frame_size(size: tuple[int, int], short_side: int = 480) -> tuple[int, int]:
    """(height, width) of a frame for the network: the short side given, the long one a multiple of 64 below."""
    height, width = size
    long_side = int(short_side * max(size) / min(size) / MULTIPLE) * MULTIPLE
    return (short_side, long_side) if height <= width else (long_side, short_side)


def frame_input(frame: NDArray[np.uint8], short_side: int = 480) -> Tensor:
    """A frame, RGB (H, W, 3), resized and normalised as in published results: (3, height, width).

    Raises:
        InputError: The short side is too small for the network.
    """
    if short_side < MULTIPLE:
        raise InputError(f"short side {short_side} is below {MULTIPLE} pixels, use a larger one")
    height, width = frame_size((frame.shape[0], frame.shape[1]), short_side)
    resized = cv2.resize(frame, (width, height)).astype(np.float32) / 255
    mean, std = (torch.tensor(values)[:, None, None] for values in (MEAN, STD))
    return (torch.from_numpy(resized).permute(2, 0, 1) - mean) / std
