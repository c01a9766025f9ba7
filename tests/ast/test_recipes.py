"""Every recipe is complete, loads through its command's options, and has the published values."""

import dataclasses
from pathlib import Path

import pytest
import yaml

from ast_seg.networks import check_model
from ast_seg.options import (
    BackgroundOptions,
    ChainOptions,
    ExportOptions,
    FrameOptions,
    LossOptions,
    ModelOptions,
    TripleOptions,
)
from ast_seg.presets import chain_recipe, names
from ast_seg.schedules import background_iterations
from common import cli
from common.options import RunOptions, TrainerFlags
from tests.ast.commands import ROOT

CONFIGS = ROOT / "ast" / "configs"
SIDES = {"clevrtex": (128, 128), "clevr": (128, 128), "shapestacks": (64, 64), "objects_room": (64, 64)}
SLOTS = {
    "clevrtex": 10,
    "clevr": 10,
    "shapestacks": 6,
    "objects_room": 3,
    "southampton2": 24,
    "trekell": 16,
    "varna3": 16,
}
ISOTROPIC = {"clevr", "shapestacks"}
STREETS = ("southampton2", "trekell", "varna3")


def load(file: Path, *classes: type) -> tuple[object, ...]:
    return cli.parse((*classes, RunOptions, TrainerFlags), ["--config", str(file)])


@pytest.mark.parametrize("name", names("background"))
def test_background_recipes(name: str) -> None:
    file = CONFIGS / "background" / f"{name}.yaml"
    options, data, *_ = load(file, BackgroundOptions, FrameOptions)
    assert isinstance(options, BackgroundOptions)
    assert isinstance(data, FrameOptions)
    given = set(yaml.safe_load(file.read_text()))
    assert {item.name for item in dataclasses.fields(BackgroundOptions)} <= given
    if name in SIDES:
        assert (data.image_height, data.image_width, options.batch_size) == (*SIDES[name], 128)
        expected = (2500, False) if name == "clevr" else (500_000, True)
        assert (options.n_iterations, options.background_complexity) == expected
    if name in STREETS:
        found = (data.image_height, data.image_width, options.batch_size, options.n_iterations)
        assert found == (200, 320, 64, 10_000)
        assert options.background_complexity
    assert (options.beta, options.r, options.tau_0, options.tau_1, options.alpha_2) == (6, 75, 0.24, 0.25, 7)
    assert options.alpha_1 == 96 / 255


@pytest.mark.parametrize("name", names("foreground"))
def test_foreground_recipes(name: str) -> None:
    file = CONFIGS / "foreground" / f"{name}.yaml"
    model, loss, *_ = load(file, ModelOptions, LossOptions, TripleOptions)
    assert isinstance(model, ModelOptions)
    assert isinstance(loss, LossOptions)
    check_model(model)
    fields = {item.name for kind in (ModelOptions, LossOptions) for item in dataclasses.fields(kind)}
    assert fields - {"background_model"} <= set(yaml.safe_load(file.read_text()))
    if name in SLOTS:
        assert model.max_set_size == SLOTS[name]
        assert model.isotropic_scaling == (name in ISOTROPIC)
        assert model.feature_map_generator_name == "Segformer"
        assert loss.startup_aid == "none"
        assert model.background_model_training_scenario == "curriculum_training"
    published = (loss.batch_size, loss.learning_rate, loss.number_of_training_steps, loss.warmup)
    if name in SIDES:
        assert published == (64, 4e-5, 125_000, 5000)
        assert (model.max_scaling_factor, model.z_what_dim, loss.background_weights_freeze_duration) == (24, 32, 30_000)
    else:
        assert published == (24, 1e-5, 500_000, 20_000)
        assert model.max_scaling_factor == 40
    if name in STREETS:
        assert model.z_what_dim == (16 if name == "southampton2" else 24)
        assert model.variable_background_activation


@pytest.mark.parametrize("name", sorted(set(names("background")) & set(names("foreground"))))
def test_a_data_set_s_recipes_make_a_chain(name: str) -> None:
    classes = (ChainOptions, ExportOptions, RunOptions, TrainerFlags)
    chain, *_ = cli.parse(classes, [], defaults=chain_recipe(name))
    background = yaml.safe_load((CONFIGS / "background" / f"{name}.yaml").read_text())
    foreground = yaml.safe_load((CONFIGS / "foreground" / f"{name}.yaml").read_text())
    assert chain.background.n_iterations == background["n_iterations"]
    assert chain.model.max_set_size == foreground["max_set_size"]
    assert chain.loss.warmup == foreground["warmup"]


@pytest.mark.parametrize("name", ["embedded", "traffic"])
def test_chain_recipes(name: str) -> None:
    classes = (ChainOptions, ExportOptions, RunOptions, TrainerFlags)
    chain, *_ = cli.parse(classes, ["--config", str(CONFIGS / f"{name}.yaml")])
    check_model(chain.model)
    fades = chain.loss.startup_steps < chain.loss.number_of_training_steps
    assert (chain.loss.startup_aid, fades) == {"embedded": ("component_hint", True), "traffic": ("mask_hint", False)}[
        name
    ]
    assert chain.loss.number_of_training_steps <= 2000
    assert chain.model.background_model_training_scenario == "frozen_weights"


def test_highway_recipe_has_the_background_settings_of_traffic() -> None:
    highway, traffic = (
        cli.parse((ChainOptions, ExportOptions, RunOptions, TrainerFlags), ["--config", str(CONFIGS / f"{name}.yaml")])[
            0
        ]
        for name in ("highway", "traffic")
    )
    assert highway.background_only
    assert (highway.background, highway.cleaning) == (traffic.background, traffic.cleaning)


def test_every_key_of_a_recipe_has_a_comment() -> None:
    for file in CONFIGS.glob("*ground/*.yaml"):
        lines = file.read_text().splitlines()
        keys = [place for place, line in enumerate(lines) if line and line[0] not in "# "]
        assert all(lines[place - 1].startswith("# ") for place in keys), file


def test_scenes_are_the_published_policies() -> None:
    assert background_iterations("fixed", 100, 32) == 2500
    assert background_iterations("lighting", 100, 32) == 10_000
    assert background_iterations("moving", 50_000, 32) == 20 * 1562
    assert background_iterations("synthetic", 100, 32) == 500_000
