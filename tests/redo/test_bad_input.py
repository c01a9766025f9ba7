"""Bad input and careless use of ReDO's commands: one line that names it, exit code 2, nothing half-written."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from common.files import write_image
from common.synthetic import ObjectOptions
from common.synthetic import run as make_data
from redo import example_load_pretrained, export, predict, redraw, score, train
from redo.containers import write_container
from redo.model import NetworkOptions, Networks

Command = Callable[[list[str]], int]
TINY = ["--sizex", "32", "--nz", "2", "--nf", "4", "--nResM", "1", "--nTest", "2", "--batchSize", "4"]
TINY += ["--nIteration", "2", "--checkpointFreq", "2", "--silent", "--enable_model_summary", "false"]


@pytest.fixture(scope="module")
def shapes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("shapes")
    make_data(ObjectOptions(out=folder, num=6, num_val=3, num_test=0))
    return folder


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("weights") / "nets.pth"
    write_container(file, Networks(NetworkOptions(sizex=32, nz=2, nf=4, nResM=1)))
    return file


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def refused(command: Command, arguments: list[str], named: str, capsys: pytest.CaptureFixture[str]) -> None:
    before = sorted(Path().rglob("*"))
    assert command(arguments) == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if not line.startswith(("warning", "reading"))]
    assert len(lines) == 1
    assert named in lines[0]
    after = [path for path in sorted(Path().rglob("*")) if path not in before]
    assert not [path for path in after if path.suffix in (".ckpt", ".pth", ".png", ".onnx") or ".tmp" in path.name]


def data_of(shapes: Path) -> list[str]:
    return ["--data_file", str(shapes / "objects"), "--base_dir", str(shapes), "--cache_dir", "cache"]


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ("--sizex 48", "--sizex 48: the networks exist for 32, 64, 128 and 256"),
        ("--nMasks 1", "--nMasks 1: needs to be at least 2"),
        ("--nfM 3", "--nfM (or --nf) 3: needs to be at least 4"),
        ("--nx 2", "--nx 2: give 3 for colour images or 1"),
        ("--temperature 0", "--temperature 0.0: needs to be above 0"),
        ("--wrecZ -1", "--wrecZ -1.0: give at least 0"),
        ("--lrM nan", "--lrM: expected a number, got nan"),
        ("--autoRestart .5", "--autoRestart 0.5: the smallest of 2 regions covers at most 0.50"),
        ("--autoRestart .4 --nMasks 3", "the smallest of 3 regions covers at most 0.33"),
        ("--autoRestart -.1", "--autoRestart -0.1"),
        ("--gStepFreq 0", "--gStepFreq 0: give at least 1"),
        ("--nIteration 0", "--nIteration 0: give at least 1"),
        ("--nIteration 5e4", "--nIteration: expected a whole number"),
        ("--checkpointFreq 0", "--checkpointFreq 0: give at least 1"),
        ("--batchSize 7", "--batchSize 7: 7 images per step"),
        ("--nTest 4", "--nTest 4: "),
        ("--maxRestarts -1", "--maxRestarts -1: give at least 0"),
        ("--init_sn ones", "--init_sn: choose from default, orthogonal"),
        ("--useSelfAttX", "did you mean --useSelfAttG?"),
        ("--iteration 500 --nIteration 900", "--iteration 500: run/state_00500.pth is not there"),
        ("--mask_encoding 0", "--mask_encoding: choose from"),
        ("--gradient_clip_val 1", "gradient"),
    ],
)
def test_options_that_cannot_work(shapes: Path, options: str, named: str, capsys: pytest.CaptureFixture[str]) -> None:
    refused(train.main, [*TINY, *data_of(shapes), "--out", "run", *options.split()], named, capsys)
    assert not Path("run/checkpoints").exists()


def test_no_data_at_all(capsys: pytest.CaptureFixture[str]) -> None:
    refused(train.main, [*TINY, "--out", "run"], "--dataroot ./data: no such folder; name that of --dataset", capsys)
    Path("data").mkdir()
    refused(train.main, [*TINY, "--out", "run"], "data/jpg: not there; expected are jpg/image_00001.jpg", capsys)


def test_weights_of_other_networks(shapes: Path, weights: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = [*TINY, *data_of(shapes), "--out", "run", "--ckpt_path", str(weights)]
    refused(
        train.main, [*arguments, "--nfM", "8"], "tensors of another shape: stem.0.weight [1, 3, 7, 7] instead", capsys
    )
    refused(train.main, [*arguments, "--useSelfAttG"], "missing (0.attention.gamma", capsys)


def test_files_that_are_no_weights(shapes: Path, capsys: pytest.CaptureFixture[str]) -> None:
    split = ["--data_file", str(shapes / "objects_val.csv"), "--base_dir", str(shapes), "--out", "out"]
    refused(predict.main, [*split, "--model_dir", "no.pth"], "no.pth: no such checkpoint file", capsys)
    Path("empty").mkdir()
    refused(predict.main, [*split, "--model_dir", "empty"], "empty: no checkpoint (*.ckpt)", capsys)
    Path("text.pth").write_text("not weights")
    refused(predict.main, [*split, "--model_dir", "text.pth"], "text.pth: refused", capsys)
    torch.save({"state_dict": {"a": torch.zeros(1)}, "hyper_parameters": {}}, "other.ckpt")
    refused(predict.main, [*split, "--model_dir", "other.ckpt"], "other.ckpt: no checkpoint of redo", capsys)
    refused(export.main, ["--model_dir", "no.pth", "--out", "m.onnx"], "no.pth: no such checkpoint file", capsys)


def test_input_that_is_not_there_or_no_picture(weights: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with_weights = ["--model_dir", str(weights), "--out", "out"]
    refused(predict.main, ["none.jpg", *with_weights], "none.jpg: no such picture", capsys)
    refused(predict.main, with_weights, "give either a picture, folder or video, or --data_file", capsys)
    Path("broken.jpg").write_bytes(b"\xff\xd8\xff but no picture")
    refused(predict.main, ["broken.jpg", *with_weights], "broken.jpg: not a readable image", capsys)
    write_image("good.png", np.zeros((40, 40, 3), np.uint8))
    refused(
        predict.main,
        ["good.png", *with_weights, "--object", "2"],
        "--object 2: the network has the regions 0 to 1",
        capsys,
    )
    refused(predict.main, ["good.png", *with_weights, "--threshold", "1.5"], "--threshold 1.5", capsys)


def test_redraw_and_export_refuse_what_means_nothing(weights: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_image("good.png", np.zeros((40, 40, 3), np.uint8))
    arguments = ["good.png", "--model_dir", str(weights), "--out", "sheet.png"]
    refused(redraw.main, [*arguments, "--region", "2"], "--region 2: the networks have the regions 0 to 1", capsys)
    refused(redraw.main, [*arguments, "--nz_samples", "0"], "--nz_samples 0: give at least 1", capsys)
    refused(redraw.main, [*arguments, "--masks", "file"], "GtMask", capsys)
    refused(redraw.main, ["--model_dir", str(weights)], "give a picture, a folder", capsys)
    refused(
        export.main, ["--model_dir", str(weights), "--out", "m.pt"], "name a file that ends in .onnx or .pth", capsys
    )


def test_scores_need_masks(shapes: Path, weights: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = (shapes / "objects_val.csv").read_text().splitlines()
    columns = text[0].split(",")
    kept = [i for i, name in enumerate(columns) if name != "GtMask"]
    Path("bare.csv").write_text("\n".join(",".join(line.split(",")[i] for i in kept) for line in text) + "\n")
    arguments = ["--base_dir", str(shapes), "--model_dir", str(weights), "--out", "out"]
    refused(score.main, ["bare.csv", *arguments], "scores need masks", capsys)


def test_example_needs_both_networks(shapes: Path, weights: Path, capsys: pytest.CaptureFixture[str]) -> None:
    content = torch.load(weights, weights_only=False)
    torch.save({"netEncM": content["netEncM"]}, "M.pth")
    data = ["--data_file", str(shapes / "objects_val.csv"), "--base_dir", str(shapes), "--out", "out.png"]
    main = example_load_pretrained.main
    refused(main, ["--statePathM", "M.pth", *data], "holds no network X; give --statePathX too", capsys)
    refused(
        main, ["--statePath", str(weights), *data, "--device", "cuda:7"], "--device cuda:7: not usable here", capsys
    )
    refused(main, ["--statePath", str(weights)], "the weights do not say what they were trained on", capsys)
