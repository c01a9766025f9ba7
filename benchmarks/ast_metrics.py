"""The published scores of a batch: masks compared pair by pair, beside `image_scores` on one table per image."""

import numpy as np
import torch
from ceilings import num_bytes
from measuring import Benchmark
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment
from sklearn.metrics import adjusted_rand_score
from torch import Tensor

from ast_seg.scores import image_scores

NAMES = ("mse", "miou", "ari", "ari_fg", "msc", "msc_fg", "scaled_sc", "scaled_sc_fg")


def build(tiny: bool) -> Benchmark:
    """Sixteen images of 128 x 128, ten slots."""
    batch, slots, side = (2, 3, 16) if tiny else (16, 10, 128)
    blobs = torch.nn.functional.interpolate(torch.randn(batch, slots + 1, 8, 8), (side, side), mode="bilinear")
    noise = torch.nn.functional.interpolate(torch.randn(batch, slots + 1, 8, 8), (side, side), mode="bilinear")
    targets = blobs.argmax(1)
    weights = (blobs + 0.5 * noise).softmax(1).transpose(0, 1)[:, :, None]
    images, reconstruction = torch.rand(2, batch, 3, side, side)

    def textbook() -> dict[str, NDArray[np.float64]]:
        return textbook_scores(images, reconstruction, weights, targets)

    def ours() -> dict[str, NDArray[np.float64]]:
        found = image_scores(images, reconstruction, weights, targets)
        return {name: np.asarray(getattr(found, name)) for name in NAMES}

    def check(textbook: dict[str, NDArray[np.float64]], ours: dict[str, NDArray[np.float64]]) -> None:
        for name in NAMES:
            np.testing.assert_allclose(ours[name], textbook[name], rtol=1e-5, err_msg=name)

    moved = num_bytes(images, reconstruction, weights, targets)
    step = f"scores of {batch} images of {side}x{side}, {slots} slots"
    return Benchmark(step, textbook, ours, check, frames=batch, least_bytes=moved)


def textbook_scores(
    images: Tensor, reconstruction: Tensor, weights: Tensor, targets: Tensor
) -> dict[str, NDArray[np.float64]]:
    """Every mask of one labelling against every mask of the other, image by image."""
    found: dict[str, list[float]] = {name: [] for name in NAMES}
    labels = weights[:, :, 0].argmax(0)
    for image, drawn, predicted, target in zip(images, reconstruction, labels, targets, strict=True):
        found["mse"].append(float((image - drawn).double().square().sum()))
        found["miou"].append(_matched(predicted, target, len(weights)))
        true, guess = target.flatten().numpy(), predicted.flatten().numpy()
        found["ari"].append(adjusted_rand_score(true, guess))
        found["ari_fg"].append(adjusted_rand_score(true[true > 0], guess[true > 0]))
        for suffix, least in (("", 0), ("_fg", 1)):
            kept = [label for label in target.unique().tolist() if label >= least]
            best = [max(_iou(predicted == other, target == label) for other in predicted.unique()) for label in kept]
            areas = [float((target == label).sum()) for label in kept]
            found[f"msc{suffix}"].append(float(np.mean(best)))
            found[f"scaled_sc{suffix}"].append(float(np.average(best, weights=areas)))
    return {name: np.array(values) for name, values in found.items()}


def _iou(one: Tensor, other: Tensor) -> float:
    union = float((one | other).sum())
    return float((one & other).sum()) / union if union else 0.0


def _matched(predicted: Tensor, target: Tensor, num_labels: int) -> float:
    iou = np.array([[_iou(predicted == p, target == t) for p in range(num_labels)] for t in range(num_labels)])
    rows, columns = linear_sum_assignment(iou, maximize=True)
    present = [bool((target == t).any() or (predicted == p).any()) for t, p in zip(rows, columns, strict=True)]
    return float(iou[rows, columns].sum() / sum(present))
