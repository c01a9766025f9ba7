"""train.py and run.py: the model is found before the options are, from the command line or from a recipe."""

from pathlib import Path

import pytest

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
