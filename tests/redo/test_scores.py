"""Scores, collapse, object rules, square crop, toy digits and sample sheet on hand-worked cases and properties."""

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image
from sklearn.metrics import accuracy_score, jaccard_score

from common.errors import InputError
from common.makers.cub import bird_of
from common.makers.digit_pictures import compose_digits, draw_digits
from common.makers.flowers import flower_of
from common.makers.lfw import face_of
from redo.collapse import Collapse, collapse_decision, min_region_size
from redo.evaluation import hard_regions, image_scores, mean_scores, object_region, region_tables
from redo.preparation import network_images, square
from redo.sheet import sheet_picture, sheet_tiles


def random_tables(seed: int, B: int = 5, n: int = 2, S: int = 6) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    masks = torch.rand(B, n, S, S, generator=generator).softmax(dim=1)
    return masks, torch.rand(B, S, S, generator=generator) > 0.6


@settings(deadline=None, max_examples=25)
@given(seed=st.integers(0, 1000), n=st.integers(2, 4))
def test_scores_agree_with_scikit_learn(seed: int, n: int) -> None:
    masks, objects = random_tables(seed, n=n)
    regions = hard_regions(masks)
    scores = image_scores(region_tables(regions, objects, n))
    for i in range(len(masks)):
        truth = objects[i].flatten().numpy()
        for k in range(n):
            region = (regions[i] == k).flatten().numpy()
            assert scores.accuracy[i, k] == pytest.approx(accuracy_score(truth, region))
            assert scores.iou[i, k] == pytest.approx(jaccard_score(truth, region, zero_division=1.0))


@settings(deadline=None, max_examples=25)
@example(seed=293)  # both regions hold as many pixels of the object: only the IoU tells them apart
@given(seed=st.integers(0, 1000))
def test_swapping_the_regions_changes_no_score(seed: int) -> None:
    masks, objects = random_tables(seed)
    assert not (masks == 0.5).any()
    tables = [region_tables(hard_regions(m), objects, 2) for m in (masks, masks.flip(1))]
    for matching in ("per_image", "dataset"):
        scores = [mean_scores(table, matching) for table in tables]  # type: ignore[arg-type]
        np.testing.assert_allclose(scores[0], scores[1])
    np.testing.assert_array_less(np.array(mean_scores(tables[0], "dataset")) - 1e-12, mean_scores(tables[0]))


def test_one_region_for_the_whole_set() -> None:
    """Three images agree on region 1, a fourth would rather have region 0: (n, 2) tables by hand."""
    agreeing = [[6, 0], [0, 4]]
    tables = np.array([agreeing, agreeing, agreeing, [[1, 3], [5, 1]]])
    assert object_region(tables) == 1
    assert mean_scores(tables, "dataset") == pytest.approx(((3 * 1 + 2 / 10) / 4, (3 * 1 + 1 / 9) / 4))
    assert mean_scores(tables, "per_image") == pytest.approx(((3 * 1 + 8 / 10) / 4, (3 * 1 + 3 / 5) / 4))


def test_empty_against_empty() -> None:
    tables = region_tables(torch.ones(1, 2, 2, dtype=torch.int64), torch.zeros(1, 2, 2, dtype=torch.bool), 2)
    assert mean_scores(tables) == (1.0, 1.0)
    accuracy, iou = mean_scores(tables, legacy_empty_iou=True)
    assert accuracy == 1.0
    assert np.isnan(iou)


def test_a_mask_of_one_half_counts_as_its_region() -> None:
    masks = torch.full((1, 2, 1, 2), 0.5)
    masks[0, 0, 0, 1] = 0.499
    assert hard_regions(masks).tolist() == [[[0, 1]]]


def test_scores_refuse_what_is_no_object_mask() -> None:
    regions = torch.zeros(2, 4, 4, dtype=torch.int64)
    for objects in (torch.zeros(2, 3, 4, 4, dtype=torch.bool), torch.zeros(2, 4, 4)):
        with pytest.raises(InputError, match="boolean object mask"):
            region_tables(regions, objects, 2)


