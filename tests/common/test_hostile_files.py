"""Damaged, odd and hostile files: every reader gives a right result or one line, in little memory and time.

All files are read by one process whose memory and time are limited (``reading_limits.py``); what it says of each file
is looked at here, one test per file.
"""

import functools
import io
import json
import os
import pickle
import struct
import subprocess
import sys
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from common.errors import InputError
from common.files import image_size, read_array, read_image, read_labels, write_array, write_image, write_labels
from common.flow_files import FLO_HEADER, FLO_TAG, read_flow, write_flow
from common.splits import read_split
from common.video import VideoWriter

ROOT = Path(__file__).resolve().parents[2]
READERS_OF = {
    ".png": ("image", "image_size", "labels", "mask", "flow"),
    ".jpg": ("image", "image_size", "labels", "mask"),
    ".gif": ("image", "image_size", "labels"),
    ".tif": ("image", "image_size", "labels"),
    ".bmp": ("image", "image_size", "mask"),
    ".webp": ("image", "image_size"),
    ".ppm": ("image", "image_size"),
    ".flo": ("flow", "flow_size"),
    ".npy": ("array", "flow"),
    ".npz": ("array", "flow"),
    ".csv": ("split", "classes"),
    ".txt": ("classes",),
    ".mp4": ("video", "video_info"),
    ".ckpt": ("checkpoint",),
}
PICTURE = np.random.default_rng(0).integers(0, 255, (20, 30, 3)).astype(np.uint8)
LABELS = np.tile(np.arange(5, dtype=np.uint8), (20, 6))
CSV = "Sequence,Sequence_Index,Image\na,0,x.png\na,1,y.png\n"


def pillow(image: Image.Image, name: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, name, **options)
    return buffer.getvalue()


def written(path: Path, write: Callable[[Path], object]) -> bytes:
    write(path)
    content = path.read_bytes()
    path.unlink()
    return content


def video_bytes(path: Path) -> bytes:
    with VideoWriter(path) as video:
        for k in range(4):
            video.write(np.full((32, 48, 3), 60 * k, np.uint8))
    return path.read_bytes()


def sound_files(folder: Path) -> dict[str, bytes]:
    """One sound file of every kind."""
    rgb, flow = Image.fromarray(PICTURE), np.random.default_rng(1).normal(size=(2, 6, 8)).astype(np.float32)
    weights = {"state_dict": {"a.weight": torch.zeros(3, 4), "a.bias": torch.ones(3)}}
    return {
        "rgb.png": pillow(rgb, "PNG"),
        "palette.png": written(folder / "x.png", lambda path: write_labels(path, LABELS)),
        "deep.png": written(folder / "x.png", lambda path: write_labels(path, LABELS.astype(int) * 300)),
        "kitti.png": written(folder / "x.png", lambda path: write_flow(path, flow)),
        "rgb.jpg": pillow(rgb, "JPEG", exif=b"Exif\x00\x00MM\x00*\x00\x00\x00\x08\x00\x00"),
        "still.gif": pillow(rgb.convert("P"), "GIF"),
        "rgb.tif": pillow(rgb, "TIFF", compression="tiff_lzw"),
        "rgb.bmp": pillow(rgb, "BMP"),
        "rgb.webp": pillow(rgb, "WEBP"),
        "rgb.ppm": pillow(rgb, "PPM"),
        "sound.flo": written(folder / "x.flo", lambda path: write_flow(path, flow)),
        "sound.npy": written(folder / "x.npy", lambda path: write_array(path, flow)),
        "sound.npz": written(folder / "x.npz", lambda path: write_array(path, flow)),
        "sound.csv": CSV.encode(),
        "names.txt": b"background\ncat\ndog\n",
        "sound.mp4": written(folder / "x.mp4", video_bytes),
        "sound.ckpt": written(folder / "x.ckpt", lambda path: torch.save(weights, path)),
    }


