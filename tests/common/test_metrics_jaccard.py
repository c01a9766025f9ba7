"""IoU of masks and boxes: hand-worked numbers, the empty rule, void, batches, shards."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage
from sklearn.metrics import jaccard_score

from common.metrics.jaccard import binary_jaccard, bounding_box_jaccard, box_mask, largest_box, mask_counts
from common.metrics.meters import MeanJaccard

pytestmark = pytest.mark.filterwarnings("ignore:The ``compute`` method")


def masks(seed: int, share: float = 0.4, shape: tuple = (5, 9, 12)) -> np.ndarray:
    return np.random.default_rng(seed).random(shape) < share


def test_hand_worked() -> None:
    predicted = np.array([[1, 1, 0, 0]], dtype=bool)
    target = np.array([[0, 1, 1, 0]], dtype=bool)
    void = np.array([[1, 0, 0, 0]], dtype=bool)
    assert binary_jaccard(predicted, target) == pytest.approx(1 / 3)
    assert binary_jaccard(predicted, target, void) == pytest.approx(1 / 2)
    assert [int(count) for count in mask_counts(predicted, target)] == [1, 3]


def test_empty_masks() -> None:
    empty, full = np.zeros((1, 3, 4), dtype=bool), np.ones((1, 3, 4), dtype=bool)
    assert binary_jaccard(empty, empty) == 1.0
    assert binary_jaccard(empty, full) == binary_jaccard(full, empty) == 0.0
    assert binary_jaccard(full, full, void=full) == 1.0
    assert binary_jaccard(torch.zeros(2, 3, 4).bool(), torch.zeros(2, 3, 4).bool()).tolist() == [1.0, 1.0]


@pytest.mark.parametrize("seed", range(3))
def test_equals_sklearn_and_tensors(seed: int) -> None:
    predicted, target, void = masks(seed), masks(seed + 50), masks(seed + 99, 0.2)
    found = binary_jaccard(predicted, target, void)
    for p, t, v, value in zip(predicted, target, void, found, strict=True):
        assert value == pytest.approx(jaccard_score(t[~v], p[~v]))
    tensors = binary_jaccard(*(torch.from_numpy(mask) for mask in (predicted, target, void)))
    np.testing.assert_allclose(tensors.numpy(), found, rtol=1e-6)


def test_shapes_must_agree() -> None:
    with pytest.raises(ValueError, match="cannot be compared"):
        binary_jaccard(np.zeros((2, 3), dtype=bool), np.zeros((1, 3), dtype=bool))


def test_box_of_the_component_with_the_largest_box() -> None:
    mask = np.zeros((12, 12), dtype=bool)
    mask[1:4, 1:4] = True  # nine pixels in a box of nine
    np.fill_diagonal(mask[6:11, 6:11], True)  # five pixels, one 8-connected component, in a box of 25
    assert largest_box(mask) == (6, 6, 5, 5)
    assert box_mask(mask).sum() == 25
    assert largest_box(np.zeros((4, 4), dtype=bool)) is None


@pytest.mark.parametrize("seed", range(5))
def test_box_equals_connected_components(seed: int) -> None:
    mask = masks(seed, 0.25, (20, 24))
    labels, _ = ndimage.label(mask, structure=np.ones((3, 3)))
    boxes = [(s[0].stop - s[0].start) * (s[1].stop - s[1].start) for s in ndimage.find_objects(labels)]
    assert box_mask(mask).sum() == max(boxes)


def test_boxes_are_scored_image_by_image_and_leave_the_arguments_alone() -> None:
    predicted, target = masks(1, 0.1), masks(2, 0.6)
    predicted[3] = False
    kept = predicted.copy()
    batch = bounding_box_jaccard(predicted, target)
    np.testing.assert_array_equal(predicted, kept)
    np.testing.assert_array_equal(batch, [bounding_box_jaccard(p, t) for p, t in zip(predicted, target, strict=True)])
    assert batch[3] == 0.0
    assert bounding_box_jaccard(np.zeros((2, 2), dtype=bool), np.zeros((2, 2), dtype=bool)) == 1.0


@settings(deadline=None, max_examples=25)
@given(seed=st.integers(0, 10**6), share=st.floats(0, 1), cut=st.integers(0, 5))
def test_properties(seed: int, share: float, cut: int) -> None:
    predicted, target = masks(seed, share), masks(seed + 1)
    value = binary_jaccard(predicted, target)
    assert np.isfinite(value).all()
    assert ((value >= 0) & (value <= 1)).all()
    np.testing.assert_array_equal(value, binary_jaccard(target, predicted))
    np.testing.assert_array_equal(binary_jaccard(target, target), 1.0)
    whole, first, second = MeanJaccard(), MeanJaccard(), MeanJaccard()
    p, t = torch.from_numpy(predicted), torch.from_numpy(target)
    whole.update(p, t)
    first.update(p[:cut], t[:cut])
    second.update(p[cut:], t[cut:])
    first.merge_state(second)
    assert torch.equal(first.compute(), whole.compute())
    assert float(whole.compute()) == pytest.approx(value.mean(), abs=1e-6)
