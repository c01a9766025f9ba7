"""Every recipe of WNet and Segmenter is commented, loads, and asks for what can be trained."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from common import cli
from common.options import TrainerFlags
from transformer_seg.options import SystemRunOptions, aliases_of, option_class
from transformer_seg.segmenter.options import SegmenterOptions, check_segmenter
from transformer_seg.segmenter.sizes import encoder_sizes
from transformer_seg.wnet.options import WnetOptions, check_wnet

FOLDER = Path(__file__).resolve().parents[2] / "transformer_seg" / "configs"
CONFIGS = [
    file for file in sorted(FOLDER.glob("*.yaml")) if yaml.safe_load(file.read_text())["model"] in ("wnet", "segmenter")
]


def parsed(file: Path) -> tuple[Any, ...]:
    model = yaml.safe_load(file.read_text())["model"]
    classes = [option_class(model, part) for part in ("ChainOptions", "Options", "DataOptions")]
    return cli.parse([*classes, SystemRunOptions, TrainerFlags], ["--config", str(file)], aliases_of(model))


@pytest.mark.parametrize("file", CONFIGS, ids=lambda file: file.stem)
def test_recipe_loads_and_can_be_trained(file: Path) -> None:
    _, model, data, *_ = options = parsed(file)
    if isinstance(model, WnetOptions):
        check_wnet(model, data)
    else:
        check_segmenter(model, data, encoder_sizes(model).arguments["patch_size"])
    flat = {name: getattr(part, name) for part in options for name in part.__dataclass_fields__}
    for key, value in yaml.safe_load(file.read_text()).items():
        if not isinstance(value, dict):
            assert flat[key] == value or str(flat[key]) == str(value), key


@pytest.mark.parametrize("file", CONFIGS, ids=lambda file: file.stem)
def test_every_key_of_a_recipe_has_a_comment_above_it_or_its_group(file: Path) -> None:
    commented = False
    for line in file.read_text().splitlines():
        if not line.strip():
            commented = False
        elif line.startswith("#"):
            commented = True
        elif not line.startswith(" "):
            assert commented, f"{file.name}: {line} has no comment"


def test_the_defaults_of_segmenter_are_the_publication() -> None:
    recipe = yaml.safe_load((FOLDER / "segmenter_ade20k.yaml").read_text())
    for defaults in (SegmenterOptions(), option_class("segmenter", "DataOptions")()):
        for key in recipe:
            if hasattr(defaults, key) and key not in ("num_workers", "window_stride"):
                assert getattr(defaults, key) == recipe[key], key
