"""Makers of still-image data sets: VOC, SBD, ADE20K, BSDS500, on small made copies and on the sample data."""

from pathlib import Path

import numpy as np
import pytest
from scipy.io import savemat

from common.errors import InputError
from common.files import image_size, read_labels, write_image, write_labels
from common.make_split import main
from common.makers.matlab import bsds_annotations, read_struct
from common.splits import read_classes, read_split
from common.video import VideoWriter
from tests.golden import need_data

PICTURE = np.zeros((6, 8, 3), np.uint8)


def fails(capsys, *arguments) -> str:
    """The single line that a failing command prints."""
    assert main([str(argument) for argument in arguments]) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    return lines[-1]


def test_the_end_of_each_video_is_val(tmp_path, capsys):
    for name, count in (("a", 10), ("b", 5)):
        (tmp_path / "in").mkdir(exist_ok=True)
        with VideoWriter(tmp_path / "in" / f"{name}.mp4", 5) as writer:
            for _ in range(count):
                writer.write(np.zeros((32, 32, 3), np.uint8))
    arguments = ["video", tmp_path / "in", "--out", tmp_path / "out", "--base_dir", tmp_path]
    assert main([*map(str, arguments), "--val_tail", "0.2"]) == 0
    train, val = (read_split(tmp_path / "out", step, tmp_path) for step in ("train", "val"))
    assert {name: train.index[rows].tolist() for name, rows in train.sequences().items()} == {
        "a": list(range(8)),
        "b": list(range(4)),
    }
    assert {name: val.index[rows].tolist() for name, rows in val.sequences().items()} == {"a": [8, 9], "b": [4]}
    assert "--val_tail 1.0" in fails(capsys, *arguments, "--val_tail", "1.0")


def voc_copy(root: Path) -> Path:
    for name in ("a", "b", "c"):
        write_image(root / "JPEGImages" / f"{name}.jpg", PICTURE)
        write_labels(root / "SegmentationClassAug" / f"{name}.png", np.full((6, 8), 3))
    write_labels(root / "SegmentationClass" / "b.png", np.full((6, 8), 255))
    lists = root / "ImageSets" / "Segmentation"
    lists.mkdir(parents=True)
    (lists / "train.txt").write_text("a\nb\n")
    (lists / "val.txt").write_text("b\n")
    return root


def test_voc_lists_and_augmented_list(tmp_path):
    root = voc_copy(tmp_path / "VOCdevkit" / "VOC2012")
    out = tmp_path / "plain"
    assert main(["voc", str(tmp_path), "--out", str(out), "--base_dir", str(tmp_path)]) == 0
    train = read_split(out, "train", tmp_path)
    assert train.column("Sequence").tolist() == ["a", "b"]
    assert train.column("GtSemantic").tolist() == ["", "VOCdevkit/VOC2012/SegmentationClass/b.png"]
    assert read_classes(train.file)[15] == "person"
    out = tmp_path / "augmented"
    assert main(["voc", str(root), "--out", str(out), "--base_dir", str(tmp_path), "--train", "trainaug"]) == 0
    train = read_split(out, "train", tmp_path)
    assert train.column("Sequence").tolist() == ["a", "c"]  # b is in val
    assert train.path(1, "GtSemantic") == root / "SegmentationClassAug" / "c.png"
    assert read_split(out, "val", tmp_path).path(0, "GtSemantic") == root / "SegmentationClass" / "b.png"


def test_voc_says_what_is_missing(tmp_path, capsys):
    assert "no JPEGImages here or below" in fails(capsys, "voc", tmp_path, "--out", tmp_path / "x")
    root = voc_copy(tmp_path / "voc")
    found = fails(capsys, "voc", root, "--base_dir", tmp_path, "--out", tmp_path / "x", "--train", "trainval")
    assert "there are: train, val" in found
    (root / "JPEGImages" / "a.jpg").unlink()
    assert "complete the copy" in fails(capsys, "voc", root, "--base_dir", tmp_path, "--out", tmp_path / "x")
    found = fails(capsys, "voc", root, "--base_dir", tmp_path, "--out", tmp_path / "x", "--annotations", "Maps")
    assert "no such folder of class maps" in found


def test_voc_sample(tmp_path):
    root = need_data("voc")
    arguments = ["--base_dir", str(root), "--train", "trainval", "--val", "trainval"]
    assert main(["voc", str(root), "--out", str(tmp_path / "voc"), *arguments]) == 0
    split = read_split(tmp_path / "voc", "val", root)
    assert len(split) == 5
    assert set(np.unique(read_labels(split.path(1, "GtSemantic")))) == {0, 12, 17, 255}
    assert split.available("GtInstance").tolist() == [True, True, True, False, True]


