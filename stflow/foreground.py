"""From segments to a foreground mask.

Every rule keeps some labels and drops the others, and decides by pixel counts alone: how large each segment is, how
much of it lies in the ground truth. The rules fair, optimax and optimax_exact look at the ground truth: a score after
them is that of an oracle, and has to say so. Symbols: B images, L labels, I rows, J columns.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from common.errors import InputError
from stflow.linking import cut, label_bits, pack


@dataclass(frozen=True)
class LabelCounts:
    """Pixel counts, int64.

    Attributes:
        size: Pixels of each label (B, L).
        overlap: Those of them inside the ground truth (B, L).
        gt: Pixels of the ground truth (B,).
    """

    size: Tensor
    overlap: Tensor
    gt: Tensor

    def pooled(self, groups: Tensor | None = None) -> "LabelCounts":
        """Counts of all images together, as of one image; or of each group's, given the group of every image (B,)."""
        if groups is None:
            return LabelCounts(self.size.sum(0, True), self.overlap.sum(0, True), self.gt.sum(0, True))
        count = int(groups.max()) + 1 if len(groups) else 0

        def pool(values: Tensor) -> Tensor:
            return values.new_zeros(count, *values.shape[1:]).index_add(0, groups, values)

        return LabelCounts(pool(self.size), pool(self.overlap), pool(self.gt))

    def __getitem__(self, images: Tensor) -> "LabelCounts":
        return LabelCounts(self.size[images], self.overlap[images], self.gt[images])


def label_counts(labels: Tensor, gt: Tensor | None, num_labels: int) -> LabelCounts:
    """Count labels in images.

    Args:
        labels: (B, I, J), integers from 0 to L-1.
        gt: Ground truth (B, I, J), true or non-zero is foreground; None counts as empty.
        num_labels: L.

    Raises:
        InputError: A label below 0, or of L or more.
    """
    gt = torch.zeros_like(labels, dtype=torch.bool) if gt is None else gt.bool()
    size, overlap = (_count_bits if labels.device.type == "cpu" else _count_codes)(labels, gt, num_labels)
    if (size.sum(1) != labels.shape[1] * labels.shape[2]).any():
        found = f"{int(labels.min())} to {int(labels.max())}"
        raise InputError(f"labels from {found} where there are {num_labels} segments")
    return LabelCounts(size, overlap, overlap.sum(1))


def _count_bits(labels: Tensor, gt: Tensor, num_labels: int) -> tuple[Tensor, Tensor]:
    """Size and overlap (B, L) of labels (B, I, J), several times faster than counting labels as numbers."""
    bits = label_bits(labels.numpy(), num_labels)
    inside = bits & pack(gt.numpy())[:, None]
    size, overlap = (np.bitwise_count(words).sum(-1, dtype=np.int64) for words in (bits, inside))
    return torch.from_numpy(size), torch.from_numpy(overlap)


def _count_codes(labels: Tensor, gt: Tensor, num_labels: int) -> tuple[Tensor, Tensor]:
    """As `_count_bits`, on the device of the labels."""
    codes = (labels.long() * 2 + gt).flatten(1).clamp(-1, 2 * num_labels)  # what is no label lands beside the counts
    rows = torch.arange(len(codes), device=codes.device)[:, None] * (2 * num_labels + 2)
    counts = torch.bincount((codes + 1 + rows).flatten(), minlength=len(codes) * (2 * num_labels + 2))
    outside, inside = counts.view(len(codes), -1)[:, 1:-1].unflatten(1, (num_labels, 2)).unbind(2)
    return outside + inside, inside


def num_labels_used(labels: Tensor) -> Tensor:
    """Distinct labels of each image, (B, I, J) to (B,): the mask usage of training logs."""
    ordered = labels.flatten(1).sort(dim=1).values
    return (ordered.diff(dim=1) != 0).sum(1) + 1


def union_iou(counts: LabelCounts, selected: Tensor) -> Tensor:
    """IoU of the selected segments' union with the ground truth.

    Args:
        counts: Counts of B images.
        selected: (B, L) bool.

    Returns:
        (B,) float64; nothing against nothing is 1.
    """
    inside = (counts.overlap * selected).sum(1)
    return _iou(inside, counts.gt + ((counts.size - counts.overlap) * selected).sum(1))


