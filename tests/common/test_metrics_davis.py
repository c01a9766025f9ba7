"""J, F, statistics and matching of DAVIS against the pairwise definition written out."""

import math
from itertools import permutations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from common.errors import InputError
from common.metrics.davis import (
    davis2016_frames,
    davis2017_sequence,
    davis2017_summary,
    match_proposals,
    statistics,
)
from common.metrics.jaccard import binary_jaccard
from common.metrics.pairs import boundary, dilate, pair_counts, tolerance_radius


def naive_boundary(mask: np.ndarray) -> np.ndarray:
    H, W = mask.shape
    edges = np.zeros_like(mask)
    for y in range(H):
        for x in range(W):
            right, below = mask[y, min(x + 1, W - 1)], mask[min(y + 1, H - 1), x]
            corner = mask[y + 1, x + 1] if y + 1 < H and x + 1 < W else mask[y, x]
            edges[y, x] = mask[y, x] != right or mask[y, x] != below or mask[y, x] != corner
    return edges


def naive_f(predicted: np.ndarray, target: np.ndarray, radius: int) -> float:
    offset = np.arange(-radius, radius + 1)
    disk = offset[:, None] ** 2 + offset[None, :] ** 2 <= radius**2
    p, t = naive_boundary(predicted), naive_boundary(target)
    near_p, near_t = ndimage.binary_dilation(p, disk), ndimage.binary_dilation(t, disk)
    if not p.any() or not t.any():
        precision, recall = float(not p.any()), float(not t.any())
    else:
        precision, recall = (p & near_t).sum() / p.sum(), (t & near_p).sum() / t.sum()
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


def label_map(seed: int, num_labels: int, shape: tuple[int, int] = (30, 41)) -> np.ndarray:
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[: shape[0], : shape[1]]
    labels = np.zeros(shape, dtype=np.uint8)
    for label in range(1, num_labels + 1):
        cy, cx, a, b = rng.uniform(0, shape[0]), rng.uniform(0, shape[1]), *rng.uniform(2, 12, 2)
        labels[((y - cy) / a) ** 2 + ((x - cx) / b) ** 2 < 1] = label
    return labels


def test_radius_at_480p() -> None:
    assert tolerance_radius(480, 854) == 8


def test_boundary_by_hand() -> None:
    mask = np.zeros((4, 4), dtype=bool)
    mask[1:3, 1:3] = True
    expected = [[1, 1, 1, 0], [1, 0, 1, 0], [1, 1, 1, 0], [0, 0, 0, 0]]
    assert boundary(mask).astype(int).tolist() == expected


@pytest.mark.parametrize("radius", [0, 1, 2, 5, 8, 40])
def test_dilation_equals_scipy_on_every_bit(radius: int) -> None:
    rng = np.random.default_rng(radius)
    words = rng.integers(0, 256, (23, 31)).astype(np.uint8) * (rng.random((23, 31)) < 0.02)
    offset = np.arange(-radius, radius + 1)
    disk = offset[:, None] ** 2 + offset[None, :] ** 2 <= radius**2
    dilated = dilate(words.astype(np.uint8), radius)
    for bit in range(8):
        expected = ndimage.binary_dilation(words >> bit & 1, disk)
        np.testing.assert_array_equal(dilated >> bit & 1, expected)


@settings(deadline=None, max_examples=15)
@given(
    seed=st.integers(0, 10**6),
    num_predicted=st.integers(0, 6),
    num_objects=st.integers(0, 5),
    tolerance=st.sampled_from([0.0, 0.008, 0.05]),
    with_void=st.booleans(),
)
def test_every_pair_equals_the_definition(
    seed: int, num_predicted: int, num_objects: int, tolerance: float, with_void: bool
) -> None:
    predicted, target = label_map(seed, num_predicted), label_map(seed + 1, num_objects)
    void = label_map(seed + 2, 1).astype(bool) if with_void else None
    seen = np.ones(target.shape, dtype=bool) if void is None else ~void
    counts = pair_counts(
        predicted, target, num_predicted=num_predicted, num_objects=num_objects, void=void, tolerance=tolerance
    )
    j, f = counts.j(), counts.f()
    assert j.shape == f.shape == (num_predicted, num_objects)
    radius = math.ceil(tolerance * math.hypot(*target.shape))
    for p in range(num_predicted):
        for o in range(num_objects):
            masks = (predicted == p + 1) & seen, (target == o + 1) & seen
            assert j[p, o] == binary_jaccard(*masks)
            assert f[p, o] == pytest.approx(naive_f(*masks, radius), abs=1e-12)


