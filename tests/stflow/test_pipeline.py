"""The original's chain of commands on a tiny embedded split: train, extract, link, select, evaluate."""

import csv
import json
import os
import pickle
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from common.errors import InputError
from common.flow_files import read_flow, write_flow
from common.metrics.davis import davis2017_sequence, davis2017_summary
from common.metrics.protocol import read_scores
from common.resize import resize_flow
from common.splits import read_split, write_split
from common.synthetic import ClipOptions
from common.synthetic import run as make_data
from stflow import extraction as extraction_module
from stflow.data import FlowWindows
from stflow.evaluationmodule.Evaluation import main as evaluate
from stflow.flow_cache import FlowCache
from stflow.flow_stream import FlowStream
from stflow.Inference.FeaturesPredExtraction import main as extract
from stflow.Inference.LinkPredictions import main as link
from stflow.Inference.MaskSelection import main as select
from stflow.Inference.ProbaMultiMask import main as label_images
from stflow.model import UNet3D
from stflow.options import DataOptions
from stflow.predict import main as predict
from stflow.restore import restore
from tests.golden import SHARED, formula_tensor
from tests.stflow.published import PREFIX, published_names

ROOT = Path(__file__).resolve().parents[2]
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
TINY = [
    *("--img_size", "16", "24", "--unet.features_start", "4", "--unet.num_layers", "2", "-L", "3"),
    *("--optim.lr", "1e-3", "--max_epochs", "1", "--enable_model_summary", "false"),
]
FRAMES, FLOWS, WINDOWS = 9, 8, 6  # of a clip


