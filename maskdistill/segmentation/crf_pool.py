"""The dense CRF of label maps in a pool of processes.

A process of the pool imports this file, so it imports little: no Lightning.
"""

import multiprocessing
import os
import signal
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from common.allocation import keep_freed_memory
from common.files import read_image, write_labels
from maskdistill.crf import dense_crf
from maskdistill.model.deeplab import upsample


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
    upright: bool = False
    """Turn the image as its EXIF orientation says."""


def crf_labels(job: CrfJob) -> NDArray[np.uint8]:
    """The label map (H, W) of an image: logits to the network's input size, to the image's size, CRF, argmax."""
    logits = upsample(torch.from_numpy(job.logits)[None], job.side_px)[0]
    image = read_image(job.image, job.upright)
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
    keep_freed_memory()  # each mean-field step asks for the lattice's values anew
