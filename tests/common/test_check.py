"""The doctor finds what was planted, and nothing in sound data."""

import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from common.check import main
from common.files import write_array, write_image, write_labels
from common.flow_files import FLO_TAG, write_flow
from common.make_split import main as make_split
from common.splits import write_split
from tests.golden import need_data

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def data(tmp_path):
    """A sound split of two clips of three frames, as rows and folder."""
    rows = []
    for sequence in ("a", "b"):
        for k in range(3):
            stem = f"{sequence}{k}"
            write_image(tmp_path / f"{stem}.png", np.full((4, 6, 3), 9, np.uint8))
            write_labels(tmp_path / f"{stem}_mask.png", np.eye(4, 6, dtype=int) * 255)
            write_flow(tmp_path / f"{stem}.flo", np.ones((2, 4, 6)))
            write_array(tmp_path / f"{stem}.npy", np.zeros((2, 4, 6), np.float32))
            row = {"Sequence": sequence, "Sequence_Index": k, "Image": f"{stem}.png"}
            row |= {"Flow": f"{stem}.flo" if k < 2 else "", "GtMask": f"{stem}_mask.png"}
            rows.append(row | {"Proba": f"{stem}.npy", "Score": "0.5"})
    return tmp_path, rows


def report(data, capsys, *options):
    """Exit code and printed report of the doctor on the rows."""
    folder, rows = data
    write_split(folder / "set_train.csv", rows)
    code = main([str(folder / "set_train.csv"), "--base_dir", str(folder), *options])
    return code, capsys.readouterr().out


def test_sound_split(data, capsys):
    code, out = report(data, capsys)
    assert code == 0
    assert "6 rows, 2 sequences, 22 files" in out
    assert "nothing wrong" in out
    assert "0: 83.33%, 1: 16.67%" in out


def planted(folder, name, fault):
    """Break one file, return the words that the report must hold."""
    path = folder / name
    if fault == "missing":
        path.unlink()
        return ["missing file"]
    if fault == "truncated":
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
        return ["bad file"]
    if fault == "nan":
        values = np.full(48, np.nan, dtype="<f4")
        path.write_bytes(struct.pack("<fii", FLO_TAG, 6, 4) + values.tobytes())
        return ["bad file", "48 of 48"]
    if fault == "zero":
        write_flow(path, np.zeros((2, 4, 6)))
        return ["zero flow"]
    if fault == "size":
        write_image(path, np.zeros((5, 6, 3), np.uint8))
        return ["size in row", "Image 5x6", "GtMask 4x6"]
    if fault == "grey":
        write_image(path, np.arange(24, dtype=np.uint8).reshape(4, 6) * 10)
        return ["mask values", "--mask_encoding threshold128"]
    write_array(path, np.array([np.inf, 1.0]))
    return ["bad values", "1 are NaN or infinite"]


@pytest.mark.parametrize(
    ("name", "fault"),
    [
        ("a1.png", "missing"), ("b0.flo", "missing"), ("a1_mask.png", "missing"), ("a0.npy", "missing"),
        ("a1.png", "truncated"), ("a1.flo", "truncated"), ("a1_mask.png", "truncated"), ("a1.npy", "truncated"),
        ("a1.flo", "nan"), ("a1.flo", "zero"), ("a0.png", "size"), ("a1_mask.png", "grey"), ("a1.npy", "inf"),
    ],
)  # fmt: skip
def test_planted_file_fault(name, fault, data, capsys):
    words = planted(data[0], name, fault)
    code, out = report(data, capsys)
    assert code == 1
    for word in words:
        assert word in out
    if fault != "size":
        assert str(data[0] / name) in out
        assert "1 findings" in out


def test_clip_whose_frames_change_size(data, capsys):
    folder, rows = data
    write_image(folder / "b1.png", np.zeros((8, 6, 3), np.uint8))
    rows[4] |= {"GtMask": "", "Flow": "", "Proba": ""}
    code, out = report(data, capsys)
    assert code == 1
    assert "b/1: Image 8x6, first 4x6" in out


def test_gap_and_file_named_twice(data, capsys):
    _, rows = data
    del rows[1]
    rows[3]["Image"] = rows[2]["Image"]
    code, out = report(data, capsys)
    assert code == 1
    assert "frame gap" in out
    assert "a: 0 is followed by 2" in out
    assert "b0.png: Image of 2 rows" in out


def test_duplicate_rows(data, capsys):
    folder, _ = data
    path = folder / "twice_val.csv"
    path.write_text("Sequence,Sequence_Index,Image\na,0,a0.png\na,0,a1.png\n")
    assert main([str(path), "--base_dir", str(folder)]) == 1
    assert "a/0" in capsys.readouterr().out


