"""Splits of FBMS-59 and SegTrack-v2 from look-alikes: parts, masks, numbers, and the benchmark's score of the truth."""

from pathlib import Path

import numpy as np
import pytest

from common.evaluate import ScoringOptions, evaluate
from common.files import read_labels, read_mask, write_image, write_labels
from common.flow_files import write_flow
from common.make_split import main
from common.splits import Split, read_split

PICTURE = np.full((12, 16, 3), 90, np.uint8)


def disk(k: int) -> np.ndarray:
    y, x = np.mgrid[:12, :16]
    return (x - 5 - k) ** 2 + (y - 6) ** 2 < 12


def made(folder: Path, layout: str, *options: str) -> dict[str, Split]:
    assert main([layout, str(folder / "copy"), "--out", str(folder / "set"), "--base_dir", str(folder), *options]) == 0
    files = {path.stem.rpartition("_")[2]: path for path in folder.glob("set_*.csv")}
    return {step: read_split(path, base_dir=folder) for step, path in files.items()}


def scored(split: Split, protocol: str) -> float:
    """The benchmark's score of the ground truth itself."""
    rows = []
    for row, cells in enumerate(split.frame.to_dict("records")):
        if cells["GtMask"]:
            path = split.base_dir / "own" / f"{row}.png"
            write_labels(path, read_mask(split.path(row, "GtMask")).foreground.astype(np.uint8))
            rows.append(cells | {"Pred": f"own/{row}.png"})
    (score,) = evaluate(Split.from_rows(rows, split.base_dir), ScoringOptions(protocol=protocol)).scores
    return score.value


@pytest.fixture
def segtrack(tmp_path: Path) -> Path:
    """Three sequences: one object, two objects, masks under other names; native frame numbers."""
    root = tmp_path / "copy"
    for name, start, suffix in (("birdfall", 18, "png"), ("bmx", 0, "bmp"), ("girl", 195, "png")):
        for t in range(3):
            write_image(root / f"JPEGImages/{name}/{name}_{start + t:05d}.{suffix}", PICTURE)
            mask = 255 * disk(t).astype(np.uint8)
            if name == "bmx":
                for number, part in ((1, mask), (2, np.roll(mask, 5, axis=1))):
                    write_image(root / f"GroundTruth/bmx/{number}/bmx_{start + t:05d}.png", part)
            else:
                stem = f"{name}_{start + t:05d}" if name == "birdfall" else f"mask{t}"
                write_image(root / f"GroundTruth/{name}/{stem}.png", mask)
    write_flow(tmp_path / "flow" / "birdfall" / "birdfall_00018.flo", np.zeros((2, 12, 16)))
    return tmp_path


def test_segtrack(segtrack: Path) -> None:
    parts = made(segtrack, "segtrack", "--flow_dir", str(segtrack / "flow"))
    assert list(parts) == ["val"]
    split = parts["val"]
    assert {name: split.index[rows].tolist() for name, rows in split.sequences().items()} == {
        "birdfall": [18, 19, 20],
        "bmx": [0, 1, 2],
        "girl": [195, 196, 197],
    }
    assert split.available("GtMask").all()
    assert split.available("Flow").tolist() == [True] + [False] * 8
    union = read_mask(split.path(4, "GtMask")).foreground
    assert (union == (disk(1) | np.roll(disk(1), 5, axis=1))).all()
    assert (read_mask(split.path(7, "GtMask")).foreground == disk(1)).all()
    assert scored(split, "segtrackv2") == 1.0


def test_segtrack_is_dealt_out_by_sequence(segtrack: Path) -> None:
    parts = made(segtrack, "segtrack", "--split", "0.4/0.3/0.3", "--seed", "1")
    names = [set(part.column("Sequence").tolist()) for part in parts.values()]
    assert len(names) == 3
    assert set.union(*names) == {"birdfall", "bmx", "girl"}
    assert sum(map(len, names)) == 3


