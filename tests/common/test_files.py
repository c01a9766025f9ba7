"""Images, masks, labels, arrays, flow and video: round trips, bad files, real data."""

import os
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from PIL import Image

from common.errors import InputError
from common.files import (
    atomic_path,
    image_size,
    read_array,
    read_image,
    read_labels,
    read_mask,
    value_counts,
    voc_palette,
    write_array,
    write_image,
    write_labels,
)
from common.flow_files import FLO_TAG, flow_size, read_flow, write_flow
from common.video import VideoWriter, video_frames, video_info
from tests.golden import need_data

quick = settings(deadline=None, derandomize=True, max_examples=30)


def error_of(function, path, *rest):
    """The message of the InputError that a call must raise: one line that names the path."""
    with pytest.raises(InputError) as caught:
        function(path, *rest)
    message = str(caught.value)
    assert "\n" not in message
    assert str(path) in message
    return message


@pytest.fixture
def gradient():
    rows, columns = np.mgrid[0:40, 0:60]
    return np.stack([rows * 6, columns * 4, rows + columns], axis=-1).astype(np.uint8)


# ---------------------------------------------------------------- atomic writing


def test_atomic_path_renames_and_makes_folders(tmp_path):
    target = tmp_path / "a" / "b" / "file.txt"
    with atomic_path(target) as temporary:
        assert temporary.parent == target.parent
        assert temporary.suffix == ".txt"
        temporary.write_text("new")
        assert not target.exists()
    assert target.read_text() == "new"
    assert [entry.name for entry in target.parent.iterdir()] == ["file.txt"]


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_atomic_path_keeps_the_old_file_on_error(tmp_path, error):
    target = tmp_path / "file.txt"
    target.write_text("old")

    def interrupted():
        with atomic_path(target, suffix=".part") as temporary:
            assert temporary.suffix == ".part"
            temporary.write_text("half")
            raise error

    with pytest.raises(error):
        interrupted()
    assert target.read_text() == "old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["file.txt"]


def test_atomic_path_refuses_bad_places(tmp_path):
    (tmp_path / "file").write_text("")
    assert "folder" in error_of(lambda path: atomic_path(path).__enter__(), tmp_path / "file" / "below.txt")
    assert "is a folder" in error_of(lambda path: atomic_path(path).__enter__(), tmp_path)


def test_atomic_path_unwritable_folder(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "access", lambda path, mode: path != tmp_path)
    assert "not writable" in error_of(lambda path: atomic_path(path).__enter__(), tmp_path / "x.txt")


def test_atomic_path_full_disk(tmp_path):
    def write(path):
        with atomic_path(path):
            raise OSError(28, "No space left on device")

    assert "No space left" in error_of(write, tmp_path / "x.txt")


def test_atomic_path_respects_umask(tmp_path):
    write_image(tmp_path / "x.png", np.zeros((2, 2), np.uint8))
    plain = tmp_path / "plain"
    plain.write_text("")
    assert (tmp_path / "x.png").stat().st_mode == plain.stat().st_mode


# ---------------------------------------------------------------- what every reader refuses

READERS = [read_image, image_size, read_labels, read_mask, read_array, read_flow, flow_size, video_info]


@pytest.mark.parametrize("reader", READERS, ids=lambda reader: reader.__name__)
def test_readers_name_missing_empty_folder_and_garbage(reader, tmp_path):
    suffix = {"read_array": ".npy", "read_flow": ".flo", "flow_size": ".flo", "video_info": ".mp4"}
    suffix = suffix.get(reader.__name__, ".png")
    assert "no such" in error_of(reader, tmp_path / f"missing{suffix}")
    (tmp_path / f"folder{suffix}").mkdir()
    assert "is a folder" in error_of(reader, tmp_path / f"folder{suffix}")
    (tmp_path / f"empty{suffix}").write_bytes(b"")
    assert "empty" in error_of(reader, tmp_path / f"empty{suffix}")
    (tmp_path / f"garbage{suffix}").write_bytes(b"this is not what the name says" * 40)
    error_of(reader, tmp_path / f"garbage{suffix}")


