"""Losses and schedules by hand-worked numbers."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ast_seg.losses import (
    background_loss,
    foreground_hint_loss,
    object_entropy_loss,
    pixel_entropy_loss,
    reconstruction_loss,
    soft_difference,
)
from ast_seg.model.rendering import pixel_entropy
from ast_seg.schedules import (
    background_is_live,
    background_iterations,
    background_rate,
    entropy_weight,
    foreground_rate,
    hint_weight,
)
from common.errors import InputError


def test_background_loss_of_one_wrong_pixel() -> None:
    images, prediction = torch.zeros(1, 3, 1, 2), torch.zeros(1, 4, 1, 2)
    prediction[0, 0, 0, 0] = 101.5  # error (101.5 - 1.5) / 255
    error = 100 / 255
    noise = error / 3 - 1.5 / 255
    expected = (error + noise) * math.exp(-6 * math.tanh(error / 0.25)) / 2
    assert float(background_loss(prediction, images)) == pytest.approx(expected, rel=1e-5)


def test_background_loss_gives_wrong_regions_less_weight() -> None:
    images = torch.zeros(1, 3, 1, 150)
    prediction = torch.zeros(1, 4, 1, 150)
    prediction[0, :3, 0, 70] = 10
    alone = float(background_loss(prediction, images))
    prediction[0, :3, 0, 69:74:2] = 200  # beside it, within 150 / 75 = 2 pixels
    with_neighbours = prediction.clone().requires_grad_()
    background_loss(with_neighbours, images).backward()
    single = torch.zeros(1, 4, 1, 150)
    single[0, :3, 0, 70] = 10
    single.requires_grad_()
    background_loss(single, images).backward()
    assert alone > 0
    assert with_neighbours.grad[0, 0, 0, 70].abs() < 0.3 * single.grad[0, 0, 0, 70].abs()


def test_reconstruction_loss_sums_channels_before_squaring() -> None:
    reconstruction, images = torch.zeros(1, 3, 1, 2), torch.zeros(1, 3, 1, 2)
    images[0, :, 0, 0] = torch.tensor([0.1, 0.2, 0.3])
    assert float(reconstruction_loss(reconstruction, images)) == pytest.approx(0.36 / 2)
    assert float(reconstruction_loss(reconstruction, images, threshold=0.21)) == pytest.approx(0.39**2 / 2)


def test_entropies() -> None:
    even = torch.full((4, 2, 1, 3, 3), 0.25)
    assert float(pixel_entropy_loss(pixel_entropy(even))) == pytest.approx(math.log(4) ** 2)
    hard = torch.zeros(2, 1, 1, 2, 2)
    hard[0, ..., 0], hard[1, ..., 1] = 1, 1
    assert float(pixel_entropy_loss(pixel_entropy(hard))) == 0
    assert float(object_entropy_loss(hard)) == pytest.approx(math.log(2) ** 2)


@settings(deadline=None, max_examples=25)
@given(K=st.integers(1, 6), seed=st.integers(0, 2**16))
def test_entropies_do_not_depend_on_the_order_of_layers(K: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    weights = torch.randn(K + 1, 2, 1, 4, 4, generator=generator).softmax(0)
    order = torch.randperm(K + 1, generator=generator)
    torch.testing.assert_close(pixel_entropy(weights), pixel_entropy(weights[order]))
    torch.testing.assert_close(object_entropy_loss(weights), object_entropy_loss(weights[order]))


def test_hint_pulls_on_slots_that_are_almost_off() -> None:
    logits = torch.tensor([11.0, 0.0]).view(2, 1, 1, 1, 1).requires_grad_()
    difference = soft_difference(torch.ones(1, 3, 1, 1), torch.zeros(1, 3, 1, 1))
    foreground_hint_loss(logits.log_softmax(0), difference).backward()
    assert logits.grad[1].item() == pytest.approx(-1, abs=1e-3)
    logits.grad = None
    foreground_hint_loss(logits.log_softmax(0), torch.zeros(1, 1, 1, 1)).backward()
    assert abs(logits.grad[1].item()) < 1e-4


def test_hint_is_the_binary_cross_entropy() -> None:
    weights = torch.randn(4, 2, 1, 3, 3).softmax(0)
    difference = torch.rand(2, 1, 3, 3)
    expected = torch.nn.functional.binary_cross_entropy(1 - weights[0], difference)
    torch.testing.assert_close(foreground_hint_loss(weights.log(), difference), expected)


def test_hint_is_bounded_where_no_slot_reaches() -> None:
    log_weights = torch.tensor([0.0, -1e30]).view(2, 1, 1, 1, 1)
    assert float(foreground_hint_loss(log_weights, torch.ones(1, 1, 1, 1))) == pytest.approx(-math.log(1e-12))


def test_rates() -> None:
    assert [background_rate(t, 10, 1.0) for t in (0, 7, 8, 9)] == pytest.approx([1, 1, 0.1, 0.1])
    rates = [foreground_rate(t, 100, 1.0, warmup=10) for t in (0, 4, 8, 9, 88, 89, 99)]
    assert rates == pytest.approx([0.01, 0.25, 0.81, 1, 1, 0.1, 0.1])


def test_weights_and_phases() -> None:
    assert [entropy_weight(t, 10, 2.0) for t in (0, 5, 10, 99)] == pytest.approx([0, 0.5, 2, 2])
    assert entropy_weight(0, 0, 2.0) == 2
    assert [hint_weight(t, 10, 3.0) for t in (0, 5, 10, 99)] == pytest.approx([3, 1.5, 0, 0])
    assert hint_weight(0, 0) == 0
    assert [background_is_live(t, 3) for t in (2, 3)] == [False, True]


def test_iterations_of_the_scenes() -> None:
    assert background_iterations("fixed", 100, 10) == 2500
    assert background_iterations("lighting", 100, 10) == 10_000
    assert background_iterations("moving", 100, 10) == 24_000
    assert background_iterations("moving", 200_005, 10) == 400_000
    assert background_iterations("synthetic", 100, 10) == 500_000
    with pytest.raises(InputError, match="--scene indoor: unknown"):
        background_iterations("indoor", 100, 10)  # type: ignore[arg-type]
