"""A user's mistakes: one line each, with the file or flag, the value and the remedy; nothing is written before."""

from pathlib import Path

import numpy as np
import pytest
import torch

from ast_seg.foreground_module import SlotLearner
from ast_seg.options import LossOptions, ModelOptions
from ast_seg.restore import load_slots, published_background, restore_background, restore_slots
from common.errors import InputError
from common.files import write_image, write_labels
from common.splits import read_split, write_split
from tests.ast.commands import FROZEN, QUIET, TINY_BACKGROUND, TINY_LOSS, TINY_MODEL, fails, make_clip, run


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A clip, its true backgrounds as a Background column, and checkpoints of both stages without training."""
    from ast_seg.model.background import BackgroundModel

    folder = tmp_path_factory.mktemp("bad")
    make_clip(folder / "data", 8)
    for step in ("train", "val", "test"):
        text = (folder / "data" / f"fixed_camera_{step}.csv").read_text()
        (folder / "data" / f"triple_{step}.csv").write_text(text.replace("GtBackground", "Background"))
    networks = BackgroundModel(height=32, width=40, complexity=False)
    torch.save(published_background(networks, {}), folder / "bg.pth")
    run("MF_train.py", *triples(folder), *TINY_MODEL, *TINY_LOSS, *FROZEN, *QUIET, "--out", folder / "fg")
    return folder


def triples(folder: Path) -> list[object]:
    data = folder / "data"
    return ["--data_file", data / "triple", "--base_dir", data, "--cache_dir", folder / "cache"]


def background(folder: Path, *more: object) -> list[object]:
    return [
        "background/train.py",
        *TINY_BACKGROUND,
        *QUIET,
        "--out",
        folder / "never",
        "--cache_dir",
        folder / "c",
        *more,
    ]


def foreground(folder: Path, *more: object) -> list[object]:
    return ["MF_train.py", *triples(folder), *TINY_MODEL, *TINY_LOSS, *QUIET, "--out", folder / "never", *more]


def pictures(folder: Path, *sizes: tuple[int, int]) -> Path:
    for number, size in enumerate(sizes):
        write_image(folder / f"{number:06d}.png", np.full((*size, 3), 90, np.uint8))
    return folder


def test_nothing_named(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "--data_file NAME (a data split) or --train_dataset_path FOLDER" in fails(capsys, *background(folder))


def test_folders_that_are_not_there_or_empty(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    absent = fails(capsys, *background(folder, "--train_dataset_path", tmp_path / "no"))
    assert "no: no such folder" in absent
    (tmp_path / "empty").mkdir()
    assert "no image in this folder" in fails(capsys, *background(folder, "--train_dataset_path", tmp_path / "empty"))


def test_images_of_two_sizes(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    images = pictures(tmp_path / "in", (32, 40), (32, 40), (30, 40))
    line = fails(capsys, *background(folder, "--train_dataset_path", images))
    assert "000002.png: 30x40 pixels, but 000000.png has 32x40" in line
    assert "--image_height" in line
    run(*background(tmp_path, "--train_dataset_path", images, "--image_height", 32, "--image_width", 40))


def test_sizes_that_the_background_networks_cannot_take(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    line = fails(capsys, *background(folder, "--train_dataset_path", pictures(tmp_path, (20, 20), (20, 20))))
    assert "image size 20x20" in line
    assert "25..192 or 200..3645" in line
    only = fails(capsys, *background(folder, "--train_dataset_path", tmp_path, "--image_height", 32))
    assert "give both" in only


def test_damaged_image_is_named_or_left_out(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    images = pictures(tmp_path / "in", *[(32, 40)] * 6)
    whole = (images / "000003.png").read_bytes()
    noise = np.random.default_rng(0).integers(0, 255, (32, 40, 3), dtype=np.uint8)
    write_image(images / "000003.png", noise)
    whole = (images / "000003.png").read_bytes()
    (images / "000003.png").write_bytes(whole[: len(whole) // 2])
    line = fails(capsys, *background(folder, "--train_dataset_path", images))
    assert "000003.png: not a readable image" in line
    run(*background(tmp_path, "--train_dataset_path", images, "--skip_bad"))
    assert "left out: " in capsys.readouterr().err


def test_grey_and_transparent_images_are_converted(tmp_path: Path) -> None:
    from PIL import Image

    (tmp_path / "in").mkdir()
    for number, mode in enumerate(("L", "RGBA", "I;16", "P")):
        Image.new(mode, (40, 32), 100).save(tmp_path / "in" / f"{number}.png")
    run(*background(tmp_path, "--train_dataset_path", tmp_path / "in"))


def test_fewer_images_than_a_batch(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    images = pictures(tmp_path / "in", *[(32, 40)] * 3)
    run(*background(tmp_path, "--train_dataset_path", images, "--batch_size", "64"))
    assert "3 images make no batch of 64; the batch has all of them" in capsys.readouterr().err


def test_folders_that_do_not_belong_together(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    one = pictures(tmp_path / "in", *[(32, 40)] * 4)
    for number in (0, 1, 3, 4):
        write_image(tmp_path / "bg" / f"background_{number:06d}.png", np.zeros((32, 40, 3), np.uint8))
    for path in sorted(one.iterdir()):
        path.rename(path.with_name(f"input_image_{path.name}"))
    named = ["--train_dataset_input_path", one, "--train_dataset_background_path", tmp_path / "bg"]
    line = fails(capsys, "MF_train.py", *named, *TINY_MODEL, *TINY_LOSS, *FROZEN, *QUIET, "--out", tmp_path / "never")
    assert "input_image_000002.png would be paired with" in line
    (tmp_path / "bg" / "background_000004.png").unlink()
    line = fails(capsys, "MF_train.py", *named, *TINY_MODEL, *TINY_LOSS, *FROZEN, *QUIET, "--out", tmp_path / "never")
    assert "in has 4" in line
    assert "bg has 3" in line


def test_no_backgrounds(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plain = ["--data_file", folder / "data" / "fixed_camera"]
    line = fails(capsys, *foreground(folder, *FROZEN, *plain))
    assert "has no background for every image" in line
    assert "generate_background_dataset.py" in line


@pytest.mark.parametrize(
    ("more", "part"),
    [
        (["--max_set_size", "0"], "--max_set_size 0: give at least 1"),
        (["--z_what_dim", "0"], "--z_what_dim 0: give at least 1"),
        (["--max_scaling_factor", "1.2"], "--max_scaling_factor 1.2: must be larger than --min_scaling_factor 1.3"),
        (["--transformer_nhead", "3"], "must be a multiple of --transformer_nhead 3"),
        (["--unet_widths", "8", "8", "8", "8", "8", "8", "8"], "give fewer --unet_widths, or larger images"),
        (["--number_of_training_steps", "0"], "--number_of_training_steps 0: give at least 1"),
        (["--startup_steps", "-1"], "--startup_steps -1: give 0 or more"),
        (["--feature_map_generator_name", "Segnet"], "choose from Unet, Segformer"),
        (["--dataset", "coco"], "--dataset coco: unknown, choose one of"),
        (
            ["--feature_map_generator_name", "Segformer", "--pretrained_backbone_weights_reference", "no/such"],
            "name a local folder, or none for random weights",
        ),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_options_that_cannot_work(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, more: list[str], part: str
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert part in fails(capsys, *foreground(folder, *FROZEN, *more))
    assert not (folder / "never").exists()


def test_curriculum_without_or_with_other_background_networks(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from ast_seg.model.background import BackgroundModel

    assert "needs the trained background networks" in fails(capsys, *foreground(folder))
    torch.save(published_background(BackgroundModel(height=32, width=32, complexity=False), {}), tmp_path / "b.pth")
    line = fails(capsys, *foreground(folder, "--background_model", tmp_path / "b.pth"))
    assert "background networks for 32x32 pixels, the images have 32x40" in line
    line = fails(capsys, *foreground(folder, "--background_model", folder / "fg"))
    assert "trained on frozen backgrounds, holds no background network" in line
    line = fails(capsys, *foreground(folder, *FROZEN, "--ckpt_path", folder / "bg.pth"))
    assert "not a foreground checkpoint" in line


def test_checkpoint_of_another_model(folder: Path) -> None:
    sizes = {"unet_widths": [8, 16], "transformer_dim": 16, "transformer_nhead": 2, "transformer_nlayers": 1}
    model = ModelOptions(max_set_size=5, z_what_dim=4, **sizes, background_model_training_scenario="frozen_weights")
    learner = SlotLearner(model, LossOptions(), (32, 40))
    with pytest.raises(InputError, match="max_set_size is 3, here 5"):
        load_slots(learner, folder / "fg")
    with pytest.raises(InputError, match="not a foreground checkpoint"):
        restore_slots(folder / "bg.pth")
    with pytest.raises(InputError, match="no such checkpoint file"):
        restore_background(folder / "absent.pth")


def test_code_in_a_checkpoint_is_refused(tmp_path: Path) -> None:
    torch.save({"encoder_state_dict": Path("x")}, tmp_path / "evil.pth")
    with pytest.raises(InputError, match="refused"):
        restore_background(tmp_path / "evil.pth")


def test_results_of_another_model_are_not_mixed(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = ["--data_file", folder / "data" / "fixed_camera", "--base_dir", folder / "data", *QUIET]
    command = ["background/generate_background_dataset.py", "--saved_model_path", folder / "bg.pth", *data]
    run(*command, "--results_dir_path", tmp_path / "out")
    line = fails(capsys, *command, "--results_dir_path", tmp_path / "out", "--rounding", "trunc")
    assert "holds predictions of another rounding (round, now trunc)" in line
    assert "--results_dir_path" in line
    assert "works at 32 pixels; leave the flag out" in fails(
        capsys, *command, "--results_dir_path", tmp_path / "new", "--image_height", "64", "--image_width", "64"
    )


def test_segmenting_without_backgrounds(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = ["--object_model_checkpoint_path", folder / "fg", *QUIET]
    images = pictures(tmp_path / "in", (32, 40))
    line = fails(capsys, "MF_generate_image_samples.py", images, *model, "--results_dir_path", tmp_path / "out")
    assert "give --background_model RUN" in line
    line = fails(capsys, "MF_generate_image_samples.py", *model)
    assert "name the images" in line
    absent = fails(capsys, "MF_generate_image_samples.py", tmp_path / "no.mp4", *model)
    assert "no.mp4: no such picture, folder, video or split" in absent


def test_evaluation_without_label_maps(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    images = pictures(tmp_path / "in", (32, 40))
    model = ["--object_model_checkpoint_path", folder / "fg", "--background_model", folder / "bg.pth"]
    line = fails(capsys, "MF_evaluate_on_test_dataset.py", images, *model)
    assert "has no label maps to score against" in line


def test_label_values_beyond_the_slots_and_void(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Labels above K count; void pixels do not."""
    source = read_split(folder / "data" / "triple", "test", folder / "data")
    rows = source.frame.to_dict("records")[:2]
    labels = np.full((32, 40), 255)
    labels[:16] = 0
    labels[:8, :8] = 9
    for row in rows:
        row["GtInstance"] = "many.png"
    write_labels(folder / "data" / "many.png", labels)
    write_split(folder / "data" / "many_test.csv", rows)
    arguments = [folder / "data" / "many_test.csv", "--object_model_checkpoint_path", folder / "fg"]
    run("MF_evaluate_on_test_dataset.py", *arguments, "--results_dir_path", tmp_path / "scores")
    assert (tmp_path / "scores" / "scores.json").exists()
    assert "2 images have labels above 3, more than there are slots" in capsys.readouterr().err