def test_truncated_pictures(tmp_path, gradient):
    noise = np.random.default_rng(0).integers(0, 255, (40, 60, 3), dtype=np.uint8)
    for suffix in (".png", ".jpg", ".tif"):
        write_image(tmp_path / f"whole{suffix}", noise)
        data = (tmp_path / f"whole{suffix}").read_bytes()
        (tmp_path / f"half{suffix}").write_bytes(data[: len(data) // 2])
        error_of(read_image, tmp_path / f"half{suffix}")


def test_bomb_is_refused(tmp_path):
    path = tmp_path / "bomb.png"
    Image.new("1", (20000, 20000)).save(path)
    assert "too large" in error_of(read_image, path)


# ---------------------------------------------------------------- images


@quick
@given(image=arrays(np.uint8, st.tuples(st.integers(1, 9), st.integers(1, 9), st.just(3))))
def test_image_round_trip(image, tmp_path_factory):
    path = tmp_path_factory.mktemp("image") / "x.png"
    write_image(path, image)
    np.testing.assert_array_equal(read_image(path), image)
    assert image_size(path) == image.shape[:2]


@pytest.mark.parametrize(
    ("mode", "suffix"),
    [("L", "png"), ("P", "png"), ("RGBA", "png"), ("LA", "png"), ("1", "png"), ("CMYK", "jpg"), ("CMYK", "tif")],
)
def test_image_modes(mode, suffix, tmp_path, gradient):
    picture = Image.fromarray(gradient).convert(mode)
    picture.save(tmp_path / f"x.{suffix}")
    got = read_image(tmp_path / f"x.{suffix}")
    assert got.shape == (40, 60, 3)
    assert got.dtype == np.uint8
    assert np.abs(got.astype(int) - np.asarray(picture.convert("RGB"))).mean() < 5


def test_image_16_bit_keeps_the_high_byte(tmp_path):
    values = np.array([[0, 255, 256], [32768, 65280, 65535]], dtype=np.uint16)
    Image.fromarray(values).save(tmp_path / "x.png")
    np.testing.assert_array_equal(read_image(tmp_path / "x.png")[..., 0], values >> 8)


def test_image_float_is_refused(tmp_path):
    Image.fromarray(np.zeros((4, 4), np.float32)).save(tmp_path / "x.tif")
    assert "32 bit" in error_of(read_image, tmp_path / "x.tif")


def test_animation_gives_its_first_frame(tmp_path):
    frames = [Image.new("RGB", (6, 4), colour) for colour in ("red", "blue")]
    frames[0].save(tmp_path / "x.gif", save_all=True, append_images=frames[1:])
    assert read_image(tmp_path / "x.gif")[0, 0].tolist() == [255, 0, 0]


def test_transparent_palette(tmp_path):
    picture = Image.new("P", (3, 2), 1)
    picture.putpalette([0, 0, 0, 10, 20, 30])
    picture.save(tmp_path / "x.png", transparency=b"\x00\xff")
    assert read_image(tmp_path / "x.png")[0, 0].tolist() == [10, 20, 30]


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation(orientation, tmp_path, gradient):
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(gradient).save(tmp_path / "x.png", exif=exif)
    turn = {
        1: lambda a: a, 2: lambda a: a[:, ::-1], 3: lambda a: a[::-1, ::-1], 4: lambda a: a[::-1],
        5: lambda a: a.swapaxes(0, 1), 6: lambda a: np.rot90(a, -1),
        7: lambda a: a[::-1, ::-1].swapaxes(0, 1), 8: lambda a: np.rot90(a, 1),
    }  # fmt: skip
    got = read_image(tmp_path / "x.png")
    np.testing.assert_array_equal(got, turn[orientation](gradient))
    assert image_size(tmp_path / "x.png") == got.shape[:2]


def test_write_image_refuses(tmp_path):
    with pytest.raises(ValueError, match="uint8"):
        write_image(tmp_path / "x.png", np.zeros((4, 4, 3)))
    assert "suffix" in error_of(write_image, tmp_path / "x.doc", np.zeros((4, 4, 3), np.uint8))


# ---------------------------------------------------------------- labels


@quick
@given(labels=arrays(np.int64, array_shapes(min_dims=2, max_dims=2, max_side=8), elements=st.integers(0, 65535)))
def test_labels_round_trip(labels, tmp_path_factory):
    path = tmp_path_factory.mktemp("labels") / "x.png"
    write_labels(path, labels)
    got = read_labels(path)
    assert got.dtype == np.int64
    np.testing.assert_array_equal(got, labels)


def test_labels_png_is_indexed_with_the_voc_palette(tmp_path):
    write_labels(tmp_path / "x.png", np.array([[0, 1], [20, 255]]))
    with Image.open(tmp_path / "x.png") as picture:
        assert picture.mode == "P"
        np.testing.assert_array_equal(np.reshape(picture.getpalette(), (-1, 3)), voc_palette())
    # the colours printed in the VOC development kit
    assert voc_palette()[[0, 1, 2, 15, 20, 255]].tolist() == [
        [0, 0, 0], [128, 0, 0], [0, 128, 0], [192, 128, 128], [0, 64, 128], [224, 224, 192],
    ]  # fmt: skip


def test_labels_refuse(tmp_path, gradient):
    write_image(tmp_path / "x.png", gradient)
    assert "colour" in error_of(read_labels, tmp_path / "x.png")
    write_image(tmp_path / "x.jpg", gradient[..., 0])
    assert "JPEG" in error_of(read_labels, tmp_path / "x.jpg")
    assert ".png" in error_of(write_labels, tmp_path / "x.bmp", np.zeros((2, 2), int))
    for bad in (np.full((2, 2), 65536), np.full((2, 2), -1), np.zeros((2, 2)), np.zeros((1, 2, 2), int)):
        with pytest.raises(ValueError, match="labels"):
            write_labels(tmp_path / "y.png", bad)
    assert not (tmp_path / "y.png").exists()


def test_labels_of_grey_rgb(tmp_path):
    grey = np.array([[0, 7], [255, 3]], dtype=np.uint8)
    write_image(tmp_path / "x.png", np.repeat(grey[..., None], 3, axis=2))
    np.testing.assert_array_equal(read_labels(tmp_path / "x.png"), grey)


# ---------------------------------------------------------------- masks


def save_mask(path, values, mode, palette=None):
    picture = Image.fromarray(np.asarray(values, np.uint8))
    if mode == "P":
        picture.putpalette((voc_palette() if palette is None else palette).tobytes())
    elif mode != "L":
        picture = picture.convert(mode)
    picture.save(path)
    return path


@pytest.mark.parametrize(
    ("values", "mode", "labels", "void"),
    [
        ([[0, 255], [255, 0]], "1", [[0, 1], [1, 0]], 0),
        ([[0, 255], [255, 0]], "L", [[0, 1], [1, 0]], 0),
        ([[0, 255], [255, 0]], "RGB", [[0, 1], [1, 0]], 0),
        ([[0, 255], [255, 0]], "RGBA", [[0, 1], [1, 0]], 0),
        ([[255, 255], [255, 255]], "L", [[1, 1], [1, 1]], 0),
        ([[0, 0], [0, 0]], "L", [[0, 0], [0, 0]], 0),
        ([[0, 1], [1, 0]], "L", [[0, 1], [1, 0]], 0),
        ([[0, 1], [1, 0]], "P", [[0, 1], [1, 0]], 0),
        ([[0, 3], [7, 255]], "P", [[0, 3], [7, 0]], 1),
    ],
)
def test_mask_auto(values, mode, labels, void, tmp_path):
    mask = read_mask(save_mask(tmp_path / "x.png", values, mode))
    assert mask.labels.tolist() == labels
    assert int(mask.void.sum()) == void
    np.testing.assert_array_equal(mask.foreground, np.array(labels) > 0)


@pytest.mark.parametrize(
    ("values", "mode", "flag"),
    [
        ([[0, 128], [255, 3]], "L", "threshold128"),
        ([[0, 1], [2, 3]], "L", "palette_ids"),
        ([[0, 50], [170, 255]], "L", "--mask_encoding cdnet"),
        ([[0, 50], [60, 255]], "L", "--mask_encoding 255"),
    ],
)
def test_mask_auto_refuses_and_names_the_flag(values, mode, flag, tmp_path):
    message = error_of(read_mask, save_mask(tmp_path / "x.png", values, mode))
    assert flag in message
    assert "--mask_encoding" in message
    assert str(max(map(max, values))) in message


def test_mask_encodings(tmp_path):
    path = save_mask(tmp_path / "x.png", [[0, 1, 127, 128, 254, 255]], "L")
    assert read_mask(path, "255").labels.tolist() == [[0, 0, 0, 0, 0, 1]]
    assert read_mask(path, "threshold128").labels.tolist() == [[0, 0, 0, 1, 1, 1]]
    ids = read_mask(path, "palette_ids")
    assert ids.labels.tolist() == [[0, 1, 127, 128, 254, 0]]
    assert ids.void.tolist() == [[False] * 5 + [True]]
    assert "binary01" in error_of(read_mask, path, "binary01")
    assert "--mask_encoding 255" in error_of(read_mask, save_mask(tmp_path / "w.png", [[255]], "L"), "binary01")
    assert read_mask(save_mask(tmp_path / "p.png", [[0, 1, 2]], "P"), "255").labels.tolist() == [[0, 0, 0]]
    assert read_mask(save_mask(tmp_path / "b.png", [[0, 255]], "1"), "255").labels.tolist() == [[0, 0]]
    with pytest.raises(InputError, match="--mask_encoding nonsense"):
        read_mask(path, "nonsense")


def test_mask_grey_palette_means_its_shades(tmp_path):
    inverted = np.repeat(np.arange(255, -1, -1, dtype=np.uint8)[:, None], 3, axis=1)
    path = save_mask(tmp_path / "x.png", [[0, 255]], "P", inverted)
    assert read_mask(path).labels.tolist() == [[1, 0]]


@quick
@given(labels=arrays(np.int64, array_shapes(min_dims=2, max_dims=2), elements=st.integers(-3, 70000)))
def test_value_counts(labels):
    values, counts = np.unique(labels, return_counts=True)
    assert list(value_counts(labels).items()) == list(zip(values.tolist(), counts.tolist(), strict=True))


def test_mask_colour_picture(tmp_path, gradient):
    write_image(tmp_path / "x.png", gradient)
    assert "colour" in error_of(read_mask, tmp_path / "x.png")


# ---------------------------------------------------------------- arrays


@quick
@given(array=arrays(np.float32, array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=4)))
def test_array_round_trip(array, tmp_path_factory):
    folder = tmp_path_factory.mktemp("array")
    for suffix in (".npy", ".npz"):
        write_array(folder / f"x{suffix}", array)
        np.testing.assert_array_equal(read_array(folder / f"x{suffix}"), array)


def test_array_refuses(tmp_path):
    np.save(tmp_path / "object.npy", np.array([{}], dtype=object), allow_pickle=True)
    error_of(read_array, tmp_path / "object.npy")
    np.savez(tmp_path / "two.npz", a=np.zeros(2), b=np.ones(3))
    assert "['a', 'b']" in error_of(read_array, tmp_path / "two.npz")
    np.testing.assert_array_equal(read_array(tmp_path / "two.npz", "b"), np.ones(3))
    assert "'c'" in error_of(read_array, tmp_path / "two.npz", "c")
    write_array(tmp_path / "x.npy", np.zeros((50, 50)))
    data = (tmp_path / "x.npy").read_bytes()
    (tmp_path / "half.npy").write_bytes(data[:3000])
    error_of(read_array, tmp_path / "half.npy")
    (tmp_path / "huge.npy").write_bytes(data.replace(b"(50, 50)", b"(50, 9**9)".ljust(8))[:3000])
    error_of(read_array, tmp_path / "huge.npy")
    assert ".npy" in error_of(write_array, tmp_path / "x.txt", np.zeros(2))


@settings(deadline=None, derandomize=True, max_examples=150)
@given(data=st.data(), suffix=st.sampled_from([".npy", ".npz", ".png", ".jpg", ".flo"]))
def test_damaged_files_give_one_line(data, suffix, tmp_path_factory):
    """Whatever bytes are changed or lost: a value or an InputError, never another exception."""
    folder = tmp_path_factory.mktemp("damaged")
    path = folder / f"x{suffix}"
    if suffix in (".png", ".jpg"):
        write_image(path, np.arange(7 * 5 * 3, dtype=np.uint8).reshape(7, 5, 3))
    else:
        write_flow(path, np.arange(70, dtype=np.float32).reshape(2, 7, 5))
    content = bytearray(path.read_bytes())
    for place in data.draw(st.lists(st.integers(0, len(content) - 1), max_size=4)):
        content[place] = data.draw(st.integers(0, 255))
    path.write_bytes(content[: data.draw(st.integers(0, len(content)))])
    for reader in (read_image, image_size, read_mask, read_labels) if suffix in (".png", ".jpg") else (read_flow,):
        message = str(path)
        try:
            reader(path)
        except InputError as error:
            message = str(error)
        assert str(path) in message
        assert "\n" not in message


# ---------------------------------------------------------------- flow

flows = st.integers(1, 7).flatmap(
    lambda height: arrays(
        np.float32, st.tuples(st.just(2), st.just(height), st.integers(1, 7)), elements=st.floats(-500, 500, width=32)
    )
)


@quick
@given(flow=flows)
def test_flow_round_trip(flow, tmp_path_factory):
    folder = tmp_path_factory.mktemp("flow")
    for suffix, bound in ((".flo", 0), (".npy", 0), (".npz", 0), (".png", 1 / 128)):
        path = folder / f"x{suffix}"
        write_flow(path, flow)
        got = read_flow(path)
        assert got.dtype == np.float32
        assert got.shape == flow.shape
        assert np.abs(got.astype(float) - flow).max() <= bound
        assert flow_size(path) == flow.shape[1:]


def test_flo_bytes_by_hand(tmp_path):
    (tmp_path / "x.flo").write_bytes(b"PIEH" + struct.pack("<ii4f", 2, 1, 1.0, 2.0, 3.0, 4.0))
    assert read_flow(tmp_path / "x.flo").tolist() == [[[1.0, 3.0]], [[2.0, 4.0]]]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"PIEH", ["expected 12 bytes", "found 4"]),
        (struct.pack("<fii", FLO_TAG, 60000, 60000), ["60000x60000", "28800000012", "found 12"]),
        (struct.pack("<fii", FLO_TAG, 2**31 - 1, 2**31 - 1), ["found 12"]),
        (struct.pack("<fii", FLO_TAG, -4, 3), ["-4x3"]),
        (struct.pack("<fii", FLO_TAG, 0, 3), ["0x3"]),
        (struct.pack(">fii8f", FLO_TAG, 2, 2, *range(8)), ["tag"]),
        (struct.pack("<fii8f", 1.0, 2, 2, *range(8)), ["tag 1 instead of 202021.25"]),
        (struct.pack("<fii7f", FLO_TAG, 2, 2, *range(7)), ["44 bytes", "found 40"]),
        (struct.pack("<fii9f", FLO_TAG, 2, 2, *range(9)), ["44 bytes", "found 48"]),
        (struct.pack("<fii8f", FLO_TAG, 2, 2, *[float("nan")] * 3, *range(5)), ["3 of 8", "NaN"]),
        (struct.pack("<fii8f", FLO_TAG, 2, 2, float("inf"), *range(7)), ["1 of 8", "infinite"]),
        (struct.pack("<fii8f", FLO_TAG, 2, 2, 1.7e9, -1.7e9, *range(6)), ["2 flow values exceed 1e9"]),
    ],
)
def test_bad_flo(content, words, tmp_path):
    (tmp_path / "x.flo").write_bytes(content)
    message = error_of(read_flow, tmp_path / "x.flo")
    for word in words:
        assert word in message


