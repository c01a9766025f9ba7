"""Label maps of predicted images, with a dense CRF in a pool of processes where asked for."""

import multiprocessing
import os
import signal
from collections import deque
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytorch_lightning as pl
import torch
from numpy.typing import NDArray

from common.files import read_image, write_labels
from common.prediction import ItemWriter
from maskdistill.crf import dense_crf
from maskdistill.model.deeplab import upsample
from maskdistill.prediction import predicted_labels
from maskdistill.segmentation.module import Logits

PENDING_PER_WORKER = 4


@dataclass(frozen=True)
class LabelRule:
    """How logits become a label map."""

    crf: bool = False
    predict_resize: Literal["labels", "logits"] = "labels"
    crf_min_probability: float = 1e-3


@dataclass(frozen=True)
class CrfJob:
    """One image for the CRF."""

    image: Path
    out: Path
    logits: NDArray[np.float32]
    """(K, h, w) at the network's own resolution."""
    side_px: tuple[int, int]
    """Rows and columns of the network's input."""
    min_probability: float


def crf_labels(job: CrfJob) -> NDArray[np.uint8]:
    """The label map (H, W) of an image: logits to the network's input size, to the image's size, CRF, argmax."""
    logits = upsample(torch.from_numpy(job.logits)[None], job.side_px)[0]
    image = read_image(job.image, upright=False)
    return dense_crf(image, logits, job.min_probability).argmax(0).astype(np.uint8)


def write_crf(job: CrfJob) -> None:
    """Write ``crf_labels``."""
    write_labels(job.out, crf_labels(job))


def num_crf_workers(wanted: int | None) -> int:
    """Processes for the CRF: as wanted, else one per core; 0 where one process would only be in the way."""
    count = len(os.sched_getaffinity(0)) if wanted is None else wanted
    return 0 if count < 2 else count


def start_crf_pool(num_workers: int) -> ProcessPoolExecutor:
    """A pool for ``write_crf``; its processes are fresh ones, since threads and a GPU do not survive a fork."""
    context = multiprocessing.get_context("spawn")
    return ProcessPoolExecutor(num_workers, mp_context=context, initializer=_quiet_worker)


def _quiet_worker() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the first process ends the pool
    torch.set_num_threads(1)


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
                job = CrfJob(Path(batch["path"][row]), out, low, prediction.side_px, self.rule.crf_min_probability)
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
