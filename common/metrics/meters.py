"""The metrics as torchmetrics classes: state of fixed size, summed over batches and processes.

Each class counts on the tensors' device and leaves the arithmetic to the numpy functions of its namesake's file. This
is the only file here that imports torchmetrics, whose import takes seconds that an evaluation of files need not pay.
"""

from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor
from torchmetrics import Metric

from common.metrics.ari import adjusted_rand_index, adjusted_rand_index_foreground, has_foreground
from common.metrics.confusion import checked_size, class_iou, mean_over_classes
from common.metrics.hungarian import Ties, Unmatched, miou_hungarian_dataset, miou_hungarian_image
from common.metrics.jaccard import binary_jaccard


def contingency_batch(
    predicted: Tensor,
    target: Tensor,
    *,
    num_predicted: int | None = None,
    num_classes: int | None = None,
    ignore_index: int | None = 255,
) -> Tensor:
    """One table per image of a batch, in one pass on the tensors' device.

    Args:
        predicted: Integer labels (B, ...).
        target: Integer labels of the same shape.
        num_predicted: See :func:`~common.metrics.confusion.contingency`.
        num_classes: See :func:`~common.metrics.confusion.contingency`.
        ignore_index: See :func:`~common.metrics.confusion.contingency`.

    Returns:
        int64 (B, K, C).
    """
    if predicted.shape != target.shape:
        raise ValueError(f"label maps of shapes {tuple(predicted.shape)} and {tuple(target.shape)} cannot be compared")
    void = None if ignore_index is None else target == ignore_index
    rows = checked_size("num_predicted", *_span(predicted, void, num_predicted), num_predicted)
    columns = checked_size("num_classes", *_span(target, void, num_classes), num_classes)
    B, size = len(target), rows * columns
    index = (
        predicted.to(torch.int32 if B * size < 2**31 - 1 else torch.int64) * columns
    )  # half the memory to go through
    index.add_(target)
    index.add_((torch.arange(B, device=index.device, dtype=index.dtype) * size).view(B, *[1] * (index.dim() - 1)))
    if void is not None:  # one bin more for them all: to select the others would take longer than to count
        index.masked_fill_(void, B * size)
    return torch.bincount(index.flatten(), minlength=B * size + 1)[: B * size].view(B, rows, columns)


def _span(labels: Tensor, void: Tensor | None, size: int | None) -> tuple[int, int]:
    """Smallest and largest label of a pixel that counts, 0 taken for one that does not."""
    if not labels.numel():
        return 0, (size or 1) - 1
    low, high = (int(bound) for bound in torch.aminmax(labels))
    if void is None or (size is not None and low >= 0 and high < size):
        return low, high
    low, high = (int(bound) for bound in torch.aminmax(labels.masked_fill(void, 0)))
    return low, high


