"""Stages A to D as commands, end to end on a few embedded scenes and on the samples of VOC and COCO."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from common.cli import BAD_INPUT, DONE
from common.files import read_image, read_labels, write_image
from common.splits import read_split
from common.synthetic import SceneOptions
from common.synthetic import run as make_data
from maskdistill import rle
from maskdistill.convert_voc import main as convert_voc
from maskdistill.eval_instances import main as eval_instances
from maskdistill.gen_masks import main as gen_masks
from maskdistill.gen_segmentation import main as gen_segmentation
from maskdistill.utils.cluster import main as cluster
from tests.golden import need_data

ROOT = Path(__file__).resolve().parents[2]
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
CONTRAST = [*("--weights", "contrast", "--patch_size", "8")]
MASKS = [*CONTRAST, *("--resize", "240", "--mask_resize", "nearest", "--gpus", "0", "--enable_progress_bar", "false")]
NUM = 10


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "scenes"
    make_data(SceneOptions(out=folder, num=NUM, num_val=4, num_test=0, max_objects=2, num_classes=3))
    return folder


@pytest.fixture(scope="module")
def masks(scenes: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("a") / "masks.json"
    assert gen_masks([*data(scenes), *MASKS, "--pred_json_path", str(out)]) == DONE
    return out


@pytest.fixture(scope="module")
def truth(scenes: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("gt") / "gt.json"
    assert convert_voc(truth_arguments(scenes, out)) == DONE
    return out


def truth_arguments(scenes: Path, out: Path) -> list[str]:
    return ["--dataset_root", str(scenes), "--out_file", str(out), "--classes", str(scenes / "scenes_classes.csv")]


def data(scenes: Path) -> list[str]:
    return ["--data_file", str(scenes / "scenes_train.csv"), "--base_dir", str(scenes)]


def one_line(capsys: pytest.CaptureFixture[str]) -> str:
    lines = [line for line in capsys.readouterr().err.strip().splitlines() if not line.startswith("warning")]
    assert len(lines) == 1, lines
    return lines[0]


def test_masks_are_of_objects(scenes: Path, masks: Path) -> None:
    content = json.loads(masks.read_text())
    assert [image["id"] for image in content["images"]] == list(range(NUM))
    assert [entry["id"] for entry in content["annotations"]] == list(range(NUM))
    split = read_split(scenes / "scenes_train.csv", base_dir=scenes)
    overlaps = []
    for entry in content["annotations"]:
        instances = read_labels(split.path(entry["image_id"], "GtInstance"))
        mask = rle.decode(entry["segmentation"], instances.shape)
        assert (entry["area"], entry["bbox"]) == (mask.sum(), rle.bounding_box(mask))
        objects = [instances == number for number in np.unique(instances) if number not in (0, 255)]
        overlaps.append(max((mask & one).sum() / (mask | one).sum() for one in objects))
    assert np.mean(overlaps) > 0.6  # measured: 0.83


def test_a_finished_file_is_left_alone_and_another_setting_is_refused(
    scenes: Path, masks: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = masks.read_bytes()
    arguments = [*data(scenes), *MASKS, "--pred_json_path", str(masks)]
    assert gen_masks(arguments) == DONE
    assert "stands already" in capsys.readouterr().out
    assert gen_masks([*arguments, "--topk", "0.3"]) == BAD_INPUT
    assert "made with another topk (0.4, now 0.3); give --overwrite" in one_line(capsys)
    assert masks.read_bytes() == before


def test_batches_change_nothing(scenes: Path, masks: Path, tmp_path: Path) -> None:
    out = tmp_path / "masks.json"
    assert gen_masks([*data(scenes), *MASKS, "--batch_size", "1", "--pred_json_path", str(out)]) == DONE
    assert json.loads(out.read_text()) == json.loads(masks.read_text())


def test_several_masks_per_image_do_not_overlap(scenes: Path, tmp_path: Path) -> None:
    out = tmp_path / "masks.json"
    assert gen_masks([*data(scenes), *MASKS, "--num_masks", "3", "--pred_json_path", str(out)]) == DONE
    content = json.loads(out.read_text())
    assert NUM < len(content["annotations"]) <= 3 * NUM
    for image in content["images"]:
        size = (image["height"], image["width"])
        own = [entry for entry in content["annotations"] if entry["image_id"] == image["id"]]
        assert sum(rle.decode(entry["segmentation"], size).astype(int) for entry in own).max() == 1


def test_a_killed_run_goes_on_without_losing_or_doubling(scenes: Path, masks: Path, tmp_path: Path) -> None:
    out = tmp_path / "masks.json"
    script = str(ROOT / "maskdistill" / "gen_masks.py")
    arguments = [sys.executable, script, *data(scenes), *MASKS, "--batch_size", "1", "--pred_json_path", str(out)]
    process = subprocess.Popen(arguments, env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    deadline = time.monotonic() + 120
    while process.poll() is None and time.monotonic() < deadline:
        files = list(out.with_name("masks.json.parts").glob("*.jsonl"))
        if files and files[0].read_text().count("\n") >= 2:
            break
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert not list(tmp_path.glob("*.tmp*"))
    assert gen_masks([*data(scenes), *MASKS, "--batch_size", "1", "--pred_json_path", str(out)]) == DONE
    assert json.loads(out.read_text()) == json.loads(masks.read_text())
    assert {path.name for path in tmp_path.iterdir()} == {"masks.json", "masks.json.source.json"}


def test_unreadable_images_stop_the_run_or_are_left_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "images"
    folder.mkdir()
    rng = np.random.default_rng(0)
    write_image(folder / "good.png", rng.integers(0, 255, (40, 50, 3), dtype=np.uint8))
    Image.fromarray(rng.integers(0, 255, (40, 50), dtype=np.uint8)).save(folder / "grey.jpg")
    Image.fromarray(rng.integers(0, 255, (3, 5, 4), dtype=np.uint8), "CMYK").save(folder / "tiny.jpg")
    (folder / "bad.jpg").write_bytes((folder / "grey.jpg").read_bytes()[:200])
    out = tmp_path / "masks.json"
    arguments = [*("--dataset", "folder", "--dataset_root", str(folder), "--pred_json_path", str(out)), *MASKS]
    assert gen_masks(arguments) == BAD_INPUT
    assert "bad.jpg: not a readable image" in one_line(capsys)
    assert gen_masks([*arguments, "--skip_bad"]) == DONE
    content = json.loads(out.read_text())
    assert [image["file_name"] for image in content["images"]] == ["good.png", "grey.jpg", "tiny.jpg"]


@pytest.mark.parametrize(
    ("more", "part"),
    [
        (["--dataset_root", "nowhere"], "--dataset_root nowhere: no such folder"),
        ([], "give --dataset_root"),
        (["--dataset", "folder", "--dataset_root", "."], "no image in this folder"),
        (["--dataset_root", "."], "no VOCdevkit/VOC2012/JPEGImages"),
        (["--weights", "dino.pth", "--dataset_root", "."], "no VOCdevkit"),
        (["--topk", "2", "--dataset_root", "."], "--topk 2.0: give a share between 0 and 1"),
        (["--resize", "4"], "--resize 4: give at least 8"),
        (["--dataset", "COCO20k", "--dataset_root", "."], "--dataset COCO20k needs --list"),
        (["--patchsize", "8"], "did you mean --patch_size?"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_bad_usage_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], more: list[str], part: str
) -> None:
    monkeypatch.chdir(tmp_path)
    assert gen_masks(more) == BAD_INPUT
    assert part in one_line(capsys)


def test_weights_of_another_network_are_named(scenes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import torch

    from maskdistill.model.vit import VisionTransformer

    torch.save(VisionTransformer("small", 16, depth=1).state_dict(), tmp_path / "dino.pth")
    arguments = [*data(scenes), "--weights", str(tmp_path / "dino.pth"), "--patch_size", "8"]
    assert gen_masks(arguments) == BAD_INPUT
    assert "a ViT small with patches of 16 px; give --model small --patch_size 16" in one_line(capsys)
    torch.save({"layer4.2.conv3.weight": torch.zeros(1)}, tmp_path / "resnet.pth")
    assert gen_masks([*data(scenes), "--weights", str(tmp_path / "resnet.pth")]) == BAD_INPUT
    assert "this is a ResNet-50, a DINO ViT is needed" in one_line(capsys)


# Stage B


def cluster_arguments(scenes: Path, masks: Path, folder: Path, *more: str) -> list[str]:
    return [
        *("--dataset", "scenes", "--dataset_root1", str(scenes), "--input_file1", str(masks), "--num_classes", "3"),
        *("--output_file", str(folder / "b.json"), "--save_dir", str(folder / "cache"), *CONTRAST),
        *("--enable_progress_bar", "false", "--gpus", "0", *more),
    ]


def test_clusters_get_classes_and_edited_names_are_applied(
    scenes: Path, masks: Path, truth: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = cluster_arguments(scenes, masks, tmp_path, "--gt_file", str(truth), "--num_trials", "3")
    assert cluster(arguments) == DONE
    assert "ACC" in capsys.readouterr().out
    content = json.loads((tmp_path / "b.json").read_text())
    assert {entry["category_id"] for entry in content["annotations"]} <= {0, 1, 2}
    assert content["categories"][0]["name"] == "noise disc"
    scores = json.loads((tmp_path / "b_scores.json").read_text())["scores"]
    assert scores["acc"] >= 60  # measured: 80; three classes by chance: 33
    assert len(list((tmp_path / "b_samples" / "samples").glob("cluster_*.png"))) == 3
    assert "cluster_00" in (tmp_path / "b_samples" / "report.html").read_text()
    assert cluster(arguments) == DONE
    assert "stands already" in capsys.readouterr().out

    table = (tmp_path / "b_clusters.csv").read_text().splitlines()
    edited = [table[0], "0,7,sun,,", "1,7,sun,,", "2,,,,"]
    (tmp_path / "names.csv").write_text("\n".join(edited) + "\n")
    assert cluster([*arguments, "--names", str(tmp_path / "names.csv"), "--overwrite"]) == DONE
    renamed = json.loads((tmp_path / "b.json").read_text())
    sizes = [int(line.split(",")[3]) for line in table[1:]]
    assert [entry["category_id"] for entry in renamed["annotations"]] == [7] * (sizes[0] + sizes[1])
    assert {"supercategory": "", "id": 7, "name": "sun"} in renamed["categories"]


def test_without_ground_truth_clusters_have_numbers(scenes: Path, masks: Path, tmp_path: Path) -> None:
    assert cluster(cluster_arguments(scenes, masks, tmp_path, "--max_classes", "4")) == DONE
    content = json.loads((tmp_path / "b.json").read_text())
    assert content["categories"][0]["name"] == "cluster_00"
    assert 2 <= len(content["categories"]) <= 4
    assert len(content["annotations"]) == NUM


def test_cached_features_follow_their_content(
    scenes: Path, masks: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cluster(cluster_arguments(scenes, masks, tmp_path)) == DONE
    assert cluster([*cluster_arguments(scenes, masks, tmp_path), "--overwrite"]) == DONE
    assert "features stand already" in capsys.readouterr().out
    content = json.loads(masks.read_text())
    content["annotations"][0]["bbox"] = [0.0, 0.0, 30.0, 20.0]
    other = tmp_path / "other.json"
    other.write_text(json.dumps(content))
    assert cluster([*cluster_arguments(scenes, other, tmp_path), "--overwrite"]) == DONE
    assert "features stand already" not in capsys.readouterr().out


def test_a_support_set_takes_part_and_is_not_written(scenes: Path, masks: Path, tmp_path: Path) -> None:
    more = ("--input_file2", str(masks), "--dataset_root2", str(scenes))
    assert cluster(cluster_arguments(scenes, masks, tmp_path, *more)) == DONE
    assert len(json.loads((tmp_path / "b.json").read_text())["annotations"]) == NUM
    assert json.loads((tmp_path / "b_scores.json").read_text())["masks"] == 2 * NUM


def test_a_crop_without_pixels_is_left_out(
    scenes: Path, masks: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    content = json.loads(masks.read_text())
    content["annotations"][1]["bbox"] = [5.0, 5.0, 0.2, 0.2]
    other = tmp_path / "other.json"
    other.write_text(json.dumps(content))
    assert cluster(cluster_arguments(scenes, other, tmp_path)) == DONE
    assert "1 masks have a box without pixels and are left out (first: annotation 1)" in capsys.readouterr().err
    assert len(json.loads((tmp_path / "b.json").read_text())["annotations"]) == NUM - 1


@pytest.mark.parametrize(
    ("more", "part"),
    [
        (["--num_classes", "40"], "10 masks cannot make 40 clusters"),
        (["--dataset_root1", "nowhere"], "--dataset_root nowhere: no such folder"),
        (["--names", "no.csv"], "no.csv: no such file"),
        (["--overcluster", "0"], "--overcluster 0: give at least 1"),
        (["--max_classes", "20"], "there are only 10 masks"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_bad_clustering_is_one_line(
    scenes: Path, masks: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], more: list[str], part: str
) -> None:
    assert cluster(cluster_arguments(scenes, masks, tmp_path, *more)) == BAD_INPUT
    assert part in one_line(capsys)


# Stage D and the instance evaluation


def results_of(truth: Path, file: Path, score: float = 0.9) -> Path:
    content = json.loads(truth.read_text())
    keys = ("image_id", "category_id", "bbox", "segmentation")
    file.write_text(
        json.dumps([{key: entry[key] for key in keys} | {"score": score} for entry in content["annotations"]])
    )
    return file


def test_ground_truth_as_prediction_is_perfect(
    scenes: Path, truth: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    results = results_of(truth, tmp_path / "results.json")
    files = ["--input_file", str(results), "--gt_file", str(truth)]
    for more in ([], ["--eval_most_confident"], ["--iou_type", "bbox"], ["--class_agnostic"], ["--match"]):
        assert eval_instances([*files, *more, "--out", str(tmp_path / "scores.json")]) == DONE
        assert json.loads((tmp_path / "scores.json").read_text())["ap50"] == pytest.approx(100), more
    capsys.readouterr()


def test_shuffled_clusters_are_matched_back(scenes: Path, truth: Path, tmp_path: Path) -> None:
    results = results_of(truth, tmp_path / "results.json")
    moved = [{**entry, "category_id": (entry["category_id"] + 1) % 3} for entry in json.loads(results.read_text())]
    results.write_text(json.dumps(moved))
    arguments = ["--input_file", str(results), "--gt_file", str(truth), "--out", str(tmp_path / "scores.json")]
    for more, expected in (([], 0.0), (["--match"], 100.0)):
        assert eval_instances([*arguments, *more]) == DONE
        assert json.loads((tmp_path / "scores.json").read_text())["ap50"] == pytest.approx(expected, abs=5)


def test_label_maps_of_the_ground_truth_are_the_ground_truth(
    scenes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    truth = tmp_path / "gt.json"
    assert convert_voc([*truth_arguments(scenes, truth), "--segmentation_format", "rle"]) == DONE
    results = results_of(truth, tmp_path / "results.json")
    maps = tmp_path / "maps"
    arguments = [
        *("--input_file", str(results), "--gt_file", str(truth), "--threshold", "0.5", "--save_dir", str(maps)),
        *("--output_file", str(tmp_path / "kept.json"), "--image_dir", str(scenes)),
        *("--eval", str(scenes / "SegmentationClass")),
    ]
    assert gen_segmentation(arguments) == DONE
    assert "mIoU is 100.00" in capsys.readouterr().out
    split = read_split(maps / "label_maps.csv", base_dir=maps)
    assert len(split) == NUM + 4
    for row in range(len(split)):
        wanted = read_labels(scenes / "SegmentationClass" / f"{split.column('Sequence')[row]}.png")
        found = read_labels(split.path(row, "Pred"))
        np.testing.assert_array_equal(found[wanted != 255], wanted[wanted != 255])
        assert read_image(split.path(row, "Image")).shape[:2] == found.shape
    assert len(json.loads((tmp_path / "kept.json").read_text())["annotations"]) == len(json.loads(results.read_text()))

    # a killed run: what stands is kept, what lacks is painted
    gone = maps / str(split.column("Pred")[0])
    content = gone.read_bytes()
    gone.unlink()
    assert gen_segmentation(arguments) == DONE
    assert gone.read_bytes() == content
    assert gen_segmentation([*arguments, "--threshold", "0.95"]) == BAD_INPUT


def test_uncertain_pixels_and_images_without_a_detection(scenes: Path, tmp_path: Path) -> None:
    truth = tmp_path / "gt.json"
    assert convert_voc([*truth_arguments(scenes, truth), "--segmentation_format", "rle"]) == DONE
    content = json.loads(truth.read_text())
    first, second = content["annotations"][0], content["annotations"][-1]
    keys = ("image_id", "category_id", "bbox", "segmentation")
    found = [
        {**{key: first[key] for key in keys}, "score": 0.9},
        {**{key: first[key] for key in keys}, "score": 0.4, "segmentation": whole(first)},
        {**{key: second[key] for key in keys}, "score": 0.8},
    ]
    results = tmp_path / "results.json"
    results.write_text(json.dumps(found))
    for missing, empty in (("ignore", 255), ("background", 0)):
        maps = tmp_path / missing
        arguments = ["--input_file", str(results), "--gt_file", str(truth), "--save_dir", str(maps)]
        more = ["--uncertain", "0.3", "--missing", missing, "--output_file", str(tmp_path / "kept.json")]
        assert gen_segmentation([*arguments, *more, "--threshold", "0.5"]) == DONE
        labels = read_labels(maps / f"{first['image_id']}.png")
        assert set(np.unique(labels)) == {1 + first["category_id"], 255}
        without = [image for image in content["images"] if image["id"] not in (first["image_id"], second["image_id"])]
        assert set(np.unique(read_labels(maps / f"{without[0]['id']}.png"))) == {empty}


def whole(entry: dict) -> dict:
    return rle.encode(np.ones((entry["height"], entry["width"])))


# Real samples


@pytest.mark.slow
@pytest.mark.parametrize("name", ["voc", "coco"])
def test_samples_of_real_data(name: str, tmp_path: Path) -> None:
    root = need_data(name)
    out = tmp_path / "masks.json"
    source = ["--dataset_root", str(root)] if name == "voc" else ["--dataset", "folder", "--dataset_root", str(root)]
    assert gen_masks([*source, "--weights", "contrast", "--resize", "160", "--pred_json_path", str(out)]) == DONE
    content = json.loads(out.read_text())
    assert len(content["annotations"]) == len(content["images"]) >= 4
    images = root / "VOCdevkit" / "VOC2012" if name == "voc" else root
    arguments = ["--dataset", "own", "--dataset_root1", str(images), "--input_file1", str(out), "--num_classes", "3"]
    more = ["--weights", "contrast", "--output_file", str(tmp_path / "b.json"), "--save_dir", str(tmp_path / "cache")]
    assert cluster([*arguments, *more]) == DONE
    assert len(json.loads((tmp_path / "b.json").read_text())["annotations"]) == len(content["annotations"])


def test_lists_of_voc(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = need_data("voc")
    counts = {}
    for name in ("trainval", "instance", "train_all", "trainaug_seg"):
        out = tmp_path / f"{name}.json"
        arguments = ["--dataset_root", str(root), "--set", name, *CONTRAST, "--resize", "48", "--gpus", "0"]
        assert gen_masks([*arguments, "--pred_json_path", str(out), "--enable_progress_bar", "false"]) == DONE
        counts[name] = len(json.loads(out.read_text())["images"])
    assert counts["train_all"] == 5
    assert counts["instance"] == counts["trainval"]
    capsys.readouterr()
    assert gen_masks(["--dataset_root", str(root), "--set", "test"]) == BAD_INPUT
    assert "--set test: no such list in ImageSets/Main or ImageSets/Segmentation" in one_line(capsys)


@pytest.mark.slow
def test_two_processes_write_what_one_does(scenes: Path, masks: Path, tmp_path: Path) -> None:
    script = str(ROOT / "maskdistill" / "gen_masks.py")
    arguments = [sys.executable, script, *data(scenes), *CONTRAST, "--resize", "240", "--mask_resize", "nearest"]
    more = ["--accelerator", "cpu", "--devices", "2", "--strategy", "ddp", "--batch_size", "2", "--overwrite"]
    out = tmp_path / "masks.json"
    done = subprocess.run(
        [*arguments, *more, "--pred_json_path", str(out)], env=ENVIRONMENT, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(out.read_text()) == json.loads(masks.read_text())


def test_voc_samples_against_themselves(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root, truth = need_data("voc"), tmp_path / "gt.json"
    assert convert_voc(["--dataset_root", str(root), "--out_file", str(truth)]) == DONE
    results = results_of(truth, tmp_path / "results.json")
    for more in ([], ["--eval_most_confident"]):
        assert eval_instances(["--input_file", str(results), "--gt_file", str(truth), *more]) == DONE
        assert "mask AP50 is 100.00" in capsys.readouterr().out
