"""Published layouts and TFRecord files: what is read, and what damage says."""

import gzip
import struct
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from ast_seg.background_files import file_paths, write_frame
from ast_seg.quick_png import write_png
from ast_seg.reading import image_paths, paired_by_rank, read_background, stage_folder
from common.clevr_files import clevr_files, clevr_parts
from common.errors import InputError
from common.object_records import RecordLayout, objects_room, read_frames
from common.tfrecord import masked_crc, parse_example, read_records


def field(number: int, content: bytes) -> bytes:
    length, rest = b"", len(content)
    while True:
        length += bytes([rest & 0x7F | (0x80 if rest > 0x7F else 0)])
        rest >>= 7
        if not rest:
            return bytes([number << 3 | 2]) + length + content


def example(joined: bool = False, **features: np.ndarray) -> bytes:
    entries = b""
    for name, values in features.items():
        parts = [values.tobytes()] if joined else [bytes([value]) for value in values.ravel()]
        strings = b"".join(field(1, part) for part in parts)
        entries += field(1, field(1, name.encode()) + field(2, field(1, strings)))
    return field(1, entries)


def record(payload: bytes) -> bytes:
    length = struct.pack("<Q", len(payload))
    return length + struct.pack("<I", masked_crc(length)) + payload + struct.pack("<I", masked_crc(payload))


def test_checksum_of_the_standard() -> None:
    crc = 0xE3069283  # CRC-32C of "123456789"
    assert masked_crc(b"123456789") == ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


@pytest.mark.parametrize("compressed", [True, False])
@pytest.mark.parametrize("joined", [True, False])
def test_frames_come_back(tmp_path: Path, compressed: bool, joined: bool) -> None:
    rng = np.random.default_rng(0)
    layout = RecordLayout(height=5, width=7, num_entities=4, num_background=2)
    images = rng.integers(0, 256, (3, 5, 7, 3), dtype=np.uint8)
    entities = rng.integers(0, 4, (3, 5, 7))
    masks = (255 * (entities[:, None] == np.arange(4)[:, None, None])).astype(np.uint8)
    payloads = [example(joined, image=image, mask=mask) for image, mask in zip(images, masks, strict=True)]
    content = b"".join(map(record, payloads))
    path = tmp_path / "set.tfrecords"
    path.write_bytes(gzip.compress(content) if compressed else content)
    frames = list(read_frames(path, layout))
    np.testing.assert_array_equal(np.stack([image for image, _ in frames]), images)
    np.testing.assert_array_equal(np.stack([labels for _, labels in frames]), np.maximum(0, entities - 1))


def test_other_fields_of_a_message_are_passed_over() -> None:
    extra = bytes([7 << 3, 0x96, 0x01]) + bytes([8 << 3 | 5]) + b"1234" + bytes([9 << 3 | 1]) + b"12345678"
    values = np.arange(4, dtype=np.uint8)
    assert parse_example(extra + example(image=values))["image"].tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize("compressed", [True, False])
def test_damage_is_named(tmp_path: Path, compressed: bool) -> None:
    content = record(example(image=np.arange(90, dtype=np.uint8))) * 2
    path = tmp_path / "set.tfrecords"
    broken = {"cut": content[:-30], "length": b"\x01" + content[1:], "payload": content[:60] + b"~" + content[61:]}
    for name, data in broken.items():
        if compressed and name == "payload":
            continue  # inside gzip the record's own checksum is not looked at
        path.write_bytes(gzip.compress(data) if compressed else data)
        with pytest.raises(InputError, match=r"set.tfrecords: .*(truncated|damaged)"):
            list(read_records(path))
    path.write_bytes(gzip.compress(content)[:-12])
    with pytest.raises(InputError, match=r"set.tfrecords: truncated or damaged"):
        list(read_records(path))
    with pytest.raises(InputError, match="absent: no such TFRecord file"):
        list(read_records(tmp_path / "absent"))


def test_records_of_another_layout_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "set.tfrecords"
    path.write_bytes(record(example(image=np.zeros(12288, np.uint8), mask=np.zeros(7 * 4096, np.uint8))))
    with pytest.raises(InputError, match=r"record 0: mask has 28672 values, 64x64 with 10 entities needs 40960"):
        list(read_frames(path, objects_room("six_objects")))
    path.write_bytes(record(b"\xff\xff\xff"))
    with pytest.raises(InputError, match=r"record 0: not a tf.train.Example"):
        list(read_frames(path, objects_room()))
    with pytest.raises(InputError, match="ObjectsRoom part seven: unknown"):
        objects_room("seven")


