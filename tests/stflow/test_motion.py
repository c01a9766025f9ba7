import numpy as np
import pytest
import torch

from common.errors import InputError
from stflow.motion import MOTION_MODELS, MotionModel, basis, motion_model, parametric_flow, reconstruct

SHARED = {"Affine", "AffinePT", "QuadraticFull", "QuadraticFullPT"}


def test_columns_of_affine_at_the_corners():
    grid = basis("Affine", 1, 2, 2)
    # columns i j 1: first for u, then for v
    assert grid[0, 0, 0, 1].tolist() == [-1, 1, 1, 0, 0, 0]
    assert grid[1, 0, 1, 0].tolist() == [0, 0, 0, 1, -1, 1]


def test_time_and_space_multiply():
    grid = basis("QuadraticFullPT", 3, 3, 5)
    t, i, j = 1.0, -1.0, 0.5  # last frame, first row, fourth column
    expected = [t, t * i * j, t * i * i, t * j * j, t * i, t * j, i * j, i * i, j * j, i, j, 1]
    assert grid[0, 2, 0, 3, :12].tolist() == expected
    assert not grid[0, ..., 12:].any()


@pytest.mark.parametrize("name", [name for name in MOTION_MODELS if name != "QuadraticPlanarPT"])
def test_flow_is_the_basis_times_theta(name):
    model = motion_model(name)
    theta = torch.randn(2, 3, model.num_parameters, generator=torch.Generator().manual_seed(0))
    flow = parametric_flow(theta, model, 4, 5, 6)
    assert flow.shape == (2, 3, 2, 4, 5, 6)
    torch.testing.assert_close(flow, torch.einsum("ctijk,blk->blctij", model.basis(4, 5, 6), theta))
    torch.testing.assert_close(model.flow(theta, 4, 5, 6, slice(1, 3)), flow[:, :, :, 1:3])


@pytest.mark.parametrize("name", [name for name in MOTION_MODELS if name != "QuadraticPlanarPT"])
def test_decoupled_models_share_one_basis(name):
    model = motion_model(name)
    assert model.decoupled == (name in SHARED)
    if not model.decoupled:
        with pytest.raises(ValueError, match="no basis shared"):
            model.shared_basis(2, 3, 4)
        return
    half = model.num_parameters // 2
    shared = model.shared_basis(2, 3, 4)
    assert shared.shape == (2, 3, 4, half)
    assert torch.equal(model.basis(2, 3, 4)[1, ..., half:], shared)


def test_a_single_frame_is_at_time_zero_unless_legacy():
    assert motion_model("AffinePT").basis(1, 2, 2)[0, ..., 0].unique().tolist() == [0]
    assert motion_model("AffinePT", legacy_grid=True).basis(1, 2, 2)[0, ..., 0].unique().tolist() == [-1]


def test_planar_motion_in_time_has_full_rank_and_warns_in_its_old_form():
    grid = motion_model("QuadraticPlanarPT16").basis(4, 6, 7).movedim(-1, 0).flatten(1)
    assert torch.linalg.matrix_rank(grid.double()) == 16
    with pytest.warns(UserWarning, match="QuadraticPlanarPT16"):
        assert motion_model("QuadraticPlanarPT").num_parameters == 13


def test_a_model_may_bring_its_own_time_factors():
    def steps(t):
        return torch.stack([(t < 0).to(t.dtype), (t >= 0).to(t.dtype)], dim=-1)

    columns = ((0, 0, 0), (1, 0, 0))
    zeros = (None, None)
    model = MotionModel("steps", (columns + zeros, zeros + columns), steps)
    assert model.decoupled
    flow = model.flow(torch.tensor([1.0, 2.0, 3.0, 4.0]), 4, 1, 1)
    assert flow.flatten().tolist() == [1, 1, 2, 2, 3, 3, 4, 4]


def test_reconstruction_mixes_by_probability():
    flow = torch.stack([torch.zeros(2, 1, 1, 1), torch.full((2, 1, 1, 1), 4.0)])[None]
    pred = torch.tensor([0.75, 0.25]).view(1, 2, 1, 1, 1)
    assert reconstruct(pred, flow).flatten().tolist() == [1, 1]


def test_flow_keeps_float32_under_autocast():
    theta = torch.randn(1, 2, 24, generator=torch.Generator().manual_seed(0))
    expected = parametric_flow(theta, "QuadraticFullPT", 3, 8, 8)
    with torch.autocast("cpu", torch.bfloat16):
        found = parametric_flow(theta, "QuadraticFullPT", 3, 8, 8)
    assert found.dtype == torch.float32
    assert torch.equal(found, expected)


def test_tensors_cached_under_inference_mode_serve_training():
    with torch.inference_mode():
        parametric_flow(torch.zeros(1, 1, 24), "QuadraticFullPT", 3, 9, 11)
    theta = torch.zeros(1, 1, 24, requires_grad=True)
    parametric_flow(theta, "QuadraticFullPT", 3, 9, 11).sum().backward()
    np.testing.assert_allclose(theta.grad.flatten()[11], 3 * 9 * 11)  # the constant of u


def test_unknown_model():
    with pytest.raises(InputError, match=r"'Cubic'.*QuadraticFullPT"):
        motion_model("Cubic")