def _iou(overlap: Tensor, union: Tensor) -> Tensor:
    return torch.where(union > 0, overlap.double() / union.clamp_min(1), 1.0)


def except_biggest(counts: LabelCounts) -> Tensor:
    """All labels but the most frequent one, the smallest of equals: (B, L) bool."""
    return counts.size.argmax(1, keepdim=True) != _labels(counts)


def fair(counts: LabelCounts) -> Tensor:
    """Labels with more than half of their pixels inside the ground truth: (B, L) bool."""
    return 2 * counts.overlap > counts.size


def optimax_picks(counts: LabelCounts) -> Tensor:
    """Greedy choice of labels by the ground truth.

    L times, the label is picked whose addition to the union gives the highest IoU, the smallest of equals. Picking a
    member again adds nothing and means to stop; one label at least is always picked.

    Returns:
        Picks in order (B, L).
    """
    L = counts.size.shape[1]
    outside = counts.size - counts.overlap
    chosen = torch.zeros_like(counts.size, dtype=torch.bool)
    picks = []
    for _ in range(L):
        inside = (counts.overlap * chosen).sum(1, keepdim=True) + counts.overlap * ~chosen
        union = counts.gt[:, None] + (outside * chosen).sum(1, keepdim=True) + outside * ~chosen
        pick = _iou(inside, union).argmax(1)
        picks.append(pick)
        chosen = chosen | (pick[:, None] == _labels(counts))
    return torch.stack(picks, dim=1)


def optimax(counts: LabelCounts) -> Tensor:
    """Labels that `optimax_picks` picks: (B, L) bool."""
    return (optimax_picks(counts)[:, :, None] == _labels(counts)).any(1)


def optimax_exact(counts: LabelCounts) -> Tensor:
    """The subset of labels, or none, whose union has the highest IoU: (B, L) bool.

    The best subset is a prefix of the labels by falling ratio of pixels inside to pixels outside the ground truth.
    """
    outside = counts.size - counts.overlap
    order = (counts.overlap.double() / outside).nan_to_num(nan=0.0).argsort(dim=1, descending=True, stable=True)
    nothing = torch.zeros_like(counts.gt)[:, None]
    inside = torch.cat([nothing, counts.overlap.gather(1, order).cumsum(1)], dim=1)
    union = counts.gt[:, None] + torch.cat([nothing, outside.gather(1, order).cumsum(1)], dim=1)
    length = _iou(inside, union).argmax(1, keepdim=True)
    rank = order.argsort(dim=1)
    return rank < length


def _labels(counts: LabelCounts) -> Tensor:
    return torch.arange(counts.size.shape[1], device=counts.size.device)


RULES: dict[str, Callable[[LabelCounts], Tensor]] = {
    "exceptbiggest": except_biggest,
    "fair": fair,
    "optimax": optimax,
    "optimax_exact": optimax_exact,
}
ORACLES = ("fair", "optimax", "optimax_exact")


def mask_of(labels: Tensor, selected: Tensor) -> Tensor:
    """Pixels with a selected label: labels (B, I, J), selected (B, L) bool to (B, I, J) bool."""
    return selected.gather(1, labels.flatten(1).long()).view(labels.shape)


def foreground(labels: Tensor, gt: Tensor | None, num_labels: int, rule: str) -> Tensor:
    """Foreground mask of each image on its own.

    Args:
        labels: (B, I, J), 0 to L-1.
        gt: Ground truth (B, I, J); the rules in `ORACLES` need it.
        num_labels: L.
        rule: A key of `RULES`.

    Returns:
        (B, I, J) bool.

    Raises:
        InputError: Unknown rule, or a missing ground truth.
    """
    if rule not in RULES:
        raise InputError(f"binary_method: unknown rule {rule!r}, choose one of {', '.join(RULES)}, binarise_argmax")
    if gt is None and rule in ORACLES:
        raise InputError(f"binary_method {rule} needs ground truth: request GtMask, or use exceptbiggest")
    return mask_of(labels, RULES[rule](label_counts(labels, gt, num_labels)))