def mutations(content: bytes, seed: int) -> dict[str, bytes]:
    """Cut, flipped, doubled and emptied copies of a file."""
    rng = np.random.default_rng(seed)
    found = {
        "empty": b"",
        "one_byte": content[:1],
        "header_only": content[:24],
        "half": content[: len(content) // 2],
        "last_byte_missing": content[:-1],
        "more_behind": content + b"\x00rubbish" * 9,
        "zeros": bytes(len(content)),
        "head_zeroed": bytes(8) + content[8:],
        "other_kind": b"%PDF-1.7\n" + content[9:],
        "reversed": content[::-1],
    }
    for k in range(8):
        flipped = bytearray(content)
        for place in rng.integers(0, len(content), 1 + k):
            flipped[place] = rng.integers(0, 256)
        found[f"flipped_{k}"] = bytes(flipped)
    for k, value in enumerate((0xFF, 0x7F, 0x80)):
        start = int(rng.integers(0, max(1, min(len(content) - 8, 64))))
        found[f"big_number_{k}"] = content[:start] + bytes([value]) * 4 + content[start + 4 :]
    return found


def png_claiming(width: int, height: int, depth: int = 8, colour: int = 2, rows: int = 1) -> bytes:
    """A PNG whose header claims a size that its few bytes of pixels do not have."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    pixels = zlib.compress(bytes(rows * 100))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


def npy_claiming(shape: tuple[int, ...], descr: str = "<f4", data: bytes = b"") -> bytes:
    buffer = io.BytesIO()
    np.lib.format.write_array_header_1_0(buffer, {"descr": descr, "fortran_order": False, "shape": shape})
    return buffer.getvalue() + data


def zipped(name: str, data: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(name, data)
    return buffer.getvalue()


class Evil:
    """A pickle that would run a command."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, ("touch pwned",)


def object_array() -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, np.array([Evil(), None], dtype=object), allow_pickle=True)
    return buffer.getvalue()


def torch_bytes(content: object) -> bytes:
    buffer = io.BytesIO()
    torch.save(content, buffer)
    return buffer.getvalue()


def nested(depth: int) -> dict[str, object]:
    content: dict[str, object] = {}
    for _ in range(depth):
        content = {"state_dict": content}
    return content


