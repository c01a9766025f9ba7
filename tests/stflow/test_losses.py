import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from common.errors import InputError
from stflow.coherence import DISTANCES, flow_scale
from stflow.losses import (
    coherence_loss,
    euler_potts_l1_r3,
    motion_coherence_loss,
    quantile,
    segmentation_losses,
    vector_distance,
)
from stflow.theta import fit_theta

COMBINATIONS = [(loss, distance) for loss in ("pieceFit", "pieceFitScale") for distance in DISTANCES]


def random_case(B=2, L=3, T=3, I=6, J=7, seed=0):  # noqa: E741
    g = torch.Generator().manual_seed(seed)
    pred = torch.randn(B, L, T, I, J, generator=g).softmax(1)
    flow = 3 * torch.randn(B, 2, T, I, J, generator=g) + 2
    return pred, flow, 3 * torch.randn(B, L, 2, T, I, J, generator=g)


def test_distances_of_a_3_4_5_triangle():
    a, b = torch.tensor([3.0, 0.0]), torch.tensor([0.0, 4.0])
    expected = {"squared": 25, "l2": 5, "l1": 7, "charb": 7, "l2_normed": 5 / 7, "l2_normed_alt": 5 / 4}
    for name, value in (expected | {"squared_normed_alt": 25 / 4}).items():
        torch.testing.assert_close(vector_distance(a, b, name), torch.tensor(float(value)))


def test_coherence_by_hand():
    # One frame of two pixels, flows (2, 0) and (0, 4); segment 0 claims (1, 0), segment 1 claims (0, 2).
    flow = torch.tensor([[2.0, 0.0], [0.0, 4.0]]).view(1, 2, 1, 1, 2)
    param_flow = torch.tensor([[1.0, 0.0], [0.0, 2.0]]).view(1, 2, 2, 1, 1, 1).expand(-1, -1, -1, 1, 1, 2)
    pred = torch.tensor([[1.0, 0.25], [0.0, 0.75]]).view(1, 2, 1, 1, 2)
    # l1 distances: pixel 0: 1 and 4, pixel 1: 5 and 2; weighted: 1 and 1.25 + 1.5
    torch.testing.assert_close(coherence_loss(pred, flow, param_flow, "pieceFit"), torch.tensor([(1 + 2.75) / 2]))
    torch.testing.assert_close(coherence_loss(pred, flow, param_flow), torch.tensor([(1 + 2.75) / 2 / 3]))


@pytest.mark.parametrize(("loss", "distance"), COMBINATIONS)
def test_order_of_segments_does_not_matter(loss, distance):
    pred, flow, param_flow = random_case()
    order = torch.tensor([2, 0, 1])
    torch.testing.assert_close(
        coherence_loss(pred[:, order], flow, param_flow[:, order], loss, distance),
        coherence_loss(pred, flow, param_flow, loss, distance),
    )


@pytest.mark.parametrize(("loss", "distance"), COMBINATIONS)
def test_the_batch_equals_its_items(loss, distance):
    pred, flow, param_flow = random_case(B=3)
    whole = coherence_loss(pred, flow, param_flow, loss, distance)
    items = [coherence_loss(pred[b, None], flow[b, None], param_flow[b, None], loss, distance) for b in range(3)]
    torch.testing.assert_close(whole, torch.cat(items))


@pytest.mark.parametrize(("loss", "distance"), COMBINATIONS)
def test_finite_where_nothing_moves_and_nothing_differs(loss, distance):
    pred, flow, _ = random_case()
    flow[0] = 0  # no motion in a whole sample
    flow[1, :, 1] = 0  # nor in one frame
    pred = torch.zeros_like(pred)
    pred[:, 0] = 1  # one full segment, two empty ones
    pred.requires_grad_()
    param_flow = flow[:, None].repeat(1, 3, 1, 1, 1, 1).requires_grad_()
    value = coherence_loss(pred, flow, param_flow, loss, distance)
    value.sum().backward()
    assert value.isfinite().all()
    assert pred.grad.isfinite().all()
    assert param_flow.grad.isfinite().all()
    if distance != "charb":
        assert value.abs().max() == 0
        assert param_flow.grad.abs().max() == 0


def test_gradient_is_that_of_the_formula():
    pred, flow, param_flow = (x.double() for x in random_case(B=1, L=2, T=2, I=3, J=3))
    pred.requires_grad_()
    param_flow.requires_grad_()
    assert torch.autograd.gradcheck(lambda p, f: coherence_loss(p, flow, f), (pred, param_flow))