@pytest.fixture
def published(tmp_path: Path) -> Path:
    """FBMS-59 as published: annotations of two frames in five, pictures of regions with a white background."""
    for part, name, number in (
        ("Trainingset", "bear01", "{:04d}"),
        ("Testset", "cars1", "{:02d}"),
        ("Testset", "cats01", "{:04d}"),
    ):
        folder = tmp_path / "copy" / part / name
        for t in range(1, 6):
            write_image(folder / f"{name}_{number.format(t)}.jpg", PICTURE)
            if t in (1, 4):
                regions = np.where(disk(t), 80, 255).astype(np.uint8)
                regions[:2, :3] = 0
                stem = f"{t:03d}_gt" if name == "cars1" else f"{name}_{number.format(t)}_gt"
                write_image(folder / f"GroundTruth/{stem}.{'pgm' if name == 'cars1' else 'png'}", regions)
    return tmp_path


def test_fbms_as_published(published: Path) -> None:
    parts = made(published, "fbms", "--background", "255")
    assert {step: sorted(part.sequences()) for step, part in parts.items()} == {
        "train": ["bear01"],
        "val": ["cars1", "cats01"],
    }
    val = parts["val"]
    assert len(val) == 10
    assert val.index.tolist() == [1, 2, 3, 4, 5] * 2
    assert np.flatnonzero(val.available("GtMask")).tolist() == [0, 3, 5, 8]
    ids = read_labels(val.path(3, "GtMask"))
    expected = np.where(disk(4), 2, 0)
    expected[:2, :3] = 1
    assert (ids == expected).all()
    assert scored(val, "fbms59") == 1.0


def test_fbms_annotated_frames_only(published: Path) -> None:
    parts = made(published, "fbms", "--background", "255", "--annotated_only", "--val_sequences", "bear01")
    assert {step: len(part) for step, part in parts.items()} == {"train": 4, "val": 2}
    assert all(part.available("GtMask").all() for part in parts.values())


def test_fbms_rearranged(tmp_path: Path) -> None:
    for name in ("a", "b", "c"):
        for t in range(1, 4):
            write_image(tmp_path / f"copy/JPEGImages/{name}/{t:05d}.jpg", PICTURE)
        write_image(tmp_path / f"copy/Annotations/{name}/00002.png", 255 * disk(0).astype(np.uint8))
    parts = made(tmp_path, "fbms", "--split", "0.4/0.3/0.3")
    assert sorted(parts) == ["test", "train", "val"]
    assert all(len(part.sequences()) == 1 and len(part) == 3 for part in parts.values())
    assert scored(parts["val"], "fbms59") == 1.0


def test_mistakes_are_one_line(
    published: Path, tmp_path_factory: pytest.TempPathFactory, capsys: pytest.CaptureFixture[str]
) -> None:
    empty = tmp_path_factory.mktemp("empty")
    copy, out = str(published / "copy"), ["--out", str(published / "x"), "--base_dir", str(published)]
    for arguments, message in (
        (["fbms", str(empty)], "neither Trainingset and Testset nor JPEGImages"),
        (["fbms", copy, "--background", "7"], "--background 7 is not among its values 0, 80, 255"),
        (["fbms", copy, "--val_sequences", "dog"], "no such sequence; there are bear01, cars1, cats01"),
        (["fbms", copy, "--split", "1/0/0", "--val_sequences", "cars1"], "both say what is val"),
        (["segtrack", str(empty)], "holds no JPEGImages and GroundTruth"),
    ):
        assert main([*arguments, *out]) == 2
        error = capsys.readouterr().err
        assert message in error
        assert error.count("\n") == 1
    assert not list(published.glob("x_*.csv"))


def test_segtrack_masks_that_fit_no_frame(segtrack: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (segtrack / "copy/GroundTruth/girl/mask0.png").unlink()
    arguments = [str(segtrack / "copy"), "--out", str(segtrack / "x"), "--base_dir", str(segtrack)]
    assert main(["segtrack", *arguments]) == 2
    assert "2 masks for 3 frames and no name in common" in capsys.readouterr().err
    assert main(["segtrack", *arguments, "--sequences", "cow"]) == 2
    assert "there are birdfall, bmx, girl" in capsys.readouterr().err
