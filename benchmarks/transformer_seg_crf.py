"""Dense CRF of a WNet prediction: the published 150 mean-field iterations beside our ten."""

import numpy as np
import torch
from measuring import Benchmark
from numpy.typing import NDArray
from torch.nn import functional as F

from common.toy_scenes import semantic_scene
from transformer_seg.wnet.crf import CrfOptions, refine

EQUAL_SHARE = 0.999  # of the labels


def build(tiny: bool) -> Benchmark:
    """A scene of 128 x 192, 20 segments."""
    H, W, K = (32, 48, 4) if tiny else (128, 192, 20)
    scene = semantic_scene(0, style="shaded", height=H, width=W)
    image = scene.image.transpose(2, 0, 1).astype(np.float32) / np.float32(255)
    noise = F.interpolate(torch.randn(1, K, H // 8, W // 8), (H, W), mode="bilinear")[0]
    classes = F.one_hot(torch.from_numpy(scene.semantic.astype(np.int64)), K).permute(2, 0, 1)
    maps = (3 * classes + noise).softmax(dim=0).numpy().astype(np.float32)

    def check(textbook: NDArray[np.float32], ours: NDArray[np.float32]) -> None:
        assert (textbook.argmax(0) == ours.argmax(0)).mean() >= EQUAL_SHARE

    return Benchmark(
        f"CRF of {H} x {W}, K {K}: 150 and 10 iterations",
        lambda: refine(maps, image, CrfOptions(iterations=150)),
        lambda: refine(maps, image, CrfOptions()),
        check,
        frames=1,
    )
