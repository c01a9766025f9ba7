import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.errors import InputError
from stflow.linking import cut, link, next_labels, overlap_scores, pair_histograms, unravel, window_labels


def link_pixel_by_pixel(windows, L):
    """The published rule, one comparison of masks at a time."""
    linked = windows.copy()
    for w in range(1, len(windows)):
        scores = np.zeros((L, L))
        for old, new, s in np.ndindex(L, L, windows.shape[1] - 1):
            a, b = linked[w - 1, s + 1] == old, windows[w, s] == new
            scores[old, new] += (a & b).sum() / (a | b).sum() if (a | b).any() else 1
        for new in range(L):
            linked[w][windows[w] == new] = scores[:, new].argmax()
    return linked


def windows_of(seed, n, T, L, labels_used=None):
    rng = np.random.default_rng(seed)
    return rng.integers(0, labels_used or L, (n, T, 3, 4)).astype(np.uint8)


@settings(deadline=None, max_examples=60)
@given(
    seed=st.integers(0, 10**6), n=st.integers(1, 7), T=st.integers(1, 5), L=st.integers(1, 5), used=st.integers(1, 5)
)
def test_histograms_give_what_pixels_give(seed, n, T, L, used):
    windows = windows_of(seed, n, T, L, min(used, L))
    np.testing.assert_array_equal(link(windows, L), link_pixel_by_pixel(windows, L))


@settings(deadline=None, max_examples=30)
@given(seed=st.integers(0, 10**6), size=st.integers(1, 8))
def test_chunks_are_linked_on_their_own(seed, size):
    windows = windows_of(seed, 7, 3, 4)
    alone = [link(windows[first : first + size], 4) for first in range(0, 7, size)]
    np.testing.assert_array_equal(link(windows, 4, size), np.concatenate(alone))


@pytest.mark.parametrize("method", ["greedy", "hungarian"])
def test_shuffled_labels_are_put_back(method):
    rng = np.random.default_rng(0)
    frames = np.kron(rng.permuted(np.tile(np.arange(16) % 4, (1, 1)), axis=1).reshape(1, 4, 4), np.ones((1, 3, 3)))
    frames = np.repeat(frames, 12, axis=0).astype(np.uint8)
    clean = np.stack([frames[w : w + 3] for w in range(10)])
    shuffled = np.stack([clean[0], *(rng.permutation(4).astype(np.uint8)[window] for window in clean[1:])])
    linked = link(shuffled, 4, method=method)
    np.testing.assert_array_equal(linked, clean)
    np.testing.assert_array_equal(unravel(linked), frames)
    assert linked.dtype == np.uint8


def test_scores_by_hand():
    windows = np.array([[[[0, 0, 0, 1]]] * 2, [[[0, 1, 1, 1]]] * 2])
    (histogram,) = pair_histograms(windows, 3)
    assert histogram.tolist() == [[[1, 2, 0], [0, 1, 0], [0, 0, 0]]]
    np.testing.assert_allclose(overlap_scores(histogram, 1.0), [[1 / 3, 1 / 2, 0], [0, 1 / 3, 0], [0, 0, 1]])
    assert next_labels(histogram, "greedy").tolist() == [0, 0, 2]  # two labels merge
    assert next_labels(histogram, "hungarian").tolist() == [0, 1, 2]


@settings(deadline=None, max_examples=30)
@given(seed=st.integers(0, 10**6), L=st.integers(1, 6))
def test_hungarian_never_merges(seed, L):
    windows = windows_of(seed, 5, 3, L)
    for before, after in zip(windows, link(windows, L, method="hungarian"), strict=True):
        pairs = set(zip(before.ravel().tolist(), after.ravel().tolist(), strict=True))
        assert len(pairs) == len({old for old, _ in pairs}) == len({new for _, new in pairs})


def test_input_is_left_alone():
    windows = windows_of(0, 5, 3, 4)
    before = windows.copy()
    link(windows, 4)
    np.testing.assert_array_equal(windows, before)


@settings(deadline=None, max_examples=50)
@given(count=st.integers(3, 60), size=st.integers(1, 20))
def test_chunks_of_frames_match_chunks_of_windows(count, size):
    frames, windows = cut(count, size, shortcut=True), cut(count - 2, size)
    assert np.concatenate(frames).tolist() == list(range(count))
    assert len(frames) == len(windows)
    for of_frames, of_windows in zip(frames, windows, strict=True):
        assert set(of_windows + 1) <= set(of_frames)


def test_cut_refuses_what_it_cannot_do():
    for size in (0, -2):
        with pytest.raises(InputError, match=f"cuts_size: {size}"):
            cut(5, size)
    with pytest.raises(InputError, match="sequence of 2 is too short"):
        cut(2, 3, shortcut=True)
    assert [chunk.tolist() for chunk in cut(4, None)] == [[0, 1, 2, 3]]


@pytest.mark.parametrize("T", [1, 2, 3, 4, 5])
def test_unravel_gives_every_frame_once(T):
    frames = np.arange(9)[:, None, None]
    windows = np.stack([frames[w : w + T] for w in range(9 - T + 1)])
    np.testing.assert_array_equal(unravel(windows), frames)


def test_first_of_equal_probabilities():
    proba = np.array([0.5, 0.5 + 1e-5]).reshape(2, 1, 1, 1)
    assert window_labels(proba).item() == 1
    assert window_labels(proba, legacy_float16=True).item() == 0


def test_mistakes_are_named():
    windows = windows_of(0, 3, 3, 4)
    with pytest.raises(InputError, match="unknown method 'best'"):
        link(windows, 4, method="best")
    with pytest.raises(InputError, match="windows of 2 segments"):
        link(windows, 2)
