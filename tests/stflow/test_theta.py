import itertools

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from common.errors import InputError
from stflow import theta as theta_module
from stflow.coherence import DISTANCES, coherence_loss
from stflow.motion import motion_model, parametric_flow
from stflow.theta import SOLVERS, fit_theta

MODELS = ("Affine", "AffinePT", "QuadraticPlanar", "QuadraticPlanarPT16", "QuadraticFull", "QuadraticFullPT")


def two_motions(name="QuadraticFullPT", noise=0.0, seed=0, B=2):
    """Flow of two segments, left and right, with the thetas and the segmentation that made it."""
    g = torch.Generator().manual_seed(seed)
    truth = torch.randn(B, 2, motion_model(name).num_parameters, generator=g)
    param_flow = parametric_flow(truth, name, 3, 10, 12)
    pred = torch.zeros(B, 2, 3, 10, 12)
    pred[:, 0, ..., :6] = 1
    pred[:, 1, ..., 6:] = 1
    flow = (pred[:, :, None] * param_flow).sum(1)
    return pred, flow + noise * torch.randn(flow.shape, generator=g), truth


@pytest.mark.parametrize(("name", "solver"), list(itertools.product(MODELS, SOLVERS)))
def test_exact_motions_are_recovered(name, solver):
    pred, flow, truth = two_motions(name)
    torch.testing.assert_close(fit_theta(pred, flow, name, solver=solver), truth, rtol=2e-3, atol=2e-3)


@pytest.mark.parametrize("name", MODELS)
def test_weighted_least_squares_equal_a_direct_solution(name):
    g = torch.Generator().manual_seed(1)
    pred = torch.rand(1, 1, 3, 6, 8, generator=g)
    flow = torch.randn(1, 2, 3, 6, 8, generator=g)
    grid = motion_model(name).basis(3, 6, 8).double().flatten(0, 3)
    root = pred[0, 0].double().sqrt().flatten().repeat(2)
    expected = torch.linalg.lstsq(root[:, None] * grid, root * flow[0].double().flatten()).solution
    torch.testing.assert_close(fit_theta(pred, flow, name, solver="ols")[0, 0].double(), expected, rtol=1e-4, atol=1e-4)


def test_l1_ignores_outliers():
    pred, flow, truth = two_motions("Affine")
    flow[:, :, :, 0] += 20  # a tenth of the rows
    robust = (fit_theta(pred, flow, "Affine", "pieceFit") - truth).abs().max()
    assert robust < 0.02 < (fit_theta(pred, flow, "Affine", solver="ols") - truth).abs().max()


@pytest.mark.parametrize(("loss", "distance"), list(itertools.product(("pieceFit", "pieceFitScale"), DISTANCES)))
def test_irls_is_no_worse_than_lbfgs(loss, distance):
    pred, flow, _ = two_motions(noise=0.5)
    pred = 0.9 * pred + 0.05
    flow[:, :, 2] *= 4  # frames of unlike speed

    def value(solver):
        theta = fit_theta(pred, flow, "AffinePT", loss, distance, solver)
        return coherence_loss(pred, flow, parametric_flow(theta, "AffinePT", 3, 10, 12), loss, distance).mean()

    assert value("irls") <= value("lbfgs") * 1.005


def hard_cases():
    pred, flow, _ = two_motions(noise=0.1)
    yield "empty segment", pred * torch.tensor([1.0, 0.0]).view(1, 2, 1, 1, 1), flow
    pixel = torch.zeros_like(pred)
    pixel[:, 0, 1, 3, 4] = 1
    yield "one pixel", pixel, flow
    row = torch.zeros_like(pred)
    row[:, 0, :, 3] = 1
    yield "one row", row, flow
    yield "faint segment", pred * torch.tensor([1.0, 1e-30]).view(1, 2, 1, 1, 1), flow
    yield "subnormal segment", pred * torch.tensor([1.0, 1e-42]).view(1, 2, 1, 1, 1), flow
    yield "no motion", pred, torch.zeros_like(flow)
    yield "one frame without motion", pred, flow * torch.tensor([1.0, 0.0, 1.0]).view(1, 1, 3, 1, 1)
    yield "fast", pred, flow * 1e4
    yield "one frame", pred[:, :, :1], flow[:, :, :1]


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("name", ["QuadraticFullPT", "QuadraticPlanar"])
def test_hard_cases_stay_finite(solver, name):
    for what, pred, flow in hard_cases():
        theta = fit_theta(pred, flow, name, solver=solver)
        T, I, J = flow.shape[2:]  # noqa: E741
        loss = coherence_loss(pred, flow, parametric_flow(theta, name, T, I, J))
        assert theta.isfinite().all(), what
        assert loss.isfinite().all(), what
        empty = pred.flatten(2).sum(2) == 0
        assert not theta[empty].any(), what


