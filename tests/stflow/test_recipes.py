"""Every recipe in configs/ is complete, commented, and loads."""

from pathlib import Path

import pytest
import yaml

from common import cli
from common.options import RunOptions, TrainerFlags
from stflow.options import ALIASES, ChainOptions, EmbeddedDataOptions, ModelOptions

CONFIGS = sorted((Path(__file__).resolve().parents[2] / "stflow" / "configs").glob("*.yaml"))
CLASSES = (ChainOptions, ModelOptions, EmbeddedDataOptions, RunOptions, TrainerFlags)


@pytest.mark.parametrize("file", CONFIGS, ids=lambda file: file.stem)
def test_recipe_loads(file: Path) -> None:
    options = cli.parse(CLASSES, ["--config", str(file)], ALIASES)
    flat = {name: getattr(part, name) for part in options for name in part.__dataclass_fields__}
    for key, value in yaml.safe_load(file.read_text()).items():
        if not isinstance(value, dict):
            assert flat[key] == value or str(flat[key]) == str(value), key


def test_the_defaults_are_the_publication() -> None:
    recipe = yaml.safe_load((CONFIGS[0].parent / "publication.yaml").read_text())
    model = cli.parse([ModelOptions], [])[0]
    for key, value in recipe.items():
        if hasattr(model, key) and not isinstance(value, dict):
            assert getattr(model, key) == value, key
    assert (model.unet.features_start, model.unet.num_layers, model.optim.lr) == (32, 3, 1e-4)


@pytest.mark.parametrize("file", CONFIGS, ids=lambda file: file.stem)
def test_every_key_of_a_recipe_has_a_comment_above_it_or_its_group(file: Path) -> None:
    lines = file.read_text().splitlines()
    commented = False
    for line in lines:
        if not line.strip():
            commented = False
        elif line.startswith("#"):
            commented = True
        elif not line.startswith(" "):
            assert commented, f"{file.name}: {line} has no comment"
