"""ReDO's commands as a user runs them: the chain on tiny data, and what can be done with its networks."""

import csv
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from scipy.optimize import linear_sum_assignment

from common.files import image_size, read_image, read_labels, read_mask, write_image
from common.makers import two_digits
from common.splits import Split, read_split
from common.synthetic import ObjectOptions
from common.synthetic import run as make_data
from redo import example_load_pretrained, export, predict, redraw
from redo import run as redo_run
from redo.restore import restore
from tests.redo.test_containers import assert_same

ROOT = Path(__file__).resolve().parents[2]
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
TINY = [
    *("--sizex", "32", "--nz", "2", "--nf", "4", "--nResM", "1", "--nTest", "3", "--batchSize", "4"),
    *("--nIteration", "6", "--checkpointFreq", "3", "--enable_model_summary", "false", "--silent"),
]


def run(script: str, *arguments: str, cwd: Path, code: int = 0) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "redo" / script), *arguments]
    done = subprocess.run(command, cwd=cwd, env=ENVIRONMENT, capture_output=True, text=True, timeout=300)
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr, done.stderr
    return done


def again(main: Callable[[list[str]], int], *arguments: str, code: int = 0) -> None:
    """A command once more, in this process: its script has been run as a subprocess."""
    assert main(list(arguments)) == code


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("chain")
    make_data(ObjectOptions(out=folder / "data", num=12, num_val=6, num_test=5))
    data = ["--data_file", "data/objects", "--base_dir", "data", "--cache_dir", "cache", "--evalTrain", "4"]
    done = run("run.py", *data, "--out", "run", *TINY, cwd=folder)
    assert "iou_per_image" in done.stdout
    assert "report: run/report.html" in done.stdout
    return folder


def predictions(folder: Path) -> Split:
    return read_split(folder / "run" / "predictions" / "objects_test.csv", base_dir=folder / "data")