def test_flow_arrays(tmp_path):
    flow = np.arange(24, dtype=np.float64).reshape(2, 3, 4)
    np.save(tmp_path / "last.npy", flow.transpose(1, 2, 0))
    np.testing.assert_array_equal(read_flow(tmp_path / "last.npy"), flow)
    np.savez(tmp_path / "named.npz", flow=flow, other=np.zeros(3))
    np.testing.assert_array_equal(read_flow(tmp_path / "named.npz"), flow)
    np.save(tmp_path / "shape.npy", flow[:1])
    assert "(1, 3, 4)" in error_of(read_flow, tmp_path / "shape.npy")
    np.save(tmp_path / "text.npy", np.array([[["a"]]]))
    assert "no flow" in error_of(read_flow, tmp_path / "text.npy")


def test_flow_kitti_refuses(tmp_path, gradient):
    import cv2

    write_image(tmp_path / "eight.png", gradient)
    assert "KITTI" in error_of(read_flow, tmp_path / "eight.png")
    sparse = np.full((3, 4, 3), 2**15, dtype=np.uint16)
    sparse[0, :2, 0] = 0
    cv2.imwrite(str(tmp_path / "sparse.png"), sparse)
    assert "2 pixels" in error_of(read_flow, tmp_path / "sparse.png")
    assert "512" in error_of(write_flow, tmp_path / "big.png", np.full((2, 3, 4), 513.0))
    assert not (tmp_path / "big.png").exists()


