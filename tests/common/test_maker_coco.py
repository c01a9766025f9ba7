"""COCO annotations as label maps."""

import json
from pathlib import Path

import numpy as np
import pytest

from common.files import image_size, read_labels, write_image
from common.make_split import main
from common.makers.coco import paint
from common.splits import read_classes, read_split
from tests.golden import need_data

SQUARE = [[1, 1, 5, 1, 5, 5, 1, 5]]
SMALL = [[2, 2, 4, 2, 4, 4, 2, 4]]


def entry(segmentation: object, category: int, area: float, crowd: int = 0) -> dict:
    return {"image_id": 3, "category_id": category, "segmentation": segmentation, "area": area, "iscrowd": crowd}


def test_small_objects_lie_on_top_and_crowds_are_void() -> None:
    crowd = {"size": [6, 8], "counts": [36, 12]}
    entries = [entry(SMALL, 90, 4), entry(SQUARE, 7, 16), entry(crowd, 7, 12, crowd=1)]
    classes, instances = paint(entries, {"height": 6, "width": 8}, {7: 1, 90: 2})
    assert classes[1, 1] == 1
    assert classes[3, 3] == 2
    assert (classes[:, 6:] == 255).all()
    assert classes[0, 0] == 0
    assert set(np.unique(instances)) == {0, 1, 2, 255}
    assert ((instances == 0) == (classes == 0)).all()


def written(folder: Path) -> Path:
    content = {
        "images": [
            {"id": 3, "file_name": "a.png", "height": 6, "width": 8},
            {"id": 4, "file_name": "b.png", "height": 6, "width": 8},
        ],
        "annotations": [entry(SQUARE, 7, 16)],
        "categories": [{"id": 90, "name": "cat"}, {"id": 7, "name": "dog"}],
    }
    (folder / "annotations").mkdir(parents=True)
    (folder / "annotations" / "instances_t.json").write_text(json.dumps(content))
    write_image(folder / "t" / "a.png", np.zeros((6, 8, 3), np.uint8))
    return folder


def test_split_of_a_set(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = written(tmp_path / "coco")
    arguments = ["coco", str(root), "--train", "t", "--val", "", "--base_dir", str(tmp_path)]
    assert main([*arguments, "--out", str(tmp_path / "own")]) == 0
    assert "holds 1 of 2 images" in capsys.readouterr().out
    split = read_split(tmp_path / "own_train.csv", base_dir=tmp_path)
    assert read_classes(tmp_path / "own_train.csv") == {0: "background", 1: "dog", 2: "cat"}
    assert set(np.unique(read_labels(split.path(0, "GtSemantic")))) == {0, 1}
    (tmp_path / "list.txt").write_text("train2014/c.png\n")
    assert main([*arguments, "--out", str(tmp_path / "other"), "--image_list", str(tmp_path / "list.txt")]) == 2
    assert "1 images have no annotation (first: c.png)" in capsys.readouterr().err
    (root / "annotations" / "instances_t.json").write_text("{")
    assert main([*arguments, "--out", str(tmp_path / "other")]) == 2
    assert "not JSON" in capsys.readouterr().err


def test_samples(tmp_path: Path) -> None:
    root = need_data("coco")
    assert main(["coco", str(root), "--out", str(tmp_path / "coco"), "--base_dir", "/"]) == 0
    split = read_split(tmp_path / "coco_train.csv", base_dir="/")
    assert len(split) >= 10
    for row in range(len(split)):
        labels = read_labels(split.path(row, "GtSemantic"))
        assert labels.shape == image_size(split.path(row, "Image"))
        assert set(np.unique(labels)) <= {*range(81), 255}
