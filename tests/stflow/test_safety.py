"""Flow that is still, constant or huge gives neither a NaN loss nor a NaN gradient."""

from typing import Any

import pytest
import torch
from torch import Tensor

from stflow.module import MotionSegmenter
from stflow.options import ModelOptions, UNetOptions

SIZE = (12, 16)


def module(**options: Any) -> MotionSegmenter:
    torch.manual_seed(0)
    unet = UNetOptions(num_layers=2, features_start=4)
    return MotionSegmenter(ModelOptions(nAffineMasks=3, unet=unet, **options), SIZE, 1)


def batch(flow: Tensor) -> dict[str, Any]:
    size = len(flow)
    return {
        "flow": flow,
        "gt": torch.full((size, *SIZE), 255, dtype=torch.uint8),
        "index": torch.arange(size),
        "path": ["a.flo"] * size,
        "weight": torch.ones(size, dtype=torch.float64),
    }


FLOWS = {
    "still": torch.zeros(2, 2, 3, *SIZE),
    "one still field": torch.cat([torch.zeros(2, 2, 1, *SIZE), torch.ones(2, 2, 2, *SIZE)], dim=2),
    "constant": torch.full((2, 2, 3, *SIZE), 3.0),
    "tiny": torch.full((2, 2, 3, *SIZE), 1e-20),
    "huge": 1e5 * torch.randn(2, 2, 3, *SIZE, generator=torch.Generator().manual_seed(0)),
}


@pytest.mark.parametrize("solver", ["irls", "ols", "lbfgs"])
@pytest.mark.parametrize("kind", FLOWS)
def test_loss_and_gradients_stay_finite(kind: str, solver: str) -> None:
    segmenter = module(theta_solver=solver)
    out = step(segmenter, batch(FLOWS[kind]))
    assert torch.isfinite(out).all()
    out.backward()
    for name, parameter in segmenter.named_parameters():
        assert parameter.grad is not None, name
        assert torch.isfinite(parameter.grad).all(), name


@pytest.mark.parametrize(
    "distance", ["squared", "l2", "l1", "charb", "l2_normed", "l2_normed_alt", "squared_normed_alt"]
)
def test_still_flow_under_every_distance(distance: str) -> None:
    segmenter = module(coherence_loss="pieceFit", v_distance=distance, theta_solver="irls")
    loss = step(segmenter, batch(FLOWS["still"]))
    loss.backward()
    assert torch.isfinite(loss)
    assert all(torch.isfinite(p.grad).all() for p in segmenter.parameters() if p.grad is not None)


def test_a_still_sample_does_not_touch_its_batch_mates() -> None:
    moving = torch.randn(1, 2, 3, *SIZE, generator=torch.Generator().manual_seed(1))
    segmenter = module().eval()
    with torch.no_grad():
        alone = segmenter.losses(segmenter(moving), moving).total
        both = torch.cat([moving, torch.zeros_like(moving)])
        together = segmenter.losses(segmenter(both), both).total
    torch.testing.assert_close(together[:1], alone)
    assert torch.isfinite(together).all()


def test_no_ground_truth_gives_no_score_but_a_loss() -> None:
    segmenter = module()
    step(segmenter, batch(FLOWS["constant"]))
    assert "jacc" not in segmenter.train_means.compute()
    assert torch.isfinite(segmenter.train_means.compute()["loss"])


def step(segmenter: MotionSegmenter, samples: dict[str, Any]) -> Tensor:
    """A training step with augmentation and perturbation as configured, without a Trainer."""
    return segmenter.training_step(samples, 0)["loss"]
