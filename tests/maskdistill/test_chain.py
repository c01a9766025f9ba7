"""The whole chain and the commands on its run directory, tiny, each as a user calls it."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from common.errors import InputError
from common.files import read_labels
from common.metrics.protocol import read_scores
from common.options import RunOptions
from common.splits import read_split
from common.synthetic import SceneOptions
from common.synthetic import run as make_scenes
from maskdistill.chain import _claim
from maskdistill.chain_data import chain_data, write_objects
from maskdistill.chain_options import ChainDataOptions
from maskdistill.final_network import final_network

ROOT = Path(__file__).resolve().parents[2]
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
TINY = [
    *("--config", str(ROOT / "maskdistill" / "configs" / "embedded.yaml"), "--solver.max_iter", "2"),
    *("--segmentation.epochs", "1", "--linear.epochs", "1", "--semantic.image_px", "32", "--masks.resize", "128"),
    *("--detector.score_threshold", "0", "--threshold", "0"),  # two steps make no confident detection
    *("--accelerator", "cpu", "--enable_progress_bar", "false"),
]


def command(script: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    line = [sys.executable, str(ROOT / "maskdistill" / script), *arguments]
    return subprocess.run(line, env=ENVIRONMENT, capture_output=True, text=True, timeout=600)


@pytest.fixture(scope="module")
def scenes(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("scenes")
    make_scenes(SceneOptions(out=folder, num=8, num_val=2, height=48, width=56, num_classes=2, max_objects=1))
    return folder


@pytest.fixture(scope="module")
def run(scenes, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("run") / "chain"
    done = command("run.py", *TINY, "--data_file", str(scenes / "scenes"), "--base_dir", str(scenes), "--out", str(out))
    assert done.returncode == 0, done.stderr
    return out


@pytest.mark.slow
def test_every_stage_leaves_its_files_scores_and_overview(run, scenes):
    for name in ("A_masks", "B_clusters", "C_detections", "D_label_maps", "E_deeplab", "F_round1", "F_final_crf"):
        assert (run / "samples" / f"{name}.png").exists(), name
    assert (run / "report.html").stat().st_size > 10_000
    names = {score.name for score in read_scores(run / "scores.json")}
    stages = ("e_deeplab", "f_round1", "f_final", "linear", "d_label_maps")
    assert {f"{stage}_miou_dataset_{kind}" for stage in stages for kind in ("none", "hungarian")} <= names
    assert {"c_detector_ap50_multi", "c_detector_ap50_single"} <= names
    assert {score.protocol.crf for score in read_scores(run / "scores.json") if score.name.startswith("f_final")} == {
        True
    }


@pytest.mark.slow
def test_a_finished_chain_is_not_made_again(run, scenes):
    arguments = [*TINY, "--data_file", str(scenes / "scenes"), "--base_dir", str(scenes), "--out", str(run)]
    refused = command("run.py", *arguments)
    assert refused.returncode == 2
    assert "add --resume to continue it" in refused.stderr
    redrawn = {"samples", "layers", "strips"}  # pictures of the report, which is written anew
    before = {path: path.stat().st_mtime_ns for path in run.rglob("*.png") if not redrawn & set(path.parts)}
    assert before
    checkpoint = (run / "F_round1" / "checkpoints" / "last.ckpt").read_bytes()
    done = command("run.py", *arguments, "--resume")
    assert done.returncode == 0, done.stderr
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert (run / "F_round1" / "checkpoints" / "last.ckpt").read_bytes() == checkpoint


@pytest.mark.slow
def test_a_picture_gets_labels_instances_and_overlay(run, scenes, tmp_path):
    picture = next((scenes / "JPEGImages").glob("*.jpg"))
    done = command("predict.py", str(picture), "--model_dir", str(run), "--out", str(tmp_path), "--threshold", "0.1")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "labels" / "overlays" / f"{picture.stem}.jpg").exists()
    split = read_split(tmp_path / f"{picture.stem}.csv", base_dir=tmp_path / "data")
    for column in ("Pred", "PredInstance"):
        assert read_labels(split.path(0, column)).shape == (48, 56)


@pytest.mark.slow
def test_the_last_round_is_exported(run, tmp_path):
    assert "F_round1" in str(final_network(run).file)
    done = command("export_onnx.py", str(run), "--out", str(tmp_path / "model.pth.tar"))
    assert done.returncode == 0, done.stderr
    assert final_network(tmp_path / "model.pth.tar").num_classes == 3


def test_ground_truth_of_a_split_has_the_rows_for_ids(scenes, tmp_path):
    data = chain_data(ChainDataOptions(data_file=scenes / "scenes", base_dir=scenes), tmp_path)
    assert data.has_objects(data.train)
    content = json.loads(write_objects(data, data.train, tmp_path / "gt.json").read_text())
    assert [image["id"] for image in content["images"]] == list(range(8))
    assert [entry["name"] for entry in content["categories"]] == [data.classes[1], data.classes[2]]
    assert {entry["image_id"] for entry in content["annotations"]} == set(range(8))


def test_a_folder_of_pictures_is_dealt_out(scenes, tmp_path):
    data = chain_data(ChainDataOptions(images=scenes / "JPEGImages"), tmp_path)
    assert (len(data.train), len(data.val)) == (9, 1)
    assert data.train.path(0, "Image").is_file()
    assert data.classes is None
    assert not data.has_objects(data.train)
    with pytest.raises(InputError, match="both name data"):
        chain_data(ChainDataOptions(images=scenes, data_file=scenes / "scenes"), tmp_path)
    with pytest.raises(InputError, match="name its folder with --dataset_root"):
        chain_data(ChainDataOptions(dataset="VOC"), tmp_path)


def test_a_taken_folder_is_refused(tmp_path):
    _claim(tmp_path / "run", RunOptions(), ())
    with pytest.raises(InputError, match="add --resume"):
        _claim(tmp_path / "run", RunOptions(), ())
    with pytest.raises(InputError, match="no such run directory"):
        final_network(tmp_path / "none")
