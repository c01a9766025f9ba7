"""Every recipe in configs/ is commented and loads; the published ones say what the authors' command lines say."""

from pathlib import Path

import pytest
import yaml

from common import cli
from common.options import RunOptions, TrainerFlags
from redo.options import ALIASES, ChainOptions, DataOptions, ModelOptions, WatchOptions, check_options

CONFIGS = sorted((Path(__file__).resolve().parents[2] / "redo" / "configs").glob("*.yaml"))
CLASSES = (ChainOptions, ModelOptions, WatchOptions, DataOptions, RunOptions, TrainerFlags)
COMMAND_LINES = {
    "flowers": "--dataset flowers --nfX 32 --useSelfAttG --useSelfAttD --clean",
    "lfw": "--dataset lfw --useSelfAttG --useSelfAttD --clean",
}
STOPPED_BY_HAND = {"nIteration", "autoRestart"}  # advice in words, not on the published command lines


@pytest.mark.parametrize("file", CONFIGS, ids=lambda file: file.stem)
def test_recipe_loads(file: Path) -> None:
    options = cli.parse(CLASSES, ["--config", str(file)], ALIASES)
    flat = {name: getattr(part, name) for part in options for name in part.__dataclass_fields__}
    for key, value in yaml.safe_load(file.read_text()).items():
        assert flat[key] == value or str(flat[key]) == str(value), key
    check_options(*options[1:4])


@pytest.mark.parametrize("name", COMMAND_LINES)
def test_published_recipes_are_the_published_command_lines(name: str) -> None:
    recipe = cli.parse(CLASSES, ["--config", str(CONFIGS[0].parent / f"{name}.yaml")], ALIASES)
    published = cli.parse(CLASSES, COMMAND_LINES[name].split(), ALIASES)
    for ours, theirs in zip(recipe[1:4], published[1:4], strict=True):
        for key in ours.__dataclass_fields__:
            assert key in STOPPED_BY_HAND or getattr(theirs, key) in (getattr(ours, key), None), key


@pytest.mark.parametrize("file", CONFIGS, ids=lambda file: file.stem)
def test_every_key_of_a_recipe_has_a_comment_above_it_or_its_group(file: Path) -> None:
    commented = False
    for line in file.read_text().splitlines():
        if not line.strip():
            commented = False
        elif line.startswith("#"):
            commented = True
        else:
            assert commented, f"{file.name}: {line} has no comment"