def test_flow_suffix_and_shape(tmp_path):
    assert "'.txt'" in error_of(read_flow, tmp_path / "x.txt")
    assert "'.txt'" in error_of(write_flow, tmp_path / "x.txt", np.zeros((2, 3, 4)))
    with pytest.raises(ValueError, match=r"\(2,H,W\)"):
        write_flow(tmp_path / "x.flo", np.zeros((3, 4, 2)))


# ---------------------------------------------------------------- video


def test_video_round_trip_with_odd_size(tmp_path):
    frames = [np.full((45, 63, 3), value, np.uint8) for value in (20, 120, 220)]
    with VideoWriter(tmp_path / "a" / "x.mp4", fps=12.5) as video:
        for frame in frames:
            video.write(frame)
    info = video_info(tmp_path / "a" / "x.mp4")
    assert (info.num_frames, info.height, info.width, info.fps) == (3, 46, 64, 12.5)
    got = list(video_frames(tmp_path / "a" / "x.mp4"))
    assert [frame.shape for frame in got] == [(46, 64, 3)] * 3
    np.testing.assert_allclose([frame.mean() for frame in got], [20, 120, 220], atol=4)
    assert [entry.name for entry in (tmp_path / "a").iterdir()] == ["x.mp4"]


def test_video_writer_leaves_nothing_on_error(tmp_path):
    def interrupted(frames):
        with VideoWriter(tmp_path / "x.mp4") as video:
            for frame in frames:
                video.write(frame)

    with pytest.raises(ValueError, match="no frame"):
        interrupted([])
    with pytest.raises(ValueError, match="the first one"):
        interrupted([np.zeros((16, 16, 3), np.uint8), np.zeros((18, 16, 3), np.uint8)])
    with pytest.raises(ValueError, match="uint8"):
        interrupted([np.zeros((16, 16, 3))])
    assert not list(tmp_path.iterdir())
    for arguments in ((tmp_path / "x.gif",), (tmp_path / "x.mp4", 0)):
        error_of(VideoWriter, *arguments)


