"""The mean over images, kept so that any split of the work gives the same bits."""

from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor
from torchmetrics import Metric


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