@functools.cache
def refused_files() -> dict[str, bytes]:
    """Files that no reader may accept."""
    flo = FLO_HEADER.pack(FLO_TAG, 60000, 60000)
    nan, inf, unknown = (np.full((2, 4, 5), value, "<f4").tobytes() for value in (np.nan, np.inf, 1e10))
    return {
        "huge_header.flo": flo,
        "negative.flo": FLO_HEADER.pack(FLO_TAG, -4, 5),
        "zero_size.flo": FLO_HEADER.pack(FLO_TAG, 0, 0),
        "wrong_tag.flo": FLO_HEADER.pack(202021.0, 4, 5) + bytes(160),
        "big_endian.flo": struct.pack(">fii", FLO_TAG, 4, 5) + bytes(160),
        "overflow.flo": FLO_HEADER.pack(FLO_TAG, 2**31 - 1, 2**31 - 1),
        "nan.flo": FLO_HEADER.pack(FLO_TAG, 5, 4) + nan,
        "inf.flo": FLO_HEADER.pack(FLO_TAG, 5, 4) + inf,
        "unknown.flo": FLO_HEADER.pack(FLO_TAG, 5, 4) + unknown,
        "huge_header.png": png_claiming(60000, 60000),
        "huge_kitti.png": png_claiming(40000, 40000, depth=16),
        "zero_size.png": png_claiming(0, 5),
        "missing_rows.png": png_claiming(3000, 3000),
        "huge_header.npy": npy_claiming((60000, 60000, 500)),
        "overflow.npy": npy_claiming((2**40, 2**40)),
        "negative.npy": npy_claiming((-3, 4), data=bytes(99)),
        "objects.npy": object_array(),
        "pickle.npy": pickle.dumps(Evil()),
        "code_in_header.npy": b"\x93NUMPY\x01\x00v\x00"
        + b"{'descr': __import__('os').system('touch pwned')}".ljust(118),
        "deep_header.npy": b"\x93NUMPY\x01\x00\x00\x20" + (b"(" * 4000 + b")" * 4000).ljust(8192),
        "huge_header.npz": zipped("array.npy", npy_claiming((60000, 60000, 500))),
        "objects.npz": zipped("array.npy", object_array()),
        "bomb.npz": zipped("array.npy", npy_claiming((2, 30000, 30000), data=bytes(20_000_000))),
        "two_arrays.npz": zipped("a.npy", npy_claiming((1,), data=bytes(4))) + b"",
        "not_text.csv": b"\xff\xfeS\x00e\x00q\x00",
        "no_rows.csv": b"Sequence,Sequence_Index,Image\n",
        "semicolons.csv": b"Sequence;Sequence_Index\na;0\n",
        "uneven.csv": b"Sequence,Sequence_Index,Image\na,0\n",
        "twice.csv": b"Sequence,Sequence_Index,Image\na,0,x.png\na,00,y.png\n",
        "column_twice.csv": b"Sequence,Sequence_Index,Image,Image\na,0,x,y\n",
        "no_number.csv": b"Sequence,Sequence_Index,Image\na,1.5,x.png\n",
        "huge_number.csv": b"Sequence,Sequence_Index,Image\na,99999999999999999999,x.png\n",
        "open_quote.csv": b'Sequence,Sequence_Index,Image\na,0,"x.png\n',
        "long_cell.csv": b"Sequence,Sequence_Index,Image\na,0," + b"x" * 200_000 + b"\n",
        "long_cell_many_rows.csv": CSV.encode()
        + b"b,0,"
        + b"x" * 120_000
        + b"\n"
        + b"".join(b"c,%d,x\n" % k for k in range(40_000)),
        "nul.csv": b"Sequence,Sequence_Index,Image\na,0,x\x00.png\n",
        "evil.ckpt": torch_bytes({"state_dict": {"a": torch.zeros(2)}, "code": Evil()}),
        "plain_pickle.ckpt": pickle.dumps({"state_dict": Evil()}),
        "list.ckpt": torch_bytes([torch.zeros(2)]),
        "list_inside.ckpt": torch_bytes({"state_dict": [torch.zeros(2)]}),
        "number_inside.ckpt": torch_bytes({"state_dict": 3}),
        "nested.ckpt": torch_bytes(nested(50)),
        "no_tensors.ckpt": torch_bytes({"state_dict": {"a": 1}}),
        "text.ckpt": b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 12\n",
        "html.mp4": b"<html>404</html>",
        "lfs.png": b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 12\n",
    }


NOT_REFUSED = {("two_arrays.npz", "array")}  # one array after all: sound


def refused_cases() -> list[tuple[str, str]]:
    return [
        (name, reader)
        for name in refused_files()
        for reader in READERS_OF[Path(name).suffix]
        if (name, reader) not in NOT_REFUSED
        and not (name.endswith(".csv") and reader == "classes")
        and not (reader == "image_size" and name == "missing_rows.png")  # does not look at the pixels
        and not (reader in ("flow_size", "array") and name in ("nan.flo", "inf.flo", "unknown.flo"))
    ]


def damaged_cases() -> list[tuple[str, str, str]]:
    names = sorted(SOUND_NAMES)
    kinds = list(mutations(bytes(100), 0))
    return [(name, kind, reader) for name in names for kind in kinds for reader in READERS_OF[Path(name).suffix]]


SOUND_NAMES = (
    *("rgb.png", "palette.png", "deep.png", "kitti.png", "rgb.jpg", "still.gif", "rgb.tif", "rgb.bmp", "rgb.webp"),
    *("rgb.ppm", "sound.flo", "sound.npy", "sound.npz", "sound.csv", "names.txt", "sound.mp4", "sound.ckpt"),
)
Answers = dict[tuple[str, ...], list[str]]


