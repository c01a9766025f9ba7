"""Whether the methods do what they are for, on made scenes."""

import numpy as np
import pytest
import torch

from common.metrics.confusion import class_iou, contingency
from common.metrics.hungarian import match_one_to_one, relabel
from transformer_seg.wnet.alternation import alternating_iteration
from transformer_seg.wnet.crf import refine
from transformer_seg.wnet.model import WNet


def scenes(count: int, size: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Images (count, 3, size, size) in [0, 1] of a disc and a rectangle on a background, and their labels 0, 1, 2."""
    generator = np.random.default_rng(seed)
    y, x = np.mgrid[:size, :size]
    images, labels = [], []
    for _ in range(count):
        label = np.zeros((size, size), dtype=np.int64)
        top, left = generator.integers(2, size // 2, 2)
        height, width = generator.integers(size // 4, size // 2, 2)
        label[top : top + height, left : left + width] = 2
        cy, cx, radius = *generator.uniform(0.25 * size, 0.75 * size, 2), generator.uniform(0.12, 0.22) * size
        label[(y - cy) ** 2 + (x - cx) ** 2 < radius**2] = 1
        colours = np.array([(0.25, 0.45, 0.75), (0.85, 0.30, 0.25), (0.30, 0.75, 0.30)])
        colours = colours + generator.normal(0, 0.05, colours.shape)
        image = colours[label] + np.linspace(-0.05, 0.05, size)[:, None, None]
        images.append(np.clip(image + generator.normal(0, 0.03, image.shape), 0, 1).transpose(2, 0, 1))
        labels.append(label)
    return np.array(images, dtype=np.float32), np.array(labels)


def mean_score(maps: np.ndarray, labels: np.ndarray) -> float:
    """Mean over images of the matched mIoU; segments without a class are background, which may be split."""
    scores = []
    for q, truth in zip(maps, labels, strict=True):
        counts = contingency(q.argmax(0), truth, num_predicted=len(q), num_classes=3)
        scores.append(np.nanmean(class_iou(relabel(counts, match_one_to_one(counts), unmatched="background"))))
    return float(np.mean(scores))


@pytest.mark.slow
def test_wnet_finds_the_objects_of_simple_scenes():
    torch.manual_seed(0)
    images, labels = scenes(24, 48, seed=0)
    network = WNet(num_segments=4, width=8).train()
    optimiser = torch.optim.Adam(network.parameters(), lr=1e-3)
    generator = torch.Generator().manual_seed(0)
    data, losses = torch.from_numpy(images), []
    for _ in range(60):
        batches = torch.randperm(24, generator=generator).split(6)
        losses += [alternating_iteration(network, optimiser, data[batch]) for batch in batches]
    ncut, reconstruction = torch.tensor(losses[-8:]).mean(dim=0)
    assert ncut < 1.0
    assert reconstruction < 0.02
    with torch.no_grad():
        probabilities = network.eval().segment(data).softmax(1).numpy()

    refined = np.stack([refine(q, image) for q, image in zip(probabilities, images, strict=True)])
    assert mean_score(probabilities, labels) > 0.85
    assert mean_score(refined, labels) > 0.98
