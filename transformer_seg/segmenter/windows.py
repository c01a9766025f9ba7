"""Inference in sliding windows, over one or several views of an image.

Symbols: K classes, H W pixels of the original, h w of a view.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from transformer_seg.segmenter.model import Segmenter

Size = tuple[int, int]
Network = Callable[[Tensor], Tensor]

SCALES = (0.5, 0.75, 1.0, 1.25, 1.5, 1.75)
"""Scales of the published multi-scale evaluation, each plain and mirrored."""
STRIP_VALUES = 2**22  # logits that are held at a time


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

    A single view needs no softmax. The way from the scores of a window's patches to the logits of the pixels (enlarge,
    average the windows that overlap, resize) is linear, and one matrix per axis: it is taken in one step, a strip of
    rows at a time, so that neither the logits of a window nor those of the picture are ever held.
    """
    if len(views) != 1:
        return class_probabilities(network, views, size, windows).argmax(dim=0)
    view = fit_to_window(views[0].image, windows.size)
    scores, cell = cell_scores(network, view, windows)
    h, w = view.shape[-2:]
    nh, nw = (len(anchors(length, windows.size, windows.stride)) for length in (h, w))
    joined = scores.unflatten(0, (nh, nw)).permute(0, 3, 1, 4, 2).flatten(2, 3).flatten(0, 1)  # (rows, columns, K)
    with torch.autocast(scores.device.type, enabled=False):
        across = axis_matrix(w, size[1], scores.shape[-1], cell, windows).to(scores.device)
        if views[0].mirrored:
            across = across.flip(0)
        down = axis_matrix(h, size[0], scores.shape[-2], cell, windows).to(scores.device)
        rows = max(1, STRIP_VALUES // (size[1] * scores.shape[1]))
        strips = [(across @ torch.tensordot(part, joined, 1)).argmax(dim=-1) for part in down.split(rows)]
    return torch.cat(strips)


def cell_scores(network: Network, image: Tensor, windows: Windows) -> tuple[Tensor, int]:
    """Scores (N, K, h, w) of the cells of all windows of a view, and the side of a cell in pixels.

    The cells of a Segmenter are its patches, those of any other network pixels.
    """
    if isinstance(network, Segmenter):
        return window_scores(network.token_logits, image, windows).float(), network.encoder.patch_size
    return window_scores(network, image, windows).float(), 1


def axis_matrix(length: int, wanted: int, cells: int, cell: int, windows: Windows) -> Tensor:
    """What the cells of all windows add to each pixel of the original, along one axis (wanted, windows * cells).

    Args:
        length: Pixels of the view.
        wanted: Pixels of the original.
        cells: Of a window.
        cell: Side of a cell in pixels.
        windows: See `Windows`.
    """
    places = anchors(length, windows.size, windows.stride)
    enlarged = _resized(torch.eye(cells), cells * cell)[: windows.size]  # (pixels of a window, cells)
    placed = torch.zeros(length, len(places), cells)
    for number, first in enumerate(places):
        placed[first : first + windows.size, number] = enlarged
    cover = torch.zeros(length)
    for first in places:
        cover[first : first + windows.size] += 1
    return _resized(placed.flatten(1) / cover[:, None], wanted)


def _resized(columns: Tensor, length: int) -> Tensor:
    """Each column (old, n) resized bilinearly to (length, n)."""
    return F.interpolate(columns.T[None], size=length, mode="linear", align_corners=False)[0].T
