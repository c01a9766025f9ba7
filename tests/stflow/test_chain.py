"""The chain and the prediction command, as a user runs them, on tiny data."""

import csv
import hashlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from common.checkpoints import best_checkpoint
from common.files import read_labels, read_mask
from common.metrics.jaccard import binary_jaccard
from common.splits import Split, read_split
from common.synthetic import ClipOptions, make_clips
from common.synthetic import run as make_data
from common.video import VideoWriter, video_info
from stflow.run import main

ROOT = Path(__file__).resolve().parents[2]
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
TINY = [
    *("--img_size", "16", "24", "--unet.features_start", "4", "--unet.num_layers", "2", "-L", "3"),
    *("--max_epochs", "1", "--enable_model_summary", "false", "--optim.lr", "1e-3"),
]


def run(script: str, *arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / script), *arguments]
    done = subprocess.run(command, cwd=cwd, env=ENVIRONMENT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return done


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("chain")
    options = ClipOptions(out=folder / "data", num=2, num_val=1, num_test=2, num_frames=7, height=40, width=56)
    make_data(options)
    data = ["--data_file", "data/clips", "--base_dir", "data", "--cache_dir", "cache"]
    done = run("stflow/run.py", *data, "--out", "run", *TINY, cwd=folder)
    assert "j_mean_frame" in done.stdout
    assert "report: run/report.html" in done.stdout
    return folder


def predictions(folder: Path) -> Split:
    return read_split(folder / "run" / "predictions" / "clips_test.csv", base_dir=folder / "data")


def test_every_frame_has_a_mask_of_its_size(trained: Path) -> None:
    split = predictions(trained)
    assert len(split) == 14
    for row in range(len(split)):
        labels = read_labels(split.path(row, "Segments"))
        mask = read_labels(split.path(row, "Pred"))
        assert labels.shape == mask.shape == (40, 56)
        assert labels.max() < 3
        assert set(np.unique(mask)) <= {0, 1}
    assert not list((trained / "run").rglob("*.tmp*"))


def test_scores_equal_a_recomputation_from_the_written_masks(trained: Path) -> None:
    split = predictions(trained)
    values = [
        float(binary_jaccard(read_labels(split.path(r, "Pred")) == 1, read_mask(split.path(r, "GtMask")).foreground))
        for r in range(len(split))
    ]
    scores = {score["name"]: score for score in json.loads((trained / "run" / "scores.json").read_text())}
    assert scores["j_mean_frame"]["value"] == pytest.approx(np.mean(values), abs=1e-9)
    assert scores["j_mean_frame"]["protocol"]["oracle"] is True
    assert scores["baseline_j_mean_frame"]["protocol"]["oracle"] is False
    assert scores["kmeans_j_mean_frame"]["protocol"]["oracle"] is True


def test_overlays_and_report(trained: Path) -> None:
    videos = sorted((trained / "run" / "predictions" / "overlays").glob("*.mp4"))
    assert len(videos) == 2
    assert video_info(videos[0]).num_frames == 7
    page = (trained / "run" / "report.html").read_text()
    assert "j_mean_frame" in page
    assert "oracle" in page
    assert "Worst frames" in page
    assert 3 <= len(list((trained / "run" / "overlays").rglob("*.jpg"))) <= 14


def test_the_same_command_with_resume_repeats_nothing(trained: Path) -> None:
    before = {file: file.stat().st_mtime_ns for file in (trained / "run").rglob("*_proba.npy")}
    data = ["--data_file", "data/clips", "--base_dir", "data", "--cache_dir", "cache"]
    run("stflow/run.py", *data, "--out", "run", *TINY, "--resume", cwd=trained)
    assert before == {file: file.stat().st_mtime_ns for file in (trained / "run").rglob("*_proba.npy")}


@pytest.mark.slow
def test_a_longer_training_predicts_anew(trained: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(trained, tmp_path / "copy"))
    data = ["--data_file", "data/clips", "--base_dir", "data", "--cache_dir", "cache"]
    longer = [*TINY, "--max_epochs", "4", "--resume"]
    run("stflow/run.py", *data, "--out", "run", *longer, cwd=folder)
    source = Path("run", "predictions", "proba", "source.json")
    best = hashlib.sha256(best_checkpoint(folder / "run").read_bytes()).hexdigest()
    assert best != json.loads((trained / source).read_text())["checkpoint"], "no better checkpoint: nothing was tried"
    assert json.loads((folder / source).read_text())["checkpoint"] == best


def test_video_in_masks_out(trained: Path, tmp_path: Path) -> None:
    clip = next(iter(make_clips(ClipOptions(out=tmp_path, num_frames=6, height=40, width=56), [3])))
    with VideoWriter(tmp_path / "mine.mp4", 10) as video:
        for frame in clip.frames:
            video.write(frame)
    model = ["--model_dir", str(trained / "run"), "--out", "out", "--cache_dir", "cache"]
    run("stflow/predict.py", "mine.mp4", *model, cwd=tmp_path)
    with (tmp_path / "out" / "mine_test.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert [int(row["Sequence_Index"]) for row in rows] == list(range(6))
    assert all(row["Oracle"] == "0" for row in rows)
    assert video_info(tmp_path / "out" / "overlays" / "mine.mp4").num_frames == 6


def test_predictions_of_another_checkpoint_are_not_mixed(trained: Path, tmp_path: Path) -> None:
    data = ["--data_file", "data/clips", "--base_dir", "data", "--cache_dir", "cache"]
    run("stflow/model_train.py", *data, "--out", str(tmp_path / "other"), *TINY, "--seed", "5", cwd=trained)
    command = [sys.executable, str(ROOT / "stflow/predict.py"), "--data_file", "data/clips_test.csv"]
    command += ["--base_dir", "data", "--model_dir", str(tmp_path / "other"), "--out", "run/predictions"]
    done = subprocess.run(command, cwd=trained, env=ENVIRONMENT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 2
    assert "holds predictions of another checkpoint" in done.stderr.strip().splitlines()[-1]


@pytest.mark.parametrize(
    ("flags", "part"),
    [
        (["--flow_weights", "raft.pth"], "--flow_weights raft.pth: are RAFT's; give --flow raft with them"),
        (["--flow", "raft", "--flow_weights", "raft.pth"], "--flow_weights raft.pth: no such file; it should be raft_"),
    ],
)
def test_flow_weights_that_cannot_be(
    flags: list[str], part: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main([*flags, "--out", "run"]) == 2
    assert part in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