def test_collapse() -> None:
    assert collapse_decision(0.1, 0.05, 0.05, 7000) is Collapse.RESTART
    assert collapse_decision(0.1, 0.05, 0.05, 7001) is Collapse.WARN
    assert collapse_decision(0.1, 0.1, 0.05, 500) is Collapse.HEALTHY
    assert collapse_decision(0, 0, 0, 500) is Collapse.HEALTHY
    masks = torch.tensor([0.25, 0.75])[None, :, None, None].expand(3, 2, 4, 4)
    assert min_region_size(masks) == pytest.approx(0.25)


def test_object_rules() -> None:
    # blue ground, flower, dark pixel, blue pixel of a flower, JPEG noise on the ground
    colours = np.array([[[0, 0, 254], [200, 90, 30], [0, 9, 9], [80, 80, 254], [1, 1, 253]]], np.uint8)
    assert flower_of(colours).tolist() == [[False, True, False, False, True]]
    votes = np.array([[0, 127, 128, 255]], np.uint8)
    assert bird_of(votes).tolist() == [[False, False, True, True]]
    assert bird_of(np.stack([votes, votes * 0], axis=-1)).tolist() == [[False, False, True, True]]
    parts = np.array([[[255, 0, 0], [0, 255, 0], [0, 0, 255]]], np.uint8)
    assert face_of(parts).tolist() == [[True, True, False]]


@settings(deadline=None, max_examples=40)
@given(height=st.integers(1, 60), width=st.integers(1, 60), size=st.integers(1, 40))
def test_square_is_resize_then_centre_crop(height: int, width: int, size: int) -> None:
    pixels = np.random.default_rng(height * 61 + width).integers(0, 256, (height, width, 3), np.uint8)
    got = square(pixels, size)
    assert got.shape == (size, size, 3)
    assert got.dtype == np.uint8
    mask = pixels[..., 0] > 99
    assert square(mask, size).dtype == np.bool_
    np.testing.assert_array_equal(square(mask, size), got[..., 0] > 99)
    if height == width:
        expected = Image.fromarray(pixels).resize((size, size), Image.Resampling.NEAREST)
        np.testing.assert_array_equal(got, np.asarray(expected))


def test_square_cuts_halves_to_even() -> None:
    columns = np.arange(7, dtype=np.uint8)[None].repeat(4, axis=0)
    assert square(columns, 4)[0].tolist() == [2, 3, 4, 5]  # offset round(1.5) = 2
    columns = np.arange(5, dtype=np.uint8)[None].repeat(4, axis=0)
    assert square(columns, 4)[0].tolist() == [0, 1, 2, 3]  # offset round(0.5) = 0


def test_network_images() -> None:
    image = torch.tensor([[[[0, 255, 51]]]], dtype=torch.uint8)
    np.testing.assert_allclose(network_images(image)[0, :, 0, 0], [-1, 1, -0.6], atol=1e-6)
    assert network_images(torch.zeros(2, 4, 5, 3, dtype=torch.uint8)).shape == (2, 3, 4, 5)


@settings(deadline=None, max_examples=10)
@given(seed=st.integers(0, 1000))
def test_toy_digits(seed: int) -> None:
    rng = np.random.default_rng(seed)
    even, odd = rng.integers(0, 256, (2, 28, 28), np.uint8)
    draw = draw_digits(rng)
    image, masks = compose_digits(even, odd, draw)
    assert (masks.sum(axis=0) == 1).all()
    assert -1 <= image.min() <= image.max() <= 1
    top = 1 if draw.odd_on_top else 0
    glyph = odd if draw.odd_on_top else even
    assert masks[top].sum() == 4 * (glyph >= 128).sum()
    row, column = draw.odd_place if draw.odd_on_top else draw.even_place
    assert masks[top, row : row + 56, column : column + 56].sum() == masks[top].sum()
    np.testing.assert_allclose(image[:, masks[2]].T, np.broadcast_to(draw.background * 2 - 1, (masks[2].sum(), 3)))


def test_sheet_of_empty_ground_truth_has_no_nan() -> None:
    tiles = sheet_tiles(
        torch.zeros(1, 3, 4, 4),
        torch.zeros(1, 1, 4, 4),
        torch.full((1, 2, 4, 4), 0.5),
        torch.zeros(1, 2, 3, 4, 4),
        torch.zeros(2, 1, 1, 3, 4, 4),
    )
    assert torch.isfinite(tiles).all()
    assert (tiles[:, 1, 1] == -1).all()
    assert sheet_picture(tiles).shape == (3, 4 * 6 + 2, 6 * 6 + 2)
