"""Which images stage A takes: splits, folders, lists of VOC and the subset of COCO."""

import json
from pathlib import Path

import numpy as np
import pytest

from common.cli import BAD_INPUT, DONE
from common.errors import InputError
from common.files import write_image
from maskdistill.gen_masks import main as gen_masks
from maskdistill.images import image_table
from maskdistill.options import MaskOptions
from maskdistill.rle import encode


def pictures(folder: Path, *names: str) -> None:
    for number, name in enumerate(names):
        picture = np.full((24, 32, 3), 40 + number, np.uint8)
        picture[6:18, 8:20] = (220, 60, 20)
        file = folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        write_image(file, picture)


def test_a_folder_is_taken_in_natural_order_without_hidden_files(tmp_path: Path) -> None:
    pictures(tmp_path, "b/im10.png", "b/im9.png", "a.png", ".hidden.png")
    table = image_table(MaskOptions(dataset="folder", dataset_root=tmp_path))
    assert table.names == ["a.png", "b/im9.png", "b/im10.png"]
    assert table.ids == [0, 1, 2]
    (tmp_path / "list.txt").write_text("b/im10\na\n")
    chosen = image_table(MaskOptions(dataset="folder", dataset_root=tmp_path, image_list=tmp_path / "list.txt"))
    assert [file.name for file in chosen.files] == ["im10.png", "a.png"]


@pytest.mark.parametrize(
    ("lines", "part"),
    [("a\nnone\n", "1 of 2 images are not there (first: none)"), ("a\na\n", "a is listed twice"), ("\n", "is empty")],
)
def test_lists_that_cannot_be_followed(tmp_path: Path, lines: str, part: str) -> None:
    pictures(tmp_path, "a.png")
    (tmp_path / "list.txt").write_text(lines)
    with pytest.raises(InputError) as refused:
        image_table(MaskOptions(dataset="folder", dataset_root=tmp_path, image_list=tmp_path / "list.txt"))
    assert part in str(refused.value)


def test_a_folder_or_a_split_without_images(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no image in this folder"):
        image_table(MaskOptions(dataset="folder", dataset_root=tmp_path))
    with pytest.raises(InputError, match="needs --data_file"):
        image_table(MaskOptions(dataset="csv"))
    pictures(tmp_path, "a.png")
    (tmp_path / "s_train.csv").write_text("Sequence,Sequence_Index,Image\na,0,a.png\nb,0,\n")
    with pytest.raises(InputError, match="line 3 has no Image"):
        image_table(MaskOptions(data_file=tmp_path / "s_train.csv", base_dir=tmp_path))


def test_voc_lists_are_joined_and_derived(tmp_path: Path) -> None:
    voc = tmp_path / "VOCdevkit" / "VOC2012"
    pictures(voc / "JPEGImages", "a.jpg", "b.jpg", "c.jpg")
    for stem in ("b", "c"):
        write_image(_made(voc / "SegmentationClassAug" / f"{stem}.png"), np.zeros((24, 32), np.uint8))
    _made(voc / "ImageSets" / "Segmentation" / "val.txt").write_text("c\n")
    options = {"dataset": "VOCClass", "dataset_root": tmp_path, "set": "trainaug_seg"}
    assert image_table(MaskOptions(**options)).names == ["b.jpg"]
    assert image_table(MaskOptions(**options, include_test=True)).names == ["b.jpg", "c.jpg"]
    assert image_table(MaskOptions(**{**options, "set": "train_all"})).names == ["a.jpg", "b.jpg", "c.jpg"]
    with pytest.raises(InputError, match="it adds test to 2007 and val_seg"):
        image_table(MaskOptions(**{**options, "set": "train_all"}, include_test=True))
    with pytest.raises(InputError, match="no VOCdevkit/VOC2007/JPEGImages below it"):
        image_table(MaskOptions(**options, year=2007))


def test_the_subset_of_coco_and_its_annotations(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = tmp_path / "MS-COCO2014"
    names = [f"COCO_train2014_{number:012d}.jpg" for number in (7, 3, 9)]
    pictures(root / "train2014", *names)
    inside = np.zeros((24, 32), np.bool_)
    inside[6:18, 8:20] = True
    content = {
        "images": [{"id": n, "file_name": f, "height": 24, "width": 32} for n, f in zip((7, 3, 9), names, strict=True)],
        "annotations": [
            {
                "id": n,
                "image_id": n,
                "category_id": 10 + n,
                "segmentation": encode(inside),
                "area": 144,
                "bbox": [8, 6, 12, 12],
                "iscrowd": 0,
            }
            for n in (7, 3, 9)
        ],
        "categories": [{"id": 10 + n, "name": f"class {n}", "supercategory": ""} for n in (7, 3, 9)],
    }
    (tmp_path / "list.txt").write_text(f"train2014/{names[1]}\ntrain2014/{names[0]}\n")
    arguments = [
        *("--dataset", "COCO20k", "--dataset_root", str(tmp_path), "--list", str(tmp_path / "list.txt")),
        *("--weights", "contrast", "--patch_size", "8", "--resize", "24", "--gpus", "0"),
        *("--enable_progress_bar", "false", "--pred_json_path", str(tmp_path / "masks.json")),
        *("--gt_json_path_coco", str(tmp_path / "gt.json"), "--gt_json_path_coco_agn", str(tmp_path / "agnostic.json")),
    ]
    assert gen_masks(arguments) == BAD_INPUT
    assert "no instances_train2014.json to make --gt_json_path_coco from" in capsys.readouterr().err
    _made(root / "annotations" / "instances_train2014.json").write_text(json.dumps(content))
    assert gen_masks(arguments) == DONE
    found = json.loads((tmp_path / "gt.json").read_text())
    assert [image["id"] for image in found["images"]] == [3, 7]
    assert [entry["category_id"] for entry in found["annotations"]] == [13, 17]
    agnostic = json.loads((tmp_path / "agnostic.json").read_text())
    assert [entry["category_id"] for entry in agnostic["annotations"]] == [0, 0]
    assert len(agnostic["categories"]) == 1
    masks = json.loads((tmp_path / "masks.json").read_text())
    assert [image["id"] for image in masks["images"]] == [3, 7]  # COCO's numbers, not running ones


def _made(file: Path) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    return file
