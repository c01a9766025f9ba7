"""WNet from data to scores: the module's iteration, the commands, scores of segments."""

import json
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pytorch_lightning.strategies import DDPStrategy
from torch import distributed, multiprocessing

from common.errors import InputError
from common.files import read_array, read_labels, write_labels
from common.makers.matlab import bsds_annotations
from common.splits import Split, read_split
from common.synthetic import SceneOptions
from common.synthetic import run as make_data
from tests.golden import need_data
from tests.processes import interruptible
from transformer_seg import evaluate, predict, train
from transformer_seg.restore import system_of
from transformer_seg.wnet.alternation import alternating_iteration
from transformer_seg.wnet.baseline import kmeans_segments
from transformer_seg.wnet.lite import LiteWNet
from transformer_seg.wnet.losses import NcutKernel, soft_ncut
from transformer_seg.wnet.merging import merge_hierarchy
from transformer_seg.wnet.model import WNet
from transformer_seg.wnet.module import WnetModule, make_network, matched_score
from transformer_seg.wnet.options import WnetOptions
from transformer_seg.wnet.restore import restore_wnet
from transformer_seg.wnet.revival import last_convolution, revive, revive_together
from transformer_seg.wnet.scoring import bsds_scores, cut_at
from transformer_seg.wnet.starts import Starts

ROOT = Path(__file__).resolve().parents[2]
TINY = ["--model=wnet", "--width", "4", "--num_classes", "3", "--image_size", "16", "--enable_progress_bar", "false"]


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("scenes")
    sizes = {"height": 32, "width": 40, "void_px": 0}
    make_data(SceneOptions(out=folder, num=4, num_val=2, num_test=2, style="shaded", image_format="png", **sizes))
    return folder