def run(script: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(command(script, *arguments), env=ENVIRONMENT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return done


def command(script: str, *arguments: object) -> list[str]:
    return [sys.executable, str(ROOT / script), *map(str, arguments)]


def arrays_below(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in sorted(folder.rglob("*.npy"))}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    make_data(ClipOptions(out=folder, num=1, num_val=2, num_test=0, num_frames=FRAMES, height=40, width=56))
    return folder


@pytest.fixture(scope="module")
def trained(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run directory after one epoch and the extraction of both splits, each command as a user starts it."""
    out = tmp_path_factory.mktemp("runs") / "model"
    where = ("--data_file", data / "clips", "--base_dir", data, "--cache_dir", data / "cache", "--gpus", "0")
    run("stflow/model_train.py", *where, *TINY, "--batch_size", 4, "--path_save_model", out)
    done = run("stflow/Inference/FeaturesPredExtraction.py", *where, "--model_dir", out, "--extract_features")
    assert "18 windows predicted" in done.stdout
    return out


@pytest.fixture
def model_dir(trained: Path, tmp_path: Path) -> Path:
    """The weights alone, in a folder of the test's own."""
    folder = tmp_path / "model"
    (folder / "checkpoints").mkdir(parents=True)
    for file in (trained / "checkpoints").glob("epoch*.ckpt"):
        (folder / "checkpoints" / file.name).write_bytes(file.read_bytes())
    return folder


def extraction(model_dir: Path, data: Path, *more: str, name: str = "clips_val") -> list[str]:
    where = ["--model_dir", str(model_dir), "--base_dir", str(data), "--data_file", str(data / name)]
    return [*where, "--cache_dir", str(data / "cache"), "--accelerator", "cpu", *more]


def steps(model_dir: Path, data: Path, *more: str, name: str = "clips_val") -> list[str]:
    return ["-md", str(model_dir), "-b", str(data), "--data_file", str(data / name), *more]


def test_extraction_writes_the_published_layout(data: Path, trained: Path) -> None:
    module = restore(trained)
    for step in ("val", "train"):
        split = read_split(data / "clips", step, data)
        for rows in split.sequences().values():
            for position, row in enumerate(rows):
                stem = (trained / str(split.column("Flow")[row] or "none.flo")).with_suffix("")
                proba, features = (stem.with_name(f"{stem.name}_{kind}.npy") for kind in ("proba", "features"))
                centre = 0 < position < FLOWS - 1
                assert (proba.exists(), features.exists()) == (centre, centre)
                if centre:
                    p, x = np.load(proba), np.load(features)
                    assert (p.dtype, p.shape, x.dtype, x.shape) == ("f4", (3, 3, 16, 24), "f4", (4, 3, 16, 24))
                    with torch.no_grad():
                        again = module.model.head(torch.from_numpy(x)[None]).softmax(1)[0]
                    np.testing.assert_allclose(p, again.numpy(), atol=1e-6)
    (side,) = (trained / "checkpoints").glob("*.hyp")
    assert side.name.startswith("epoch=")
    assert yaml.safe_load(side.read_text())["img_size"] == [16, 24]


def test_chain_ends_in_the_score_of_its_masks(data: Path, trained: Path) -> None:
    where = ("--model_dir", trained, "--base_dir", data, "--data_file", data / "clips_val", "--cut_size", 4)
    run("stflow/Inference/LinkPredictions.py", *where)
    assert "oracle" in run("stflow/Inference/MaskSelection.py", *where).stdout
    run(
        *("stflow/evaluationmodule/Evaluation.py", "-df", data / "clips_val", "-dbd", data, "-dbp", trained.parent),
        *("-mi", trained.name, "-ps", "_seq_cs4binary_eval", "-bm", "binarise_argmax", "-esn", "session", "--strict"),
    )
    labels = np.load(trained / "OpticalFlow/clips_001/clips_001_cs4_labelseq.npy")
    assert (labels.dtype, labels.shape) == (np.int64, (WINDOWS, 3, 16, 24))
    layers = np.load(trained / "OpticalFlow/clips_001/00000_seq_cs4binary_eval.npy")
    assert (layers.dtype, layers.shape) == (np.float64, (2, 16, 24))

    (session,) = (trained / "session").iterdir()
    content = json.loads((session / f"{session.name}.json").read_text())
    assert list(content) == sorted(content)
    assert (content["total_rows"], content["missing_rows"]) == (2 * FRAMES, 2)  # the last frames have no flow
    assert content["protocol"]["oracle"] is True
    with (session / f"{session.name}.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert list(rows[0]) == ["ImagePath", "PredPath", "Score", "StatMasks"]
    found = []
    for row in rows:
        with Image.open(session / "BinaryMask" / f"{row['ImagePath']}.png") as picture:
            assert picture.mode == "1"
            mask = np.asarray(picture)
        with Image.open(data / row["ImagePath"].replace("JPEGImages", "Annotations").replace(".jpg", ".png")) as truth:
            gt = np.asarray(truth) == 255
        found.append((mask & gt).sum() / (mask | gt).sum())
        assert float(row["Score"]) == pytest.approx(found[-1])
        counts = json.loads(row["StatMasks"].replace("|", ","))
        assert counts["Size_Gt"] == gt.sum()
        assert counts["Size_1"] == mask.sum()
        assert counts["Overlap_1"] == (mask & gt).sum()
    assert len(found) == 2 * FLOWS
    assert content["mean_score"] == pytest.approx(np.mean(found), rel=1e-12)
    (score,) = read_scores(session / "scores.json")
    assert (score.name, score.value, score.n) == ("j_mean_frame", content["mean_score"], len(found))
    with (session / f"results_{session.name}.csv").open(newline="") as stream:
        joined = list(csv.DictReader(stream))
    assert len(joined) == 2 * FRAMES
    assert sum(bool(row["Score"]) for row in joined) == len(found)
    assert all(row["Image"] == row["ImagePath"] for row in joined if row["Score"])
    assert len(list(session.rglob("*.jpg"))) == 2
    run(
        *("common/evaluate.py", session / "predictions.csv", "--base_dir", data, "--out", session / "davis"),
        *("--protocol", "davis2016"),
    )
    scores = read_scores(session / "davis" / "scores.json")
    assert {score.protocol.benchmark for score in scores} == {"davis2016"}
    assert all(score.protocol.oracle and score.name.endswith("_davis2016") for score in scores)


def test_label_images_score_by_davis2017(data: Path, trained: Path, tmp_path: Path) -> None:
    link(steps(trained, data, "-cs", "-1"))
    run("stflow/Inference/ProbaMultiMask.py", *steps(trained, data, "-cs", "-1"))
    with Image.open(trained / "cs-1/clips_001/00003.png") as picture:
        assert picture.mode == "P"
        assert picture.size == (56, 40)
        assert picture.getpalette()[:15] == [0, 0, 0, 128, 0, 0, 0, 128, 0, 128, 128, 0, 0, 0, 128]
        labels = np.asarray(picture)
    linked = np.load(trained / "OpticalFlow/clips_001/clips_001_cs-1_labelseq.npy")[2, 1]
    rows, columns = np.arange(40) * 16 // 40, np.arange(56) * 24 // 56
    np.testing.assert_array_equal(labels, linked[rows[:, None], columns] + 1)
    names = sorted(file.stem for file in (trained / "cs-1/clips_001").iterdir())
    assert names == [f"{k:05d}" for k in range(FRAMES)]
    same = [(trained / f"cs-1/clips_001/{name}.png").read_bytes() for name in names[-2:]]
    assert same[0] == same[1]

    split = read_split(trained / "clips_val_cs-1.csv", base_dir=data)
    table = [
        {
            **{column: split.column(column)[row] for column in ("Sequence", "Sequence_Index", "Pred")},
            "GtMask": split.column("GtInstance")[row],
        }
        for row in range(len(split))
    ]
    write_split(tmp_path / "motion_val.csv", table)
    run(
        *("common/evaluate.py", tmp_path / "motion_val.csv", "--base_dir", data, "--out", tmp_path / "out"),
        *("--protocol", "davis2017-motion"),
    )
    expected = {}
    for sequence, members in split.sequences().items():
        maps = [
            [np.asarray(Image.open(split.path(int(row), column))) for row in members]
            for column in ("Pred", "GtInstance")
        ]
        expected[sequence] = davis2017_sequence(*maps)
    totals = davis2017_summary(expected)
    with (tmp_path / "out" / "global_results-val.csv").open(newline="") as stream:
        (found,) = csv.DictReader(stream)
    assert list(found) == list(totals)
    assert {key: float(value) for key, value in found.items()} == pytest.approx(totals, abs=5.1e-4)
    with (tmp_path / "out" / "per-sequence_results-val.csv").open(newline="") as stream:
        objects = list(csv.DictReader(stream))
    names = [f"{sequence}_{k + 1}" for sequence, found in expected.items() for k in range(len(found.j))]
    assert [row["Sequence"] for row in objects] == names


def test_one_file_per_sequence_and_resume(data: Path, trained: Path, model_dir: Path, capsys) -> None:
    options = extraction(model_dir, data, "--one_file_per_sequence")
    assert extract(options) == 0
    assert "12 windows predicted" in capsys.readouterr().out
    names = sorted(file.name for file in model_dir.rglob("*_proba.npy"))
    assert names == ["clips_001_proba.npy", "clips_002_proba.npy"]
    whole = np.load(model_dir / "OpticalFlow/clips_001/clips_001_proba.npy")
    for k in range(WINDOWS):
        single = np.load(trained / f"OpticalFlow/clips_001/{k + 1:05d}_proba.npy")
        np.testing.assert_allclose(whole[k], single, atol=1e-6)
    assert extract(options) == 0
    assert "0 windows predicted" in capsys.readouterr().out
    for folder in (trained, model_dir):
        assert link(steps(folder, data, "--cuts_size", "None", "--linking", "hungarian")) == 0
    name = "OpticalFlow/clips_002/clips_002_csNone_labelseq.npy"
    assert (model_dir / name).read_bytes() == (trained / name).read_bytes()


@pytest.mark.parametrize("packed", [1, 2])
def test_packing_that_was_interrupted_neither_loses_nor_doubles_a_frame(
    data: Path, trained: Path, model_dir: Path, monkeypatch: pytest.MonkeyPatch, packed: int
) -> None:
    """After the first file of a sequence, and between two sequences."""
    options = extraction(model_dir, data, "--one_file_per_sequence", "--extract_features")
    pack_one, targets = extraction_module._pack, list[Path]()

    def interrupted(single: list[Path], target: Path) -> None:
        if len(targets) == packed:
            raise KeyboardInterrupt
        targets.append(target)
        pack_one(single, target)

    with monkeypatch.context() as patch:
        patch.setattr(extraction_module, "_pack", interrupted)
        assert extract(options) == 130
    assert extract(options) == 0
    assert len(arrays_below(model_dir)) == 4  # probabilities and features of two sequences
    for name in ("clips_001", "clips_002"):
        for kind in ("proba", "features"):
            whole = np.load(model_dir / f"OpticalFlow/{name}/{name}_{kind}.npy")
            assert len(whole) == WINDOWS
            for k in range(WINDOWS):
                single = np.load(trained / f"OpticalFlow/{name}/{k + 1:05d}_{kind}.npy")
                np.testing.assert_allclose(whole[k], single, atol=1e-5)


def test_half_precision_and_other_weights_are_refused(data: Path, model_dir: Path, capsys) -> None:
    assert extract(extraction(model_dir, data, "--dtype", "float16")) == 0
    file = model_dir / "OpticalFlow/clips_001/00001_proba.npy"
    assert np.load(file).dtype == np.float16
    assert extract(extraction(model_dir, data)) == 2
    assert "another dtype (float16, now float32); give --overwrite" in capsys.readouterr().err
    assert extract(extraction(model_dir, data, "--overwrite")) == 0
    assert np.load(file).dtype == np.float32


def test_half_written_windows_are_predicted_again(data: Path, model_dir: Path, capsys) -> None:
    assert extract(extraction(model_dir, data)) == 0
    folder = model_dir / "OpticalFlow/clips_001"
    whole = (folder / "00002_proba.npy").read_bytes()
    (folder / "00002_proba.npy").write_bytes(whole[:-5])
    (folder / ".00003_proba.0a1b2c3d.tmp.npy").write_bytes(whole[:40])
    (folder / "00003_proba.npy").unlink()
    capsys.readouterr()
    assert extract(extraction(model_dir, data)) == 0
    assert "2 windows predicted" in capsys.readouterr().out
    assert sorted(file.name for file in folder.iterdir()) == [f"{k:05d}_proba.npy" for k in range(1, FLOWS - 1)]
    assert (folder / "00002_proba.npy").read_bytes() == whole


@pytest.mark.slow
def test_two_processes_write_what_one_writes(data: Path, model_dir: Path, tmp_path: Path) -> None:
    other = tmp_path / "two"
    (other / "checkpoints").mkdir(parents=True)
    for file in (model_dir / "checkpoints").iterdir():
        (other / "checkpoints" / file.name).write_bytes(file.read_bytes())
    script = "stflow/Inference/FeaturesPredExtraction.py"
    packed = ("--batch_size", "4", "--extract_features")
    run(script, *extraction(model_dir, data, *packed, name="clips"))
    run(script, *extraction(other, data, *packed, "--devices", "2", "--strategy", "ddp", name="clips"))
    one, two = arrays_below(model_dir), arrays_below(other)
    assert len(one) == 3 * WINDOWS * 2
    assert one.keys() == two.keys()
    assert one == two


def test_reflected_windows_label_their_own_frames(data: Path, model_dir: Path) -> None:
    assert extract(extraction(model_dir, data, "--boundaries", "Periodic")) == 0
    assert link(steps(model_dir, data, "-cs", "3")) == 0
    linked = np.load(model_dir / "OpticalFlow/clips_001/clips_001_cs3_labelseq.npy")
    assert len(linked) == FLOWS
    assert label_images(steps(model_dir, data, "-cs", "3")) == 0
    rows, columns = np.arange(40) * 16 // 40, np.arange(56) * 24 // 56
    for k in range(FLOWS):
        with Image.open(model_dir / f"cs3/clips_001/{k:05d}.png") as picture:
            np.testing.assert_array_equal(np.asarray(picture), linked[k, 1][rows[:, None], columns] + 1)
    assert select(steps(model_dir, data, "-cs", "3", "--selection", "optimax_exact")) == 0
    assert len(list(model_dir.rglob("*_seq_cs3binary_eval.npy"))) == 2 * FLOWS


def test_sparse_ground_truth_under_other_names(data: Path, trained: Path, model_dir: Path, tmp_path: Path) -> None:
    """Annotations of some frames only, named and coded in their own way (FBMS, SegTrack)."""
    split = read_split(data / "clips", "val", data)
    table = []
    for row in range(len(split)):
        cells = {column: str(split.column(column)[row]) for column in split.columns}
        if split.index[row] % 3 == 1 and cells["Flow"]:
            with Image.open(data / cells["GtMask"]) as picture:
                truth = tmp_path / "Truth" / cells["Sequence"] / f"gt_{int(split.index[row])}.bmp"
                truth.parent.mkdir(parents=True, exist_ok=True)
                picture.save(truth)
            cells["GtMask"] = str(truth)
        else:
            cells["GtMask"] = ""
        table.append(cells)
    write_split(data / "sparse_val.csv", table)
    assert extract(extraction(model_dir, data, name="sparse")) == 0
    assert link(steps(model_dir, data, name="sparse")) == 0  # without its step: what has been predicted of it
    assert select(steps(model_dir, data, name="sparse_val.csv")) == 0
    masks = sorted(file.name for file in (model_dir / "OpticalFlow/clips_001").glob("*binary_eval.npy"))
    assert masks == [f"gt_{k}_seq_cs10binary_eval.npy" for k in (1, 4, 7)]
    scored = ["-df", str(data / "sparse_val"), "-dbd", str(data), "-dbp", str(model_dir), "--strict"]
    assert evaluate([*scored, "-esn", "s"]) == 0
    (session,) = (model_dir / "s").iterdir()
    content = json.loads((session / f"{session.name}.json").read_text())
    assert (content["rows_not_scored"], content["total_rows"] - content["missing_rows"]) == (0, 6)


def test_ground_truth_without_foreground_is_said(data: Path, trained: Path, model_dir: Path, tmp_path: Path, capsys):
    table = []
    split = read_split(data / "clips", "val", data)
    Image.new("L", (56, 40)).save(tmp_path / "empty.png")
    for row in range(len(split)):
        cells = {column: str(split.column(column)[row]) for column in split.columns}
        table.append({**cells, "GtMask": str(tmp_path / "empty.png")})
    write_split(data / "empty_val.csv", table)
    assert extract(extraction(model_dir, data, name="empty")) == 0
    assert link(steps(model_dir, data, name="empty_val")) == 0
    capsys.readouterr()
    assert select(steps(model_dir, data, name="empty_val")) == 0
    said = capsys.readouterr().err
    for name in ("clips_001", "clips_002"):
        assert f"warning: sequence {name}: GtMask is empty in all {FLOWS} frames" in said
    scored = ["-df", str(data / "empty_val"), "-dbd", str(data), "-dbp", str(model_dir), "--strict"]
    assert evaluate([*scored, "-esn", "s"]) == 0
    assert f"GtMask is empty in all {2 * FLOWS} scored frames" in capsys.readouterr().err


@pytest.mark.parametrize("method", ["exceptbiggest", "fair", "optimax"])
def test_evaluation_of_window_probabilities(data: Path, trained: Path, method: str) -> None:
    scored = ["-df", str(data / "clips_val"), "-dbd", str(data), "-dbp", str(trained), "-ps", "_proba", "-bm", method]
    assert evaluate([*scored, "-esn", method, "-sm", "bbox_jacc"]) == 0
    (session,) = (trained / method).iterdir()
    (score,) = read_scores(session / "scores.json")
    assert (score.name, score.n) == ("box_j_mean_frame", 2 * WINDOWS)
    assert score.protocol.oracle == (method != "exceptbiggest")
    assert evaluate([*scored, "-esn", method, "--strict"]) == 1  # the first and last fields are no centres


@pytest.mark.parametrize(
    ("call", "more", "part"),
    [
        (link, ["-cs", "0"], "cuts_size: 0 is not a number of windows"),
        (select, ["-cs", "7"], "no linked labels with --cuts_size 7; there is clips_001_cs"),
        (link, ["-md", "no-such"], "--model_dir no-such: no such folder"),
        (link, ["--cut_sizes", "3"], "did you mean"),
        (extract, ["--data_file", "no-such"], "no-such_val.csv: no such data split"),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_bad_usage_is_one_line(data: Path, trained: Path, call, more: list[str], part: str, capsys) -> None:
    assert link(steps(trained, data, "-cs", "2")) == 0
    capsys.readouterr()
    assert call([*steps(trained, data), *more]) == 2
    error = capsys.readouterr().err.strip()
    assert part in error
    assert "\n" not in error


def test_missing_and_foreign_windows_are_named(data: Path, model_dir: Path, capsys) -> None:
    assert extract(extraction(model_dir, data)) == 0
    file = model_dir / "OpticalFlow/clips_001/00003_proba.npy"
    proba = np.load(file)
    for change, part in ((proba[:2], "differs from the other windows"), (None, "no such array file")):
        file.unlink() if change is None else np.save(file, change)
        assert link(steps(model_dir, data)) == 2
        assert f"{file}: " in (error := capsys.readouterr().err)
        assert part in error


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model folder as the authors publish it: a checkpoint of Lightning 1.8 with formula weights, and a worse one."""
    manifest = SHARED / "golden" / "stflow" / "ckpt_L4_keys.json"
    if not manifest.exists():
        pytest.skip(f"golden fixtures not found at {manifest} (set UNSEG_SHARED)")
    listed = json.loads(manifest.read_text())
    folder = tmp_path_factory.mktemp("published")
    (folder / "checkpoints").mkdir()
    content = {
        "epoch": 12,
        "global_step": 345,
        "pytorch-lightning_version": "1.8.6",
        "state_dict": {key: formula_tensor(key, shape) for key, shape in listed["state_dict"].items()},
        "loops": {"fit_loop": {"state_dict": {}}},
        "callbacks": {"ModelCheckpoint{'monitor': 'val/loss'}": {"best_model_score": torch.tensor(0.123)}},
        "optimizer_states": [{"state": {}, "param_groups": [{"lr": 1e-4, "betas": (0.9, 0.999)}]}],
        "lr_schedulers": [],
        "hyper_parameters": {
            **listed["hyper_parameters_example"],
            **{"img_size": [64, 112], "boundaries": "Ignore", "gpus": 1, "max_time": None},
        },
    }
    torch.save(content, folder / "checkpoints" / "12-epoch_val_loss:0.12345.ckpt")
    (folder / "checkpoints" / "3-epoch_val_loss:0.50000-v1.ckpt").write_text("the worse one must not even be opened")
    return folder


def independent_proba(folder: Path, flows: list[Path]) -> np.ndarray:
    """Probabilities of one window from the published weights, by the reference's key names, not by the importer."""
    content = torch.load(folder / "checkpoints" / "12-epoch_val_loss:0.12345.ckpt", weights_only=True)
    known = content["hyper_parameters"]
    network = UNet3D(known["nAffineMasks"], 2, known["unet.features_start"], known["unet.num_layers"])
    names = published_names(known["unet.num_layers"], ())
    network.load_state_dict({ours: content["state_dict"][PREFIX + key] for key, ours in names.items()})
    size = (known["img_size"][0], known["img_size"][1])
    window = torch.stack([resize_flow(torch.from_numpy(read_flow(file)), size) for file in flows])  # (T,2,I,J)
    with torch.no_grad():
        return network.eval()(window.transpose(0, 1)[None]).softmax(1)[0].numpy()


@pytest.mark.slow
def test_published_checkpoint_end_to_end_and_killed(data: Path, published: Path, tmp_path: Path) -> None:
    script = "stflow/Inference/FeaturesPredExtraction.py"
    killed = tmp_path / "killed"
    (killed / "checkpoints").mkdir(parents=True)
    for file in (published / "checkpoints").iterdir():
        (killed / "checkpoints" / file.name).write_bytes(file.read_bytes())
    run(script, *extraction(published, data, "--batch_size", "2"))
    flows = [data / f"OpticalFlow/clips_001/{k:05d}.flo" for k in (1, 2, 3)]
    proba = np.load(published / "OpticalFlow/clips_001/00002_proba.npy")
    assert proba.shape == (4, 3, 64, 112)
    np.testing.assert_allclose(proba, independent_proba(published, flows), atol=1e-5)
    assert yaml.safe_load(next((published / "checkpoints").glob("*.hyp")).read_text())["unet.num_layers"] == 3

    process = subprocess.Popen(
        command(script, *extraction(killed, data, "--batch_size", "2")),
        env=ENVIRONMENT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    deadline = time.monotonic() + 120
    while not list(killed.rglob("*_proba.npy")) and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert 0 < len(list(killed.rglob("[0-9]*_proba.npy"))) < 2 * WINDOWS
    run(script, *extraction(killed, data, "--batch_size", "2"))
    assert arrays_below(killed) == arrays_below(published)

    out = tmp_path / "predictions"
    where = ["--model_dir", str(published), "--data_file", str(data / "clips_val.csv"), "--base_dir", str(data)]
    more = ["--out", str(out), "--cache_dir", str(data / "cache"), "--overlay", "false", "--gpus", "0"]
    assert predict([*where, *more]) == 0
    split = read_split(out / "clips_val.csv", base_dir=data)
    assert len(split) == 2 * FRAMES
    for row in range(len(split)):
        with Image.open(split.path(row, "Pred")) as picture:
            assert picture.size == (56, 40)


def test_fields_read_as_they_come_are_those_of_the_cache(data: Path, tmp_path: Path) -> None:
    def windows(most_read_first: int | None) -> FlowWindows:
        options = DataOptions(
            data_file=data / "clips_val.csv", base_dir=data, img_size=[16, 24], cache_dir=tmp_path / "cache"
        )
        found = FlowWindows(read_split(options.data_file, base_dir=data), ["Flow-1", "Flow", "Flow+1"], options)
        found.build(most_read_first)
        return found

    streamed = windows(2)
    assert not (tmp_path / "cache").exists()
    streamed = pickle.loads(pickle.dumps(streamed))  # as a loader process gets it
    cached = windows(None)
    assert len(cached) == len(streamed) > 2
    for index in range(len(cached)):
        assert torch.equal(cached[index]["flow"], streamed[index]["flow"])
    assert isinstance(windows(2).cache, FlowCache)  # it stands now
    write_flow(tmp_path / "other.flo", np.ones((2, 8, 9), np.float32))
    stream = FlowStream([*cached.cache.files[:2], tmp_path / "other.flo"], (16, 24))
    with pytest.raises(InputError, match=r"other.flo: flow of 8x9 pixels, but 40x56 in "):
        stream[np.array([1, 2])]
