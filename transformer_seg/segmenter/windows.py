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
CLASSES_AT_ONCE = 10


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


def window_scores(network: Network, image: Tensor, windows: Windows) -> Tensor:
    """Scores (N, K, size, size) of all windows of a view (1, 3, h, w), none of whose sides is below a window."""
    side = windows.size
    places = window_anchors((image.shape[-2], image.shape[-1]), windows)
    crops = torch.cat([image[..., row : row + side, column : column + side] for row, column in places])
    return torch.cat([network(batch) for batch in crops.split(windows.batch_size)])


def merged(scores: Tensor, size: Size, windows: Windows) -> Tensor:
    """Mean (1, K, h, w) of the scores (N, K, size, size) of all windows that cover a pixel."""
    side = windows.size
    places = window_anchors(size, windows)
    if len(places) == 1:
        return scores
    logits = scores.new_zeros(1, scores.shape[1], *size)
    cover = scores.new_zeros(size)
    for (row, column), window in zip(places, scores, strict=True):
        logits[0, :, row : row + side, column : column + side] += window
        cover[row : row + side, column : column + side] += 1
    return logits.div_(cover)


def sliding_logits(network: Network, image: Tensor, windows: Windows) -> Tensor:
    """Mean logits (1, K, h, w) of a view (1, 3, h, w); see `window_scores` and `merged`."""
    return merged(window_scores(network, image, windows), (image.shape[-2], image.shape[-1]), windows)


def at_size(logits: Tensor, size: Size, mirrored: bool) -> Tensor:
    """Logits (K, H, W) at the original size, from those of a view (1, K, h, w), mirrored back."""
    resized = F.interpolate(logits, size=size, mode="bilinear", align_corners=False)[0]
    return resized.flip(-1) if mirrored else resized


def view_logits(network: Network, view: View, size: Size, windows: Windows) -> Tensor:
    """Logits (K, H, W) of a view at the original size, mirrored back."""
    return at_size(sliding_logits(network, fit_to_window(view.image, windows.size), windows), size, view.mirrored)


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
    """Most probable class of each pixel, int64 (H, W); the lowest one on a tie.

    A single view needs no softmax, so its classes are merged and resized a few at a time: the logits of all classes at
    the original size are never held.
    """
    if len(views) != 1:
        return class_probabilities(network, views, size, windows).argmax(dim=0)
    image = fit_to_window(views[0].image, windows.size)
    scores = window_scores(network, image, windows)
    best = scores.new_full(size, -torch.inf)
    labels = torch.zeros(size, dtype=torch.int64, device=scores.device)
    for first in range(0, scores.shape[1], CLASSES_AT_ONCE):
        part = merged(scores[:, first : first + CLASSES_AT_ONCE], (image.shape[-2], image.shape[-1]), windows)
        for index, logits in enumerate(at_size(part, size, views[0].mirrored), start=first):
            better = logits > best
            labels.masked_fill_(better, index)
            best = torch.where(better, logits, best)
    return labels
