"""Bad input and careless use of stflow's commands: one line, exit code 2, nothing half-written."""

import csv
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from common import evaluate
from common.files import write_image, write_labels
from common.flow_files import read_flow, write_flow
from common.splits import write_split
from common.synthetic import ClipOptions
from common.synthetic import run as make_clips
from stflow import compute_flow, model_train, predict
from tests.processes import interruptible

ROOT = Path(__file__).resolve().parents[2]
TINY = [
    "--img_size",
    "16",
    "24",
    "--unet.features_start",
    "4",
    "--unet.num_layers",
    "2",
    "-L",
    "3",
    "--max_epochs",
    "1",
]
TINY += ["--batch_size", "2", "--enable_model_summary", "false", "--enable_progress_bar", "false"]
Change = Callable[[Path], None]
FRAME = (40, 56)


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("clips")
    make_clips(ClipOptions(out=folder, num=2, num_val=1, num_test=0, num_frames=6, height=FRAME[0], width=FRAME[1]))
    return folder


@pytest.fixture
def data(clips: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(clips, tmp_path / "data"))


@pytest.fixture(scope="module")
def trained(clips: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("trained") / "run"
    cache = ["--cache_dir", str(out.parent / "cache")]
    assert (
        model_train.main(
            ["--data_file", str(clips / "clips"), "--base_dir", str(clips), "--out", str(out), *cache, *TINY]
        )
        == 0
    )
    return out


@pytest.fixture
def refused(capfd: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Runs a command that must end with a code and one error line, which is given back."""

    def run(main: Callable[[list[str]], int], argv: list[str], code: int = 2) -> str:
        capfd.readouterr()
        returned = main(argv)
        return error_line(returned, capfd.readouterr().err, code)

    return run


def error_line(returned: int, text: str, code: int = 2) -> str:
    assert returned == code, text
    assert "Traceback" not in text
    lines = [line for line in text.splitlines() if line.startswith(("error: ", "failed: ", "interrupted"))]
    assert len(lines) == 1, text
    assert text.rstrip().endswith(lines[0]), text
    return lines[0]


def training(data: Path, *more: str) -> list[str]:
    paths = ["--data_file", str(data / "clips"), "--base_dir", str(data), "--out", str(data.parent / "run")]
    return [*paths, "--cache_dir", str(data.parent / "cache"), *TINY, *more]


def predicting(data: Path, model: Path, *more: str) -> list[str]:
    paths = ["--data_file", str(data / "clips_val.csv"), "--base_dir", str(data), "--out", str(data.parent / "pred")]
    return [*paths, "--cache_dir", str(data.parent / "cache"), "--model_dir", str(model), *more]


def nothing_made(data: Path) -> None:
    """No run, no prediction, no temporary file; whole arrays in the cache at most."""
    cache = data.parent / "cache"
    kept = {data, cache, *cache.glob("flows-*.npy"), *cache.glob("flows-*.json")}
    assert not [path for path in data.parent.rglob("*") if data not in path.parents and path not in kept]
    assert not list(data.rglob("*.tmp*"))


def cell(data: Path, column: str, row: int = 2, split: str = "clips_train.csv") -> Path:
    with (data / split).open(newline="") as file:
        return data / list(csv.DictReader(file))[row][column]


def edit(name: str, change: Callable[[list[str]], list[str]]) -> Change:
    def apply(data: Path) -> None:
        lines = change((data / name).read_text().splitlines())
        (data / name).write_text("\n".join(lines) + "\n")

    return apply


def rename(old: str, new: str) -> Change:
    return edit("clips_train.csv", lambda lines: [lines[0].replace(old, new), *lines[1:]])


def empty_column(data: Path, column: str) -> None:
    with (data / "clips_train.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    write_split(data / "clips_train.csv", [{**row, column: ""} for row in rows])


def on_file(column: str, change: Callable[[Path], object], split: str = "clips_train.csv") -> Change:
    return lambda data: (change(cell(data, column, 2, split)), None)[1]


def damage_flow(file: Path) -> None:
    flow = read_flow(file)
    flow[0, 3, 3] = np.nan
    write_flow(file, flow)


def shrink_mask(file: Path) -> None:
    write_labels(file, np.zeros((20, 28), np.uint8))


def grey_mask(file: Path) -> None:
    write_image(file, np.arange(np.prod(FRAME), dtype=np.uint32).reshape(FRAME).astype(np.uint8))


def text_file(file: Path) -> None:
    file.write_text("not what it seems")


BAD_DATA: dict[str, tuple[Change, list[str]]] = {
    "no Flow column": (rename(",Flow,", ",Flw,"), ["clips_train.csv", "no column 'Flow'", "available: Sequence"]),
    "no Sequence column": (rename("Sequence,", "Seq,"), ["clips_train.csv", "no column 'Sequence'"]),
    "no split": (lambda data: (data / "clips_train.csv").unlink(), ["clips_train.csv", "did you mean clips_val.csv"]),
    "no val split": (lambda data: (data / "clips_val.csv").unlink(), ["clips_val.csv", "no such data split"]),
    "empty split": (edit("clips_train.csv", lambda lines: lines[:1]), ["clips_train.csv", "no rows"]),
    "no Flow cells": (lambda data: empty_column(data, "Flow"), ["clips_train.csv", "Flow"]),
    "shorter than a window": (
        edit("clips_train.csv", lambda lines: lines[:3]),
        ["--boundaries Ignore none of 2 rows", "Flow-1 is missing"],
    ),
    "gap": (edit("clips_train.csv", lambda lines: lines[:3] + lines[4:]), ["gaps in Sequence_Index", "1 -> 3"]),
    "no flow file": (on_file("Flow", Path.unlink), ["00002.flo", "compute it first"]),
    "truncated flow": (
        on_file("Flow", lambda file: file.write_bytes(file.read_bytes()[:-10])),
        ["00002.flo", "needs 17932 bytes, found 17922"],
    ),
    "wrong magic": (
        on_file("Flow", lambda file: file.write_bytes(b"XXXX" + file.read_bytes()[4:])),
        ["00002.flo", "instead of 202021.25"],
    ),
    "NaN flow": (on_file("Flow", damage_flow), ["00002.flo", "1 of 4480 flow values are NaN"]),
    "NaN flow in val": (on_file("Flow", damage_flow, "clips_val.csv"), ["clips_002", "NaN"]),
    "flow of another size": (
        on_file("Flow", lambda file: write_flow(file, np.ones((2, 20, 30), np.float32))),
        ["00002.flo", "20x30", "40x56", "one size"],
    ),
    "no mask file": (on_file("GtMask", Path.unlink), ["00002.png", "no such mask file"]),
    "mask of another size": (on_file("GtMask", shrink_mask), ["00002.png", "20x28", "40x56", "resize"]),
    "mask values": (on_file("GtMask", grey_mask), ["00002.png", "do not fit 'auto'", "--mask_encoding"]),
    "mask is text": (on_file("GtMask", text_file), ["00002.png", "not a readable mask"]),
}


@pytest.mark.parametrize("case", BAD_DATA)
def test_bad_data_stops_training(data: Path, refused: Callable[..., str], case: str) -> None:
    change, parts = BAD_DATA[case]
    change(data)
    line = refused(model_train.main, training(data))
    for part in parts:
        assert part in line
    nothing_made(data)


BAD_OPTIONS: dict[str, tuple[list[str], list[str]]] = {
    "gpus": (["--gpus", "1"], ["--gpus 1: torch sees no CUDA device", "--gpus 0"]),
    "unknown flag": (["--batchsize", "2"], ["--batchsize", "did you mean --batch_size?"]),
    "unknown nested flag": (["--optim.lrr", "2"], ["did you mean --optim.lr?"]),
    "not a number": (["-L", "x"], ["--nAffineMasks: expected a whole number, got x"]),
    "one size": (["--img_size", "128"], ["--img_size 128: give rows and columns"]),
    "size of zero": (["--img_size", "0", "24"], ["--img_size 0 24", "at least 2"]),
    "size too small for reflect": (
        ["--img_size", "2", "2", "--unet.padding_mode", "reflect"],
        ["2 x 2", "at least 4 x 4"],
    ),
    "no JSON": (["--regularisation", "{bad"], ["--regularisation: expected JSON", "{bad"]),
    "unknown term": (["--regularisation", '{"Foo": 1}'], ["--regularisation", "'Foo'", "EulerPottsl1R3"]),
    "len_seq": (["--len_seq", "5"], ["--len_seq 5", "give --len_seq 3"]),
    "inputs without Flow": (["--inputs", "Flow-1", "Flow+1"], ["--inputs Flow-1 Flow+1", "must contain Flow"]),
    "inputs and volume": (["--inputs", "Flow"], ["--inputs Flow and --flows_volume", "the same fields"]),
    "field twice": (["--inputs", "Flow", "Flow", "Flow+1"], ["names a field twice"]),
    "not a request": (["--inputs", "Flow+", "Flow"], ["'Flow+'", "like Flow or Flow-1"]),
    "not a flow": (["--inputs", "Image", "Flow"], ["Image is not a flow request"]),
    "no segments": (["-L", "0"], ["--nAffineMasks 0: give at least 1"]),
    "too many segments": (["-L", "300"], ["--nAffineMasks 300: give at most 255"]),
    "norm and T": (["-inm", "cBlockNorm3d"], ["cBlockNorm3d: 3 frames are too few", "InstanceNorm"]),
    "unknown norm": (["-inm", "Foo"], ["--unet.inner_normalisation: choose from InstanceNorm", "got Foo"]),
    "no levels": (["--unet.num_layers", "0"], ["--unet.num_layers 0: give at least 1"]),
    "unknown motion": (["--param_model", "Quadratc"], ["--param_model", "'Quadratc'", "QuadraticFullPT"]),
    "unknown augmentation": (["--flow_augmentation", "blur"], ["--flow_augmentation: 'blur'"]),
    "unknown perturbation": (["--experimental_flag", "Foo"], ["--experimental_flag Foo", "PerturbInputFlowNoise"]),
    "scaled twice": (["--v_distance", "l2_normed_alt"], ["--v_distance l2_normed_alt", "pieceFit"]),
    "no batch": (["--batch_size", "0"], ["--batch_size 0: give at least 1"]),
    "workers": (["--num_workers", "-1"], ["--num_workers -1"]),
    "share": (["--subsample_train", "0"], ["--subsample_train 0.0", "above 0"]),
    "rate": (["--optim.lr", "-1"], ["--optim.lr -1.0"]),
    "seed": (["--seed", "-1"], ["--seed -1"]),
    "bad samples": (["--max_bad_samples", "-1"], ["--max_bad_samples -1"]),
    "precision": (["--precision", "foo"], ["Trainer flags", "'foo'"]),
    "logger": (["--logger", "foo"], ["--logger foo", "csv, wandb, tensorboard"]),
    "no checkpoint": (["--ckpt_path", "nope.ckpt"], ["nope.ckpt: no such checkpoint file"]),
    "base_dir": (["--base_dir", "/nope"], ["--base_dir /nope: no such folder"]),
    "config": (["--config", "nope.yaml"], ["nope.yaml"]),
}


@pytest.mark.parametrize("case", BAD_OPTIONS)
def test_bad_options_stop_training(
    data: Path, refused: Callable[..., str], monkeypatch: pytest.MonkeyPatch, case: str
) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    more, parts = BAD_OPTIONS[case]
    line = refused(model_train.main, training(data, *more))
    for part in parts:
        assert part in line
    nothing_made(data)


def test_missing_required_option(refused: Callable[..., str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    assert "data_file" in refused(model_train.main, [])
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["run", "pred"])
def test_output_below_a_file(data: Path, trained: Path, refused: Callable[..., str], name: str) -> None:
    (data.parent / name).write_text("a file")
    main, argv = {"run": (model_train.main, training(data)), "pred": (predict.main, predicting(data, trained))}[name]
    line = refused(main, argv)
    assert f"{data.parent / name} is a file, not a folder" in line
    assert (data.parent / name).read_text() == "a file"


@pytest.mark.skipif(os.geteuid() == 0, reason="the superuser may write everywhere")
def test_output_that_may_not_be_written(data: Path, refused: Callable[..., str]) -> None:
    (data.parent / "closed").mkdir(mode=0o555)
    assert "is not writable" in refused(model_train.main, training(data, "--out", str(data.parent / "closed" / "run")))


def test_run_in_the_data_folder(data: Path, refused: Callable[..., str]) -> None:
    before = sorted(data.rglob("*"))
    assert "is the data folder" in refused(model_train.main, training(data, "--out", str(data)))
    assert sorted(data.rglob("*")) == before


def test_predictions_never_replace_their_data(data: Path, trained: Path, refused: Callable[..., str]) -> None:
    before = (data / "clips_val.csv").read_bytes()
    line = refused(predict.main, predicting(data, trained, "--out", str(data)))
    assert "would replace" in line
    assert (data / "clips_val.csv").read_bytes() == before
    assert not (data / "proba").exists()


def test_diverged_training_names_its_samples(data: Path, refused: Callable[..., str]) -> None:
    line = refused(model_train.main, training(data, "--optim.lr", "1e30", "-inm", "None", "--max_epochs", "9"), code=1)
    assert "lower the learning rate" in line
    assert ".flo" in line
    assert not list(data.parent.rglob("*.ckpt"))


def test_bad_mask_in_a_loader_process_is_one_line(
    data: Path, refused: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("stflow.data.FlowWindows.read_masks", lambda self: None)
    text_file(cell(data, "GtMask"))
    line = refused(model_train.main, training(data, "--num_workers", "1"))
    assert line.startswith(f"error: {cell(data, 'GtMask')}: not a readable mask")


def test_some_bad_samples_are_left_out_and_listed(data: Path, capfd: pytest.CaptureFixture[str]) -> None:
    damage_flow(cell(data, "Flow", 0))
    assert model_train.main(training(data, "--max_bad_samples", "1")) == 0
    error = capfd.readouterr().err
    assert f"warning: left out: {cell(data, 'Flow', 0)}: 1 of 4480" in error
    names = (data.parent / "run" / "results.csv").read_text()
    assert "clips_000/00001.flo" not in names  # its window holds the bad field
    assert "clips_000/00002.flo" in names


def test_more_bad_samples_than_allowed(data: Path, refused: Callable[..., str]) -> None:
    for row in (0, 1):
        cell(data, "Flow", row).unlink()
    assert "00001.flo: no such flow file" in refused(model_train.main, training(data, "--max_bad_samples", "1"))
    nothing_made(data)


def test_a_cache_made_with_leave_to_fail_is_no_leave_later(data: Path, refused: Callable[..., str]) -> None:
    damage_flow(cell(data, "Flow", 0))
    assert model_train.main(training(data, "--max_bad_samples", "1")) == 0
    shutil.rmtree(data.parent / "run")
    assert "NaN" in refused(model_train.main, training(data))


def test_zero_flow_is_said_once_and_trains_without_nan(data: Path, capfd: pytest.CaptureFixture[str]) -> None:
    for row in range(5):
        write_flow(cell(data, "Flow", row), np.zeros((2, *FRAME), np.float32))
    assert model_train.main(training(data, "--max_epochs", "2")) == 0
    lines = [line for line in capfd.readouterr().err.splitlines() if "warning" in line]
    assert len(lines) == 1
    assert "sequence clips_000: 5 of 5 flow fields are zero everywhere" in lines[0]
    with (data.parent / "run" / "results.csv").open(newline="") as file:
        losses = [float(row["losses"]) for row in csv.DictReader(file)]
    assert losses
    assert np.isfinite(losses).all()


def test_short_sequence_among_others_is_named(data: Path, capfd: pytest.CaptureFixture[str]) -> None:
    edit(
        "clips_train.csv",
        lambda lines: [
            line for line in lines if not line.startswith(("clips_000,3", "clips_000,4", "clips_000,5", "clips_000,2"))
        ],
    )(data)
    assert model_train.main(training(data)) == 0
    assert "sequence clips_000: 2 flow fields give no window of 3" in capfd.readouterr().err


def test_one_segment_and_batch_statistics_are_warned_of(data: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert model_train.main(training(data, "-L", "1", "-inm", "BatchNorm")) == 0
    error = capfd.readouterr().err
    assert "-L 1 fits one global motion" in error
    assert "--unet.train_bn" in error


def foreign_split(data: Path) -> None:
    """A split as spreadsheet programs on other systems write it: byte-order mark, CRLF, absolute paths."""
    for name in ("clips_train.csv", "clips_val.csv"):
        lines = (data / name).read_text().splitlines()
        cells = [line.split(",") for line in lines[1:]]
        absolute = [",".join([*row[:2], *(str(data / item) if item else "" for item in row[2:])]) for row in cells]
        (data / name).write_bytes(b"\xef\xbb\xbf" + "\r\n".join([lines[0], *absolute, ""]).encode())


def test_foreign_csv_trains_and_predicts(data: Path, trained: Path) -> None:
    foreign_split(data)
    assert model_train.main(training(data)) == 0
    assert predict.main(predicting(data, trained, "--enable_progress_bar", "false")) == 0
    assert len(list((data.parent / "pred" / "Masks").rglob("*.png"))) == 6


BAD_CHECKPOINTS: dict[str, tuple[Callable[[Path], Path], str]] = {
    "missing": (lambda folder: folder / "nope.ckpt", "no such checkpoint file"),
    "empty folder": (lambda folder: folder, "no checkpoint (*.ckpt) in this folder"),
    "no weights": (lambda folder: save(folder / "a.ckpt", {"epoch": 1}), "holds no weights"),
    "another network": (
        lambda folder: save(folder / "a.ckpt", {"state_dict": {"layer.weight": torch.zeros(3, 3)}}),
        "not a network of this method",
    ),
    "text": (lambda folder: (text_file(folder / "a.ckpt"), folder / "a.ckpt")[1], "not a checkpoint file"),
    "code": (lambda folder: save(folder / "a.ckpt", {"state_dict": {}, "code": Code()}), "it needs print to be opened"),
}


class Code:
    """Would run when it is unpickled."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return print, ("ran",)


def save(path: Path, content: object) -> Path:
    torch.save(content, path)
    return path


@pytest.mark.parametrize("case", BAD_CHECKPOINTS)
def test_bad_checkpoint_stops_prediction(
    data: Path, refused: Callable[..., str], tmp_path_factory: pytest.TempPathFactory, case: str
) -> None:
    make, part = BAD_CHECKPOINTS[case]
    path = make(tmp_path_factory.mktemp("model"))
    line = refused(predict.main, predicting(data, path))
    assert part in line
    assert str(path) in line
    nothing_made(data)


BAD_PREDICTION: dict[str, tuple[Change, list[str], list[str]]] = {
    "no Flow column": (
        edit("clips_val.csv", lambda lines: [lines[0].replace("Flow", "Flw"), *lines[1:]]),
        [],
        ["no column 'Flow'"],
    ),
    "truncated flow": (
        on_file("Flow", lambda file: file.write_bytes(file.read_bytes()[:-4]), "clips_val.csv"),
        [],
        ["needs 17932 bytes"],
    ),
    "NaN flow": (on_file("Flow", damage_flow, "clips_val.csv"), [], ["NaN"]),
    "mask of another size": (on_file("GtMask", shrink_mask, "clips_val.csv"), [], ["20x28", "40x56"]),
    "mask values": (on_file("GtMask", grey_mask, "clips_val.csv"), [], ["--mask_encoding"]),
    "no image": (on_file("Image", Path.unlink, "clips_val.csv"), [], ["no such image file"]),
    "gap": (edit("clips_val.csv", lambda lines: lines[:3] + lines[4:]), [], ["gaps in Sequence_Index"]),
    "gpus": (lambda data: None, ["--gpus", "1"], ["--gpus 1", "no CUDA device"]),
    "cuts": (lambda data: None, ["--cuts_size", "0"], ["0 is not a number of windows"]),
    "size": (lambda data: None, ["--img_size", "128"], ["--img_size 128: give rows and columns"]),
    "batch": (lambda data: None, ["--batch_size", "0"], ["--batch_size 0"]),
    "unknown flag": (lambda data: None, ["--modeldir", "x"], ["did you mean --model_dir?"]),
    "rule": (lambda data: None, ["--foreground", "foo"], ["--foreground: choose from optimax", "got foo"]),
}


@pytest.mark.parametrize("case", BAD_PREDICTION)
def test_bad_input_stops_prediction(
    data: Path, trained: Path, refused: Callable[..., str], monkeypatch: pytest.MonkeyPatch, case: str
) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    change, more, parts = BAD_PREDICTION[case]
    change(data)
    line = refused(predict.main, predicting(data, trained, *more))
    for part in parts:
        assert part in line
    nothing_made(data)


def test_masks_that_no_rule_needs_are_not_read(data: Path, trained: Path) -> None:
    grey_mask(cell(data, "GtMask", 2, "clips_val.csv"))
    more = ["--foreground", "exceptbiggest", "--enable_progress_bar", "false"]
    assert predict.main(predicting(data, trained, *more)) == 0


def photos(folder: Path, sizes: list[tuple[int, int]]) -> Path:
    for number, size in enumerate(sizes):
        picture = np.random.default_rng(number).integers(0, 255, (*size, 3), dtype=np.uint8)
        write_image(folder / f"{number}.png", picture)
    return folder


@pytest.mark.parametrize(
    ("make", "parts"),
    [
        (lambda folder: photos(folder / "in", [FRAME, (30, 44), FRAME]), ["1.png", "40x56 and 30x44", "one size"]),
        (lambda folder: photos(folder / "in", [FRAME]), ["at least 2"]),
        (lambda folder: (text_file(folder / "in.mp4"), folder / "in.mp4")[1], ["in.mp4", "not a readable video"]),
        (lambda folder: ((folder / "in").mkdir(), folder / "in")[1], ["no images"]),
        (lambda folder: folder / "nope", ["nope", "no such"]),
    ],
    ids=["sizes", "one picture", "text as mp4", "empty folder", "wrong path"],
)
def test_pictures_that_cannot_be_segmented(
    tmp_path_factory: pytest.TempPathFactory,
    tmp_path: Path,
    trained: Path,
    refused: Callable[..., str],
    make: Callable[[Path], Path],
    parts: list[str],
) -> None:
    source = make(tmp_path_factory.mktemp("source"))
    shared = ["--model_dir", str(trained), "--out", str(tmp_path / "out")]
    for main, argv in ((predict.main, shared), (compute_flow.main, ["--out", str(tmp_path / "out")])):
        line = refused(main, [str(source), *argv])
        for part in parts:
            assert part in line
        assert not list(tmp_path.iterdir())
        assert not list(source.parent.rglob("*.csv"))


def test_folder_of_pictures_is_segmented(tmp_path: Path, trained: Path) -> None:
    source = photos(tmp_path / "pictures", [FRAME] * 4)
    argv = [str(source), "--model_dir", str(trained), "--out", str(tmp_path / "new" / "out"), "--overlay", "false"]
    assert predict.main([*argv, "--cache_dir", str(tmp_path / "cache"), "--enable_progress_bar", "false"]) == 0
    assert len(list((tmp_path / "new" / "out" / "Masks").rglob("*.png"))) == 4


def test_folders_reached_by_links_are_segmented(tmp_path: Path, trained: Path) -> None:
    (tmp_path / "deep" / "er").mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "deep" / "er")
    source = photos(tmp_path / "pictures", [FRAME] * 4)
    argv = [str(source), "--model_dir", str(trained), "--out", str(tmp_path / "link" / "out"), "--overlay", "false"]
    assert predict.main([*argv, "--cache_dir", str(tmp_path / "cache"), "--enable_progress_bar", "false"]) == 0


@pytest.mark.parametrize(
    ("more", "part"),
    [
        (["--method", "foo"], "--method: choose from dis, raft, got foo"),
        (["--preset", "foo"], "--preset"),
        (["--metod", "dis"], "did you mean --method?"),
        (["--num_workers", "-1"], "--num_workers -1"),
    ],
)
def test_bad_options_of_compute_flow(tmp_path: Path, refused: Callable[..., str], more: list[str], part: str) -> None:
    source = photos(tmp_path / "in", [FRAME] * 2)
    assert part in refused(compute_flow.main, [str(source), *more])
    assert sorted(path.name for path in source.iterdir()) == ["0.png", "1.png"]


def prediction(data: Path) -> Path:
    """A prediction split whose masks are the ground truth itself."""
    edit("clips_val.csv", lambda lines: [lines[0] + ",Pred", *(f"{line},{line.split(',')[4]}" for line in lines[1:])])(
        data
    )
    return data / "clips_val.csv"


BAD_EVALUATION: dict[str, tuple[Change, list[str], list[str]]] = {
    "no prediction": (lambda data: None, ["--pred_column", "Prd"], ["'Prd'"]),
    "mask of another size": (on_file("GtMask", shrink_mask, "clips_val.csv"), [], ["20x28"]),
    "mask values": (on_file("GtMask", grey_mask, "clips_val.csv"), [], ["00002.png"]),
    "mask is text": (on_file("GtMask", text_file, "clips_val.csv"), [], ["00002.png"]),
    "no mask": (on_file("GtMask", Path.unlink, "clips_val.csv"), [], ["00002.png", "no such"]),
    "empty split": (edit("clips_val.csv", lambda lines: lines[:1]), [], ["no rows"]),
    "unknown flag": (lambda data: None, ["--basedir", "."], ["did you mean --base_dir?"]),
    "unknown task": (lambda data: None, ["--task", "foo"], ["--task: choose from auto", "got foo"]),
    "output is a file": (lambda data: (data / "file").write_text("") and None, ["--out", "FILE"], ["choose another"]),
}


@pytest.mark.parametrize("case", BAD_EVALUATION)
def test_bad_input_stops_evaluation(data: Path, refused: Callable[..., str], case: str) -> None:
    change, more, parts = BAD_EVALUATION[case]
    file = prediction(data)
    if case.startswith("mask") or case == "no mask":  # the prediction stays good
        shutil.copytree(data / "Annotations", data / "Copies")
        lines = file.read_text().splitlines()
        file.write_text(
            "\n".join(
                line[: line.rfind(",") + 1] + line[line.rfind(",") + 1 :].replace("Annotations", "Copies")
                for line in lines
            )
            + "\n"
        )
    change(data)
    more = [str(data / "file") if item == "FILE" else item for item in more]
    argv = [str(file), "--base_dir", str(data), "--out", str(data.parent / "scores"), *more]
    line = refused(evaluate.main, argv)
    for part in parts:
        assert part in line
    nothing_made(data)


def test_the_commands_themselves(data: Path, tmp_path: Path) -> None:
    """As a user starts them: the code that the shell sees."""
    damage_flow(cell(data, "Flow"))
    commands = {
        "stflow/model_train.py": (training(data), "NaN"),
        "stflow/predict.py": (["/nope", "--model_dir", "/nope"], "/nope"),
        "stflow/compute_flow.py": (["/nope"], "/nope"),
        "common/evaluate.py": (["/nope.csv", "--out", str(tmp_path / "x")], "/nope.csv"),
    }
    for script, (argv, part) in commands.items():
        done = start(script, argv)
        output, error = done.communicate(timeout=120)
        assert part in error_line(done.returncode, error)
        assert not output
    nothing_made(data)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["SIGINT", "SIGTERM"])
