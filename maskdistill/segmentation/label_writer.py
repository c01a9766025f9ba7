"""Label maps of predicted images, with a dense CRF in a pool of processes where asked for."""

from collections import deque
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pytorch_lightning as pl

from common.files import write_labels
from common.prediction import ItemWriter
from maskdistill.model.deeplab import upsample
from maskdistill.prediction import predicted_labels
from maskdistill.segmentation.crf_pool import CrfJob, start_crf_pool, write_crf
from maskdistill.segmentation.module import Logits

PENDING_PER_WORKER = 4


@dataclass(frozen=True)
class LabelRule:
    """How logits become a label map."""

    crf: bool = False
    predict_resize: Literal["labels", "logits"] = "labels"
    crf_min_probability: float = 1e-3
    upright: bool = False
    """Turn images as their EXIF orientation says."""


class LabelWriter(ItemWriter):
    """Writes the label map of each image as soon as it is known.

    Args:
        names: Label map of each position of the data set.
        rule: How logits become labels.
        num_workers: Processes for the CRF; 0 = this one.
    """

    def __init__(self, names: list[Path], rule: LabelRule, num_workers: int = 0) -> None:
        super().__init__()
        self.names, self.rule = names, rule
        self.num_workers = num_workers if rule.crf else 0
        self.pool: ProcessPoolExecutor | None = None
        self.pending: deque[Future[None]] = deque()

    def write(self, batch: Any, prediction: Logits) -> None:
        """Write the label maps of a batch, or hand them to the pool."""
        kept = [row for row, weight in enumerate(batch["weight"].tolist()) if weight > 0]
        logits = prediction.low if self.rule.crf else upsample(prediction.low, prediction.side_px)
        for row in kept:
            out = self.names[int(batch["index"][row])]
            if self.rule.crf:
                low = logits[row].float().cpu().numpy()
                job = CrfJob(
                    Path(batch["path"][row]),
                    out,
                    low,
                    prediction.side_px,
                    self.rule.crf_min_probability,
                    self.rule.upright,
                )
                self._submit(job)
            else:
                rows, columns = batch["size"][row].tolist()
                write_labels(out, predicted_labels(logits[row], (rows, columns), self.rule.predict_resize))

    def _submit(self, job: CrfJob) -> None:
        if not self.num_workers:
            write_crf(job)
            return
        if self.pool is None:
            self.pool = start_crf_pool(self.num_workers)
        while len(self.pending) >= PENDING_PER_WORKER * self.num_workers:  # logits wait in memory
            self.pending.popleft().result()
        self.pending.append(self.pool.submit(write_crf, job))

    def on_predict_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Wait for the pool, then for the other processes."""
        while self.pending:
            self.pending.popleft().result()
        if self.pool is not None:
            self.pool.shutdown()
        super().on_predict_end(trainer, pl_module)

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Let go of what has not begun."""
        if self.pool is not None:
            self.pool.shutdown(cancel_futures=True)
