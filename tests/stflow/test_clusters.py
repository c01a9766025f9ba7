"""The regulariser FlowClusters: what it clusters, and that it keeps segments alive."""

import cv2
import numpy as np
import pytest
import torch

from stflow.clusters import flow_clusters, flow_clusters_loss, standing_out
from stflow.losses import regularisation_terms
from stflow.motion import motion_model

SIZE = (3, 24, 40)


def scene(seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """A moving camera and two objects of their own motions: flow (1, 2, T, I, J), regions (T, I, J)."""
    generator = torch.Generator().manual_seed(seed)
    model = motion_model("QuadraticFullPT")
    theta = torch.rand(1, model.num_parameters, generator=generator) - 0.5
    flow = model.flow(theta, *SIZE) + 0.02 * torch.randn(1, 2, *SIZE, generator=generator)
    regions = torch.zeros(SIZE, dtype=torch.long)
    for label, (rows, columns, shift) in enumerate(
        [(slice(3, 9), slice(4, 14), (4.0, 0.0)), (slice(12, 20), slice(22, 34), (0.0, -4.0))], start=1
    ):
        regions[:, rows, columns] = label
        flow[0, :, :, rows, columns] += torch.tensor(shift)[:, None, None, None]
    return flow, regions


@pytest.mark.parametrize("seed", range(4))
def test_clusters_are_background_and_objects(seed: int) -> None:
    flow, regions = scene(seed)
    clusters = flow_clusters(flow, 3)[0]
    assert torch.equal(clusters == 0, regions == 0)
    for label in (1, 2):
        assert len(clusters[regions == label].unique()) == 1
    assert len(clusters.unique()) == 3


def test_clusters_do_not_depend_on_the_batch() -> None:
    flows = torch.cat([scene(seed)[0] for seed in range(3)])
    together = flow_clusters(flows, 4)
    for one, expected in zip(flows.split(1), together, strict=True):
        assert torch.equal(flow_clusters(one, 4)[0], expected)
    assert torch.equal(flow_clusters(flows, 4), together)


def test_threshold_is_otsus() -> None:
    rng = np.random.default_rng(0)
    values = np.abs(np.concatenate([rng.normal(1, 0.4, 700), rng.normal(6, 1.0, 200)])).astype(np.float32)
    levels = np.round(255 * (values / values.max()) ** 0.75).astype(np.uint8)
    expected = cv2.threshold(levels[None], 0, 1, cv2.THRESH_BINARY + cv2.THRESH_OTSU)[1][0] > 0
    assert np.array_equal(standing_out(torch.from_numpy(values)[None])[0].numpy(), expected)


@pytest.mark.parametrize("num_segments", [1, 2, 4, 6])
@pytest.mark.parametrize("kind", ["still", "constant", "scene"])
def test_loss_and_gradient_are_finite(kind: str, num_segments: int) -> None:
    flows = {"still": torch.zeros(2, 2, *SIZE), "constant": torch.ones(2, 2, *SIZE)}
    flow = flows.get(kind, scene(0)[0].repeat(2, 1, 1, 1, 1))
    logits = torch.randn(2, num_segments, *SIZE, generator=torch.Generator().manual_seed(1)).mul(40).requires_grad_()
    loss = regularisation_terms(logits.softmax(1), flow, {"FlowClusters": 1.0})["FlowClusters"]
    loss.sum().backward()
    assert loss.shape == (2,)
    assert loss.isfinite().all()
    assert logits.grad is not None
    assert logits.grad.isfinite().all()


def test_loss_is_zero_for_the_clusters_under_any_numbers() -> None:
    flow, _ = scene(0)
    clusters = torch.nn.functional.one_hot(flow_clusters(flow, 3), 3).movedim(-1, 1).float()
    for order in ([0, 1, 2], [2, 0, 1], [1, 0, 2]):
        assert flow_clusters_loss(clusters[:, order], flow).item() == pytest.approx(0, abs=1e-6)
    assert flow_clusters_loss(torch.full((1, 3, *SIZE), 1 / 3), flow).item() == pytest.approx(np.log(3), rel=1e-5)


def test_a_segment_without_weight_is_called_back() -> None:
    """Through the coherence loss alone its gradient is nothing."""
    flow, regions = scene(0)
    logits = torch.zeros(1, 3, *SIZE)
    logits[:, 2] = -20.0
    logits.requires_grad_()
    flow_clusters_loss(logits.softmax(1), flow).sum().backward()
    assert logits.grad is not None
    pull = -logits.grad[0, 2]
    assert pull[regions > 0].max() > 1e-4