@pytest.mark.parametrize("shape", [(1, 1), (1, 7), (7, 1), (2, 2)])
def test_tiny_images(shape: tuple[int, int]) -> None:
    mask = np.zeros(shape, dtype=bool)
    mask[0, 0] = True
    counts = pair_counts(mask, mask, num_predicted=1, num_objects=1)
    assert counts.j()[0, 0] == counts.f()[0, 0] == 1.0


def test_empty_and_full_masks() -> None:
    empty, full = np.zeros((9, 11), dtype=bool), np.ones((9, 11), dtype=bool)
    part = empty.copy()
    part[3:6, 4:8] = True

    def scores(predicted: np.ndarray, target: np.ndarray) -> tuple[float, float]:
        counts = pair_counts(predicted, target, num_predicted=1, num_objects=1)
        return float(counts.j()[0, 0]), float(counts.f()[0, 0])

    assert scores(empty, empty) == scores(full, full) == scores(part, part) == (1.0, 1.0)
    assert scores(part, empty) == scores(empty, part) == (0.0, 0.0)
    assert scores(full, empty) == (0.0, 1.0)  # a mask of the whole image has no boundary


def test_many_masks_need_wider_words() -> None:
    labels = np.arange(1, 26).reshape(5, 5).repeat(4, 0).repeat(4, 1)
    counts = pair_counts(labels, labels)
    assert counts.j().shape == (25, 25)
    np.testing.assert_array_equal(np.diag(counts.f()), 1.0)
    few = pair_counts((labels == 7).astype(int), labels, num_predicted=1, num_objects=25)
    np.testing.assert_array_equal(few.f()[0], counts.f()[6])
    grid = np.arange(1, 41).reshape(5, 8).repeat(3, 0).repeat(3, 1)
    with pytest.raises(InputError, match="40 proposals and 40 objects"):
        pair_counts(grid, grid)


def test_noisy_maps_are_counted_in_blocks() -> None:
    rng = np.random.default_rng(0)
    predicted, target = rng.integers(0, 4, (300, 400)), rng.integers(0, 3, (300, 400))
    counts = pair_counts(predicted, target)
    edges = boundary(predicted == 2)
    assert counts.predicted_boundary[1] == edges.sum()
    radius = tolerance_radius(300, 400)
    near = dilate(boundary(target == 1), radius)
    assert counts.predicted_matched[1, 0] == (edges & near).sum()


def test_bad_input_is_named() -> None:
    with pytest.raises(InputError, match="differ in size"):
        pair_counts(np.zeros((3, 4), dtype=int), np.zeros((4, 3), dtype=int))
    with pytest.raises(InputError, match="proposal id 5 is above the 2"):
        pair_counts(np.full((3, 3), 5), np.ones((3, 3), dtype=int), num_predicted=2)


def test_object_ids_beyond_the_sequence_are_background() -> None:
    target = np.array([[1, 1, 0, 3], [1, 1, 0, 3]])
    counts = pair_counts(target, target, num_predicted=3, num_objects=1)
    assert counts.target_area.tolist() == [4]
    assert counts.intersection[:, 0].tolist() == [4, 0, 0]


@pytest.mark.parametrize(("N", "first", "last"), [(1, 1, 1), (2, 1, 2), (4, 2, 2), (9, 3, 3), (301, 76, 76)])
def test_quarters_share_their_edges(N: int, first: int, last: int) -> None:
    values = np.random.default_rng(N).random(N)
    found = statistics(values)
    assert found.mean == pytest.approx(values.mean())
    assert found.recall == (values > 0.5).mean()
    if N in (1, 4, 9, 301):
        assert found.decay == pytest.approx(values[:first].mean() - values[-last:].mean())
    assert statistics(np.full(N, 0.5)).recall == 0.0
    assert statistics(np.full(N, 0.5)).decay == 0.0


def test_statistics_of_nothing() -> None:
    with pytest.raises(ValueError, match="one value per frame"):
        statistics(np.array([]))