def test_the_run_directory_is_whole(trained: Path) -> None:
    run_dir = trained / "run"
    checkpoints = [file.name for file in (run_dir / "checkpoints").iterdir()]
    assert any("val_loss" in name for name in checkpoints), "best by the criterion without labels"
    assert any("val_iou" in name for name in checkpoints), "best by validation IoU"
    assert sorted(file.name for file in run_dir.glob("state_*.pth")) == ["state_00003.pth", "state_00006.pth"]
    assert {"redrawn_epoch=0001.png", "test.png", "test_on_the_way.png"} <= {
        p.name for p in (run_dir / "samples").iterdir()
    }
    assert not list(run_dir.rglob("*.tmp*"))
    with (run_dir / "metrics.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    found = {name for row in rows for name, value in row.items() if value}
    assert {"train/loss", "val/loss", "val/worst_noise_error", "val/iou_dataset", "train/iou_dataset"} <= found
    assert [row["train/iteration"] for row in rows if row["train/iteration"]] == ["3.0", "6.0"]
    assert {row["step"] for row in rows} == {"2", "5"}, "a step is an iteration"


def test_every_image_has_a_mask_of_its_size(trained: Path) -> None:
    split = predictions(trained)
    assert len(split) == 5
    for row in range(len(split)):
        mask, regions = read_labels(split.path(row, "Pred")), read_labels(split.path(row, "Regions"))
        assert mask.shape == regions.shape == (32, 32)
        region = set(np.unique(regions[mask == 1])) | {0}
        assert len(region) <= 2, "the object is one region"


def test_scores_equal_a_recomputation_from_the_written_masks(trained: Path) -> None:
    split = predictions(trained)
    accuracies, overlaps = [], []
    for row in range(len(split)):
        region = read_labels(split.path(row, "Regions")) == 0
        truth = read_mask(split.path(row, "GtMask")).foreground
        choices = [(r == truth).mean() for r in (region, ~region)]
        accuracies.append(max(choices))
        overlaps.append(max((r & truth).sum() / (r | truth).sum() for r in (region, ~region)))
    scores = {score["name"]: score for score in json.loads((trained / "run" / "scores.json").read_text())}
    assert scores["accuracy_per_image"]["value"] == pytest.approx(np.mean(accuracies), abs=1e-9)
    assert scores["iou_per_image"]["value"] == pytest.approx(np.mean(overlaps), abs=1e-9)
    assert scores["iou_per_image"]["protocol"]["oracle"] is True
    assert scores["iou_dataset"]["protocol"]["oracle"] is False
    assert scores["iou_dataset"]["value"] <= scores["iou_per_image"]["value"]
    assert scores["j_mean_frame"]["n"] == 5
    assert "iou_dataset" in (trained / "run" / "report.html").read_text()


def test_score_command_agrees_with_the_chain(trained: Path, tmp_path: Path) -> None:
    arguments = ["data/objects_test.csv", "--base_dir", "data", "--model_dir", "run", "--out", str(tmp_path)]
    run("score.py", *arguments, "--cache_dir", "cache", cwd=trained)
    ours = {s["name"]: s["value"] for s in json.loads((tmp_path / "scores.json").read_text())}
    chain = {s["name"]: s["value"] for s in json.loads((trained / "run" / "scores.json").read_text())}
    assert ours.items() <= chain.items()
    with (tmp_path / "per_image.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert np.mean([float(row["iou_per_image"]) for row in rows]) == pytest.approx(ours["iou_per_image"])


@pytest.mark.slow
def test_predictions_of_a_folder_keep_the_sizes_of_its_pictures(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    rng = np.random.default_rng(0)
    sizes = {"wide": (40, 90), "tall": (100, 41), "small": (20, 24)}
    for name, size in sizes.items():
        write_image(tmp_path / "photos" / f"{name}.png", rng.integers(0, 256, (*size, 3), dtype=np.uint8))
    arguments = ["photos", "--model_dir", str(trained / "run"), "--out", "out"]
    run("predict.py", *arguments, cwd=tmp_path)
    split = read_split(tmp_path / "out" / "photos.csv", base_dir=tmp_path / "out" / "data")
    for row in range(3):
        assert read_labels(split.path(row, "Pred")).shape == sizes[str(split.column("Sequence")[row])]
    assert len(list((tmp_path / "out" / "overlays").glob("*.jpg"))) == 3
    # what stands is kept, what is missing is made again, bit for bit
    kept, lost = split.path(0, "Regions"), split.path(1, "Regions")
    before, stamp = lost.read_bytes(), kept.stat().st_mtime_ns
    lost.unlink()
    monkeypatch.chdir(tmp_path)
    again(predict.main, *arguments)
    assert lost.read_bytes() == before
    assert kept.stat().st_mtime_ns == stamp
    again(predict.main, *arguments, "--threshold", ".3", code=2)
    assert "holds predictions of another threshold" in capsys.readouterr().err


@pytest.mark.slow
def test_redrawn_sheets(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    more = ["data/objects_test.csv", "--base_dir", "data", "--model_dir", "run", "--num_images", "2"]
    sheet, way, truth = (tmp_path / f"{name}.png" for name in ("sheet", "way", "truth"))
    run("redraw.py", *more, "--nz_samples", "3", "--out", str(sheet), cwd=trained)
    monkeypatch.chdir(trained)
    one = ["--region", "1", "--interpolate", "--share_z", "--masks", "binary"]
    again(redraw.main, *more, *one, "--out", str(way))
    again(redraw.main, *more, "--region", "0", "--masks", "file", "--out", str(truth))
    assert image_size(sheet)[0] > image_size(way)[0], "two regions against one"
    assert len(np.unique(read_image(truth).reshape(-1, 3), axis=0)) > 50


def test_onnx_gives_the_same_masks(trained: Path, tmp_path: Path) -> None:
    run("export.py", "--model_dir", "run", "--out", str(tmp_path / "m.onnx"), cwd=trained)
    session = onnxruntime.InferenceSession(tmp_path / "m.onnx", providers=["CPUExecutionProvider"])
    network = restore(trained / "run").network("M")
    for count in (1, 3):
        images = torch.rand(count, 3, 32, 32, generator=torch.Generator().manual_seed(count)) * 2 - 1
        with torch.no_grad():
            expected = network(images).numpy()
        np.testing.assert_allclose(session.run(None, {"images": images.numpy()})[0], expected, atol=1e-5)


@pytest.mark.slow
def test_export_in_the_originals_layout_and_example(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    weights = tmp_path / "nets.pth"
    monkeypatch.chdir(trained)
    again(export.main, "--model_dir", "run", "--out", str(weights))
    ours, theirs = restore(trained / "run"), restore(weights)
    for letter in "MXDZ":
        assert ours.options.width(letter) == theirs.options.width(letter)
        assert_same(ours.network(letter), theirs.network(letter))
    picture = tmp_path / "out.png"
    data = ["--data_file", "data/objects_test.csv", "--base_dir", "data", "--cache_dir", "cache", "--out", str(picture)]
    run("example_load_pretrained.py", "--statePath", str(weights), *data, "--batch_size", "3", cwd=trained)
    rows, columns = image_size(picture)
    assert columns > 1.8 * rows, "three rows of six"
    again(example_load_pretrained.main, *data, code=2)
    assert "give --statePath with all networks" in capsys.readouterr().err


@pytest.mark.slow
def test_three_regions_are_matched_to_classes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The toy composition of digits, which need no download, through the chain: no object mask, three classes."""
    monkeypatch.chdir(tmp_path)
    options = two_digits.Options(input="sklearn", out="digits/digits", num=8, num_val=4, num_test=3)
    two_digits.make(options)
    again(redo_run.main, "--data_file", "digits/digits", "--out", "run", "--cache_dir", "cache", "--nMasks", "3", *TINY)
    scores = {score["name"]: score for score in json.loads(Path("run/scores.json").read_text())}
    split = read_split("run/predictions/digits_test.csv")
    table = np.zeros((3, 3))
    for row in range(len(split)):
        found, truth = (read_labels(split.path(row, column)) for column in ("Regions", "GtSemantic"))
        np.add.at(table, (found, truth), 1)
    rows, columns = linear_sum_assignment(table, maximize=True)
    expected = table[rows, columns].sum() / table.sum()
    assert scores["pixel_accuracy_dataset_hungarian"]["value"] == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize(
    "script", ["train.py", "run.py", "predict.py", "score.py", "redraw.py", "export.py", "example_load_pretrained.py"]
)
def test_help_loads_no_torch(script: str) -> None:
    code = (
        f"import sys, runpy; sys.argv = ['x', '--help']\n"
        f"try: runpy.run_path({str(ROOT / 'redo' / script)!r}, run_name='__main__')\n"
        "except SystemExit: pass\n"
        "sys.exit('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], env=ENVIRONMENT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert "--" in done.stdout
