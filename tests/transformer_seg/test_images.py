"""Pictures and class maps on their way into a batch: augmentation, sizes, labels, bad input."""

from pathlib import Path

import numpy as np
import pytest
import torch

from common.errors import InputError
from common.files import write_image, write_labels
from common.sampling import generator
from common.splits import Split
from transformer_seg.images import DrawSampler, SplitImages
from transformer_seg.segmenter.data import (
    SegmenterTransforms,
    distorted,
    normalised,
    padded,
    random_corner,
    resized_pair,
)
from transformer_seg.segmenter.options import SegmenterDataOptions
from transformer_seg.wnet.data import WnetTransforms, random_box, resized
from transformer_seg.wnet.options import WnetDataOptions


def picture_of_labels(labels: np.ndarray) -> np.ndarray:
    """A picture whose every pixel shows its label."""
    return np.repeat((labels * 10).astype(np.uint8)[..., None], 3, axis=2)


def blocks(H: int, W: int) -> np.ndarray:
    """Large areas of labels 1 to 6."""
    return (1 + (np.arange(H)[:, None] * 2 // H) * 3 + np.arange(W)[None] * 3 // W).astype(np.int64)


def split_of(folder: Path, pictures: list[np.ndarray], labels: list[np.ndarray] | None = None) -> Split:
    rows = []
    for number, picture in enumerate(pictures):
        write_image(folder / f"{number}.png", picture)
        row = {"Sequence": f"s{number}", "Sequence_Index": 0, "Image": f"{number}.png"}
        if labels is not None:
            write_labels(folder / f"{number}_map.png", labels[number])
            row["GtSemantic"] = f"{number}_map.png"
        rows.append(row)
    return Split.from_rows(rows, folder)


@pytest.mark.parametrize("crop", ["resize", "random_resized", "random"])
def test_wnet_crops_keep_picture_and_labels_together(crop):
    transform = WnetTransforms(WnetDataOptions(image_size=48, crop=crop)).of_step("train")
    labels = blocks(60, 90)
    for seed in range(20):
        image, cut = transform(picture_of_labels(labels), labels, generator(seed))
        assert image.shape == (3, 48, 48)
        agree = (image[0] * 25.5).round().long() == cut
        assert agree.float().mean() > 0.85  # all but borders, where the picture is interpolated


def test_small_pictures_are_enlarged_for_a_random_crop():
    transform = WnetTransforms(WnetDataOptions(image_size=48, crop="random")).of_step("train")
    labels = blocks(20, 31)
    assert transform(picture_of_labels(labels), labels, generator(0))[1].shape == (48, 48)


def test_nearest_labels_invent_none_and_split_a_half_in_half():
    labels = np.repeat(np.array([[3, 200]]), 7, axis=0)
    _, small = resized(np.zeros((7, 2, 3), np.uint8), labels, (4, 6))
    assert small.tolist() == [[3, 3, 3, 200, 200, 200]] * 4


def test_random_boxes_lie_inside():
    for seed in range(50):
        top, left, height, width = random_box(40, 300, generator(seed))
        assert 0 <= top <= top + height <= 40
        assert 0 <= left <= left + width <= 300


@pytest.mark.parametrize("augment", [True, False])
def test_segmenter_crops_keep_picture_and_labels_together(augment):
    options = SegmenterDataOptions(image_size=64, crop_size=48, augment=augment, random_scale=[0.5, 1.5])
    transforms = SegmenterTransforms(options, "vit")
    labels = blocks(60, 90)
    for seed in range(20):
        image, cut = transforms.of_step("train")(picture_of_labels(labels), labels, generator(seed))
        assert image.shape == (3, 48, 48)
        assert cut.shape == (48, 48)
        assert set(cut.unique().tolist()) <= {1, 2, 3, 4, 5, 6, 255}
        assert (image[:, cut == 255] == 0).all()  # padded after the normalisation
        if not augment:
            shown = ((image[0] * 0.5 + 0.5) * 25.5).round().long()
            assert ((shown == cut) | (cut == 255)).float().mean() > 0.9


@pytest.mark.parametrize("flip", [True, False])
def test_flip_and_scale_move_labels_with_the_picture(flip, monkeypatch):
    monkeypatch.setattr("transformer_seg.segmenter.data.distorted", lambda picture, draw: picture)
    options = SegmenterDataOptions(image_size=64, crop_size=48, random_scale=[0.5, 1.5], flip=flip)
    transform = SegmenterTransforms(options, "vit").of_step("train")
    labels = blocks(60, 90)
    mirrored = 0
    for seed in range(20):
        image, cut = transform(picture_of_labels(labels), labels, generator(seed))
        shown = ((image[0] * 0.5 + 0.5) * 25.5).round().long()
        assert ((shown == cut) | (cut == 255)).float().mean() > 0.85
        row = cut[0][cut[0] != 255]
        mirrored += int(row[0] > row[-1])
    assert (2 <= mirrored <= 18) if flip else mirrored == 0


def test_crop_avoids_one_class_where_it_can():
    labels = np.zeros((40, 400), np.int64)
    labels[:, 180:220] = 1
    for seed in range(10):
        top, left = random_corner(labels, 40, 0.75, generator(seed))
        assert labels[top : top + 40, left : left + 40].shape == (40, 40)
    found = [
        len(np.unique(labels[:, left : left + 40]))
        for left in (random_corner(labels, 40, 0.75, generator(s))[1] for s in range(40))
    ]
    blind = [len(np.unique(labels[:, left : left + 40])) for left in np.random.default_rng(0).integers(0, 361, 400)]
    assert np.mean(found) > np.mean(blind) + 0.3
    corners = [random_corner(labels, 40, 1, generator(s))[1] for s in range(400)]
    assert abs(np.mean(corners) - 180) < 3 * 104 / 20  # any place, as likely as any other
    assert min(corners) < 10
    assert max(corners) > 350


def test_colours_are_distorted_within_bounds():
    grey = np.full((8, 8, 3), 100, np.uint8)
    seen = [int(distorted(grey, generator(seed))[0, 0].mean()) for seed in range(60)]
    assert min(seen) >= (100 - 32) * 0.5 - 1
    assert max(seen) <= (100 + 32) * 1.5 + 1
    assert len(set(seen)) > 10
    assert any(value == 100 for value in seen)


def test_padding_is_void_and_grey():
    image, labels = padded(torch.ones(3, 5, 7), np.zeros((5, 7), np.int64), 8)
    assert image.shape == (3, 8, 8)
    assert (image[:, 5:] == 0).all()
    assert (labels[:, 7] == 255).all()
    assert int((labels == 0).sum()) == 35


def test_normalisation_and_keep_ratio():
    assert normalised(np.full((2, 2, 3), 255, np.uint8), "vit").unique().tolist() == [1.0]
    picture, labels = resized_pair(np.zeros((512, 683, 3), np.uint8), np.zeros((512, 683), np.int64), 256, 4)
    assert picture.shape[:2] == labels.shape == (256, 342)
    assert resized_pair(np.zeros((10, 100, 3), np.uint8), np.zeros((10, 100), np.int64), 50, 4)[1].shape == (20, 200)


def test_draws_depend_on_seed_epoch_and_position(tmp_path):
    pictures = [np.random.default_rng(i).integers(0, 255, (30, 40, 3), dtype=np.uint8) for i in range(4)]
    options = WnetDataOptions(image_size=16)
    images = SplitImages(split_of(tmp_path, pictures), WnetTransforms(options).of_step("train"), seed=1)
    sampler = DrawSampler(4, shuffle=True, seed=1)
    sampler.set_epoch(3)
    keys = list(sampler)
    assert sorted(index for index, _ in keys) == [0, 1, 2, 3]
    assert {epoch for _, epoch in keys} == {3}
    assert torch.equal(images[(2, 3)]["image"], images[(2, 3)]["image"])
    assert not torch.equal(images[(2, 3)]["image"], images[(2, 4)]["image"])
    assert images[~2]["weight"] == 0
    assert (images[0]["label"] == 255).all()  # no class maps


def test_bad_pictures_are_named(tmp_path, capsys):
    pictures = [np.zeros((20, 20, 3), np.uint8)] * 3
    split = split_of(tmp_path, pictures)
    (tmp_path / "1.png").write_bytes(b"no picture")
    images = SplitImages(split, WnetTransforms(WnetDataOptions()).of_step("val"), seed=0)
    with pytest.raises(InputError, match=r"1\.png.*1 of 3 pictures"):
        images.check()


def test_one_bad_picture_in_a_hundred_is_left_out(tmp_path, capsys):
    pictures = [np.zeros((8, 8, 3), np.uint8)] * 100
    split = split_of(tmp_path, pictures)
    (tmp_path / "7.png").write_bytes(b"no picture")
    images = SplitImages(split, WnetTransforms(WnetDataOptions()).of_step("val"), seed=0)
    images.check()
    assert len(images) == 99
    assert "left out" in capsys.readouterr().err
    assert images[7]["path"] == "8.png"


def test_class_map_of_another_size_or_with_other_classes(tmp_path):
    picture = np.zeros((20, 20, 3), np.uint8)
    transform = SegmenterTransforms(SegmenterDataOptions(crop_size=16, image_size=16), "vit").of_step("train")
    wrong = SplitImages(split_of(tmp_path, [picture], [np.zeros((20, 24), np.int64)]), transform, 0)
    with pytest.raises(InputError, match=r"class map of 20x24 pixels, but its picture has 20x20"):
        wrong.check()
    high = SplitImages(split_of(tmp_path, [picture], [np.full((20, 20), 150)]), transform, 0, num_classes=150)
    with pytest.raises(InputError, match="label 150, but there are 150 classes"):
        high[0]
