"""Squares and pairs: caches, independent endless streams, several processes, masks that training never opens."""

import random
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from common.errors import InputError
from common.files import write_image
from common.splits import Split
from redo import square_cache
from redo.data import PairSampler, SquareImages
from redo.options import DataOptions
from redo.preparation import network_images
from redo.square_cache import NO_OBJECT_KNOWN, image_square


def sampler(num_images: int, batch_size: int, iterations: int, **more: int) -> PairSampler:
    options = {"first_iteration": 0, "seed": 5, **more}
    return PairSampler(num_images, batch_size=batch_size, iterations=iterations, **options)


def epochs(source: PairSampler, count: int) -> list[tuple[int, int]]:
    pairs = []
    for epoch in range(count):
        source.set_epoch(epoch)
        pairs += list(source)
    return pairs


@settings(deadline=None, max_examples=30)
@given(num_images=st.integers(6, 40), batch_size=st.integers(1, 3), iterations=st.integers(1, 9), cut=st.integers(1, 4))
def test_a_stream_is_passes_of_whole_batches(num_images: int, batch_size: int, iterations: int, cut: int) -> None:
    pairs = epochs(sampler(num_images, batch_size, iterations), 3)
    assert len(pairs) == 3 * iterations * batch_size
    used = num_images // batch_size * batch_size
    for stream in zip(*pairs, strict=True):
        for start in range(0, len(stream), used):
            one_pass = stream[start : start + used]
            assert len(set(one_pass)) == len(one_pass)
            assert set(one_pass) <= set(range(num_images))
    # how the stream is cut into epochs does not matter, nor where it is entered
    assert epochs(sampler(num_images, batch_size, iterations * 3), 1) == pairs
    first = min(cut, iterations * 3 - 1)
    rest = sampler(num_images, batch_size, iterations * 3 - first, first_iteration=first)
    assert epochs(rest, 1) == pairs[first * batch_size :]


def test_both_streams_are_shuffled_apart() -> None:
    cut, real = zip(*epochs(sampler(50, 5, 10), 1), strict=True)
    assert sorted(cut) == sorted(real) == list(range(50))
    assert sum(a == b for a, b in zip(cut, real, strict=True)) < 10
    assert list(cut) != list(range(50))


def test_processes_share_the_batches_of_one() -> None:
    whole = np.array(epochs(sampler(20, 4, 7), 2)).reshape(14, 4, 2)
    parts = [np.array(epochs(sampler(20, 2, 7, rank=r, world_size=2), 2)).reshape(14, 2, 2) for r in (0, 1)]
    np.testing.assert_array_equal(whole, np.stack(parts, axis=2).reshape(14, 4, 2))


def test_a_resumed_epoch_skips_what_was_seen() -> None:
    whole, resumed = sampler(20, 4, 6), sampler(20, 4, 6)
    resumed.skip = 2 * 4
    assert list(resumed) == list(whole)[8:]
    assert list(resumed) == list(whole), "only once"


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    for k, (rows, columns) in enumerate([(40, 60), (70, 33), (32, 32)]):
        write_image(tmp_path / f"{k}.png", rng.integers(0, 256, (rows, columns, 3), dtype=np.uint8))
        write_image(tmp_path / f"{k}_mask.png", rng.integers(0, 2, (rows, columns), dtype=np.uint8) * 255)
    return tmp_path


def split_of(folder: Path, masks: tuple[bool, ...] = (True, True, True)) -> Split:
    rows = [
        {
            "Sequence": f"{k}",
            "Sequence_Index": "0",
            "Image": f"{k}.png",
            "GtMask": f"{k}_mask.png" if known else "",
        }
        for k, known in enumerate(masks)
    ]
    return Split.from_rows(rows, folder, folder / "split.csv")


def squares(
    folder: Path,
    scored: bool = True,
    channels: int = 3,
    masks: tuple[bool, ...] = (True, True, True),
    **options: object,
) -> SquareImages:
    images = SquareImages(
        split_of(folder, masks), 32, channels, DataOptions(cache_dir=folder / "cache", **options), scored
    )  # type: ignore[arg-type]
    images.build()
    return images