@pytest.fixture(scope="module")
def trained(scenes: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "wnet"
    data = ["--data_file", str(scenes / "scenes"), "--base_dir", str(scenes)]
    more = ["--batch-size", "2", "--epochs", "2", "--learning-rate", "0.002", "--save-model", "--save-logs"]
    assert train.main([*TINY, *data, *more, "--out", str(out)]) == 0
    return out


class Optimisers:
    """What the module asks of Lightning in a step, without a Trainer."""

    world_size, num_training_batches, estimated_stepping_batches = 1, 1, 10


@pytest.mark.parametrize("optim", ["Adam", "SGD"])
def test_the_modules_iteration_is_the_alternating_one(optim, monkeypatch):
    options = WnetOptions(width=4, num_classes=3, optim=optim, momentum=0.9, schedule="constant")
    torch.manual_seed(0)
    module = WnetModule(options, 16)
    other = WNet(num_segments=3, width=4)
    other.load_state_dict(module.model.state_dict())
    kind = torch.optim.Adam if optim == "Adam" else torch.optim.SGD
    arguments = {"lr": 1e-3} | ({"momentum": 0.9} if optim == "SGD" else {})
    plain = kind(other.parameters(), **arguments)
    from pytorch_lightning.core.optimizer import LightningOptimizer

    wrapped = LightningOptimizer(module.configure_optimizers())
    monkeypatch.setattr(LightningOptimizer, "step", lambda self: self.optimizer.step())
    monkeypatch.setattr(WnetModule, "trainer", Optimisers())
    monkeypatch.setattr(WnetModule, "global_step", 0)
    monkeypatch.setattr(module, "optimizers", lambda: wrapped)
    monkeypatch.setattr(module, "manual_backward", lambda loss: loss.backward())
    images = torch.rand(3, 2, 3, 16, 16)
    for image in images:
        module.training_step({"image": image, "weight": torch.ones(2)}, 0)
        alternating_iteration(other.train(), plain, image)
    for key, value in other.state_dict().items():
        assert torch.equal(module.model.state_dict()[key], value), key


def test_run_directory_with_logs_and_weights(trained: Path) -> None:
    lines = [json.loads(line) for line in (trained / "log.txt").read_text().splitlines()]
    assert [line["epoch"] for line in lines] == [0, 1]
    assert [line["num_updates"] for line in lines] == [2, 4]
    assert {"train_loss", "train_learning_rate", "val_loss", "val_matched_mean_iou"} <= set(lines[0])
    weights = torch.load(trained / "checkpoint.pth", weights_only=True)
    assert system_of(trained / "checkpoint.pth") == "wnet"
    module = restore_wnet(trained / "checkpoints" / "last.ckpt")
    assert all(torch.equal(value, weights[key]) for key, value in module.model.state_dict().items())
    assert module.options.width == 4
    assert not module.training


def test_split_to_label_maps_contours_and_scores(trained: Path, scenes: Path, tmp_path: Path) -> None:
    out = tmp_path / "predicted"
    data = ["--data_file", str(scenes / "scenes_test.csv"), "--model_dir", str(trained), "--out", str(out)]
    assert predict.main([*data, "--contours", "--save_proba", "--enable_progress_bar", "false"]) == 0
    split = read_split(out / "scenes_test.csv", base_dir=scenes)
    for row in range(2):
        labels = read_labels(split.path(row, "Pred"))
        proba = read_array(split.path(row, "Proba"))
        assert labels.shape == (32, 40)
        np.testing.assert_array_equal(labels, proba.argmax(0))
        assert read_array(split.path(row, "Ucm")).shape == (65, 81)
    assert (out / "overlays").is_dir()
    scores = tmp_path / "scores"
    arguments = [str(out / "scenes_test.csv"), "--base_dir", str(scenes), "--out", str(scores)]
    assert evaluate.main([*arguments, "--clusters"]) == 0
    names = [score["name"] for score in json.loads((scores / "scores.json").read_text())]
    assert names == ["miou_image_matched"]
    # what stands is kept, and predictions of other options are not mixed with it
    before = (out / "Pred").stat().st_mtime_ns
    assert predict.main([*data, "--contours", "--save_proba", "--enable_progress_bar", "false"]) == 0
    assert (out / "Pred").stat().st_mtime_ns == before
    assert predict.main([*data, "--crf", "false"]) == 2


def test_picture_in_a_subprocess_from_another_folder(trained: Path, scenes: Path, tmp_path: Path) -> None:
    picture = next((scenes / "JPEGImages").iterdir())
    done = subprocess.run(
        [
            *(sys.executable, str(ROOT / "transformer_seg" / "predict.py"), str(picture)),
            *("--model_dir", str(trained), "--out", "here", "--merge", "0.1"),
        ],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    assert list((tmp_path / "here" / "Pred").rglob("*.png"))
    assert list((tmp_path / "here" / "overlays").glob("*.jpg"))


def test_real_published_weights_segment_a_photo(tmp_path: Path) -> None:
    weights = need_data("weights") / "fkodom_wnet" / "wnet_state_dict.pt"
    photo = need_data("bsds500") / "BSDS500" / "data" / "images" / "test" / "100007.jpg"
    arguments = [str(photo), "--model_dir", str(weights), "--out", str(tmp_path), "--image_size", "96"]
    assert predict.main([*arguments, "--enable_progress_bar", "false"]) == 0
    labels = read_labels(tmp_path / "Pred" / "100007" / "00000.png")
    assert labels.shape == (321, 481)
    assert 2 <= len(np.unique(labels)) <= 20


def test_continuing_from_published_weights(scenes: Path, tmp_path: Path) -> None:
    weights = need_data("weights") / "fkodom_wnet" / "wnet_state_dict.pt"
    data = ["--data_file", str(scenes / "scenes"), "--base_dir", str(scenes), "--image_size", "16"]
    more = ["--weights", str(weights), "--pretrained", "--out", str(tmp_path / "run"), "--fast_dev_run"]
    lite = ["--model=wnet", "--variant", "lite", "--ncut", "class_mean", "--batch_size", "2"]
    assert train.main([*lite, *data, *more, "--num-classes", "20"]) == 0
    assert train.main([*lite, *data, *more, "--num-classes", "8"]) == 2


@pytest.mark.parametrize(
    ("more", "part"),
    [
        (["--num_classes", "1"], "--num_classes 1: a cut needs at least 2"),
        (["--image_size", "8"], "--image_size 8: give at least 16"),
        (["--pretrained"], "--pretrained: WNet has no ImageNet weights"),
        (["--learning-rate", "0"], "--learning_rate 0.0"),
        (["--batch-size", "0"], "--batch_size 0"),
        (["--dropout", "1"], "--dropout 1.0"),
        (["--data_file", "no/such"], "no such data split"),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_bad_options_are_one_line(scenes, tmp_path, capsys, more, part):
    data = ["--data_file", str(scenes / "scenes"), "--base_dir", str(scenes)]
    assert train.main([*TINY, *data, "--out", str(tmp_path / "run"), "--epochs", "1", *more]) == 2
    assert part in capsys.readouterr().err
    assert not (tmp_path / "run" / "checkpoints").exists()


def test_prediction_names_what_is_wrong(trained, scenes, tmp_path, capsys):
    picture = str(next((scenes / "JPEGImages").iterdir()))
    for arguments, part in (
        ([picture, "--model_dir", "none"], "no such run directory or checkpoint file"),
        (["none.jpg", "--model_dir", str(trained)], "no such picture"),
        ([picture, "--model_dir", str(trained), "--merge", "2"], "--merge 2.0"),
        ([picture, "--model_dir", str(trained), "--crf_iters", "0"], "--crf_iters 0"),
        (["--model_dir", str(trained)], "give either a picture"),
    ):
        assert predict.main([*arguments, "--out", str(tmp_path / "out")]) == 2
        assert part in capsys.readouterr().err
    page = tmp_path / "weights.pt"
    page.write_text("<html>not weights</html>")
    assert predict.main([picture, "--model_dir", str(page), "--out", str(tmp_path / "out")]) == 2
    assert "weights.pt" in capsys.readouterr().err
    torch.save({"head.weight": torch.zeros(2, 2)}, page)
    assert predict.main([picture, "--model_dir", str(page), "--out", str(tmp_path / "out")]) == 2
    assert "neither a WNet nor a Segmenter" in capsys.readouterr().err


def test_matched_score_by_hand():
    truth = np.array([[0, 0, 1, 1], [0, 0, 2, 255]])
    assert matched_score(np.array([[3, 3, 1, 1], [3, 3, 2, 0]]), truth) == 1.0
    split_background = np.array([[3, 0, 1, 1], [3, 3, 2, 0]])  # the fourth segment counts as background
    assert matched_score(split_background, truth) == 1.0
    assert matched_score(np.zeros((2, 4), int), truth) == pytest.approx((4 / 7) / 3)
    assert np.isnan(matched_score(np.zeros((1, 2), int), np.full((1, 2), 255)))


@settings(deadline=None, max_examples=25)
@given(H=st.integers(2, 9), W=st.integers(2, 9), K=st.integers(2, 4), seed=st.integers(0, 99))
def test_cutting_a_contour_map_gives_back_the_hierarchy(H, W, K, seed):
    generator = np.random.default_rng(seed)
    maps = generator.dirichlet(np.ones(K), (H, W)).transpose(2, 0, 1).astype(np.float32)
    hierarchy = merge_hierarchy(maps.argmax(0), maps)
    contours = hierarchy.contour_map().astype(np.float64)
    heights = [-1.0, 0.2, 0.5, 0.9, 1.0]
    for threshold, found in zip(heights, cut_at(contours, heights), strict=True):
        expected = hierarchy.labels_at(threshold)
        pairs = set(zip(found.ravel().tolist(), expected.ravel().tolist(), strict=True))
        if threshold > 0 and not np.isclose(hierarchy.heights, threshold, atol=1e-6).any():
            assert len(pairs) == len({a for a, _ in pairs}) == len({b for _, b in pairs})


def test_an_annotator_scores_full_marks_against_itself_and_less_against_the_others(tmp_path: Path) -> None:
    root = need_data("bsds500") / "BSDS500" / "data"
    truth = root / "groundTruth" / "test" / "100007.mat"
    maps = bsds_annotations(truth)
    write_labels(tmp_path / "0.png", maps[0])
    row = {"Sequence": "100007", "Sequence_Index": 0, "GtSegmentation": str(truth), "Pred": "0.png"}
    scores = {score.name: score.value for score in bsds_scores(Split.from_rows([row], tmp_path), crf=False)}
    assert 0.5 < scores["covering_ods"] < 1
    assert 0.5 < scores["rand_index_ods"] < 1
    assert 0 < scores["information_ods"] < 3
    write_labels(tmp_path / "0.png", np.zeros_like(maps[0]))
    flat = {score.name: score.value for score in bsds_scores(Split.from_rows([row], tmp_path), crf=False)}
    assert flat["covering_ods"] < scores["covering_ods"]
    assert flat["information_ods"] > scores["information_ods"]
    write_labels(tmp_path / "0.png", np.zeros((5, 5), int))
    with pytest.raises(InputError, match=r"5x5 pixels, the ground truth has"):
        bsds_scores(Split.from_rows([row], tmp_path), crf=False)


def test_kmeans_finds_colours():
    picture = np.zeros((20, 30, 3), np.uint8)
    picture[:, 15:] = 255
    labels = kmeans_segments(picture, 2)
    assert len(np.unique(labels[:, :15])) == len(np.unique(labels[:, 15:])) == 1
    assert labels[0, 0] != labels[0, -1]


def test_joint_step_trains(scenes, tmp_path):
    data = ["--data_file", str(scenes / "scenes"), "--base_dir", str(scenes), "--batch_size", "2", "--fast_dev_run"]
    assert train.main([*TINY, *data, "--joint", "--out", str(tmp_path / "a")]) == 0


def test_without_pydensecrf_the_crf_is_left_out_and_said(trained, scenes, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    picture = str(next((scenes / "JPEGImages").iterdir()))
    arguments = [picture, "--model_dir", str(trained), "--out", str(tmp_path), "--enable_progress_bar", "false"]
    assert predict.main(arguments) == 0
    assert "no CRF: pydensecrf is not installed" in capsys.readouterr().err
    assert json.loads((tmp_path / "source.json").read_text())["crf"][0] is False


def test_a_truncated_picture_stops_the_training_with_its_name(scenes, tmp_path, capsys):
    pictures = sorted((scenes / "JPEGImages").iterdir())[:2]
    for picture in pictures:
        (tmp_path / picture.name).write_bytes(picture.read_bytes())
    whole = (tmp_path / pictures[0].name).read_bytes()
    (tmp_path / pictures[0].name).write_bytes(whole[: len(whole) // 2])
    for step, picture in zip(("train", "val"), pictures, strict=True):
        (tmp_path / f"x_{step}.csv").write_text(f"Sequence,Sequence_Index,Image\na,0,{picture.name}\n")
    data = ["--data_file", str(tmp_path / "x"), "--base_dir", str(tmp_path), "--out", str(tmp_path / "run")]
    assert train.main([*TINY, *data, "--epochs", "1"]) == 2
    assert pictures[0].name in capsys.readouterr().err


def test_of_several_starts_the_lowest_cut_goes_on_and_a_resumed_run_starts_no_more(scenes, tmp_path, monkeypatch):
    tried = []

    def forged(self, trainer, module, bar):
        tried.append({key: value.clone() for key, value in module.model.state_dict().items()})
        return (0.9, 0.4, 1.1)[len(tried) - 1]

    arguments = [*TINY, "--data_file", str(scenes / "scenes"), "--base_dir", str(scenes), "--batch_size", "4"]
    arguments += ["--starts", "3", "--learning_rate", "1e-12", "--schedule", "constant", "--max_epochs"]
    with monkeypatch.context() as patched:
        patched.setattr(Starts, "_try", forged)
        assert train.main([*arguments, "1", "--out", str(tmp_path / "forged")]) == 0
    weights = restore_wnet(tmp_path / "forged" / "checkpoints" / "last.ckpt").model.UEnc.final.weight
    assert [torch.allclose(weights, one["UEnc.final.weight"], atol=1e-6) for one in tried] == [False, True, False]
    record = json.loads((tmp_path / "forged" / "starts.json").read_text())
    assert record == {"cuts": [0.9, 0.4, 1.1], "kept": 1, "iterations": 60}

    arguments += ["2", "--start_iterations", "3", "--revive_every", "3"]
    assert train.main([*arguments, "--out", str(tmp_path / "whole")]) == 0
    parts = [*arguments, "--out", str(tmp_path / "parts")]
    assert train.main([*parts, "--max_epochs", "1"]) == 0
    cuts = json.loads((tmp_path / "parts" / "starts.json").read_text())["cuts"]
    (tmp_path / "parts" / "starts.json").unlink()
    assert train.main([*parts, "--resume"]) == 0
    assert not (tmp_path / "parts" / "starts.json").exists()
    whole, again = (
        torch.load(tmp_path / name / "checkpoints" / "last.ckpt", weights_only=True) for name in ("whole", "parts")
    )
    assert whole["callbacks"]["Starts"]["cuts"] == again["callbacks"]["Starts"]["cuts"] == cuts
    assert len(set(cuts)) == 3
    for key, value in whole["state_dict"].items():
        assert torch.equal(again["state_dict"][key], value), key


@pytest.mark.slow
def test_two_processes_choose_the_start_and_the_segments_that_one_does(scenes: Path, tmp_path: Path) -> None:
    """In double precision: a segment halved in an untrained network amplifies rounding a thousandfold per step."""
    command = [sys.executable, str(ROOT / "transformer_seg" / "train.py"), *TINY, "--accelerator", "cpu"]
    command += ["--data_file", str(scenes / "scenes"), "--base_dir", str(scenes), "--num_workers", "0"]
    command += ["--optim", "SGD", "--learning_rate", "1e-4", "--precision", "64-true", "--max_epochs", "4"]
    command += ["--starts", "2", "--start_iterations", "4", "--revive_every", "2"]
    two = ["--batch_size", "2", "--devices", "2", "--strategy", "ddp"]
    for name, more in (("one", ["--batch_size", "4"]), ("two", two)):
        done = subprocess.run(
            [*command, *more, "--out", str(tmp_path / name)],
            capture_output=True,
            text=True,
            timeout=600,
            preexec_fn=interruptible,
        )
        assert done.returncode == 0, done.stderr
    first, second = (
        torch.load(tmp_path / name / "checkpoints" / "last.ckpt", weights_only=True) for name in ("one", "two")
    )
    starts, others = (found["callbacks"]["Starts"] for found in (first, second))
    assert starts["kept"] == others["kept"] == 1  # not the first one, which the processes share anyway
    assert others["cuts"] == pytest.approx(starts["cuts"], rel=1e-9)
    assert first["callbacks"]["Revival"]["revived"] == second["callbacks"]["Revival"]["revived"] != []
    for key, value in first["state_dict"].items():
        torch.testing.assert_close(second["state_dict"][key], value, rtol=1e-6, atol=1e-9, msg=key)


def with_an_empty_segment(kind: Callable[..., WNet | LiteWNet]) -> tuple[WNet | LiteWNet, torch.Tensor]:
    """An untrained network of three segments, of which the second is empty, and pictures (2, 3, 32, 32)."""
    torch.manual_seed(0)
    network = kind(num_segments=3)
    image = torch.zeros(2, 3, 32, 32)
    image[:, 0, :, :16], image[:, 2, :, 16:], image[:, 1, 8:24, 4:12] = 0.9, 0.9, 0.9
    image += torch.rand_like(image) / 50
    with torch.no_grad():
        last_convolution(network).bias[1] = -1e4
    return network, image


def revive_one_picture(rank: int, folder: str) -> None:
    """Of two processes; the change and the rows go into a file."""
    distributed.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    network, image = with_an_empty_segment(partial(WNet, width=4))
    trainer = SimpleNamespace(world_size=2, strategy=DDPStrategy())
    change = revive_together(trainer, network, image[rank::2], NcutKernel())  # type: ignore[arg-type]
    torch.save({"change": tuple(change or ()), "rows": last_convolution(network).weight.data}, f"{folder}/{rank}.pt")
    distributed.destroy_process_group()


def test_two_processes_revive_what_one_does(tmp_path: Path) -> None:
    multiprocessing.spawn(revive_one_picture, args=(str(tmp_path),), nprocs=2)
    network, image = with_an_empty_segment(partial(WNet, width=4))
    change = revive(network, image, NcutKernel())
    first, second = (torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in (0, 1))
    assert first["change"] == second["change"] == tuple(change)
    assert torch.equal(first["rows"], second["rows"])
    torch.testing.assert_close(first["rows"], last_convolution(network).weight.data, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", [partial(WNet, width=4), LiteWNet])
def test_the_most_useless_segment_takes_half_of_another_where_that_lowers_the_cut(kind):
    network, image = with_an_empty_segment(kind)
    before = network.eval().segment(image)
    network.train()
    kernel = NcutKernel()
    assert 1 not in before.argmax(dim=1)
    segment, halved = revive(network, image, kernel)
    assert network.training
    assert (segment, halved) in [(1, 0), (1, 2)]
    after = network.eval().segment(image)
    assert torch.equal(after[:, 2 - halved], before[:, 2 - halved])
    assert (after.argmax(dim=1) == 1).float().mean() > 0.05
    assert soft_ncut(image, after.softmax(1), kernel).mean() < soft_ncut(image, before.softmax(1), kernel).mean() - 0.05


def test_nothing_changes_where_the_cut_does_not_fall_by_the_gain(monkeypatch):
    torch.manual_seed(0)
    network = WNet(num_segments=3, width=4)
    weights = {key: value.clone() for key, value in network.state_dict().items()}
    monkeypatch.setattr("transformer_seg.wnet.revival.GAIN", 1.0)  # no cut is below 0
    assert revive(network, torch.rand(1, 3, 32, 32), NcutKernel()) is None
    assert all(torch.equal(value, weights[key]) for key, value in network.state_dict().items())


def test_a_run_keeps_what_it_revived(scenes, tmp_path, monkeypatch, capsys):
    def one_dead(options):
        network = make_network(options)
        with torch.no_grad():
            network.UEnc.final.bias[2] = -1e4
        return network

    monkeypatch.setattr("transformer_seg.wnet.module.make_network", one_dead)
    data = ["--data_file", str(scenes / "scenes"), "--base_dir", str(scenes), "--batch_size", "2", "--max_epochs", "2"]
    assert train.main([*TINY, *data, "--revive_every", "3", "--out", str(tmp_path / "run")]) == 0
    state = torch.load(tmp_path / "run" / "checkpoints" / "last.ckpt", weights_only=True)["callbacks"]["Revival"]
    assert [found[:2] for found in state["revived"]] == [[3, 2]]
    assert "iteration 3: segment 2 held nothing together, took half of" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--revive_every", "-1"], "--revive_every -1"),
        (["--starts", "0"], "--starts 0: give at least 1"),
        (["--starts", "2", "--joint", "true"], "--starts 2: they are compared by the exact cut"),
        (["--starts", "2", "--ckpt_path", "x.ckpt"], "--starts 2: the weights come from --ckpt_path"),
        (["--starts", "2", "--start_iterations", "0"], "--start_iterations 0"),
    ],
)
def test_starts_that_cannot_be(flags, message, scenes, tmp_path, capsys):
    data = ["--data_file", str(scenes / "scenes"), "--base_dir", str(scenes), "--out", str(tmp_path / "run")]
    assert train.main([*TINY, *data, *flags]) == 2
    assert message in capsys.readouterr().err