def test_leak_between_train_and_val(data, capsys):
    folder, _ = data
    write_split(folder / "set_val.csv", [{"Sequence": "b", "Sequence_Index": 7, "Image": "a1.png"}])
    write_split(folder / "set_test.csv", [{"Sequence": "c", "Sequence_Index": 0, "Image": "c.png"}])
    code, out = report(data, capsys)
    assert code == 1
    assert "Sequence b is in set_val.csv too" in out
    assert "Image a1.png is in set_val.csv too" in out
    assert "2 findings" in out


def test_all_parts_are_read_once_and_copies_found(data, capsys):
    """A copy under another name and in another format, and a link to a file of the other part."""
    folder, rows = data
    write_split(folder / "set_train.csv", rows)
    picture = np.arange(72, dtype=np.uint8).reshape(4, 6, 3)
    write_image(folder / "a1.png", picture)
    write_image(folder / "copy.bmp", picture)
    (folder / "link.png").symlink_to(folder / "b0.png")
    cells = {"c": "copy.bmp", "d": "link.png"}
    val = [{"Sequence": name, "Sequence_Index": 0, "Image": cell} for name, cell in cells.items()]
    write_split(folder / "set_val.csv", val)
    assert main([str(folder / "set"), "--base_dir", str(folder)]) == 1
    out = capsys.readouterr().out
    assert "copy.bmp in set_val.csv has the pixels of a1.png in set_train.csv" in out
    assert "Image b0.png is in set_val.csv too" in out
    assert "2 findings" in out
    assert "set_train.csv: 6 rows" in out
    assert "set_val.csv: 2 rows" in out


def test_copy_between_sequences_of_one_split(data, capsys):
    folder, _ = data
    picture = np.arange(72, dtype=np.uint8).reshape(4, 6, 3)
    for name in ("a0", "a1", "b2"):  # within a clip that stands still, frames may agree
        write_image(folder / f"{name}.png", picture)
    code, out = report(data, capsys)
    assert code == 1
    assert "same picture  b2.png in set_train.csv has the pixels of a0.png" in out
    assert "1 findings" in out


def test_absolute_paths_and_unknown_classes(data, capsys):
    folder, rows = data
    rows[0]["Image"] = str(folder / "a0.png")
    write_labels(folder / "labels.png", np.eye(4, 6, dtype=int) * 7)
    rows[1]["GtSemantic"] = "labels.png"
    for row in (rows[0], *rows[2:]):
        row["GtSemantic"] = ""
    (folder / "set_classes.csv").write_text("index,name\n0,nothing\n1,cat\n")
    code, out = report(data, capsys)
    assert code == 1
    assert f"{folder / 'a0.png'} (Image); paths should be relative to --base_dir" in out
    assert "labels.png: 7 not among the class names" in out
    assert "2 findings" in out


def test_long_lists_are_cut(data, capsys):
    for path in data[0].glob("*.flo"):
        path.unlink()
    _, out = report(data, capsys, "--max_lines", "1")
    assert "... and 3 more" in out


def test_labels_and_encoding(data, capsys):
    folder, rows = data
    for row in rows:
        row["GtSemantic"] = "labels.png"
    write_labels(folder / "labels.png", np.eye(4, 6, dtype=int) * 300)
    write_image(folder / "a0_mask.png", np.arange(24, dtype=np.uint8).reshape(4, 6) * 10)
    code, out = report(data, capsys, "--mask_encoding", "threshold128")
    assert code == 0
    assert "300: 16.67%" in out


def test_bad_usage(tmp_path, capsys):
    for arguments in ([tmp_path / "no.csv"], [tmp_path / "no.csv", "--base_dir", tmp_path / "no"]):
        assert main([str(argument) for argument in arguments]) == 2
        lines = capsys.readouterr().err.strip().splitlines()
        assert len(lines) == 1
        assert str(tmp_path / "no") in lines[0]


def test_real_davis_is_sound(tmp_path, capsys):
    root = need_data("davis", "DAVIS")
    base = ["--base_dir", str(root.parent)]
    assert make_split(["davis", str(root), "--out", str(tmp_path / "d"), "--sequences", "blackswan", *base]) == 0
    assert main([str(tmp_path / "d_val.csv"), *base]) == 0
    assert "nothing wrong" in capsys.readouterr().out


def test_real_horses_differ_in_size(tmp_path, capsys):
    root = need_data("weizmann_horse", "weizmann_horse_db")
    arguments = ["folder", root / "rgb", "--masks", root / "figure_ground", "--out", tmp_path / "w", "--base_dir", root]
    assert make_split([str(argument) for argument in arguments]) == 0
    capsys.readouterr()
    path, base = str(tmp_path / "w_val.csv"), ["--base_dir", str(root)]
    assert main([path, *base]) == 1
    assert "threshold128" in capsys.readouterr().out
    assert main([path, *base, "--mask_encoding", "threshold128"]) == 1
    assert "size in row" in capsys.readouterr().out


def test_command_from_any_folder(tmp_path):
    command = [sys.executable, str(ROOT / "common" / "check.py")]
    done = subprocess.run([*command, "--help"], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    done = subprocess.run([*command, "no.csv"], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