class ImageMean(Metric):
    """Mean of one score per image, over a whole data set.

    The sum is an integer in steps of 2**-32: integer sums do not depend on their order, so one process and many agree
    to the last bit, and devices without float64 need none. Scores lie within [-1, 1]; 2**30 images fit.

    >>> mean = ImageMean()
    >>> mean.update([0.25, 0.75])
    >>> float(mean.compute())
    0.5
    """

    full_state_update = False
    higher_is_better = True
    _STEPS = 2.0**32

    total: Tensor
    count: Tensor

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.add_state("total", default=torch.tensor(0, dtype=torch.int64), dist_reduce_fx="sum")
        self.add_state("count", default=torch.tensor(0, dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, scores: ArrayLike) -> None:
        """Add the scores (B,) of a batch of images."""
        self.add_scores(scores)

    def add_scores(self, scores: ArrayLike) -> None:
        """Add finite scores (B,); sub-classes compute them in their own ``update``."""
        values = np.asarray(scores, dtype=np.float64).ravel()
        if not np.isfinite(values).all():
            raise ValueError("a score per image must be finite: leave undefined images out before adding")
        self.total += int(np.rint(values * self._STEPS).astype(np.int64).sum())
        self.count += values.size

    def compute(self) -> Tensor:
        """The mean, float32; NaN when no image was added."""
        if int(self.count) == 0:
            return torch.tensor(torch.nan, device=self.total.device)
        mean = int(self.total) / self._STEPS / int(self.count)
        return torch.tensor(mean, dtype=torch.float32, device=self.total.device)


class MeanJaccard(ImageMean):
    """Mean IoU of one mask per image, over a whole data set (``j_mean_frames``).

    >>> metric = MeanJaccard()
    >>> metric.update(torch.ones(2, 4, 4, dtype=torch.bool), torch.ones(2, 4, 4, dtype=torch.bool))
    >>> float(metric.compute())
    1.0
    """

    def update(self, predicted: Tensor, target: Tensor, void: Tensor | None = None) -> None:  # type: ignore[override]
        """Add boolean masks (B, H, W)."""
        self.add_scores(binary_jaccard(predicted, target, void).cpu().numpy())


class ConfusionMatrix(Metric):
    """The table of predicted by true labels, summed over a data set.

    ``compute`` gives the int64 table (K, C); :func:`class_iou` and its neighbours turn it into scores. This is not
    torchmetrics' ``MeanIoU``, which averages per sample.

    >>> metric = ConfusionMatrix(num_classes=2)
    >>> metric.update(torch.tensor([[0, 1, 1]]), torch.tensor([[0, 1, 255]]))
    >>> metric.compute().tolist()
    [[1, 0], [0, 1]]
    """

    full_state_update = False
    higher_is_better: bool | None = None
    counts: Tensor

    def __init__(
        self, num_classes: int, num_predicted: int | None = None, ignore_index: int | None = 255, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        self.num_classes = num_classes
        self.num_predicted = num_classes if num_predicted is None else num_predicted
        self.ignore_index = ignore_index
        shape = (self.num_predicted, num_classes)
        self.add_state("counts", default=torch.zeros(shape, dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, predicted: Tensor, target: Tensor) -> None:
        """Add integer label maps of equal shape (B, ...)."""
        self.counts += contingency_batch(
            predicted[None],
            target[None],
            num_predicted=self.num_predicted,
            num_classes=self.num_classes,
            ignore_index=self.ignore_index,
        )[0]

    def compute(self) -> Tensor:
        """The table (K, C)."""
        return self.counts


class MeanIoU(ConfusionMatrix):
    """Mean IoU of the classes pooled over a data set, labels taken as they are (``miou_dataset_none``)."""

    higher_is_better = True

    def __init__(
        self,
        num_classes: int,
        ignore_index: int | None = 255,
        absent: Literal["left_out", "zero"] = "left_out",
        **kwargs: Any,
    ) -> None:
        super().__init__(num_classes, ignore_index=ignore_index, **kwargs)
        self.absent = absent

    def compute(self) -> Tensor:
        """The mean IoU, float32."""
        value = mean_over_classes(class_iou(self.counts.cpu().numpy()), self.absent)
        return torch.tensor(value, dtype=torch.float32, device=self.counts.device)


class DatasetHungarianMeanIoU(ConfusionMatrix):
    """``miou_dataset_hungarian``: one matching for the whole data set, then the mean IoU over classes."""

    higher_is_better = True

    def __init__(
        self,
        num_classes: int,
        num_predicted: int | None = None,
        unmatched: Unmatched = "error",
        ignore_index: int | None = 255,
        **kwargs: Any,
    ) -> None:
        super().__init__(num_classes, num_predicted, ignore_index, **kwargs)
        self.unmatched = unmatched

    def compute(self) -> Tensor:
        """The mean IoU, float32."""
        value = miou_hungarian_dataset(self.counts.cpu().numpy(), self.unmatched)
        return torch.tensor(value, dtype=torch.float32, device=self.counts.device)


class ImageHungarianMeanIoU(ImageMean):
    """``miou_image_hungarian``: one matching per image, then the mean over images."""

    def __init__(self, ignore_index: int | None = 255, ties: Ties = "most_pairs", **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.ignore_index = ignore_index
        self.ties = ties

    def update(self, predicted: Tensor, target: Tensor) -> None:  # type: ignore[override]
        """Add integer label maps (B, ...)."""
        counts = contingency_batch(predicted, target, ignore_index=self.ignore_index)
        self.add_scores(miou_hungarian_image(counts.cpu().numpy(), self.ties))


class ImageAdjustedRandIndex(ImageMean):
    """``ari_image``, or ``ari_fg_image`` with ``foreground=True``: the mean over images.

    Args:
        foreground: Leave pixels out whose true label is ``background``.
        empty: Images without any foreground are left out, or count as 1; for ``foreground`` only.
        background: The background's true label.
        ignore_index: True label of void pixels.
        kwargs: For ``torchmetrics.Metric``.
    """

    def __init__(
        self,
        foreground: bool = False,
        empty: Literal["left_out", "one"] = "left_out",
        background: int = 0,
        ignore_index: int | None = 255,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.foreground = foreground
        self.empty = empty
        self.background = background
        self.ignore_index = ignore_index

    def update(self, predicted: Tensor, target: Tensor) -> None:  # type: ignore[override]
        """Add integer label maps (B, ...)."""
        counts = contingency_batch(predicted, target, ignore_index=self.ignore_index).cpu().numpy()
        if not self.foreground:
            self.add_scores(adjusted_rand_index(counts))
            return
        if self.empty == "left_out":
            counts = counts[has_foreground(counts, self.background)]
        self.add_scores(adjusted_rand_index_foreground(counts, self.background))