@pytest.mark.parametrize(("N", "scored"), [(0, []), (1, []), (2, []), (3, [1]), (5, [1, 2, 3])])
def test_davis2016_leaves_out_first_and_last(N: int, scored: list[int]) -> None:
    assert list(range(N))[davis2016_frames(N)] == scored


def clip(seed: int, num_labels: int, N: int = 4) -> np.ndarray:
    return np.stack([label_map(seed * 100 + t, num_labels) for t in range(N)])


@pytest.mark.parametrize(("num_predicted", "num_objects"), [(3, 3), (5, 2), (1, 3), (0, 2)])
def test_matching_is_the_best_of_all(num_predicted: int, num_objects: int) -> None:
    predicted, target = clip(1, num_predicted), clip(2, num_objects)
    target[0, :2, :num_objects] = np.arange(1, num_objects + 1)  # every object shows in the first frame
    scores = davis2017_sequence(predicted, target)
    assert scores.j.shape == scores.f.shape == (num_objects, len(target))
    side = max(num_predicted, num_objects)
    radius = tolerance_radius(*target.shape[1:])
    table = np.zeros((side, num_objects))
    for p in range(side):
        for o in range(num_objects):
            masks = [(a == p + 1, b == o + 1) for a, b in zip(predicted, target, strict=True)]
            table[p, o] = np.mean([(binary_jaccard(a, b) + naive_f(a, b, radius)) / 2 for a, b in masks])
    best = max(sum(table[p, o] for o, p in enumerate(order)) for order in permutations(range(side), num_objects))
    assert ((scores.j + scores.f) / 2).mean(1).sum() == pytest.approx(best)
    for o, proposal in enumerate(scores.proposals):
        assert table[proposal - 1, o] == pytest.approx(((scores.j + scores.f) / 2).mean(1)[o])


def test_proposal_names_do_not_matter() -> None:
    predicted, target = clip(3, 4), clip(4, 3)
    renamed = np.array([0, 3, 1, 4, 2])[predicted]
    a, b = davis2017_sequence(predicted, target), davis2017_sequence(renamed, target)
    np.testing.assert_allclose(a.j, b.j)
    np.testing.assert_allclose(a.f, b.f)


def test_prediction_with_itself_is_perfect_and_summed_up() -> None:
    sequences = {name: davis2017_sequence(clip(seed, 3), clip(seed, 3)) for name, seed in (("a", 5), ("b", 6))}
    summary = davis2017_summary(sequences)
    assert list(summary) == ["J&F-Mean", "J-Mean", "J-Recall", "J-Decay", "F-Mean", "F-Recall", "F-Decay"]
    assert list(summary.values()) == pytest.approx([1, 1, 1, 0, 1, 1, 0])


def test_summary_means_over_objects_not_sequences() -> None:
    one = davis2017_sequence([np.array([[1, 0], [0, 0]])] * 2, [np.array([[1, 0], [0, 0]])] * 2)
    nothing = davis2017_sequence([np.zeros((2, 3), dtype=int)] * 2, [np.array([[1, 2, 0], [1, 2, 0]])] * 2)
    assert davis2017_summary({"one": one, "nothing": nothing})["J-Mean"] == pytest.approx(1 / 3)


def test_objects_are_those_of_the_first_frame() -> None:
    target = np.zeros((2, 6, 6), dtype=int)
    target[:, 1:3, 1:3] = 1
    target[1, 4:, 4:] = 2
    assert davis2017_sequence(target, target).j.tolist() == [[1.0, 1.0]]


def test_frames_may_show_other_proposals() -> None:
    target = np.zeros((2, 6, 6), dtype=int)
    target[:, 1:4, 1:4] = 1
    predicted = target.copy()
    predicted[1] *= 2
    frames = [pair_counts(p, t, num_objects=1) for p, t in zip(predicted, target, strict=True)]
    assert match_proposals(frames).j.tolist() in ([[1.0, 0.0]], [[0.0, 1.0]])


def test_too_many_proposals() -> None:
    labels = np.arange(1, 22).reshape(3, 7)
    with pytest.raises(InputError, match="21 proposals"):
        davis2017_sequence([labels], [np.ones((3, 7), dtype=int)])
