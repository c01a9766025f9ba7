"""Contingency tables, pooled scores, and their sums over shards."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import accuracy_score, balanced_accuracy_score, confusion_matrix, jaccard_score

from common.errors import InputError
from common.metrics.confusion import (
    add,
    class_accuracy,
    class_iou,
    contingency,
    grow,
    iou_matrix,
    mean_over_classes,
    pixel_accuracy,
)
from common.metrics.meters import ConfusionMatrix, MeanIoU, contingency_batch

PREDICTED = np.array([[0, 0, 1], [1, 2, 2]])
TARGET = np.array([[0, 1, 1], [1, 255, 0]])


def random_maps(seed: int, num_predicted: int = 5, num_classes: int = 4, void: float = 0.1):
    rng = np.random.default_rng(seed)
    target = rng.integers(0, num_classes, (6, 9, 11))
    target[rng.random(target.shape) < void] = 255
    return rng.integers(0, num_predicted, target.shape), target


def test_hand_worked_table() -> None:
    table = contingency(PREDICTED, TARGET)
    assert table.tolist() == [[1, 1], [0, 2], [1, 0]]
    assert table.dtype == np.int64
    # class 0: 1 of 3, class 1: 2 of 3; row 2 stands for no class
    np.testing.assert_allclose(class_iou(table), [1 / 3, 2 / 3])
    np.testing.assert_allclose(class_accuracy(table), [1 / 2, 2 / 3])
    assert pixel_accuracy(table) == 3 / 5
    assert mean_over_classes(class_iou(table)) == pytest.approx(0.5)


@pytest.mark.parametrize("seed", range(3))
def test_scores_equal_sklearn(seed: int) -> None:
    predicted, target = random_maps(seed, num_predicted=4)
    valid = target != 255
    table = contingency(predicted, target, num_predicted=4, num_classes=4)
    p, t = predicted[valid], target[valid]
    np.testing.assert_array_equal(table, confusion_matrix(t, p, labels=range(4)).T)
    np.testing.assert_allclose(class_iou(table), jaccard_score(t, p, average=None))
    assert pixel_accuracy(table) == pytest.approx(accuracy_score(t, p))
    assert mean_over_classes(class_accuracy(table)) == pytest.approx(balanced_accuracy_score(t, p))


def test_absent_classes_are_left_out_or_zero() -> None:
    table = contingency(np.array([0, 1]), np.array([0, 1]), num_predicted=4, num_classes=4)
    iou = class_iou(table)
    assert np.isnan(iou[2:]).all()
    assert mean_over_classes(iou) == 1.0
    assert mean_over_classes(iou, "zero") == 0.5
    assert np.isnan(mean_over_classes(iou[2:]))


def test_class_predicted_but_not_true_counts_in_iou_only() -> None:
    table = contingency(np.array([0, 1]), np.array([0, 0]), num_predicted=2, num_classes=2)
    np.testing.assert_array_equal(class_iou(table), [0.5, 0.0])
    assert np.isnan(class_accuracy(table)[1])


def test_iou_matrix_is_that_of_each_pair() -> None:
    predicted, target = random_maps(4)
    table = contingency(predicted, target, num_predicted=6, num_classes=5)
    valid = target != 255
    for k in range(6):
        for c in range(5):
            union = (((predicted == k) | (target == c)) & valid).sum()
            both = ((predicted == k) & (target == c) & valid).sum()
            assert iou_matrix(table, empty=0.25)[k, c] == (both / union if union else 0.25)


def test_batch_equals_its_images_and_numpy() -> None:
    predicted, target = random_maps(5)
    batch = contingency_batch(torch.from_numpy(predicted), torch.from_numpy(target), num_predicted=5, num_classes=4)
    for image, table in enumerate(batch.numpy()):
        np.testing.assert_array_equal(
            table, contingency(predicted[image], target[image], num_predicted=5, num_classes=4)
        )
    small = contingency_batch(torch.from_numpy(predicted).byte(), torch.from_numpy(target).byte())
    assert torch.equal(batch, small)


def test_all_void_gives_an_empty_table() -> None:
    target = np.full((3, 3), 255)
    table = contingency(np.zeros((3, 3), dtype=int), target, num_predicted=2, num_classes=2)
    assert table.sum() == 0
    assert np.isnan(pixel_accuracy(table))
    batch = contingency_batch(torch.zeros(2, 3, 3).long(), torch.full((2, 3, 3), 255))
    assert batch.shape == (2, 1, 1)
    assert batch.sum() == 0


def test_a_label_on_void_may_be_anything() -> None:
    predicted, target = torch.tensor([[3, 2**40, -5]]), torch.tensor([[1, 255, 255]])
    for sizes in ({"num_predicted": 4, "num_classes": 2}, {}):
        batch = contingency_batch(predicted, target, **sizes)
        assert batch.shape == (1, 4, 2)
        assert batch.nonzero().tolist() == [[0, 3, 1]]
    with pytest.raises(InputError, match="label -5 is negative"):
        contingency_batch(predicted, target, num_predicted=4, num_classes=256, ignore_index=None)


@pytest.mark.parametrize(
    ("predicted", "target", "message"),
    [([5], [0], "label 5 is outside 0..2: pass num_predicted=6"), ([0], [7], "num_classes=8"), ([0], [-1], "negative")],
)
def test_labels_out_of_range_are_named(predicted: list, target: list, message: str) -> None:
    with pytest.raises(InputError, match=message):
        contingency(np.array(predicted), np.array(target), num_predicted=3, num_classes=3)
    with pytest.raises(InputError, match=message):
        contingency_batch(torch.tensor([predicted]), torch.tensor([target]), num_predicted=3, num_classes=3)


def test_shapes_must_agree() -> None:
    with pytest.raises(ValueError, match="cannot be compared"):
        contingency(np.zeros((2, 3), dtype=int), np.zeros((3, 2), dtype=int))


def test_tables_of_other_sizes_add_up() -> None:
    first, second = np.array([[1, 2]]), np.array([[1], [3]])
    assert add(first, second).tolist() == [[2, 2], [3, 0]]
    assert grow(first, 1, 1).tolist() == first.tolist()


@settings(deadline=None, max_examples=20)
@given(seed=st.integers(0, 10**6), cut=st.integers(0, 6))
def test_shards_add_up_to_the_whole(seed: int, cut: int) -> None:
    predicted, target = (torch.from_numpy(maps) for maps in random_maps(seed))
    whole, first, second = (ConfusionMatrix(4, num_predicted=5) for _ in range(3))
    whole.update(predicted, target)
    first.update(predicted[:cut], target[:cut])
    second.update(predicted[cut:], target[cut:])
    first.merge_state(second)
    assert torch.equal(first.compute(), whole.compute())


@settings(deadline=None, max_examples=20)
@given(seed=st.integers(0, 10**6))
def test_relabelling_both_sides_changes_no_score(seed: int) -> None:
    predicted, target = random_maps(seed, num_predicted=4)
    order = np.random.default_rng(seed).permutation(4)
    lookup = np.concatenate([order, np.full(252, 255)])
    table = contingency(predicted, target, num_predicted=4, num_classes=4)
    moved = contingency(order[predicted], lookup[target], num_predicted=4, num_classes=4)
    np.testing.assert_array_equal(class_iou(moved)[order], class_iou(table))
    assert pixel_accuracy(moved) == pixel_accuracy(table)


def test_mean_iou_pools_rather_than_averaging_images() -> None:
    metric = MeanIoU(num_classes=2)
    metric.update(torch.tensor([[0, 0, 0, 1]]), torch.tensor([[0, 0, 0, 0]]))
    metric.update(torch.tensor([[1, 1, 1, 1]]), torch.tensor([[1, 1, 1, 1]]))
    assert float(metric.compute()) == pytest.approx((3 / 4 + 4 / 5) / 2)
    metric.reset()
    metric.update(torch.tensor([[0, 1]]), torch.tensor([[0, 1]]))
    assert float(metric.compute()) == 1.0