@pytest.fixture(scope="module")
def answers(tmp_path_factory: pytest.TempPathFactory) -> tuple[Answers, Path]:
    """What the limited process says of every file."""
    folder = tmp_path_factory.mktemp("hostile")
    sound = sound_files(folder)
    assert set(sound) == set(SOUND_NAMES)
    keys: list[tuple[str, ...]] = []
    wanted: list[list[str]] = []

    def put(key: tuple[str, ...], name: str, content: bytes, reader: str) -> None:
        path = folder / name
        path.parent.mkdir(exist_ok=True)
        if not path.exists():
            path.write_bytes(content)
        keys.append(key)
        wanted.append([reader, str(path)])

    for name, reader in refused_cases():
        put((name, reader), name, refused_files()[name], reader)
    for seed, (name, content) in enumerate(sound.items()):
        for kind, damaged in mutations(content, seed).items():
            for reader in READERS_OF[Path(name).suffix]:
                put((name, kind, reader), f"{kind}/{name}", damaged, reader)
    (folder / "list.json").write_text(json.dumps(wanted))
    script = Path(__file__).with_name("reading_limits.py")
    done = subprocess.run(
        [sys.executable, str(script), str(folder / "list.json")],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=400,
    )
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(lines) == len(keys), f"died at {wanted[len(lines)]}: {done.stderr[-600:]}"
    return dict(zip(keys, lines, strict=True)), folder


@pytest.mark.parametrize(("name", "reader"), refused_cases())
def test_refused(name: str, reader: str, answers: tuple[Answers, Path]) -> None:
    answer = answers[0][name, reader]
    assert answer[:2] == ["error", "InputError"], answer
    assert name in answer[2]
    assert "\n" not in answer[2]
    assert len(answer[2]) < 400 + len(str(answers[1]))


def test_nothing_was_run(answers: tuple[Answers, Path]) -> None:
    assert not list(answers[1].rglob("pwned"))
    assert not (ROOT / "pwned").exists()


@pytest.mark.parametrize("name", SOUND_NAMES)
def test_damaged(name: str, answers: tuple[Answers, Path]) -> None:
    """A value or one line, never another exception, never too much memory or time."""
    found = {key: answer for key, answer in answers[0].items() if key[0] == name and len(key) == 3}
    assert len(found) == 21 * len(READERS_OF[Path(name).suffix])
    wrong = {key: answer for key, answer in found.items() if answer[0] == "error" and answer[1] != "InputError"}
    assert not wrong
    assert not {key: answer for key, answer in found.items() if answer[0] == "error" and "\n" in answer[2]}
    assert any(answer[0] == "error" for answer in found.values())
    refused = {key[1] for key, answer in found.items() if answer[0] == "error"}
    if Path(name).suffix not in (".csv", ".txt"):
        assert {"empty", "one_byte", "zeros", "other_kind"} <= refused
    else:
        assert "empty" in refused or name == "names.txt"


def save(path: Path, image: Image.Image, **options: object) -> Path:
    image.save(path, **options)
    return path


