"""Scores and cleaning of background masks, the encoder that sees the light, tracks of slots, the frame sampler."""

from pathlib import Path

import numpy as np
import pytest
import torch

from ast_seg.background_masks import clean
from ast_seg.background_scores import MaskCounts, score_masks
from ast_seg.frame_data import PassesSampler
from ast_seg.model.background import BackgroundModel
from ast_seg.model.celu import celu
from ast_seg.slot_tables import SlotTracks
from common.files import write_image
from common.splits import read_split, write_split


def test_counts_leave_void_out() -> None:
    counts = MaskCounts()
    predicted = np.array([[1, 1, 1, 0]], bool)
    true = np.array([[1, 0, 0, 1]], bool)
    void = np.array([[0, 0, 1, 0]], bool)
    counts.add(predicted, true, void)
    f, precision, recall = (score.value for score in counts.scores("x", ""))
    assert (precision, recall, f) == (0.5, 0.5, 0.5)


def test_shadows_and_unknown_pixels_of_cdnet(tmp_path: Path) -> None:
    """Shadow is background; unknown and outside count for nothing. Masks are compared at the truth's size."""
    truth = np.repeat(np.repeat(np.array([[255, 50, 170, 85, 0]], np.uint8), 4, 0), 4, 1)
    mask = np.repeat(np.repeat(np.array([[255, 255, 255, 0, 0]], np.uint8), 2, 0), 2, 1)
    write_image(tmp_path / "truth.png", truth)
    write_image(tmp_path / "mask.png", mask)
    row = {"Sequence": "a", "Sequence_Index": "0", "GtMask": "truth.png", "BackgroundMask": "mask.png"}
    write_split(tmp_path / "s.csv", [row])
    scores = {s.name: s.value for s in score_masks(read_split(tmp_path / "s.csv", base_dir=tmp_path), "cdnet")}
    assert scores["background_recall_pixel"] == 1
    assert scores["background_precision_pixel"] == 0.5


@pytest.mark.parametrize(("cleaning", "specks"), [("none", 1), ("published", 1), ("median", 0), ("morphology", 0)])
def test_cleaning_below_400_pixels(cleaning: str, specks: int) -> None:
    mask = np.zeros((100, 140), np.uint8)
    mask[10, 10] = 255
    mask[40:60, 40:60] = 255
    mask[50, 50] = 0
    cleaned = clean(mask, cleaning)  # type: ignore[arg-type]
    assert int(cleaned[10, 10] > 0) == specks
    assert int(cleaned[50, 50] == 0) == specks
    assert set(np.unique(cleaned)) <= {0, 255}


def test_published_cleaning_starts_at_400_pixels() -> None:
    mask = np.zeros((30, 400), np.uint8)
    mask[10, 10] = 255
    assert clean(mask).max() == 0
    assert clean(mask[:, :399].copy()).max() == 255


def test_the_published_encoder_is_blind_to_the_light() -> None:
    """A gain leaves its latents nearly as they are; with an offset it does not."""
    torch.manual_seed(0)
    image = torch.rand(1, 3, 32, 32) * 120 + 60
    moved = []
    for offset in (0.0, 128.0):
        model = BackgroundModel(height=32, width=32, complexity=False, input_offset=offset).eval()
        with torch.no_grad():
            dark, light = (model.encoder(gain * image - offset) for gain in (0.75, 1.25))
        moved.append(float((dark - light).norm() / dark.norm()))
    assert moved[0] < 0.1
    assert moved[1] > 5 * moved[0]


def test_celu_and_its_gradient() -> None:
    x = torch.linspace(-8, 8, 400).requires_grad_()
    expected = torch.nn.functional.celu(x)
    torch.testing.assert_close(celu(x), expected, rtol=1e-6, atol=1e-7)
    one, other = (torch.autograd.grad(y.square().sum(), x)[0] for y in (celu(x), expected))
    torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-6)


def test_objects_keep_their_numbers_when_slots_change() -> None:
    tracks = SlotTracks(3)
    left, right = [-0.5, 0.0], [0.5, 0.1]
    first = tracks.numbers(np.array([1, 3]), np.array([left, right]))
    second = tracks.numbers(np.array([2, 3]), np.array([right, left]))  # both objects are in other slots now
    assert (second[3], second[2]) == (first[1], first[3])
    third = tracks.numbers(np.array([1]), np.array([[0.5, -0.9]]))  # too far from both: a new object
    assert third[1] not in first.values()


def test_every_pass_has_every_sample_once() -> None:
    sampler = PassesSampler(10, passes=3, batch_size=2, seed=0)
    order = list(sampler)
    assert len(order) == len(sampler) == 30
    passes = [order[start : start + 10] for start in (0, 10, 20)]
    assert all(sorted(one) == list(range(10)) for one in passes)
    assert passes[0] != passes[1]
    sampler.set_epoch(1)
    assert list(sampler) != order


def test_processes_share_a_pass() -> None:
    parts = [PassesSampler(11, passes=2, batch_size=2, seed=0, rank=rank, world_size=2) for rank in range(2)]
    one = PassesSampler(11, passes=2, batch_size=4, seed=0)
    taken = [index for pair in zip(*parts, strict=True) for index in pair]
    assert taken == list(one)  # 8 of 11 images make whole batches
    assert len(taken) == 16
