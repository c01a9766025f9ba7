"""CDnet, ObjectsRoom, CLEVR, CLEVRTEX and ShapeStacks from tiny look-alikes of each."""

import struct
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from common.errors import InputError
from common.files import read_image, read_labels, read_mask, write_image, write_labels
from common.make_split import main
from common.splits import read_split
from common.tfrecord import masked_crc

NOISE = np.random.default_rng(0)


def message(number: int, content: bytes) -> bytes:
    """A length-delimited field of a protocol buffer."""
    size, coded = len(content), b""
    while size > 127:
        coded, size = coded + bytes([size & 127 | 128]), size >> 7
    return bytes([number << 3 | 2]) + coded + bytes([size]) + content


def write_records(path: Path, frames: list[dict[str, np.ndarray]]) -> None:
    with path.open("wb") as file:
        for frame in frames:
            entries = b""
            for name, values in frame.items():
                strings = b"".join(b"\x0a\x01" + bytes([value]) for value in values.ravel().tolist())
                entries += message(1, message(1, name.encode()) + message(2, message(1, strings)))
            payload = message(1, entries)
            head = struct.pack("<Q", len(payload))
            file.write(head + struct.pack("<I", masked_crc(head)) + payload + struct.pack("<I", masked_crc(payload)))


def object_frames(count: int, height: int, width: int, entities: int) -> list[dict[str, np.ndarray]]:
    found = []
    for _ in range(count):
        owner = NOISE.integers(0, entities, (height, width))
        mask = np.stack([(owner == e) * 255 for e in range(entities)]).astype(np.uint8)
        found.append({"image": NOISE.integers(0, 256, (height, width, 3), dtype=np.uint8), "mask": mask})
    return found


def make(*arguments: object) -> int:
    return main([str(argument) for argument in arguments])