def test_odd_pictures_are_right(tmp_path: Path) -> None:
    rgb = Image.fromarray(PICTURE)
    frames = [Image.fromarray(np.full((8, 9, 3), 40 * k, np.uint8)) for k in (1, 2, 3)]
    more = {"save_all": True, "append_images": frames[1:]}
    for path in (
        save(tmp_path / "a.gif", frames[0], **more),
        save(tmp_path / "a.png", frames[0], **more),
        save(tmp_path / "a.tif", frames[0], **more),
        save(tmp_path / "a.webp", frames[0], lossless=True, **more),
    ):
        assert (read_image(path) == 40).all(), path.name
        assert image_size(path) == (8, 9)
    flat = Image.new("CMYK", (9, 8), (0, 0, 0, 255))
    assert read_image(save(tmp_path / "cmyk.jpg", flat)).max() < 60
    deep = np.linspace(0, 65535, 72).reshape(8, 9).astype(np.uint16)
    assert (read_image(save(tmp_path / "deep.png", Image.fromarray(deep)))[..., 0] == deep >> 8).all()
    assert (read_labels(tmp_path / "deep.png") == deep).all()
    lying = rgb.getexif()
    lying[0x0112] = 6
    turned = save(tmp_path / "turned.jpg", rgb, exif=lying)
    assert read_image(turned).shape[:2] == image_size(turned) == (30, 20)
    glass = save(tmp_path / "glass.png", Image.merge("RGBA", [*rgb.split(), Image.new("L", rgb.size, 7)]))
    assert (read_image(glass) == PICTURE).all()
    wrong_name = tmp_path / "png_in_truth.jpg"
    wrong_name.write_bytes(pillow(rgb, "PNG"))
    assert (read_image(wrong_name) == PICTURE).all()
    tiny = Image.new("1", (1, 1), 1)
    assert read_image(save(tmp_path / "tiny.png", tiny)).shape == (1, 1, 3)


@pytest.mark.parametrize(
    "text",
    [
        "\ufeff" + CSV,
        CSV.replace("\n", "\r\n"),
        CSV.replace("\n", "\r"),
        CSV + "\n\n",
        CSV.rstrip("\n"),
        'Sequence,Sequence_Index,Image\n"a",0,"x.png"\na,1,y.png\n',
        ",Sequence,Sequence_Index,Image\n0,a,0,x.png\n1,a,1,y.png\n",
    ],
)
def test_spellings_of_one_split(tmp_path: Path, text: str) -> None:
    (tmp_path / "x.csv").write_text(text, encoding="utf-8", newline="")
    (tmp_path / "plain.csv").write_text(CSV)
    assert read_split(tmp_path / "x.csv").hash() == read_split(tmp_path / "plain.csv").hash()


def test_paths_that_lead_elsewhere_are_taken_as_they_are(tmp_path: Path) -> None:
    outside = tmp_path / "outside.png"
    write_image(outside, PICTURE)
    (tmp_path / "data").mkdir()
    csv = tmp_path / "data" / "x.csv"
    csv.write_text(
        f"Sequence,Sequence_Index,Image\na,0,../outside.png\na,1,{outside}\na,2,../../../../../../../nowhere.png\n"
    )
    split = read_split(csv, base_dir=tmp_path / "data")
    for row in (0, 1):
        assert (read_image(split.path(row, "Image")) == PICTURE).all()
    with pytest.raises(InputError, match=r"nowhere.png: no such image file"):
        read_image(split.path(2, "Image"))


def test_loops_pipes_and_devices(tmp_path: Path) -> None:
    """Nothing waits for a pipe or reads a device without end."""
    (tmp_path / "loop.png").symlink_to(tmp_path / "loop.png")
    (tmp_path / "dangling.png").symlink_to(tmp_path / "absent.png")
    (tmp_path / "folder.png").mkdir()
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "zero.png").symlink_to("/dev/zero")
    for name in ("loop", "dangling", "folder", "pipe", "zero"):
        for read in (read_image, image_size, read_labels, read_flow):
            with pytest.raises(InputError, match=f"{name}.png") as caught:
                read(tmp_path / f"{name}.png")
            assert "\n" not in str(caught.value)
    for suffix in (".csv", ".flo", ".npy", ".ckpt", ".mp4"):
        os.mkfifo(tmp_path / f"pipe{suffix}")
        (tmp_path / f"loop{suffix}").symlink_to(tmp_path / f"loop{suffix}")
    from common.checkpoints import load_checkpoint
    from common.video import video_info

    readers = {".csv": read_split, ".flo": read_flow, ".npy": read_array, ".ckpt": load_checkpoint, ".mp4": video_info}
    for suffix, read in readers.items():
        for name in ("pipe", "loop"):
            with pytest.raises(InputError):
                read(tmp_path / f"{name}{suffix}")


