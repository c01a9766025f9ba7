"""Layouts, partition by sequence, frame extraction, the command."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.errors import InputError
from common.files import write_image, write_labels
from common.flow_files import write_flow
from common.layouts import davis_lists, davis_rows, files_by_stem, folder_rows, frame_numbers, parse_shares, partition
from common.make_split import main
from common.makers.video import extract_frames
from common.splits import read_classes, read_split, write_classes
from common.video import VideoWriter
from tests.golden import need_data

ROOT = Path(__file__).resolve().parents[2]
PICTURE = np.zeros((4, 6, 3), np.uint8)


def images(folder, *names):
    for name in names:
        write_image(folder / name, PICTURE)
    return folder


def fails(capsys, *arguments):
    """The single line that a failing command prints."""
    assert main([str(argument) for argument in arguments]) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1
    return lines[0]


def test_natural_order_and_numbers(tmp_path):
    images(tmp_path, "f10.png", "f2.png", "f1.png", ".hidden.png")
    (tmp_path / "notes.txt").write_text("")
    assert list(files_by_stem(tmp_path, [".png"])) == ["f1", "f2", "f10"]
    assert frame_numbers(["f1", "f2", "f10"]) == [1, 2, 10]
    assert frame_numbers(["a1", "b1"]) == [0, 1]
    assert frame_numbers(["a", "b2"]) == [0, 1]
    images(tmp_path, "f2.jpg")
    with pytest.raises(InputError, match=r"f2.* same stem"):
        files_by_stem(tmp_path, [".png", ".jpg"])


def test_folder_of_images_and_clips(tmp_path):
    images(tmp_path / "in", "one.jpg", "two3.png", "clip/f9.jpg", "clip/f10.jpg", "deep/er/x.png")
    images(tmp_path / "in" / "masks", "one.png", "clip/f10.png")
    rows = folder_rows(tmp_path / "in", tmp_path, masks=tmp_path / "in" / "masks")
    assert [(row["Sequence"], row["Sequence_Index"], row["Image"], row["GtMask"]) for row in rows] == [
        ("one", "0", "in/one.jpg", "in/masks/one.png"),
        ("two3", "0", "in/two3.png", ""),
        ("clip", "9", "in/clip/f9.jpg", ""),
        ("clip", "10", "in/clip/f10.jpg", "in/masks/clip/f10.png"),
        ("deep/er", "0", "in/deep/er/x.png", ""),
    ]


def test_masks_of_classes_get_names_that_may_be_edited(tmp_path, capsys):
    images(tmp_path / "in", "a.png", "b.png")
    for name, value in (("a", 3), ("b", 5)):
        labels = np.full(PICTURE.shape[:2], value)
        labels[0, 0], labels[-1, -1] = 0, 255
        write_labels(tmp_path / "masks" / f"{name}.png", labels)
    command = ["folder", tmp_path / "in", "--masks", tmp_path / "masks", "--base_dir", tmp_path, "--split", "1/0/0"]
    command = [*map(str, command), "--out", str(tmp_path / "data" / "own")]
    assert main(command) == 0
    assert "masks hold 3, 5: all are foreground; --masks_are classes" in capsys.readouterr().out
    assert read_split(tmp_path / "data" / "own_train.csv", base_dir=tmp_path).columns[-1] == "GtMask"
    assert main([*command, "--masks_are", "objects"]) == 0
    assert read_split(tmp_path / "data" / "own_train.csv", base_dir=tmp_path).columns[-1] == "GtInstance"
    assert main([*command, "--masks_are", "classes"]) == 0
    split = read_split(tmp_path / "data" / "own_train.csv", base_dir=tmp_path)
    assert split.columns[-1] == "GtSemantic"
    assert read_classes(split.file) == {index: str(index) for index in range(6)}
    write_classes(split.file, {0: "ground", 3: "cat", 5: "dog"})
    assert main([*command, "--masks_are", "classes"]) == 0
    assert read_classes(split.file) == {0: "ground", 3: "cat", 5: "dog"}
    write_classes(split.file, {0: "ground", 3: "cat"})
    capsys.readouterr()
    assert main([*command, "--masks_are", "classes"]) == 2
    assert "b.png: value 5 has no name" in capsys.readouterr().err
    assert main(["folder", str(tmp_path / "in"), "--masks_are", "objects", "--out", str(tmp_path / "x")]) == 2
    assert "name the folder of the masks with --masks" in capsys.readouterr().err


def test_folder_as_one_clip_with_flow(tmp_path):
    images(tmp_path / "in", "0.jpg", "1.jpg", "2.jpg")
    for name in ("0", "2"):
        write_flow(tmp_path / "flow" / f"{name}.flo", np.ones((2, 4, 6)))
    rows = folder_rows(tmp_path / "in", tmp_path, flow=tmp_path / "flow", clip=True)
    assert [row["Sequence"] for row in rows] == ["in"] * 3
    # forward flow: the last frame has none, whatever the folder holds
    assert [row["Flow"] for row in rows] == ["flow/0.flo", "", ""]


def test_folder_faults(tmp_path):
    images(tmp_path / "in", "a.jpg")
    (tmp_path / "empty").mkdir()
    for arguments, words in (
        ((tmp_path / "nowhere", tmp_path), [str(tmp_path / "nowhere"), "no such folder"]),
        ((tmp_path / "empty", tmp_path), [str(tmp_path / "empty"), "no image"]),
        ((tmp_path / "in", tmp_path, tmp_path / "empty"), [str(tmp_path / "empty"), "stem", "in/a.jpg"]),
        ((tmp_path / "in", tmp_path, None, tmp_path / "empty"), [str(tmp_path / "empty"), "flow"]),
        ((tmp_path / "in", tmp_path / "empty"), ["a.jpg", "--base_dir"]),
    ):
        with pytest.raises(InputError) as caught:
            folder_rows(*arguments)
        for word in words:
            assert word in str(caught.value)


# ---------------------------------------------------------------- partition


@settings(deadline=None, derandomize=True, max_examples=80)
@given(
    sizes=st.lists(st.integers(1, 4), min_size=1, max_size=30),
    shares=st.tuples(*[st.sampled_from([0.0, 0.05, 0.2, 0.5, 1.0])] * 3).filter(lambda shares: sum(shares) > 0),
    seed=st.integers(0, 9),
)
def test_partition(sizes, shares, seed):
    rows = [{"Sequence": f"s{s}", "Sequence_Index": str(i)} for s, size in enumerate(sizes) for i in range(size)]
    shares = tuple(share / sum(shares) for share in shares)
    parts = sum(share > 0 for share in shares)
    if len(sizes) < parts:
        with pytest.raises(InputError, match="--split"):
            partition(rows, shares, seed)
        return
    steps = partition(rows, shares, seed)
    assert steps == partition(rows, shares, seed)
    names = [{row["Sequence"] for row in part} for part in steps.values()]
    assert sum(map(len, names)) == len(sizes) == len(set.union(*names))
    assert sum(map(len, steps.values())) == len(rows)
    for share, part in zip(shares, names, strict=True):
        assert bool(part) == (share > 0)
        assert abs(len(part) - share * len(sizes)) <= 2


def test_partition_counts_by_hand():
    rows = [{"Sequence": str(k)} for k in range(10)]
    steps = partition(rows, parse_shares("0.8/0.1/0.1"))
    assert [len(part) for part in steps.values()] == [8, 1, 1]
    assert partition(rows, parse_shares("0.8/0.1/0.1"), seed=1) != steps


@pytest.mark.parametrize("text", ["", "1", "0.5/0.5", "a/b/c", "0/0/0", "-1/1/1", "nan/1/1", "inf/1/1", "1/1/1/1"])
def test_bad_shares(text):
    with pytest.raises(InputError, match=f"--split {text}:"):
        parse_shares(text)


# ---------------------------------------------------------------- DAVIS


def fake_davis(root, lists):
    for name in ("bear", "cow", "dog"):
        images(root, *(f"JPEGImages/480p/{name}/0000{k}.jpg" for k in range(3)))
        images(root, *(f"Annotations/480p/{name}/0000{k}.png" for k in range(3)))
    for path, text in lists.items():
        (root / "ImageSets" / path).parent.mkdir(parents=True, exist_ok=True)
        (root / "ImageSets" / path).write_text(text)
    return root


def test_davis_lists_of_both_years(tmp_path):
    lines = "".join(f"/JPEGImages/480p/cow/0000{k}.jpg /Annotations/480p/cow/0000{k}.png\n" for k in range(3))
    root = fake_davis(tmp_path, {"480p/val.txt": lines, "2017/train.txt": "bear\ndog\n", "2017/val.txt": "cow\n"})
    assert davis_lists(root) == {"val": ["cow"]}
    assert davis_lists(root, image_set="2017") == {"train": ["bear", "dog"], "val": ["cow"]}
    with pytest.raises(InputError, match="2019"):
        davis_lists(root, image_set="2019")


def test_davis_rows_and_faults(tmp_path):
    root = fake_davis(tmp_path, {})
    write_flow(root / "raft" / "dog" / "00000.flo", np.ones((2, 4, 6)))
    rows = davis_rows(root, tmp_path, ["dog"], flow=root / "raft")
    assert [row["Flow"] for row in rows] == ["raft/dog/00000.flo", "", ""]
    assert rows[2]["GtMask"] == "Annotations/480p/dog/00002.png"
    with pytest.raises(InputError, match=r"cat: no such clip; there are: bear, cow, dog"):
        davis_rows(root, tmp_path, ["cat"])
    with pytest.raises(InputError, match="--annotations"):
        davis_rows(root, tmp_path, ["dog"], annotations="Annotations_unsupervised")
    assert "GtMask" not in davis_rows(root, tmp_path, ["dog"], annotations="")[0]


def test_davis_command(tmp_path, capsys):
    root = fake_davis(tmp_path / "D", {"2016/train.txt": "bear\ncow\n", "2016/val.txt": "dog\n"})
    out = tmp_path / "out" / "d"
    assert main(["davis", str(root), "--out", str(out), "--base_dir", str(tmp_path)]) == 0
    assert list(read_split(out, "train").sequences()) == ["bear", "cow"]
    assert list(read_split(out, "val").sequences()) == ["dog"]
    assert "6 rows, 2 sequences (6 Image, 0 Flow, 6 GtMask)" in capsys.readouterr().out
    base = ["davis", root, "--base_dir", tmp_path]
    # a val file that no longer gets rows would leak
    assert "d_val.csv" in fails(capsys, *base, "--out", out, "--sequences", "bear")
    assert main([*map(str, base), "--out", str(out), "--val_sequences", "bear"]) == 0
    assert list(read_split(out, "train").sequences()) == ["cow", "dog"]
    assert "--sequences cat" in fails(capsys, *base, "--out", out, "--sequences", "cat")
    assert "JPEGImages/480p" in fails(capsys, "davis", tmp_path, "--out", out)


def test_real_davis(tmp_path):
    root = need_data("davis", "DAVIS")
    assert main(["davis", str(root), "--out", str(tmp_path / "d"), "--base_dir", str(root.parent)]) == 0
    split = read_split(tmp_path / "d", "val", root.parent)
    assert {name: len(rows) for name, rows in split.sequences().items()} == {
        "blackswan": 50, "bmx-trees": 80, "car-roundabout": 75, "car-shadow": 40, "dog": 60,
    }  # fmt: skip
    assert split.available("Flow").sum() == 3
    assert all(split.path(row, name).is_file() for row in range(305) for name in ("Image", "GtMask"))


def test_real_folder_with_masks(tmp_path):
    root = need_data("weizmann_horse", "weizmann_horse_db")
    arguments = ["folder", root / "rgb", "--masks", root / "figure_ground", "--out", tmp_path / "w", "--base_dir", root]
    assert main([str(argument) for argument in arguments]) == 0
    steps = [read_split(tmp_path / "w", step, root) for step in ("train", "val", "test")]
    assert [len(split) for split in steps] == [32, 4, 4]
    assert all(split.available("GtMask").all() for split in steps)


# ---------------------------------------------------------------- video


@pytest.fixture
def clip(tmp_path):
    path = tmp_path / "in" / "clip.mp4"
    with VideoWriter(path) as video:
        for value in range(5):
            video.write(np.full((16, 24, 3), 40 * value, np.uint8))
    return path


def test_video_command(clip, tmp_path):
    assert main(["video", str(clip), "--out", str(tmp_path / "v"), "--base_dir", str(tmp_path)]) == 0
    split = read_split(tmp_path / "v", "train", tmp_path)
    assert split.column("Image").tolist() == [f"v_frames/clip/{k:05d}.jpg" for k in range(5)]
    assert not split.available("Flow").any()
    assert not (tmp_path / "v_val.csv").exists()


def test_extraction_resumes(clip, tmp_path):
    folder = tmp_path / "frames"
    assert extract_frames(clip, folder) == 5
    before = {entry.name: entry.stat().st_mtime_ns for entry in folder.iterdir()}
    (folder / "00002.jpg").unlink()
    assert extract_frames(clip, folder) == 5
    after = {entry.name: entry.stat().st_mtime_ns for entry in folder.iterdir()}
    assert sorted(after) == sorted(before)
    assert [name for name in after if after[name] != before[name]] == ["00002.jpg"]


def test_extraction_refuses_frames_of_something_else(clip, tmp_path):
    images(tmp_path / "frames", "00017.jpg")
    with pytest.raises(InputError, match=r"00017.jpg: not a frame of clip.mp4"):
        extract_frames(clip, tmp_path / "frames")


def test_video_faults(clip, tmp_path, capsys):
    out = ["--out", tmp_path / "v", "--base_dir", tmp_path]
    assert "image_format" in fails(capsys, "video", clip, *out, "--image_format", "bmp")
    assert "no such video" in fails(capsys, "video", tmp_path / "no.mp4", *out)
    (tmp_path / "empty").mkdir()
    assert "no video" in fails(capsys, "video", tmp_path / "empty", *out)
    assert "--split 0.5/0.5/0" in fails(capsys, "video", clip, *out, "--split", "1/1/0")
    assert not (tmp_path / "v_frames").exists()
    clip.with_suffix(".avi").write_bytes(clip.read_bytes())
    assert "suffix only" in fails(capsys, "video", clip.parent, *out)


@pytest.mark.parametrize("arguments", [["--help"], ["folder", "--help"], ["video", "--help"], ["davis", "--help"]])
def test_help_from_any_folder(arguments, tmp_path):
    command = [sys.executable, str(ROOT / "common" / "make_split.py"), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "usage" in done.stdout