def test_one_frame_needs_no_time_axis():
    pred, flow, param_flow = random_case(T=1)
    torch.testing.assert_close(
        coherence_loss(pred[:, :, 0], flow[:, :, 0], param_flow[:, :, :, 0]), coherence_loss(pred, flow, param_flow)
    )
    torch.testing.assert_close(motion_coherence_loss(pred[:, :, 0], flow[:, :, 0]), motion_coherence_loss(pred, flow))


def test_scale_is_the_mean_speed_of_each_frame():
    flow = torch.zeros(1, 2, 2, 1, 2)
    flow[0, 0, 1] = torch.tensor([3.0, 5.0])
    assert flow_scale(flow, "pieceFitScale", "l1").tolist() == [[pytest.approx(1e-6), 4.0]]
    assert flow_scale(flow, "pieceFit", "l1").tolist() == [[1.0, 1.0]]


def test_regulariser_by_hand():
    # Two frames of four pixels; the flow changes most at the last one, which is left out.
    flow = torch.zeros(1, 2, 2, 1, 4)
    flow[0, 0, 1] = torch.tensor([0.0, 1.0, 2.0, 30.0])
    pred = torch.zeros(1, 2, 2, 1, 4)
    pred[0, 0, 0], pred[0, 1, 1] = 1, 1  # every pixel changes its segment
    torch.testing.assert_close(euler_potts_l1_r3(pred, flow), torch.tensor([0.75]))
    assert euler_potts_l1_r3(pred, torch.ones_like(flow)).tolist() == [0]  # constant flow
    single = pred[:, :, :1].clone().requires_grad_()
    euler_potts_l1_r3(single, flow[:, :, :1]).sum().backward()
    assert single.grad.abs().max() == 0


@settings(deadline=None, max_examples=50)
@given(n=st.integers(1, 300), fraction=st.floats(0, 1), seed=st.integers(0, 1000))
def test_quantile_is_that_of_torch(n, fraction, seed):
    values = torch.randn(2, n, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    torch.testing.assert_close(quantile(values, fraction), torch.quantile(values, fraction, dim=1))


def test_quantile_of_more_than_16_million():
    values = torch.arange(17_000_000, dtype=torch.float64).flip(0)[None]
    assert quantile(values, 0.99).item() == pytest.approx(0.99 * (17_000_000 - 1))


def test_total_is_coherence_plus_weighted_terms():
    pred, flow, _ = random_case()
    theta = fit_theta(pred, flow)
    losses = segmentation_losses(pred, flow, theta, regularisation={"EulerPottsl1R3": 0.5})
    torch.testing.assert_close(losses.regularisation, 0.5 * euler_potts_l1_r3(pred, flow))
    torch.testing.assert_close(losses.total, losses.coherence + losses.regularisation)
    torch.testing.assert_close(losses.coherence, motion_coherence_loss(pred, flow))


def test_right_segmentation_costs_less_than_a_wrong_one():
    flow = torch.zeros(1, 2, 3, 8, 8)
    flow[..., 4:] = 5
    right = torch.zeros(1, 2, 3, 8, 8)
    right[:, 0, ..., :4] = 1
    right[:, 1, ..., 4:] = 1
    wrong = right.roll(2, -1).requires_grad_()
    good, bad = motion_coherence_loss(right, flow, "Affine"), motion_coherence_loss(wrong, flow, "Affine")
    assert good < 0.01 < bad
    bad.backward()
    assert wrong.grad.abs().max() > 0


def test_losses_keep_float32_under_autocast():
    pred, flow, _ = random_case()
    expected = motion_coherence_loss(pred, flow)
    with torch.autocast("cpu", torch.bfloat16):
        found = motion_coherence_loss(pred, flow)
        half = motion_coherence_loss(pred.bfloat16(), flow)
    assert found.dtype == half.dtype == torch.float32
    assert torch.equal(found, expected)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda p, f, q: coherence_loss(p, f, q, v_distance="l3"), "v_distance.*'l3'"),
        (lambda p, f, q: coherence_loss(p, f, q, "whole"), "coherence_loss.*'whole'"),
        (lambda p, f, q: coherence_loss(p, f[:, :, :1], q), "do not fit"),
        (lambda p, f, q: segmentation_losses(p, f, torch.zeros(2, 3, 24), regularisation={"TV": 1}), "'TV'"),
    ],
)
def test_mistakes_are_named(call, message):
    with pytest.raises(InputError, match=message):
        call(*random_case())
