"""Stages B, C (prediction) and D killed in the middle: the same command goes on and ends with the same files."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from common.synthetic import SceneOptions
from common.synthetic import run as make_data
from maskdistill import rle
from maskdistill.coco_files import write_coco, write_results

ROOT = Path(__file__).resolve().parents[2]
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
HEIGHT, WIDTH = 48, 64
CATEGORIES = [{"id": index, "name": name, "supercategory": ""} for index, name in enumerate("abc")]

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "scenes"
    make_data(SceneOptions(out=folder, num=4, num_val=0, num_test=0, height=HEIGHT, width=WIDTH, void_px=0))
    return folder


def many_images(scenes: Path, count: int) -> list[dict]:
    """Entries of so many images that a process can be caught at its work; the few pictures are named in turn."""
    files = sorted(path.relative_to(scenes) for path in (scenes / "JPEGImages").glob("*.jpg"))
    return [
        {"id": row, "file_name": str(files[row % len(files)]), "height": HEIGHT, "width": WIDTH} for row in range(count)
    ]


def many_masks(images: list[dict]) -> list[dict]:
    """One rectangle per image, of drawn size and place."""
    draw = np.random.default_rng(0)
    entries = []
    for row, image in enumerate(images):
        height, width = draw.integers(8, HEIGHT), draw.integers(8, WIDTH)
        top, left = draw.integers(0, HEIGHT - height), draw.integers(0, WIDTH - width)
        mask = np.zeros((HEIGHT, WIDTH), bool)
        mask[top : top + height, left : left + width] = True
        box = [float(left), float(top), float(width), float(height)]
        entry = {"id": row, "image_id": image["id"], "category_id": row % 3, "bbox": box, "score": 0.95, "iscrowd": 0}
        entries.append({**entry, "area": int(mask.sum()), "segmentation": rle.encode(mask)})
    return entries


def run(script: str, *arguments: str | Path) -> None:
    done = subprocess.run(line(script, *arguments), env=ENVIRONMENT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr


def line(script: str, *arguments: str | Path) -> list[str]:
    return [sys.executable, str(ROOT / "maskdistill" / script), *map(str, arguments)]


def run_and_kill(script: str, *arguments: str | Path, at: Callable[[], int], num: int) -> None:
    """Start the command and kill it when ``at()`` items of ``num`` stand."""
    process = subprocess.Popen(
        line(script, *arguments), env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    deadline = time.monotonic() + 120
    while process.poll() is None and at() < 3 and time.monotonic() < deadline:
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    errors = process.communicate()[1].decode()
    assert process.returncode == -signal.SIGKILL, errors
    assert 3 <= at() < num


def lines_in(folder: Path) -> int:
    """Records in the parts of a killed run."""
    return sum(file.read_bytes().count(b"\n") for file in folder.glob("*.parts/*.jsonl"))


def files_of(folder: Path) -> dict[str, bytes]:
    """Content of all visible files."""
    found = sorted(path for path in folder.rglob("*") if path.is_file() and not path.name.startswith("."))
    return {str(path.relative_to(folder)): path.read_bytes() for path in found}


def test_clusters(scenes: Path, tmp_path: Path) -> None:
    images = many_images(scenes, 300)
    masks = write_coco(tmp_path / "masks.json", images, many_masks(images), CATEGORIES)

    def arguments(folder: Path) -> list[str | Path]:
        return [
            *("--dataset", "own", "--dataset_root1", scenes, "--input_file1", masks, "--num_classes", "3"),
            *("--weights", "random", "--patch_size", "16", "--batch_size", "1", "--sheets", "false", "--gpus", "0"),
            *("--output_file", folder / "b.json", "--save_dir", folder / "cache", "--enable_progress_bar", "false"),
        ]

    killed, whole = tmp_path / "killed", tmp_path / "whole"
    script = "utils/cluster.py"
    run_and_kill(script, *arguments(killed), at=lambda: lines_in(killed / "cache"), num=300)
    assert not (killed / "b.json").exists()
    run(script, *arguments(killed))
    run(script, *arguments(whole))
    assert files_of(killed) == files_of(whole)
    assert len(json.loads((killed / "b.json").read_text())["annotations"]) == 300


def test_detections(scenes: Path, tmp_path: Path) -> None:
    few = many_images(scenes, 4)
    train = write_coco(tmp_path / "train.json", few, many_masks(few), CATEGORIES)
    images = write_coco(tmp_path / "images.json", many_images(scenes, 200), [], CATEGORIES)
    model = [
        *("--trunk", "resnet18", "--norm", "group", "--freeze_at", "0", "--width", "8", "--rois_per_image", "8"),
        *("--anchor_px", "8", "16", "32", "64", "128", "--min_size_train", "48", "--min_size_test", "48"),
        *("--max_size", "64", "--rpn_pre_nms", "50", "30", "--rpn_post_nms", "20", "10", "--score_threshold", "0.0"),
        *("--max_steps", "1", "--gpus", "0", "--enable_progress_bar", "false", "--enable_model_summary", "false"),
    ]
    run("train_mask_rcnn.py", "--input_file", train, "--image_dir", scenes, "--out", tmp_path / "run", *model)

    def arguments(folder: Path) -> list[str | Path]:
        return [
            *("--model_dir", tmp_path / "run", "--images", images, "--image_dir", scenes, "--set", "own"),
            *("--out", folder, "--batch_size", "1", "--gpus", "0", "--enable_progress_bar", "false"),
        ]

    killed, whole = tmp_path / "killed", tmp_path / "whole"
    script = "predict_mask_rcnn.py"
    run_and_kill(script, *arguments(killed), at=lambda: lines_in(killed), num=200)
    assert not (killed / "mask_rcnn_own.json").exists()
    run(script, *arguments(killed))
    run(script, *arguments(whole))
    assert files_of(killed) == files_of(whole)
    found = json.loads((killed / "mask_rcnn_own.json").read_text())
    assert {entry["image_id"] for entry in found} == set(range(200))


def test_label_maps(tmp_path: Path) -> None:
    images = [{"id": row, "file_name": f"{row}.jpg", "height": HEIGHT, "width": WIDTH} for row in range(2000)]
    truth = write_coco(tmp_path / "images.json", images, [], CATEGORIES)
    results = write_results(tmp_path / "results.json", many_masks(images))

    def arguments(folder: Path) -> list[str | Path]:
        return [
            *("--input_file", results, "--gt_file", truth, "--threshold", "0.9", "--save_dir", folder / "maps"),
            *("--output_file", folder / "kept.json"),
        ]

    killed, whole = tmp_path / "killed", tmp_path / "whole"
    script = "gen_segmentation.py"
    run_and_kill(script, *arguments(killed), at=lambda: len(list((killed / "maps").glob("[0-9]*.png"))), num=2000)
    assert not (killed / "maps" / "label_maps.csv").exists()
    run(script, *arguments(killed))
    run(script, *arguments(whole))
    assert files_of(killed) == files_of(whole)
