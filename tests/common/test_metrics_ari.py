"""ARI, ARI-FG and covering against scikit-learn and naive loops."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import adjusted_rand_score

from common.metrics.ari import (
    adjusted_rand_index,
    adjusted_rand_index_foreground,
    has_foreground,
)
from common.metrics.confusion import contingency
from common.metrics.covering import covering, covering_sums
from common.metrics.meters import ImageAdjustedRandIndex, ImageMean

pytestmark = pytest.mark.filterwarnings("ignore:The ``compute`` method")


def maps(seed: int, K: int = 4, C: int = 3) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    return rng.integers(0, K, (7, 8)), rng.integers(0, C, (7, 8))


@settings(deadline=None, max_examples=40)
@given(seed=st.integers(0, 10**6), K=st.integers(1, 6), C=st.integers(1, 6))
def test_equals_sklearn(seed: int, K: int, C: int) -> None:
    predicted, target = maps(seed, K, C)
    table = contingency(predicted, target)
    assert adjusted_rand_index(table) == pytest.approx(adjusted_rand_score(target.ravel(), predicted.ravel()))
    inside = target > 0
    expected = adjusted_rand_score(target[inside], predicted[inside]) if inside.any() else 1.0
    assert adjusted_rand_index_foreground(table) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("table", "expected"),
    [
        ([[5]], 1.0),  # one cluster on both sides
        ([[0]], 1.0),  # no pixel
        ([[1, 0], [0, 0]], 1.0),  # one pixel
        (np.eye(4, dtype=int), 1.0),  # every pixel its own cluster on both sides
        ([[3, 3]], 0.0),  # one predicted cluster, two true ones
        ([[3], [3]], 0.0),
        ([[1, 1], [1, 1]], -0.5),  # below chance
        ([[0, 4], [2, 0]], 1.0),
    ],
)
def test_defined_everywhere(table: list, expected: float) -> None:
    assert adjusted_rand_index(np.array(table)) == pytest.approx(expected)


def test_large_images_do_not_overflow() -> None:
    side = 30_000**2 // 2
    assert adjusted_rand_index(np.array([[side, 0], [0, side]])) == pytest.approx(1.0)
    mixed = adjusted_rand_index(np.array([[side, side], [side, side]]))
    assert abs(mixed) < 1e-6


def test_a_stack_is_its_images() -> None:
    stack = np.stack([contingency(*maps(seed), num_predicted=4, num_classes=3) for seed in range(4)])
    np.testing.assert_array_equal(adjusted_rand_index(stack), [adjusted_rand_index(table) for table in stack])


@settings(deadline=None, max_examples=20)
@given(seed=st.integers(0, 10**6))
def test_names_of_labels_do_not_matter(seed: int) -> None:
    predicted, target = maps(seed)
    renamed = np.random.default_rng(seed).permutation(9)[predicted]
    a, b = contingency(predicted, target), contingency(renamed, target)
    assert adjusted_rand_index(a) == pytest.approx(adjusted_rand_index(b), abs=1e-12)
    assert adjusted_rand_index_foreground(a) == pytest.approx(adjusted_rand_index_foreground(b), abs=1e-12)
    assert covering(a) == pytest.approx(covering(b))


def test_mean_over_images_is_not_the_pooled_index() -> None:
    target = torch.tensor([[0, 0, 1, 1], [0, 0, 1, 1]])
    predicted = torch.tensor([[0, 0, 1, 1], [1, 1, 0, 0]])
    metric = ImageAdjustedRandIndex()
    metric.update(predicted, target)
    assert float(metric.compute()) == 1.0
    assert adjusted_rand_score(target.ravel(), predicted.ravel()) < 0.5


def test_images_without_foreground() -> None:
    target = torch.tensor([[0, 0, 0, 0], [0, 1, 1, 2]])
    predicted = torch.tensor([[0, 1, 0, 1], [0, 1, 2, 2]])
    left_out, counted = ImageAdjustedRandIndex(foreground=True), ImageAdjustedRandIndex(foreground=True, empty="one")
    left_out.update(predicted, target)
    counted.update(predicted, target)
    assert (int(left_out.count), int(counted.count)) == (1, 2)
    value = adjusted_rand_score([1, 1, 2], [1, 2, 2])
    assert float(left_out.compute()) == pytest.approx(value)
    assert float(counted.compute()) == pytest.approx((1 + value) / 2)
    assert has_foreground(np.array([[[3, 0]], [[3, 1]]])).tolist() == [False, True]


@settings(deadline=None, max_examples=15)
@given(seed=st.integers(0, 10**6), cut=st.integers(0, 6))
def test_shards_add_up_to_the_same_bits(seed: int, cut: int) -> None:
    rng = np.random.default_rng(seed)
    predicted, target = (torch.from_numpy(rng.integers(0, 4, (6, 5, 5))) for _ in range(2))
    whole, first, second = (ImageAdjustedRandIndex() for _ in range(3))
    whole.update(predicted, target)
    for metric, part in ((first, slice(0, cut)), (second, slice(cut, 6))):
        for image in range(*part.indices(6)):
            metric.update(predicted[image : image + 1], target[image : image + 1])
    second.merge_state(first)
    assert torch.equal(second.compute(), whole.compute())


def test_mean_refuses_nan_and_is_nan_when_empty() -> None:
    with pytest.raises(ValueError, match="finite"):
        ImageMean().update([0.5, float("nan")])
    assert torch.isnan(ImageMean().compute())


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("background", [None, 0])
def test_covering_equals_a_loop(weighted: bool, background: int | None) -> None:
    predicted, target = maps(3)
    total = weight = 0.0
    for label in np.unique(target):
        if label == background:
            continue
        mask = target == label
        best = max(((predicted == k) & mask).sum() / ((predicted == k) | mask).sum() for k in np.unique(predicted))
        share = mask.sum() if weighted else 1.0
        total, weight = total + share * best, weight + share
    table = contingency(predicted, target, num_predicted=6, num_classes=5)
    assert covering(table, weighted, background) == pytest.approx(total / weight)
    if background is None:
        best_sum, weights = covering_sums(table, weighted)
        assert (best_sum.sum(), weights.sum()) == pytest.approx((total, weight))


def test_covering_of_nothing_is_zero() -> None:
    assert covering(np.array([[4, 0]]), background=0) == 0.0
