"""Dense CRF of many images: one after the other with all classes, or two processes with those that matter."""

from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from measuring import Benchmark
from numpy.typing import NDArray
from torch.nn import functional as F

from common.files import read_labels, write_image
from common.synthetic import SceneOptions, make_scenes
from maskdistill.segmentation.crf_pool import CrfJob, crf_labels, start_crf_pool, write_crf

PROCESSES = 2


def build(tiny: bool) -> Benchmark:
    """Sixteen scenes of 240 x 320 with 21 classes."""
    num, height, width, C = (2, 32, 40, 5) if tiny else (16, 240, 320, 21)
    folder = TemporaryDirectory()
    jobs = _jobs(Path(folder.name), num, height, width, C)
    pools: list[ProcessPoolExecutor] = []

    def textbook() -> list[NDArray[np.uint8]]:
        assert folder.name  # either form keeps the folder: in a process of its own it is all that is left
        return [crf_labels(job) for job in jobs]

    def ours() -> list[NDArray[np.uint8]]:
        assert folder.name
        if not pools:  # started in the call that is not timed: the libraries' code is loaded once for a data set
            pools.append(start_crf_pool(PROCESSES))
        list(pools[0].map(write_crf, jobs))
        return [read_labels(job.out).astype(np.uint8) for job in jobs]

    def check(expected: list[NDArray[np.uint8]], found: list[NDArray[np.uint8]]) -> None:
        for one, other in zip(expected, found, strict=True):
            assert np.array_equal(one, other)

    step = f"CRF of {num} images {height} x {width}, {C} classes: {PROCESSES} processes instead of one"
    return Benchmark(step, textbook, ours, check, frames=num, other_processes=True)


def _jobs(folder: Path, num: int, height: int, width: int, C: int) -> list[CrfJob]:
    jobs = []
    scenes = make_scenes(SceneOptions(out=folder, height=height, width=width, num_classes=4, void_px=0), range(num))
    for index, scene in enumerate(scenes):
        write_image(folder / f"{index}.png", scene.image)
        labels = torch.from_numpy(scene.semantic.astype(np.int64))
        logits = 6.0 * F.one_hot(labels, C).permute(2, 0, 1)[None].float()
        low = F.interpolate(logits, size=(-(-height // 8), -(-width // 8)), mode="bilinear")[0]
        noisy = (low + torch.randn(low.shape)).numpy()
        jobs.append(CrfJob(folder / f"{index}.png", folder / f"{index}_labels.png", noisy, (height, width), 0.0))
    return jobs