def test_flow_that_is_not_finite_spoils_only_its_sample():
    pred, flow, truth = two_motions()
    flow[0, 0, 0, 0, 0] = float("nan")
    theta = fit_theta(pred, flow)
    assert theta.isfinite().all()
    torch.testing.assert_close(theta[1], truth[1], rtol=2e-3, atol=2e-3)


@pytest.mark.parametrize("solver", ["irls", "ols"])
def test_the_batch_equals_its_items_and_chunks_change_nothing(solver, monkeypatch):
    pred, flow, _ = two_motions(noise=0.3, B=3)
    whole = fit_theta(pred, flow, solver=solver)
    items = torch.cat([fit_theta(pred[b, None], flow[b, None], solver=solver) for b in range(3)])
    torch.testing.assert_close(whole, items, rtol=1e-3, atol=1e-4)
    monkeypatch.setattr(theta_module, "CHUNK_CPU", 1)
    torch.testing.assert_close(fit_theta(pred, flow, solver=solver), whole, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("solver", SOLVERS)
def test_order_of_segments_is_kept(solver):
    pred, flow, _ = two_motions(noise=0.3)
    flipped = fit_theta(pred.flip(1), flow, "Affine", "pieceFit", solver=solver).flip(1)
    torch.testing.assert_close(
        flipped, fit_theta(pred, flow, "Affine", "pieceFit", solver=solver), rtol=1e-2, atol=1e-2
    )


@pytest.mark.parametrize("solver", SOLVERS)
def test_no_graph_is_touched_and_inference_mode_works(solver):
    pred, flow, _ = two_motions(noise=0.3)
    expected = fit_theta(pred, flow, solver=solver)
    attached = fit_theta((pred.clone().requires_grad_() * 1.0), flow, solver=solver)
    assert not attached.requires_grad
    with torch.inference_mode():
        inside = fit_theta(pred * 1.0, flow * 1.0, solver=solver)
    with torch.autocast("cpu", torch.bfloat16):
        half = fit_theta(pred, flow, solver=solver)
    for found in (attached, inside, half):
        assert torch.equal(found, expected)


@pytest.mark.parametrize("name", ["QuadraticFullPT", "QuadraticPlanar"])
def test_irls_never_waits_for_a_value(name):
    pred, flow, _ = two_motions(noise=0.3)
    fit_theta(pred, flow, name)  # fills the caches of constants with real tensors
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:  # reading a value raises
        theta = fit_theta(mode.from_tensor(pred), mode.from_tensor(flow), name)
    assert theta.shape == (2, 2, motion_model(name).num_parameters)


def test_nothing_in_nothing_out():
    pred, flow, _ = two_motions()
    assert fit_theta(pred[:0], flow[:0]).shape == (0, 2, 24)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"solver": "adam"}, "theta_solver.*'adam'"),
        ({"model": "Cubic"}, "'Cubic'"),
        ({"v_distance": "l3"}, "v_distance.*'l3'"),
        ({"coherence_loss": "whole"}, "'whole'"),
    ],
)
@pytest.mark.parametrize("loss", ["pieceFit", "pieceFitScale"])
def test_mistakes_are_named(options, message, loss):
    pred, flow, _ = two_motions()
    with pytest.raises(InputError, match=message):
        fit_theta(pred, flow, **({"coherence_loss": loss} | options))
