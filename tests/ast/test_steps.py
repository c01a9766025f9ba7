"""The four steps and the evaluation on a tiny clip: what they write, in which order, and what a second call does."""

import csv
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from ast_seg.background_files import FILES, file_paths
from ast_seg.frames import FrameFiles, Reading
from ast_seg.restore import published_background, restore_background, restore_slots
from common.callbacks import LastCheckpoint
from common.files import image_size, read_image, read_labels, write_image
from common.splits import read_split
from tests.ast.commands import (
    FROZEN,
    QUIET,
    ROOT,
    TINY_BACKGROUND,
    TINY_LOSS,
    TINY_MODEL,
    fails,
    make_clip,
    run,
    script,
)

FRAMES = 10


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All steps by the commands, in this process."""
    folder = tmp_path_factory.mktemp("ast")
    prefix = make_clip(folder / "data", FRAMES)
    data = ["--data_file", prefix, "--base_dir", folder / "data", "--cache_dir", folder / "cache"]
    run("background/train.py", *data, *TINY_BACKGROUND, *QUIET, "--out", folder / "bg")
    generate = ["--saved_model_path", folder / "bg", *data[:4], "--batch_size", "4", *QUIET]
    run("background/generate_background_dataset.py", *generate)
    run("MF_train.py", *triples(folder), *TINY_MODEL, *TINY_LOSS, *FROZEN, *QUIET, "--out", folder / "fg")
    return folder


def triples(folder: Path) -> list[object]:
    made = folder / "bg" / "background_dataset"
    return ["--data_file", made / "background", "--base_dir", made, "--cache_dir", folder / "cache"]


def test_five_files_of_every_frame_in_order(folder: Path) -> None:
    made = folder / "bg" / "background_dataset"
    source = read_split(folder / "data" / "fixed_camera", "train", folder / "data")
    for part in ("train", "test"):
        assert all(
            len(list((made / name.split("/")[0].format(split=part)).iterdir())) == FRAMES for name in FILES.values()
        )
        split = read_split(made / f"background_{part}.csv", base_dir=made)
        for row in range(FRAMES):
            paths = file_paths(made, part, row + 1)
            np.testing.assert_array_equal(read_image(paths["input"]), read_image(source.path(row, "Image")))
            np.testing.assert_array_equal(read_labels(paths["target"]), read_labels(source.path(row, "GtInstance")))
            assert split.path(row, "Image").samefile(paths["input"])
            assert split.path(row, "Source").samefile(source.path(row, "Image"))
            np.testing.assert_array_equal(read_image(paths["rgba"]), read_image(paths["background"]))
            assert set(np.unique(read_labels(paths["mask"]))) <= {0, 255}


def test_step_two_goes_on_where_it_was_stopped(folder: Path) -> None:
    made = folder / "bg" / "background_dataset"
    before = contents(made)
    for path in (*file_paths(made, "train", 3).values(), file_paths(made, "test", 7)["mask"]):
        path.unlink()
    (made / "masks_train" / ".bin000004.abcd1234.tmp.png").write_bytes(b"half")
    data = ["--data_file", folder / "data" / "fixed_camera", "--base_dir", folder / "data"]
    generate = ["--saved_model_path", folder / "bg", *data, "--batch_size", "4", *QUIET]
    run("background/generate_background_dataset.py", *generate)
    assert contents(made) == before


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_published_file_gives_the_same_backgrounds(folder: Path) -> None:
    ours, published = (restore_background(folder / "bg" / name).model for name in (".", "trained_model.pth"))
    images = 255 * torch.rand(2, 3, 32, 40)
    with torch.no_grad():
        torch.testing.assert_close(published(images), ours(images))
    content = torch.load(folder / "bg" / "trained_model.pth", weights_only=True)
    assert content["complexity"] is False
    assert set(content) == {"optimizer_state_dict", "encoder_state_dict", "generator_state_dict", "complexity"}
    assert "background_generator.0.positional_encoding" in content["generator_state_dict"]


def test_masks_of_every_frame(folder: Path) -> None:
    made, out = folder / "bg" / "background_dataset", folder / "masks"
    command = ["MF_generate_image_samples.py", made / "background_test.csv", "--results_dir_path", out]
    model = ["--object_model_checkpoint_path", folder / "fg", "--layers", "--batch_size", "4", *QUIET]
    run(*command, *model)
    split = read_split(out / "background_test.csv", base_dir=out)
    assert len(split) == FRAMES
    for row in range(FRAMES):
        labels = read_labels(split.path(row, "Pred"))
        assert labels.shape == image_size(split.path(row, "Image"))
        assert labels.max() <= 3
        with np.load(out / "slots" / "fixed_camera_000" / f"{row:05d}.npz") as slots:
            assert slots["latents"].shape == (3, 9)
            np.testing.assert_allclose(slots["weights"].astype(float).sum(0), 1, atol=1e-2)
    assert (out / "sample_0.png").exists()
    assert (out / "overlays" / "fixed_camera_000.mp4").exists()
    before = contents(out)
    for kind, suffix in (("labels", "png"), ("slots", "npz")):
        (out / kind / "fixed_camera_000" / f"00003.{suffix}").unlink()
    run(*command, *model)
    after = contents(out)
    assert {k: v for k, v in after.items() if "overlays" not in k} == {
        k: v for k, v in before.items() if "overlays" not in k
    }


def test_masks_of_a_folder_of_unseen_pictures(folder: Path, tmp_path: Path) -> None:
    for number in range(3):
        write_image(tmp_path / "new" / f"{number}.png", np.full((50, 70, 3), 100 + number, np.uint8))
    model = ["--object_model_checkpoint_path", folder / "fg", "--background_model", folder / "bg", *QUIET]
    run("MF_generate_image_samples.py", tmp_path / "new", "--results_dir_path", tmp_path / "out", *model)
    split = read_split(tmp_path / "out" / "new.csv", base_dir=tmp_path / "out")
    assert [read_labels(split.path(row, "Pred")).shape for row in range(3)] == [(50, 70)] * 3


def test_scores_with_their_protocol(folder: Path) -> None:
    made = folder / "bg" / "background_dataset"
    arguments = [made / "background_test.csv", "--object_model_checkpoint_path", folder / "fg"]
    run("MF_evaluate_on_test_dataset.py", *arguments, "--batch_size", "4", "--gpus", "0")
    scores = {score["name"]: score for score in json.loads((folder / "fg" / "evaluation" / "scores.json").read_text())}
    assert {"mse_image", "miou_image_hungarian", "ari_image", "ari_fg_image", "msc_fg_image"} <= set(scores)
    assert scores["miou_image_hungarian"]["protocol"]["matching"] == "hungarian"
    assert scores["msc_fg_image"]["n"] == FRAMES
    with (folder / "fg" / "evaluation" / "per_frame.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert float(np.mean([float(row["mse_image"]) for row in rows])) == pytest.approx(scores["mse_image"]["value"])


def test_background_masks_beside_simple_subtractors(folder: Path, tmp_path: Path) -> None:
    split = folder / "bg" / "background_dataset" / "background_train.csv"
    run("background/evaluate_masks.py", split, "--baselines", "--out", tmp_path / "scores.json")
    names = {score["name"] for score in json.loads((tmp_path / "scores.json").read_text())}
    assert {"background_f_measure_pixel", "median_raw_f_measure_pixel", "mog2_cleaned_recall_pixel"} <= names


def test_aid_from_the_masks_of_step_two(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    aid = ["--startup_aid", "mask_hint", *QUIET, "--out", tmp_path / "run"]
    run("MF_train.py", *triples(folder), *TINY_MODEL, *TINY_LOSS, *FROZEN, *aid)
    made = folder / "bg" / "background_dataset"
    split = read_split(made / "background_train.csv", base_dir=made)
    frame = FrameFiles(split, Reading(32, 40, foreground=True)).arrays(3)
    np.testing.assert_array_equal(frame["foreground"][0], read_labels(split.path(3, "BackgroundMask")))
    learner = restore_slots(folder / "fg")
    pieces = torch.zeros(1, 1, 32, 40)
    pieces[..., 8:16, 8:16] = 255
    images = torch.rand(1, 3, 32, 40)
    logits, pooled = learner.encoder.attended(images)
    latents = learner.encoder.refined(pooled)
    learner.loss_options = replace(learner.loss_options, startup_aid="mask_hint", startup_steps=10)
    given = learner.renderer(latents, images), logits, latents, images, images  # nothing differs from the background
    with torch.no_grad():
        assert learner.aid(*given, pieces) > learner.aid(*given, torch.zeros_like(pieces))
    bare = ["--train_dataset_input_path", made / "input_images_train"]
    bare += ["--train_dataset_background_path", made / "backgrounds_rgba_train"]
    message = fails(capsys, "MF_train.py", *bare, *TINY_MODEL, *TINY_LOSS, *FROZEN, *aid[:-1], tmp_path / "bare")
    assert "BackgroundMask" in message
    assert "--startup_aid" in message


def test_curriculum_lets_the_background_join(folder: Path, tmp_path: Path) -> None:
    before = restore_background(folder / "bg").model.state_dict()
    more = ["--background_model", folder / "bg", "--number_of_training_steps", "6", "--out", tmp_path / "run"]
    curriculum = [*triples(folder), *TINY_MODEL, *TINY_LOSS, *QUIET, *more]
    for freeze, moved in (("6", False), ("2", True)):
        out = tmp_path / f"freeze{freeze}"
        run("MF_train.py", *curriculum, "--background_weights_freeze_duration", freeze, "--out", out)
        learner = restore_slots(out)
        assert learner.background is not None
        same = all(torch.equal(value, before[key]) for key, value in learner.background.state_dict().items())
        assert same is not moved
        state = torch.load(out / "checkpoints" / "last.ckpt", weights_only=True)["optimizer_states"][0]["state"]
        updates = {int(values["step"]) for values in state.values()}
        assert updates == ({4} if moved else {6})  # the moments were forgotten when the background joined


def test_curriculum_with_dropout_resumes_exactly(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stopped at every update around the switch, batch normalisation and dropout included."""
    shared = [*triples(folder), *TINY_MODEL, *TINY_LOSS, *QUIET, "--background_model", folder / "bg"]
    shared += ["--background_weights_freeze_duration", "3", "--startup_aid", "component_hint", "--startup_steps", "3"]
    shared += ["--number_of_training_steps", "6", "--val_every", "6"]
    run("MF_train.py", *shared, "--out", tmp_path / "whole")
    parts = [*map(str, shared), "--out", str(tmp_path / "parts"), "--resume"]
    for stop in (2, 3, 4):
        monkeypatch.setattr(LastCheckpoint, "_asked_to_stop", lambda self, trainer, at=stop: trainer.global_step == at)
        assert script("MF_train.py").main(parts) == 130
    monkeypatch.undo()
    run("MF_train.py", *parts)
    whole, resumed = (
        torch.load(tmp_path / name / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
        for name in ("whole", "parts")
    )
    for key, value in whole.items():
        assert torch.equal(value, resumed[key]), key


def test_version_one_and_restart(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    more = ["--paper_version", "1", "--real_world_video", "--restart_if_inactive", "2", "--out", tmp_path / "run"]
    run("MF_train.py", *triples(folder), *TINY_MODEL, *TINY_LOSS, *FROZEN, *QUIET, *more)
    told = capsys.readouterr().out
    assert [f"restart {number} with other weights" in told for number in range(1, 7)] == [True] * 5 + [False]
    content = torch.load(tmp_path / "run" / "checkpoints" / "last.ckpt", weights_only=True)
    assert int(content["state_dict"]["start"]) == 10
    assert content["global_step"] == 14


def test_unsupervised_mode_takes_narrow_networks_for_a_still_scene(folder: Path, tmp_path: Path) -> None:
    data = ["--data_file", folder / "data" / "fixed_camera", "--base_dir", folder / "data"]
    options = ["--unsupervised_mode", "--n_eval", "2", "--n_simple", "4", "--batch_size", "4", "--val_every", "2"]
    arguments = [*data, *options, *QUIET, "--cache_dir", folder / "cache", "--out", tmp_path / "run"]
    run("background/train.py", *arguments)
    decision = json.loads((tmp_path / "run" / "probe" / "decision.json").read_text())
    assert decision["complex"] is False
    learner = restore_background(tmp_path / "run")
    assert (learner.model.complexity, learner.num_updates) == (False, 4)
    run(
        "background/train.py",
        *arguments,
        "--tau_0",
        "0.0",
        "--n_complex",
        "2",
        "--e_complex",
        "1",
        "--out",
        tmp_path / "wide",
    )
    assert restore_background(tmp_path / "wide").model.complexity


def test_published_foreground_file(folder: Path, tmp_path: Path) -> None:
    from ast_seg.checkpoints import export_state
    from ast_seg.model.slots import position_map

    ours = restore_slots(folder / "fg")
    background = restore_background(folder / "bg").model
    parts = published_background(background, {})
    encoder = {**export_state(ours.encoder), "position_map": position_map(32, 40)[None]}
    content = {
        "encoder_state_dict": encoder,
        "generator_state_dict": export_state(ours.renderer),
        "background_encoder_state_dict": parts["encoder_state_dict"],
        "background_generator_state_dict": parts["generator_state_dict"],
    }
    torch.save(content, tmp_path / "published.pth")
    known = {"unet_widths": [8, 16], "transformer_nhead": 2, "max_scaling_factor": 8.0}
    theirs = restore_slots(tmp_path / "published.pth", **known)
    images = torch.rand(2, 3, 32, 40)
    with torch.no_grad():
        stored = theirs.live_background(images)
        expected, found = (learner(images, stored).rendering.log_weights for learner in (ours, theirs))
    torch.testing.assert_close(found, expected)


def test_the_chain_is_one_command_and_does_nothing_twice(tmp_path: Path) -> None:
    sizes = ["--embedded_frames", "8", "--background.n_iterations", "3", "--background.val_every", "3"]
    sizes += ["--loss.number_of_training_steps", "3", "--loss.val_every", "3", "--loss.startup_steps", "2"]
    command = [sys.executable, ROOT / "ast" / "run.py", "--config", ROOT / "ast" / "configs" / "embedded.yaml"]
    command += [*sizes, *QUIET, "--out", "run", "--cache_dir", "cache"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    for more in ([], ["--resume"]):
        done = subprocess.run(
            [*command, *more], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300, check=False
        )
        assert done.returncode == 0, done.stderr
    assert "finished already" in done.stdout
    run_dir = tmp_path / "run"
    scores = {score["name"] for score in json.loads((run_dir / "scores.json").read_text())}
    assert {"msc_fg_image", "background_f_measure_pixel"} <= scores
    assert len(list((run_dir / "predictions" / "objects").rglob("*.png"))) == 8
    report = (run_dir / "report.html").read_text()
    assert "msc_fg_image" in report
    assert "Samples" in report
    assert not list(run_dir.rglob("*.tmp*"))


def test_background_only_stops_after_step_two(tmp_path: Path) -> None:
    prefix = make_clip(tmp_path / "data", 8)
    data = ["--data_file", prefix, "--base_dir", tmp_path / "data", "--cache_dir", tmp_path / "cache"]
    sizes = ["--background.background_complexity", "false", "--background.n_iterations", "2"]
    run("run.py", *data, *sizes, "--background.batch_size", "4", "--background_only", *QUIET, "--out", tmp_path / "run")
    names = {score["name"] for score in json.loads((tmp_path / "run" / "scores.json").read_text())}
    assert {"background_f_measure_pixel", "median_cleaned_f_measure_pixel"} <= names
    assert "background_f_measure_pixel" in (tmp_path / "run" / "report.html").read_text()
    assert not (tmp_path / "run" / "checkpoints").exists()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["MF_generate_image_samples.py", "MF_evaluate_on_test_dataset.py"])
def test_kill_during_masks_or_scores_loses_nothing(folder: Path, tmp_path: Path, name: str) -> None:
    """Killed when the first files are there, or half of the time has passed; then the same command again."""
    make_clip(tmp_path / "data", 60)
    data = ["--data_file", "data/fixed_camera_train.csv", "--batch_size", "4", "--gpus", "0"]
    command = [sys.executable, ROOT / "ast" / name, *data, "--object_model_checkpoint_path", folder / "fg"]
    command += ["--background_model", folder / "bg", "--results_dir_path"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    quiet, took = subprocess.DEVNULL, 0.0
    for out in ("whole", "parts"):
        if out == "parts":
            killed = subprocess.Popen([*command, out], cwd=tmp_path, env=environment, stdout=quiet, stderr=quiet)
            deadline = time.monotonic() + took / 2  # scores are written at the end, masks one by one
            while time.monotonic() < deadline and killed.poll() is None:
                if len(list((tmp_path / "parts").rglob("labels/*/*.png"))) > 4:
                    break
                time.sleep(0.01)
            killed.send_signal(signal.SIGKILL)
            assert killed.wait() == -signal.SIGKILL
        started = time.monotonic()
        subprocess.run([*command, out], cwd=tmp_path, env=environment, check=True, capture_output=True)
        took = time.monotonic() - started
    whole, parts = contents(tmp_path / "whole"), contents(tmp_path / "parts")
    assert whole.keys() == parts.keys()
    timed = {key for key in whole if key.endswith(".mp4") or "prediction.json" in key}
    assert not [key for key in whole.keys() - timed if whole[key] != parts[key]]


@pytest.mark.slow
def test_kill_during_step_two_loses_nothing(folder: Path, tmp_path: Path) -> None:
    make_clip(tmp_path / "data", 60)
    data = ["--data_file", "data/fixed_camera", "--base_dir", "data", "--batch_size", "4", *QUIET]
    script = ROOT / "ast" / "background" / "generate_background_dataset.py"
    command = [sys.executable, script, "--saved_model_path", folder / "bg", *data, "--results_dir_path"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    subprocess.run([*command, "whole"], cwd=tmp_path, env=environment, check=True, capture_output=True)
    process = subprocess.Popen([*command, "parts"], cwd=tmp_path, env=environment, stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and len(list((tmp_path / "parts" / "masks_train").glob("bin*"))) < 5:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    subprocess.run([*command, "parts"], cwd=tmp_path, env=environment, check=True, capture_output=True)
    whole, parts = contents(tmp_path / "whole"), contents(tmp_path / "parts")
    assert {k: v for k, v in whole.items() if k.endswith("png")} == {
        k: v for k, v in parts.items() if k.endswith("png")
    }