def test_squares_are_pillows_nearest_and_centred(photos: Path) -> None:
    batch = squares(photos).__getitems__([0, 1, 2])
    with Image.open(photos / "0.png") as image:
        small = np.asarray(image.resize((48, 32), Image.Resampling.NEAREST))
    np.testing.assert_array_equal(batch["image"][0].numpy(), small[:, 8:40])
    with Image.open(photos / "2_mask.png") as mask:
        np.testing.assert_array_equal(batch["object"][2].numpy(), np.asarray(mask) // 255)
    inputs = network_images(batch["image"])
    assert (inputs.shape, inputs.dtype) == ((3, 3, 32, 32), torch.float32)
    assert inputs.min() >= -1
    assert inputs.max() <= 1


def test_training_never_opens_a_mask(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: object) -> None:
        raise AssertionError("a mask was opened")

    monkeypatch.setattr(square_cache, "read_mask", fail)
    images = squares(photos, scored=False)
    assert set(images.__getitems__([(0, 1), (2, 0)])) == {"image", "real", "index", "path"}
    with pytest.raises(AssertionError, match="a mask was opened"):
        squares(photos, scored=True)


def test_files_are_decoded_once(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = squares(photos).__getitems__([0, 1, 2])["image"]
    monkeypatch.setattr(square_cache, "read_image", None)
    assert torch.equal(squares(photos).__getitems__([0, 1, 2])["image"], first)
    monkeypatch.undo()
    write_image(photos / "1.png", np.zeros((40, 40, 3), np.uint8))
    assert not squares(photos).__getitems__([1])["image"].any(), "a changed file must be read again"


def test_images_without_annotation_are_marked(photos: Path) -> None:
    batch = squares(photos, masks=(True, False, True)).__getitems__([0, 1, ~2])
    assert (batch["object"][1] == NO_OBJECT_KNOWN).all()
    assert (batch["object"][0] != NO_OBJECT_KNOWN).all()
    assert batch["weight"].tolist() == [1, 1, 0]
    assert squares(photos, masks=(False, False, False)).objects is None


def test_one_channel_is_the_luminance(photos: Path) -> None:
    found = squares(photos, channels=1).__getitems__([2])["image"]
    with Image.open(photos / "2.png") as image:
        np.testing.assert_array_equal(found[0, ..., 0].numpy(), np.asarray(image.convert("L")))


@pytest.mark.parametrize("mode", ["P", "L", "1", "RGBA", "CMYK", "LA", "I;16"])
def test_every_kind_of_picture_becomes_a_square(tmp_path: Path, mode: str) -> None:
    colours = np.random.default_rng(1).integers(0, 256, (40, 50, 3), dtype=np.uint8)
    path = tmp_path / ("a.tif" if mode == "CMYK" else "a.png")
    if mode == "I;16":
        Image.fromarray(colours[..., 0].astype(np.uint16) * 256).save(path)
    else:
        Image.fromarray(colours).convert(mode).save(path)
    assert image_square(path, 32).shape == (32, 32, 3)


def test_bad_images_are_named_or_left_out(photos: Path) -> None:
    (photos / "1.png").write_bytes((photos / "1.png").read_bytes()[:200])
    with pytest.raises(InputError, match=r"1\.png"):
        squares(photos)
    kept = squares(photos, skip_bad=1)
    assert len(kept) == 2
    assert kept.__getitems__([1])["path"] == ["2.png"]
    write_image(photos / "0.png", np.zeros((4, 90, 3), np.uint8))
    with pytest.raises(InputError, match=r"0\.png: an image of 4x90 pixels"):
        squares(photos, scored=False)


def test_a_mask_of_another_shape_is_refused(photos: Path) -> None:
    write_image(photos / "0_mask.png", np.zeros((60, 40), np.uint8))
    with pytest.raises(InputError, match=r"0_mask\.png: mask of 60x40 pixels for an image of 40x60"):
        squares(photos)
    (photos / "0_mask.png").unlink()
    with pytest.raises(InputError, match=r"0_mask\.png"):
        squares(photos)


def test_a_batch_is_its_items(photos: Path) -> None:
    images = squares(photos)
    batch = images.__getitems__([2, 0])
    for position, index in enumerate((2, 0)):
        item = images[index]
        for key in ("image", "object", "index", "weight"):
            assert torch.equal(item[key], batch[key][position])


def test_permutation_memory_holds_several_streams() -> None:
    """Two samplers used in turn do not disturb each other."""
    alone = epochs(sampler(12, 2, 9), 2)
    one, other = sampler(12, 2, 9), sampler(12, 2, 9, seed=6)
    mixed = []
    for epoch in range(2):
        one.set_epoch(epoch)
        iterator = iter(other)
        for pair in one:
            mixed.append(pair)
            if random.Random(len(mixed)).random() < 0.5:
                next(iterator, None)
    assert mixed == alone