def picture(path: Path, mode: str = "RGB") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, (4, 3)).save(path)
    return path


def test_stray_files_shift_nothing(tmp_path: Path) -> None:
    wanted = [picture(tmp_path / name) for name in ("a/2.png", "a/10.png", "b.png")]
    (tmp_path / "Thumbs.db").write_bytes(b"x")
    (tmp_path / "a" / ".DS_Store").write_bytes(b"x")
    picture(tmp_path / "._b.png")
    assert image_paths(tmp_path, recursive=True) == wanted
    assert image_paths(tmp_path) == [tmp_path / "b.png"]


def test_folders_that_cannot_be_paired(tmp_path: Path) -> None:
    first, second = [picture(tmp_path / "x" / "1.png")], [picture(tmp_path / "y" / f"{i}.png") for i in range(2)]
    with pytest.raises(InputError, match=r"x has 1, .*y has 2"):
        paired_by_rank(first, second)
    with pytest.raises(InputError, match="no image in this folder"):
        image_paths(tmp_path)
    with pytest.raises(InputError, match="no such folder"):
        image_paths(tmp_path / "absent")


def test_the_input_sub_folder_is_preferred(tmp_path: Path) -> None:
    assert stage_folder(tmp_path) == tmp_path
    (tmp_path / "input").mkdir()
    assert stage_folder(tmp_path) == tmp_path / "input"


def test_background_without_error_is_opaque(tmp_path: Path) -> None:
    assert (read_background(picture(tmp_path / "a.png"))[..., 3] == 255).all()
    (tmp_path / "b.png").write_bytes(b"no picture")
    with pytest.raises(InputError, match=r"b.png: not a readable background"):
        read_background(tmp_path / "b.png")


def test_clevr_index_must_be_whole(tmp_path: Path) -> None:
    root = tmp_path / "clevr_full"
    for index in (0, 1, 3):
        picture(root / f"CLEVR_full_{index:06d}.png")
        picture(root / f"CLEVR_full_{index:06d}_flat.png", "P")
    with pytest.raises(InputError, match="frame 000002 is missing"):
        clevr_files(tmp_path, "clevr")
    picture(root / "sub" / "CLEVR_full_000002.png")
    with pytest.raises(InputError, match=r"CLEVR_full_000002_flat.png: missing"):
        clevr_files(tmp_path, "clevr")
    picture(root / "sub" / "CLEVR_full_000002_flat.png", "P")
    assert [file.number for file in clevr_files(root, "clevr")] == [0, 1, 2, 3]
    with pytest.raises(InputError, match=r"no files CLEVRTEX_camo_000000\.png"):
        clevr_files(tmp_path, "clevrtex", "camo")


def test_clevr_parts_cover_the_set() -> None:
    parts = clevr_parts(57)
    assert [len(parts[name]) for name in ("test", "val", "train")] == [5, 6, 46]
    assert sorted(index for part in parts.values() for index in part) == list(range(57))
    assert clevr_parts(9, "outd") == {"test": range(9)}


def test_a_frame_without_target_gets_zeros(tmp_path: Path) -> None:
    byte = np.full((3, 4, 4), 9, np.uint8)
    paths = write_frame(tmp_path, "test", 7, byte[..., :3], byte, byte[..., 0], None)
    assert paths == file_paths(tmp_path, "test", 7)
    assert paths["mask"].name == "bin000007.png"
    assert not np.asarray(Image.open(paths["target"])).any()
    assert np.asarray(Image.open(paths["rgba"])).shape == (3, 4, 4)


@pytest.mark.parametrize("channels", [0, 3, 4])
@pytest.mark.parametrize("size", [(1, 1), (7, 5), (48, 64)])
def test_quick_png_is_read_by_others(tmp_path: Path, size: tuple[int, int], channels: int) -> None:
    shape = (*size, channels) if channels else size
    strided = np.random.default_rng(0).integers(0, 256, (*shape[::-1],), dtype=np.uint8).T
    write_png(tmp_path / "picture.png", strided)
    with Image.open(tmp_path / "picture.png") as picture:
        assert picture.mode == {0: "L", 3: "RGB", 4: "RGBA"}[channels]
        np.testing.assert_array_equal(np.asarray(picture), strided)
    read = cv2.imread(str(tmp_path / "picture.png"), cv2.IMREAD_UNCHANGED)
    assert read is not None
    np.testing.assert_array_equal(read[..., [2, 1, 0, 3][: channels or 1]] if channels else read, strided)