@pytest.mark.parametrize(
    ("matrix", "white_corner"),
    [((0, 1, -1, 0, 16, 0), (0, -1)), ((-1, 0, 0, -1, 32, 16), (-1, -1)), ((0, -1, 1, 0, 0, 32), (-1, 0))],
    ids=["clockwise", "upside down", "counter-clockwise"],
)
def test_video_filmed_lying_comes_upright(matrix, white_corner, tmp_path):
    """A phone's clip: the frames lie, the header's matrix (a b c d tx ty of x' = ax + cy + tx) puts them upright."""
    path = tmp_path / "x.mp4"
    frame = np.zeros((16, 32, 3), np.uint8)
    frame[:8, :16] = 255
    with VideoWriter(path) as video:
        video.write(frame)
    a, b, c, d, x, y = (value << 16 for value in matrix)
    plain = struct.pack(">9i", 1 << 16, 0, 0, 0, 1 << 16, 0, 0, 0, 1 << 30)
    content = path.read_bytes()
    place = content.index(plain, content.index(b"tkhd"))
    turned = struct.pack(">9i", a, b, 0, c, d, 0, x, y, 1 << 30)
    path.write_bytes(content[:place] + turned + content[place + len(turned) :])
    (got,) = video_frames(path)
    info = video_info(path)
    assert got.shape[:2] == (info.height, info.width) == ((16, 32) if matrix[0] else (32, 16))
    assert got[white_corner].min() > 200
    assert got[0, 0].max() < 50