def test_interrupted_flow_goes_on(tmp_path: Path, number: signal.Signals) -> None:
    source = photos(tmp_path / "in", [(300, 400)] * 30)
    argv = [str(source), "--out", str(tmp_path / "flow")]
    process = start("stflow/compute_flow.py", argv)
    stop_when(process, lambda: len(list(tmp_path.rglob("[0-9]*.flo"))) >= 2, number)
    _, error = process.communicate(timeout=60)
    assert "interrupted" in error_line(process.returncode, error, 130)
    done = len(list(tmp_path.rglob("[0-9]*.flo")))
    assert 2 <= done < 29
    assert not list(tmp_path.rglob("*.tmp*"))
    assert not list(tmp_path.rglob("*.csv"))
    assert compute_flow.main(argv) == 0
    assert len(list(tmp_path.rglob("[0-9]*.flo"))) == 29


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["SIGINT", "SIGTERM"])
def test_interrupted_prediction_goes_on(trained: Path, tmp_path: Path, number: signal.Signals) -> None:
    make_clips(ClipOptions(out=tmp_path / "data", num=1, num_val=1, num_test=0, num_frames=24, height=48, width=64))
    argv = predicting(tmp_path / "data", trained, "--batch_size", "1", "--img_size", "48", "64", "--overlay", "false")
    process = start("stflow/predict.py", argv)
    stop_when(process, lambda: len(list(tmp_path.rglob("[0-9]*_proba.npy"))) >= 2, number)
    _, error = process.communicate(timeout=60)
    assert "interrupted" in error_line(process.returncode, error, 130)
    early = {file: file.stat().st_mtime_ns for file in tmp_path.rglob("[0-9]*_proba.npy")}
    assert 2 <= len(early) < 21
    assert not list(tmp_path.rglob("*.tmp*"))
    assert not (tmp_path / "pred" / "clips_val.csv").exists()
    assert predict.main([*argv, "--enable_progress_bar", "false"]) == 0
    assert len(list(tmp_path.rglob("[0-9]*_proba.npy"))) == 21
    assert all(file.stat().st_mtime_ns == before for file, before in early.items())


def start(script: str, argv: list[str]) -> subprocess.Popen[str]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, str(ROOT / script), *argv]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(command, env=environment, preexec_fn=interruptible, **pipes)


def stop_when(process: subprocess.Popen[str], ready: Callable[[], bool], number: signal.Signals) -> None:
    deadline = time.monotonic() + 60
    while not ready() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.005)
    process.send_signal(number)