def test_sbd_maps_become_pictures(tmp_path, capsys):
    root = tmp_path / "benchmark_RELEASE" / "dataset"
    labels = np.zeros((6, 8), np.uint8)
    labels[2:4, 3:5] = 12
    for name in ("a", "b"):
        write_image(root / "img" / f"{name}.jpg", PICTURE)
        (root / "cls").mkdir(exist_ok=True)
        savemat(root / "cls" / f"{name}.mat", {"GTcls": {"Segmentation": labels, "Boundaries": 0}})
    (root / "train.txt").write_text("a\nb\n")
    (root / "val.txt").write_text("b\n")
    arguments = ["sbd", str(tmp_path), "--out", str(tmp_path / "out" / "sbd"), "--base_dir", str(tmp_path)]
    assert main([*arguments, "--exclude", str(root / "val.txt")]) == 0  # nothing is left for val
    split = read_split(tmp_path / "out" / "sbd", "train", tmp_path)
    assert split.column("Sequence").tolist() == ["a"]
    np.testing.assert_array_equal(read_labels(split.path(0, "GtSemantic")), labels)
    assert not split.available("GtInstance").any()
    savemat(root / "cls" / "a.mat", {"other": 1})
    (tmp_path / "out" / "sbd_labels" / "cls" / "a.png").unlink()
    assert "no variable GTcls" in fails(capsys, *arguments)


def ade_copy(root: Path, values: np.ndarray) -> Path:
    for part, name in (("training", "t1"), ("validation", "v1"), ("validation", "v2")):
        write_image(root / "images" / part / f"{name}.jpg", PICTURE)
        write_labels(root / "annotations" / part / f"{name}.png", values)
    (root / "objectInfo150.txt").write_text("Idx\tRatio\tTrain\tVal\tStuff\tName\n1\t.1\t1\t1\t1\twall, side\n")
    return root


def test_ade20k_classes_start_at_zero_and_other_is_void(tmp_path, capsys):
    values = np.tile(np.array([0, 1, 150, 7], np.uint8), (6, 2))
    root = ade_copy(tmp_path / "ADEChallengeData2016", values)
    arguments = ["ade20k", str(tmp_path), "--out", str(tmp_path / "ade"), "--base_dir", str(tmp_path)]
    assert main(arguments) == 0
    split = read_split(tmp_path / "ade", "val", tmp_path)
    assert split.column("Sequence").tolist() == ["v1", "v2"]
    assert read_labels(split.path(0, "GtSemantic"))[0, :4].tolist() == [255, 0, 149, 6]
    assert read_classes(split.file)[0] == "wall"
    write_labels(root / "annotations" / "training" / "t1.png", values + 100)
    (tmp_path / "ade_labels" / "training" / "t1.png").unlink()
    assert "t1.png: value 250 is above 150" in fails(capsys, *arguments)


def test_ade20k_sample(tmp_path):
    root = need_data("ade20k")
    assert main(["ade20k", str(root), "--out", str(tmp_path / "ade"), "--base_dir", str(root)]) == 0
    split = read_split(tmp_path / "ade", "val", root)
    assert set(np.unique(read_labels(split.path(0, "GtSemantic")))) == {255, 0, 1, 2, 4, 6, 9, 17}
    names = read_classes(split.file)
    assert len(names) == 150
    assert (names[0], names[2]) == ("wall", "sky")


def test_bsds_sample_with_all_annotators(tmp_path):
    root = need_data("bsds500")
    assert main(["bsds", str(root), "--out", str(tmp_path / "bsds"), "--base_dir", str(root)]) == 0
    sizes = {step: len(read_split(tmp_path / "bsds", step, root)) for step in ("train", "val", "test")}
    assert sizes == {"train": 12, "val": 4, "test": 4}
    split = read_split(tmp_path / "bsds", "test", root)
    for row in range(len(split)):
        maps = bsds_annotations(split.path(row, "GtSegmentation"))
        assert len(maps) in (5, 6)
        assert {found.shape for found in maps} == {image_size(split.path(row, "Image"))}
        assert min(found.min() for found in maps) == 1
    assert main(["bsds", str(root), "--out", str(tmp_path / "all"), "--base_dir", str(root), "--all_images"]) == 0
    assert len(read_split(tmp_path / "all", "val", root)) == 20


def test_damaged_matlab_files(tmp_path):
    file = tmp_path / "x.mat"
    file.write_bytes(b"version https://git-lfs.github.com/spec/v1\n" * 9)
    with pytest.raises(InputError, match=r"x\.mat"):
        read_struct(file, "groundTruth")
    savemat(file, {"groundTruth": np.arange(3)})
    with pytest.raises(InputError, match="holds no Segmentation"):
        bsds_annotations(file)