def test_video_without_a_frame_count(tmp_path):
    """A stream that was never finished (a Matroska file has no frame count): the frames are counted."""
    path = tmp_path / "x.mkv"
    with VideoWriter(path) as video:
        for _ in range(7):
            video.write(np.zeros((16, 16, 3), np.uint8))
    assert video_info(path).num_frames == 7


def test_video_cut_short(tmp_path):
    path = tmp_path / "x.mp4"
    with VideoWriter(path) as video:
        for value in range(30):
            video.write(np.full((64, 64, 3), value * 8, np.uint8))
    path.write_bytes(path.read_bytes()[:-200])
    error_of(video_info, path)
    error_of(lambda p: list(video_frames(p)), path)


@pytest.mark.parametrize(
    ("name", "decoded"),
    [("video/bmx-trees_432x240.mp4", 80), ("fixed_camera/bgslibrary/video02.avi", 748)],
)
def test_real_video(name, decoded):
    path = need_data(*name.split("/"))
    info = video_info(path)
    assert info.num_frames - decoded in (0, 2)  # the header of the .avi says 750
    first = next(iter(video_frames(path)))
    assert first.shape == (info.height, info.width, 3)
    assert first.std() > 10


# ---------------------------------------------------------------- real data


def test_real_davis():
    root = need_data("davis", "DAVIS")
    mask = read_mask(root / "Annotations/480p/dog/00000.png")
    assert mask.labels.shape == image_size(root / "JPEGImages/480p/dog/00000.jpg") == (480, 854)
    assert 0.066 <= mask.foreground.mean() <= 0.193
    assert not mask.void.any()
    flow = read_flow(root / "OpticalFlow/480p/blackswan/00000.flo")
    assert flow.shape == (2, 480, 854)
    proposals = read_mask(root / "Results/unsupervised/rvos/dog/00000.png")
    assert set(np.unique(proposals.labels)) <= set(range(21))
    assert proposals.labels.max() > 1