def resize_layers(pred: Tensor, size: tuple[int, int], antialias: bool = False) -> Tensor:
    """Bilinear resize of layers (B, L, I, J) to rows and columns, as published without antialiasing."""
    return F.interpolate(pred, size=size, mode="bilinear", align_corners=False, antialias=antialias)


def binarise_argmax(pred: Tensor) -> Tensor:
    """Foreground of two layers, background first: (B, 2, I, J) to (B, I, J) bool; a tie is background.

    Raises:
        InputError: Another number of layers.
    """
    if pred.shape[1] != 2:
        raise InputError(f"binary_method binarise_argmax needs 2 layers, got {pred.shape[1]}; use exceptbiggest")
    return pred[:, 1] > pred[:, 0]


def stat_masks(counts: LabelCounts) -> list[dict[str, int]]:
    """Counts of each image under the names of the evaluation's StatMasks column."""
    statistics = []
    for size, overlap, gt in zip(counts.size.tolist(), counts.overlap.tolist(), counts.gt.tolist(), strict=True):
        row = {"Size_Gt": gt}
        for label, (pixels, inside) in enumerate(zip(size, overlap, strict=True)):
            row |= {f"Overlap_{label}": inside, f"Size_{label}": pixels}
        statistics.append(row)
    return statistics


def dump_stat_masks(statistics: dict[str, int]) -> str:
    """One cell of the StatMasks column: JSON with ``|`` between items, so that it needs no quotes in a CSV."""
    return json.dumps(statistics, separators=("|", ":"))


def parse_stat_masks(cell: str) -> dict[str, int]:
    """The counts in a cell of the StatMasks column."""
    return {str(name): int(count) for name, count in json.loads(cell.replace("|", ",")).items()}


@dataclass(frozen=True)
class Selection:
    """Labels chosen for the annotated frames of a sequence.

    Attributes:
        frames: Indices of the annotated frames (R,), ascending.
        masks: Their foreground (R, I, J) bool.
        selected: Labels chosen in their chunk (R, L) bool.
        picks: Labels in the order that optimax picked them (R, L), None after another rule.
    """

    frames: Tensor
    masks: Tensor
    selected: Tensor
    picks: Tensor | None


def select_labels(
    labels: Tensor,
    gt: Tensor,
    annotated: Tensor | None = None,
    cut_size: int | None = None,
    num_labels: int | None = None,
    rule: str = "optimax",
    edge: int = 1,
) -> Selection:
    """Choose labels by the ground truth, once for each chunk of a sequence.

    The frames are cut as the windows were linked (the shortcut of `stflow.linking.cut`), then frames without ground
    truth are left out, and the pixels of a chunk's other frames pooled.

    Args:
        labels: Linked labels of all frames (F, I, J).
        gt: Ground truth (F, I, J), anything where there is none.
        annotated: Which frames have one (F,) bool; all by default.
        cut_size: Frames of a chunk; None or -1 for the whole sequence.
        num_labels: L; by default the largest label + 1.
        rule: optimax or optimax_exact.
        edge: Frames at either end that are no centre of a window.

    Raises:
        InputError: Unknown rule, bad cut size or label.
    """
    if rule not in ("optimax", "optimax_exact"):
        raise InputError(f"selection: unknown rule {rule!r}, choose one of optimax, optimax_exact")
    if annotated is None:
        annotated = torch.ones(len(labels), dtype=torch.bool)
    num_labels = num_labels or (int(labels.max()) + 1 if labels.numel() else 1)
    chunks = torch.empty(len(labels), dtype=torch.long)
    for number, chunk in enumerate(cut(len(labels), cut_size, shortcut=edge)):
        chunks[chunk] = number
    frames = annotated.nonzero().flatten()
    groups = chunks[frames].unique(return_inverse=True)[1]  # a chunk without any annotated frame is none
    labels, gt = (labels, gt) if len(frames) == len(labels) else (labels[frames], gt[frames])
    counts = label_counts(labels, gt, num_labels).pooled(groups)
    selected = RULES[rule](counts)[groups]
    picks = optimax_picks(counts)[groups] if rule == "optimax" else None
    return Selection(frames, mask_of(labels, selected), selected, picks)
