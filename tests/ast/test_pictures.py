"""Masks, complexity, sample grid and scores."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import adjusted_rand_score

from ast_seg.background_masks import clean, foreground_masks, to_bytes
from ast_seg.complexity import background_motion, frames_used, is_complex, training_steps
from ast_seg.sample_grid import COLOURS, colour_labels, grid_order, label_colours, sample_stack
from ast_seg.scores import active_slots, image_scores, published_batch


def test_bytes_are_truncated_or_rounded() -> None:
    values = torch.tensor([0.0, 0.9, 127.5, 254.99, 300.0])
    assert to_bytes(values).tolist() == [0, 0, 127, 254, 255]
    assert to_bytes(values, "round").tolist() == [0, 1, 128, 255, 255]


def test_mask_is_where_the_difference_exceeds_noise_and_light() -> None:
    prediction = torch.full((1, 4, 2, 2), 100.0)
    prediction[:, 3] = 1
    images = torch.full((1, 3, 2, 2), 100.0)
    images[..., 0, 0] += 30  # 3 * (29 - 7) > 0.376 * 100
    images[..., 0, 1] += 18  # 3 * (17 - 7) < 37.6
    found = foreground_masks(images, prediction)
    assert found.masks.tolist() == [[[255, 0], [0, 0]]]
    assert found.difference.tolist() == [[[29, 17], [0, 0]]]
    assert foreground_masks(images, prediction, alpha_2=0.0).masks.tolist() == [[[255, 255], [0, 0]]]


def test_only_large_masks_are_cleaned() -> None:
    speck = np.zeros((399, 40), np.uint8)
    speck[20:23, 20:23] = 255
    assert np.array_equal(clean(speck), speck)
    assert not clean(np.pad(speck, ((0, 1), (0, 0)))).any()
    block = np.zeros((400, 40), np.uint8)
    block[100:130, 5:35] = 255
    block[110:113, 10:13] = 0
    assert clean(block).sum() == 30 * 30 * 255


def test_a_still_background_is_simple_and_a_changing_one_complex() -> None:
    still = torch.rand(1, 3, 8, 8).expand(6, -1, -1, -1) * 255
    assert background_motion(still) == 0
    changing = torch.rand(6, 3, 8, 8, generator=torch.Generator().manual_seed(0)) * 255
    assert is_complex(background_motion(changing))
    assert not is_complex(0.24)


def test_frames_and_steps_of_the_unsupervised_mode() -> None:
    assert [frames_used(*pair) for pair in ((33, 4), (3, 4), (1000, 4), (4, 4))] == [32, 3, 60, 4]
    assert training_steps(False, 100, 10) == 2500
    assert training_steps(True, 100, 10) == 24_000
    assert training_steps(True, 32_000, 10) == 64_000


def test_palettes() -> None:
    default = label_colours(3)
    assert default.shape == (40, 3)
    assert (default[14] * 255).tolist() == pytest.approx(COLOURS[1])
    assert len(label_colours(5, "seaborn")) == 6
    assert label_colours(2, "seaborn")[1].tolist() == pytest.approx([0.86, 0.3712, 0.34], abs=1e-4)


def test_labels_beyond_the_palette_cycle_and_never_turn_black() -> None:
    pictures = colour_labels(torch.arange(200).view(1, 1, 200), label_colours(3))
    dark = (pictures.sum(1) == 0).flatten()
    assert dark.nonzero().flatten().tolist() == [0]


def test_stack_has_a_row_per_kind() -> None:
    images, weights = torch.rand(2, 3, 4, 4), torch.rand(4, 2, 1, 4, 4).softmax(0)
    stack = sample_stack(images, images, weights, targets=torch.zeros(2, 4, 4, dtype=torch.long))
    assert stack.shape == (10, 3, 4, 4)
    assert torch.equal(stack[-2:], torch.ones(2, 3, 4, 4))
    assert sorted(grid_order(8).tolist()) == list(range(8))


def one_hot(labels: torch.Tensor, num_labels: int) -> torch.Tensor:
    return torch.nn.functional.one_hot(labels, num_labels).movedim(-1, 0)[:, :, None].float()


def scores_of(predicted: torch.Tensor, targets: torch.Tensor, K: int, void: int | None = 255):
    blank = torch.zeros(len(targets), 3, *targets.shape[1:])
    return image_scores(blank, blank, one_hot(predicted, K + 1), targets, void)


@settings(deadline=None, max_examples=25)
@given(K=st.integers(1, 5), seed=st.integers(0, 2**16))
def test_scores_are_those_of_other_libraries_and_do_not_depend_on_slot_numbers(K: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    predicted, targets = torch.randint(0, K + 1, (2, 3, 6, 6), generator=generator)
    scores = scores_of(predicted, targets, K)
    for i in range(3):
        assert scores.ari[i] == pytest.approx(adjusted_rand_score(targets[i].flatten(), predicted[i].flatten()))
        objects = targets[i] > 0
        assert scores.ari_fg[i] == pytest.approx(adjusted_rand_score(targets[i][objects], predicted[i][objects]))
    order = torch.randperm(K + 1, generator=generator)
    renamed = scores_of(order[predicted], targets, K)
    for name in ("msc", "scaled_sc", "msc_fg", "scaled_sc_fg", "ari", "ari_fg"):
        np.testing.assert_allclose(getattr(scores, name), getattr(renamed, name))
    own = scores_of(targets, targets, K)
    for name in ("miou", "msc", "scaled_sc", "ari", "ari_fg"):
        np.testing.assert_allclose(getattr(own, name), 1)


def test_void_pixels_count_for_nothing() -> None:
    targets = torch.tensor([[[0, 0, 1, 255]]])
    scores = scores_of(torch.tensor([[[0, 0, 1, 2]]]), targets, K=2)
    assert (scores.miou[0], scores.ari[0], scores.msc[0]) == (1, 1, 1)
    everything_void = scores_of(torch.zeros(1, 1, 4, dtype=torch.long), torch.full((1, 1, 4), 255), K=2)
    assert not everything_void.has_foreground.any()


def test_true_labels_above_the_slots() -> None:
    targets = torch.tensor([[[0, 0, 5, 5]]])
    scores = scores_of(torch.tensor([[[0, 0, 1, 1]]]), targets, K=1)
    assert scores.msc_fg[0] == 1  # the covering sees label 5
    assert scores.ari[0] == 0  # the ARI sees background only
    assert scores.miou[0] == pytest.approx(0.5)  # background matched, slot 1 without a partner


def test_published_value_of_a_batch_without_objects() -> None:
    images, reconstruction = torch.zeros(2, 3, 2, 2), torch.zeros(2, 3, 2, 2)
    reconstruction[0, 0, 0, 0], reconstruction[1, 0, 0, 0] = 1, 2
    weights = one_hot(torch.zeros(2, 2, 2, dtype=torch.long), 3)
    scores = image_scores(images, reconstruction, weights, torch.zeros(2, 2, 2, dtype=torch.long))
    assert scores.mse.tolist() == [1, 4]
    assert published_batch(scores)["mse"] == 2.5
    assert published_batch(scores)["ari"] == 0


def test_active_slots() -> None:
    weights = torch.zeros(4, 2, 1, 2, 2)
    weights[0] = 1
    weights[1, 0, 0, 0, 0] = 2e-3
    weights[2, 1, 0, 0, 0] = 9e-4
    assert active_slots(weights) == (1.0, 0.5)