def test_real_flow_against_second_reader():
    flowiz = pytest.importorskip("flowiz", reason="the second opinion on .flo files is not installed")
    path = need_data("flow", "sintel_pair", "out.flo")
    np.testing.assert_array_equal(read_flow(path), flowiz.read_flow(str(path)).transpose(2, 0, 1))


def test_real_voc():
    path = need_data("voc", "VOCdevkit", "VOC2012", "SegmentationClass", "2008_002536.png")
    assert np.unique(read_labels(path)).tolist() == [0, 12, 17, 255]
    mask = read_mask(path)
    assert np.unique(mask.labels).tolist() == [0, 12, 17]
    assert mask.void.any()


def test_real_weizmann_needs_the_flag():
    path = need_data("weizmann_horse", "weizmann_horse_db", "figure_ground", "horse001.jpg")
    assert "--mask_encoding threshold128" in error_of(read_mask, path)
    assert 0.05 < read_mask(path, "threshold128").foreground.mean() < 0.6


def test_real_cdnet():
    root = need_data("fixed_camera", "cdnet2014", "baseline", "highway")
    assert read_mask(root / "ROI.bmp").foreground.all()  # palette index 0 is white there
    ground_truth = sorted((root / "groundtruth").iterdir())[100]
    assert set(np.unique(read_labels(ground_truth))) <= {0, 50, 85, 170, 255}
    assert "--mask_encoding cdnet" in error_of(read_mask, ground_truth)
    assert read_mask(ground_truth, "cdnet").foreground.any()


def test_real_ade20k():
    path = need_data("ade20k", "ADEChallengeData2016", "annotations", "validation", "ADE_val_00000001.png")
    assert np.unique(read_labels(path)).tolist() == [0, 1, 2, 3, 5, 7, 10, 18]


# ---------------------------------------------------------------- imports


def test_import_is_light():
    code = (
        "import sys, common.files, common.flow_files, common.video, common.splits, common.windows, common.layouts;"
        "print([m for m in ('torch', 'pandas', 'cv2', 'av', 'scipy') if m in sys.modules])"
    )
    root = Path(__file__).resolve().parents[2]
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=root, check=True)
    assert done.stdout.strip() == "[]"
