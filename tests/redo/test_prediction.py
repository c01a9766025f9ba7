"""Covering an image with squares, putting masks together, choosing the object; noises between two others."""

from pathlib import Path

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from common.files import write_labels
from redo.options import RedrawOptions
from redo.prediction import covering_offsets, region_off_the_border, whole_masks
from redo.preparation import centre_offsets, square, with_short_side
from redo.redrawing import noises


@settings(deadline=None, max_examples=60)
@given(long=st.integers(32, 200), lie=st.booleans())
def test_squares_cover_the_image_with_the_training_square_in_the_middle(long: int, lie: bool) -> None:
    shape = (32, long) if lie else (long, 32)
    offsets = covering_offsets(shape, 32)
    seen = np.zeros(shape, int)
    for row, column in offsets:
        assert row >= 0
        assert column >= 0
        part = seen[row : row + 32, column : column + 32]
        assert part.shape == (32, 32)
        part += 1
    assert seen.min() >= 1
    assert offsets[len(offsets) // 2] == centre_offsets(shape, 32)
    steps = np.diff(np.array(offsets).sum(axis=1))
    assert (steps <= 17).all()


@settings(deadline=None, max_examples=20)
@given(long=st.integers(32, 100), lie=st.booleans(), seed=st.integers(0, 99))
def test_masks_that_agree_are_put_together_unchanged(long: int, lie: bool, seed: int) -> None:
    shape = (32, long) if lie else (long, 32)
    truth = torch.rand(3, *shape, generator=torch.Generator().manual_seed(seed))
    offsets = covering_offsets(shape, 32)
    parts = torch.stack([truth[:, r : r + 32, c : c + 32] for r, c in offsets])
    torch.testing.assert_close(whole_masks(parts, offsets, shape, shape), truth)
    assert whole_masks(parts, offsets, shape, (50, 70)).shape == (3, 50, 70)


def test_a_square_image_gives_the_square_of_the_training() -> None:
    image = np.random.default_rng(0).integers(0, 256, (50, 50, 3), dtype=np.uint8)
    np.testing.assert_array_equal(with_short_side(image, 32), square(image, 32))


def test_the_object_keeps_off_the_border(tmp_path: Path) -> None:
    files = []
    for k, middle in enumerate((1, 1, 2)):
        labels = np.zeros((20, 30), np.uint8)
        labels[5:15, 8:20] = middle
        files.append(tmp_path / f"{k}.png")
        write_labels(files[-1], labels)
    assert region_off_the_border(files[:2], 2) == 1
    assert region_off_the_border(files, 4) in (1, 2), "neither the ground nor an empty region"


def test_noise_on_the_way_keeps_its_length_and_reaches_both_ends() -> None:
    free = noises(RedrawOptions(nz_samples=5, seed=3), 2, 2, 16)
    way = noises(RedrawOptions(nz_samples=5, seed=3, interpolate=True), 2, 2, 16)
    torch.testing.assert_close(way[[0, -1]], free[[0, -1]])
    lengths = way.norm(dim=3).squeeze()
    low, high = torch.minimum(lengths[0], lengths[-1]), torch.maximum(lengths[0], lengths[-1])
    assert ((lengths >= low - 1e-4) & (lengths <= high + 1e-4)).all()
    shared = noises(RedrawOptions(nz_samples=2, share_z=True), 3, 2, 4)
    assert torch.equal(shared[:, 0], shared[:, 2])
    assert not torch.equal(free[:, 0], free[:, 1])
