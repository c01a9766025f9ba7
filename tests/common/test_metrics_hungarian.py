"""Matching of clusters to classes against brute force and hand-worked tables."""

from itertools import permutations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from common.errors import InputError
from common.metrics.confusion import contingency, iou_matrix
from common.metrics.hungarian import (
    UNMATCHED,
    match_majority,
    match_one_to_one,
    mean_matched_iou,
    miou_hungarian_dataset,
    miou_hungarian_image,
    relabel,
    score_clusters,
)
from common.metrics.meters import DatasetHungarianMeanIoU, ImageHungarianMeanIoU

pytestmark = pytest.mark.filterwarnings("ignore:The ``compute`` method")

TABLE = np.array([[1, 8, 0], [6, 0, 1], [0, 2, 5]])


def tables(seed: int, K: int, C: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return rng.integers(0, 30, (K, C)) * (rng.random((K, C)) < 0.7)


def test_hand_worked_matching() -> None:
    classes = match_one_to_one(TABLE)
    assert classes.tolist() == [1, 0, 2]
    assert relabel(TABLE, classes).tolist() == [[6, 0, 1], [1, 8, 0], [0, 2, 5]]
    scores = score_clusters(TABLE)
    np.testing.assert_allclose(scores.class_iou, [6 / 8, 8 / 11, 5 / 8])
    assert scores.miou == pytest.approx(np.mean([6 / 8, 8 / 11, 5 / 8]))
    assert scores.pixel_accuracy == 19 / 23
    assert scores.mean_accuracy == pytest.approx(np.mean([6 / 7, 8 / 10, 5 / 6]))
    assert miou_hungarian_dataset(TABLE) == scores.miou


@settings(deadline=None, max_examples=30)
@given(
    seed=st.integers(0, 10**6), K=st.integers(1, 5), C=st.integers(1, 5), criterion=st.sampled_from(["iou", "count"])
)
def test_matching_is_as_good_as_brute_force(seed: int, K: int, C: int, criterion: str) -> None:
    table = tables(seed, K, C)
    gain = iou_matrix(table) if criterion == "iou" else table
    classes = match_one_to_one(table, criterion)
    found = sum(gain[k, c] for k, c in enumerate(classes) if c != UNMATCHED)
    side = max(K, C)
    square = np.zeros((side, side))
    square[:K, :C] = gain
    best = max(sum(square[k, c] for k, c in enumerate(order)) for order in permutations(range(side)))
    assert found == pytest.approx(best)
    used = classes[classes != UNMATCHED]
    assert len(set(used.tolist())) == len(used) == min(K, C)


@settings(deadline=None, max_examples=30)
@given(seed=st.integers(0, 10**6))
def test_cluster_order_changes_no_score(seed: int) -> None:
    table = tables(seed, 4, 4)
    order = np.random.default_rng(seed).permutation(4)
    for matching in ("hungarian", "majority"):
        a = score_clusters(table, matching, unmatched="missed")
        b = score_clusters(table[order], matching, unmatched="missed")
        if matching == "majority":  # the matching itself is unique here; equal IoU sums may differ in their classes
            np.testing.assert_array_equal(a.classes[order], b.classes)
            assert a.pixel_accuracy == b.pixel_accuracy
        assert iou_matrix(table)[a.classes >= 0, a.classes[a.classes >= 0]].sum() == pytest.approx(
            iou_matrix(table[order])[b.classes >= 0, b.classes[b.classes >= 0]].sum()
        )
    per_image, moved = miou_hungarian_image(table), miou_hungarian_image(table[order][:, order[::-1]])
    assert per_image == pytest.approx(moved)


def test_fixed_background_stays_in_place() -> None:
    table = np.array([[0, 9, 0], [9, 0, 1], [0, 0, 4]])
    assert match_one_to_one(table).tolist() == [1, 0, 2]
    assert match_one_to_one(table, fixed_background=True).tolist() == [0, 1, 2]


def test_majority_shares_classes_and_takes_the_lowest_on_ties() -> None:
    table = np.array([[5, 5, 0], [0, 3, 1], [0, 0, 0], [1, 9, 0]])
    assert match_majority(table).tolist() == [0, 1, UNMATCHED, 1]
    scores = score_clusters(table, "majority")
    np.testing.assert_allclose(scores.class_iou, [5 / 11, 12 / 19, 0.0])


def test_unmatched_clusters() -> None:
    table = np.array([[4, 0], [0, 4], [2, 1]])
    classes = match_one_to_one(table)
    assert classes.tolist() == [0, 1, UNMATCHED]
    with pytest.raises(InputError, match=r"1 of 3 clusters match none of the 2 classes \(first: 2\)"):
        relabel(table, classes)
    assert relabel(table, classes, unmatched="background").tolist() == [[6, 1], [0, 4]]
    assert relabel(table, classes, unmatched="background", background=1).tolist() == [[4, 0], [2, 5]]
    assert relabel(table, classes, unmatched="missed").tolist() == [[4, 0], [0, 4], [2, 1]]
    scores = score_clusters(table, unmatched="missed")
    np.testing.assert_allclose(scores.class_iou, [4 / 6, 4 / 5])
    assert scores.pixel_accuracy == 8 / 11
    assert relabel(table[:2], classes[:2]).shape == (2, 2)


def test_empty_unmatched_cluster_is_no_error() -> None:
    table = np.array([[4, 0], [0, 4], [0, 0]])
    assert score_clusters(table).miou == 1.0


def test_labels_as_classes() -> None:
    assert score_clusters(TABLE, "none").classes.tolist() == [0, 1, 2]
    assert score_clusters(TABLE, "none").pixel_accuracy == 6 / 23


def test_image_score_by_hand() -> None:
    # one true object missed, one spurious segment: the two make one pair, or one pair each with an empty label
    table = np.array([[6, 2], [2, 0]])
    assert miou_hungarian_image(table) == pytest.approx((6 / 10 + 0.0) / 2)
    crossed = np.array([[0, 4, 0], [0, 0, 0]])
    assert miou_hungarian_image(crossed) == 1.0
    assert miou_hungarian_image(np.zeros((2, 3), dtype=np.int64)) == 1.0


def test_solver_ties_can_only_add_pairs() -> None:
    fewer = 0
    for seed in range(100):
        table = np.diag(tables(seed, 1, 5)[0]) + np.eye(5, k=2, dtype=int)
        table[:, seed % 5] = 0
        canonical, solver = miou_hungarian_image(table), miou_hungarian_image(table, "solver")
        assert solver <= canonical + 1e-12
        fewer += solver < canonical - 1e-9
    assert fewer > 0


def test_pairs_are_the_larger_number_of_non_empty_labels() -> None:
    iou = np.array([[0.5, 0.0, 0.0], [0.0, 0.0, 0.0]])
    present = np.array([True, True]), np.array([True, True, True])
    assert mean_matched_iou(iou, *present) == pytest.approx(0.5 / 3)


def test_images_are_matched_one_by_one() -> None:
    stack = np.stack([tables(seed, 4, 3) for seed in range(5)])
    np.testing.assert_array_equal(miou_hungarian_image(stack), [miou_hungarian_image(table) for table in stack])


@settings(deadline=None, max_examples=20)
@given(seed=st.integers(0, 10**6))
def test_a_map_matches_itself_under_any_names(seed: int) -> None:
    rng = np.random.default_rng(seed)
    target = rng.integers(0, 4, (8, 9))
    predicted = rng.permutation(6)[target]
    table = contingency(predicted, target, num_predicted=6, num_classes=4)
    assert miou_hungarian_image(table) == pytest.approx(1.0)
    assert score_clusters(table).miou == pytest.approx(1.0)
    assert score_clusters(table, "majority").miou == pytest.approx(1.0)


def test_classes_of_metrics_are_two_different_numbers() -> None:
    target = torch.tensor([[0, 0, 1, 1], [0, 0, 1, 1]])
    predicted = torch.tensor([[0, 0, 1, 1], [1, 1, 0, 0]])
    image, dataset = ImageHungarianMeanIoU(), DatasetHungarianMeanIoU(2)
    image.update(predicted, target)
    dataset.update(predicted, target)
    assert float(image.compute()) == 1.0
    assert float(dataset.compute()) == pytest.approx(1 / 3)


@settings(deadline=None, max_examples=15)
@given(seed=st.integers(0, 10**6), cut=st.integers(0, 5))
def test_shards_add_up_to_the_whole(seed: int, cut: int) -> None:
    rng = np.random.default_rng(seed)
    predicted = torch.from_numpy(rng.integers(0, 5, (5, 6, 7)))
    target = torch.from_numpy(rng.integers(0, 3, (5, 6, 7)))
    for make in (ImageHungarianMeanIoU, lambda: DatasetHungarianMeanIoU(3, 5, unmatched="missed")):
        whole, first, second = make(), make(), make()
        whole.update(predicted, target)
        for metric, part in ((first, slice(0, cut)), (second, slice(cut, 5))):
            if len(predicted[part]):
                metric.update(predicted[part], target[part])
        first.merge_state(second)
        assert torch.equal(first.compute(), whole.compute())
