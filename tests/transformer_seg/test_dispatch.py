"""train.py and run.py: the model is found before the options are, from the command line or from a recipe."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from common.errors import InputError
from transformer_seg import run, train
from transformer_seg.options import chosen_model


@pytest.mark.parametrize("command", [run, train])
def test_says_which_models_there_are(command, capsys):
    assert command.main(["--help"]) == 0
    assert "wnet,segmenter,dino" in capsys.readouterr().out


@pytest.mark.parametrize("argv", [[], ["--model"], ["--model=unet"], ["--model", "DINO"]])
def test_missing_or_unknown_model_is_one_line(argv, capsys):
    assert train.main(argv) == 2
    line = capsys.readouterr().err
    assert line.count("\n") == 1
    assert "--model: choose from wnet, segmenter, dino" in line


def test_the_command_line_wins_over_the_recipe(tmp_path: Path):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("model: dino\n")
    assert chosen_model(["--config", str(recipe)], "train.py") == "dino"
    assert chosen_model(["--config", str(recipe), "--model=wnet"], "train.py") == "wnet"


def test_unreadable_recipe(tmp_path: Path):
    with pytest.raises(InputError, match=r"none\.yaml: not a readable YAML"):
        chosen_model([f"--config={tmp_path / 'none.yaml'}"], "train.py")


@pytest.mark.parametrize("model", ["wnet", "segmenter"])
def test_the_original_command_line_from_inside_the_folder(model: str, tmp_path: Path) -> None:
    small = {
        "wnet": ["--image-size=16", "--width=4", "--num-classes=3"],
        "segmenter": ["--image-size=32", "--crop-size=16", "--arch=custom", "--embed_dim=64", "--depth=1", "--heads=1"],
    }
    original = ["--batch-size=16", "--epochs=30", "--learning-rate=0.001", "--save-model", "--save-logs"]
    done = subprocess.run(
        [
            *(sys.executable, "-m", "train", f"--model={model}", *original, *small[model]),
            *("--fast_dev_run", f"--output-dir={tmp_path / 'run'}"),
        ],
        cwd=Path(train.__file__).parent,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    assert "embedded scenes of 32 x 32 pixels" in done.stdout


@pytest.mark.parametrize("command", [run, train])
@pytest.mark.parametrize("model", ["wnet", "segmenter", "dino"])
@pytest.mark.parametrize("flag", ["--gpus=1", "--accelerator=gpu"])
def test_a_missing_gpu_is_refused_before_anything_is_written(command, model, flag, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    data = [f"--data_file={tmp_path / 'none'}"] if (command, model) == (train, "dino") else []
    assert command.main([f"--model={model}", flag, f"--out={tmp_path / 'run'}", *data]) == 2
    assert "torch sees no CUDA device here" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_help_of_a_model_names_the_original_flags(capsys):
    for model in ("wnet", "segmenter"):
        with pytest.raises(SystemExit, match="0"):
            train.main([f"--model={model}", "--help"])
        text = capsys.readouterr().out
        for flag in ("--batch_size", "--max_epochs", "--learning_rate", "--pretrained", "--save_model", "--save_logs"):
            assert flag in text
        assert "Other spellings" in text
