"""Inference in sliding windows, over one or several views of an image.

Symbols: K classes, H W pixels of the original, h w of a view.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

Size = tuple[int, int]
Network = Callable[[Tensor], Tensor]

SCALES = (0.5, 0.75, 1.0, 1.25, 1.5, 1.75)
"""Scales of the published multi-scale evaluation, each plain and mirrored."""


@dataclass(frozen=True)
class Windows:
    """How a view is cut up.

    Attributes:
        size: Side of a window in pixels.
        stride: Distance of neighbouring windows in pixels.
        batch_size: Windows that go through the network at once.
    """

    size: int
    stride: int
    batch_size: int = 8


@dataclass(frozen=True)
class View:
    """A resized, perhaps mirrored image.

    Attributes:
        image: Normalised (1, 3, h, w).
        mirrored: Left and right are swapped.
    """

    image: Tensor
    mirrored: bool = False


def keep_ratio_size(size: Size, long_side: float, short_side: float) -> Size:
    """(h, w) of the largest image of the same shape with sides of at most these lengths, rounded half up."""
    scale = min(long_side / max(size), short_side / min(size))
    return int(size[0] * scale + 0.5), int(size[1] * scale + 0.5)


def anchors(length: int, window: int, stride: int) -> list[int]:
    """First pixels of the windows along one axis; the last window ends with the image."""
    last = length - window
    return [*range(0, last, stride), last]


def window_anchors(size: Size, windows: Windows) -> list[Size]:
    """(row, column) of the first pixel of every window, row by row."""
    rows, columns = (anchors(length, windows.size, windows.stride) for length in size)
    return [(row, column) for row in rows for column in columns]


def fit_to_window(image: Tensor, window: int) -> Tensor:
    """The image (B, C, h, w), enlarged bilinearly until its short side fills the window; the other is rounded down."""
    h, w = image.shape[-2:]
    if min(h, w) >= window:
        return image
    size = (window, int(w * window / h)) if h < w else (int(h * window / w), window)
    return F.interpolate(image, size=size, mode="bilinear", align_corners=False)


def sliding_logits(network: Network, image: Tensor, windows: Windows) -> Tensor:
    """Mean logits (1, K, h, w) of all windows that cover a pixel of a view (1, 3, h, w), none smaller than a window."""
    h, w = image.shape[-2:]
    places = window_anchors((h, w), windows)
    side = windows.size
    crops = torch.cat([image[..., row : row + side, column : column + side] for row, column in places])
    logits: Tensor | None = None
    cover = image.new_zeros(h, w)
    for start in range(0, len(places), windows.batch_size):
        scores = network(crops[start : start + windows.batch_size])
        if logits is None:
            logits = scores.new_zeros(1, scores.shape[1], h, w)
        for (row, column), window in zip(places[start:], scores, strict=False):
            logits[0, :, row : row + side, column : column + side] += window
            cover[row : row + side, column : column + side] += 1
    assert logits is not None
    return logits if len(places) == 1 else logits.div_(cover)


def view_logits(network: Network, view: View, size: Size, windows: Windows) -> Tensor:
    """Logits (K, H, W) of a view at the original size, mirrored back."""
    logits = sliding_logits(network, fit_to_window(view.image, windows.size), windows)
    logits = F.interpolate(logits, size=size, mode="bilinear", align_corners=False)[0]
    return logits.flip(-1) if view.mirrored else logits


@torch.no_grad()
def class_probabilities(network: Network, views: Iterable[View], size: Size, windows: Windows) -> Tensor:
    """Mean class probabilities (K, H, W) over views, each resized before its softmax."""
    total, count = None, 0
    for view in views:
        probabilities = view_logits(network, view, size, windows).softmax(dim=0)
        total = probabilities if total is None else total.add_(probabilities)
        count += 1
    if total is None:
        raise ValueError("no view given")
    return total.div_(count)


@torch.no_grad()
def class_labels(network: Network, views: Sequence[View], size: Size, windows: Windows) -> Tensor:
    """Most probable class of each pixel, int64 (H, W); a single view needs no softmax."""
    if len(views) == 1:
        return view_logits(network, views[0], size, windows).argmax(dim=0)
    return class_probabilities(network, views, size, windows).argmax(dim=0)