def fails(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    capsys.readouterr()
    assert make(*arguments) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    return lines[-1]


def test_objects_room_from_records(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    frames = object_frames(4, 64, 64, 7)
    write_records(tmp_path / "train.tfrecords", frames)
    command = ("objectsroom", tmp_path / "train.tfrecords", "--out", tmp_path / "room", "--base_dir", tmp_path)
    assert make(*command, "--num_test", "1") == 0
    train, test = (read_split(tmp_path / "room", step, tmp_path) for step in ("train", "test"))
    assert (len(train), len(test)) == (3, 1)
    np.testing.assert_array_equal(read_image(train.path(2, "Image")), frames[2]["image"])
    np.testing.assert_array_equal(
        read_labels(test.path(0, "GtInstance")), np.maximum(0, frames[3]["mask"].argmax(0) - 3)
    )
    assert "--num_test 9: the file has 4 frames" in fails(capsys, *command, "--num_test", "9")
    assert "is this the right part" in fails(capsys, *command, "--part", "six_objects")


@pytest.mark.parametrize("legacy", [False, True])
def test_clevr_from_records(tmp_path: Path, legacy: bool) -> None:
    frames = object_frames(2, 240, 320, 11)
    write_records(tmp_path / "clevr.tfrecords", frames)
    more = ["--legacy_bgr"] if legacy else []
    assert make("clevr", tmp_path / "clevr.tfrecords", "--out", tmp_path / "c", "--base_dir", tmp_path, *more) == 0
    stored = read_image(tmp_path / "c_records" / "clevr_full" / "CLEVR_full_000000.png")
    np.testing.assert_array_equal(stored[..., ::-1] if legacy else stored, frames[0]["image"])
    train = read_split(tmp_path / "c", "train", tmp_path)
    assert read_image(train.path(0, "Image")).shape == (128, 128, 3)
    assert set(np.unique(read_labels(train.path(0, "GtInstance")))) <= set(range(11))


def test_clevrtex_parts_and_crop(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = tmp_path / "clevrtex_full"
    labels = np.zeros((24, 32), np.int64)
    labels[2:22, 6:26] = 3  # just the centre of 0.8 x 24 = 19 pixels is kept
    for number in range(20):
        write_image(
            root / str(number // 10) / f"CLEVRTEX_full_{number:06d}.png", np.full((24, 32, 3), number, np.uint8)
        )
        write_labels(root / str(number // 10) / f"CLEVRTEX_full_{number:06d}_flat.png", labels)
    command = ("clevrtex", tmp_path, "--out", tmp_path / "t", "--base_dir", tmp_path, "--size", "16")
    assert make(*command) == 0
    sizes = {step: len(read_split(tmp_path / "t", step, tmp_path)) for step in ("train", "val", "test")}
    assert sizes == {"test": 2, "val": 2, "train": 16}
    test = read_split(tmp_path / "t", "test", tmp_path)
    assert (read_labels(test.path(1, "GtInstance")) == 3).all()
    assert (read_image(test.path(1, "Image")) == 1).all()
    (root / "0" / "CLEVRTEX_full_000003.png").unlink()
    assert "frame 000003 is missing" in fails(capsys, *command)
    assert "no files CLEVRTEX_outd_000000.png" in fails(capsys, *command, "--variant", "outd")


def test_shapestacks_lists_and_maps(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("a", "b", "c"):
        for view in range(2):
            stem = f"rgb-w=0-f=0-b=0-l=0-c=cam_{view}-mono"
            write_image(tmp_path / "recordings" / name / f"{stem}.png", np.full((8, 8, 3), 9, np.uint8))
            write_labels(tmp_path / "iseg" / name / f"{stem.replace('rgb', 'map')}.png", np.full((8, 8), view))
    (tmp_path / "splits").mkdir()
    for step, name in (("train", "a\nb"), ("eval", "c")):
        (tmp_path / "splits" / f"{step}.txt").write_text(f"{name}\n")
    command = ("shapestacks", tmp_path, "--out", tmp_path / "s", "--base_dir", tmp_path)
    assert make(*command) == 0
    train = read_split(tmp_path / "s", "train", tmp_path)
    assert (len(train), len(read_split(tmp_path / "s", "val", tmp_path))) == (4, 2)
    assert read_image(train.path(1, "Image")).shape == (64, 64, 3)
    assert (read_labels(train.path(1, "GtInstance")) == 1).all()
    (tmp_path / "splits" / "train.txt").write_text("a\nd\n")
    assert "recordings/d: listed in splits, but not there" in fails(capsys, *command)


def cdnet_clip(folder: Path) -> None:
    for number in range(1, 6):
        write_image(folder / "input" / f"in{number:06d}.jpg", np.full((6, 8, 3), 90, np.uint8))
        mask = np.zeros((6, 8), np.uint8)
        mask[0, :5] = (0, 50, 85, 170, 255)
        write_image(folder / "groundtruth" / f"gt{number:06d}.png", mask)
    (folder / "temporalROI.txt").write_text("2 4")


def test_cdnet_scores_the_frames_of_its_range(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cdnet_clip(tmp_path / "baseline" / "highway")
    command = ("cdnet", tmp_path, "--out", tmp_path / "cd", "--base_dir", tmp_path)
    assert make(*command) == 0
    split = read_split(tmp_path / "cd", "train", tmp_path)
    assert split.column("Sequence_Index").tolist() == ["1", "2", "3", "4", "5"]
    assert split.available("GtMask").tolist() == [False, True, True, True, False]
    assert make(*command, "--scored_only") == 0
    assert len(read_split(tmp_path / "cd", "test", tmp_path)) == 3
    assert "--clips street: no such clip" in fails(capsys, *command, "--clips", "street")
    (tmp_path / "baseline" / "highway" / "temporalROI.txt").write_text("2")
    assert "temporalROI.txt: expected two frame numbers" in fails(capsys, *command)


def test_cdnet_mask_values(tmp_path: Path) -> None:
    cdnet_clip(tmp_path)
    file = tmp_path / "groundtruth" / "gt000001.png"
    mask = read_mask(file, "cdnet")
    assert mask.foreground[0].tolist() == [False, False, False, False, True, False, False, False]
    assert mask.void[0].tolist() == [False, False, True, True, False, False, False, False]
    with pytest.raises(InputError, match="pass --mask_encoding cdnet"):
        read_mask(file)
    Image.fromarray(np.array([[0, 7, 255]], np.uint8)).save(tmp_path / "other.png")
    with pytest.raises(InputError, match="do not fit 'cdnet'"):
        read_mask(tmp_path / "other.png", "cdnet")