def test_folders_that_hold_themselves(tmp_path: Path) -> None:
    """Links that lead back up, or to themselves, neither double a picture nor keep anybody walking."""
    from common.inputs import input_split
    from maskdistill.images import image_table
    from maskdistill.options import MaskOptions

    folder = tmp_path / "pictures"
    write_image(folder / "clip" / "a.png", PICTURE)
    (folder / "clip" / "back").symlink_to(folder)
    (folder / "clip" / "self.png").symlink_to("self.png")
    (folder / "self").symlink_to("self")
    (folder / "clip" / "self.png").unlink()
    assert len(input_split(folder, tmp_path / "out")) == 1
    assert len(image_table(MaskOptions(dataset="folder", dataset_root=folder))) == 1


@pytest.fixture
def nobody() -> Iterator[Path]:
    """A folder that all may enter; the superuser, who may read every file, is somebody else meanwhile."""
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        was = os.geteuid()
        yield Path(name)
        os.seteuid(was)


def test_files_and_folders_that_may_not_be_read(nobody: Path) -> None:
    from common.checkpoints import load_checkpoint
    from common.video import video_info

    readers = {".png": read_image, ".tif": read_labels, ".flo": read_flow, ".npy": read_array, ".csv": read_split}
    readers |= {".ckpt": load_checkpoint, ".mp4": video_info}
    (nobody / "closed").mkdir()
    for suffix in readers:
        for path in (nobody / f"locked{suffix}", nobody / "closed" / f"inside{suffix}"):
            path.write_bytes(b"x" * 100)
        (nobody / f"locked{suffix}").chmod(0)
    (nobody / "closed").chmod(0)
    if os.geteuid() == 0:
        os.seteuid(65534)
    for suffix, read in readers.items():
        for path in (nobody / f"locked{suffix}", nobody / "closed" / f"inside{suffix}"):
            with pytest.raises(InputError) as caught:
                read(path)
            assert path.name in str(caught.value)
            assert "\n" not in str(caught.value)


def refusal(read: Callable[[Path], object], path: Path) -> str:
    """The message of the reader, empty when it gives a value; any other exception passes."""
    try:
        read(path)
    except InputError as error:
        return str(error)
    return ""


PLAIN = {
    ".png": (read_image, pillow(Image.fromarray(LABELS), "PNG")),
    ".flo": (read_flow, FLO_HEADER.pack(FLO_TAG, 5, 4) + bytes(160)),
    ".npy": (read_array, npy_claiming((2, 4, 5), data=bytes(160))),
    ".csv": (read_split, CSV.encode()),
}


@given(st.sampled_from(sorted(PLAIN)), st.data())
@settings(deadline=None, max_examples=120)
def test_any_edit_is_a_value_or_one_line(
    tmp_path_factory: pytest.TempPathFactory, suffix: str, data: st.DataObject
) -> None:
    read, content = PLAIN[suffix]
    start = data.draw(st.integers(0, len(content)))
    removed = data.draw(st.integers(0, 12))
    put = data.draw(st.binary(max_size=12))
    path = tmp_path_factory.getbasetemp() / f"edited{suffix}"
    path.write_bytes(content[:start] + put + content[start + removed :])
    message = refusal(read, path)
    assert "\n" not in message
    assert not message or path.name in message


@given(st.binary(max_size=300), st.sampled_from(sorted(PLAIN)))
@settings(deadline=None, max_examples=60)
def test_any_bytes_are_a_value_or_one_line(
    tmp_path_factory: pytest.TempPathFactory, content: bytes, suffix: str
) -> None:
    path = tmp_path_factory.getbasetemp() / f"bytes{suffix}"
    path.write_bytes(content)
    assert "\n" not in refusal(PLAIN[suffix][0], path)