def test_a_label_beyond_bytes(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    images = pictures(tmp_path / "in", *[(32, 40)] * 2)
    for number in range(2):
        write_labels(tmp_path / "gt" / f"{number:06d}.png", np.full((32, 40), 300))
    line = fails(
        capsys, *background(folder, "--train_dataset_path", images, "--GT_train_dataset_path", tmp_path / "gt")
    )
    assert "label 300; at most 254 objects" in line


def test_a_loss_that_is_no_number_stops_the_run(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from tests.ast.commands import script

    arguments = foreground(folder, *FROZEN, "--learning_rate", "1e30", "--warmup", "0", "--out", folder / "nan")
    assert script(str(arguments[0])).main([str(argument) for argument in arguments[1:]]) == 1
    assert "lower the learning rate" in capsys.readouterr().err
    kept = np.load(folder / "nan" / "debug_batch.npz", allow_pickle=False)
    assert kept["image"].shape == kept["background"].shape == (4, 3, 32, 40)
    assert all(str(path).endswith(".png") for path in kept["path"])
    assert not np.isfinite(kept["loss"])


def test_two_names_for_the_data(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    images = pictures(tmp_path / "in", (32, 40))
    line = fails(capsys, "run.py", images, "--data_file", "x", "--out", tmp_path / "out", *QUIET)
    assert "name one of them only" in line


def test_training_starts_from_the_weights_of_a_run(folder: Path, tmp_path: Path) -> None:
    given = restore_slots(folder / "fg")
    more = ["--ckpt_path", folder / "fg", "--learning_rate", "1e-30", "--seed", "5", "--out", tmp_path / "again"]
    run("MF_train.py", *triples(folder), *TINY_MODEL, *TINY_LOSS, *FROZEN, *QUIET, *more)
    found = restore_slots(tmp_path / "again")
    for name, value in given.named_parameters():
        torch.testing.assert_close(dict(found.named_parameters())[name], value, msg=name)
    with pytest.raises(InputError, match="for images of 32x40, not 48x40"):
        load_slots(SlotLearner(given.options, LossOptions(), (48, 40)), folder / "fg")
