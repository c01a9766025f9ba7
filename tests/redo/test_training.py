"""Training in one process: collapse and restarts, counters, states of the original, numbers that are none."""

import csv
import math
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from common.cli import guarded
from common.errors import InputError, RunFailed
from common.options import RunOptions, TrainerFlags
from common.synthetic import ObjectOptions
from common.synthetic import run as make_data
from redo import iteration
from redo.data import RedoDataModule
from redo.module import Redrawer
from redo.options import DataOptions, ModelOptions, WatchOptions
from redo.restarts import Restarts, attempt_seed
from redo.restore import restore
from redo.training import stretches, train

TINY = {"sizex": 32, "nz": 2, "nf": 4, "nResM": 1}
FLAGS = TrainerFlags(accelerator="cpu", enable_model_summary=False, log_every_n_steps=1)


@pytest.fixture(scope="module")
def shapes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("shapes")
    make_data(ObjectOptions(out=folder, num=10, num_val=4, num_test=0))
    return folder


def trained(shapes: Path, out: Path, *, flags: TrainerFlags = FLAGS, resume: bool = False, **options: Any) -> None:
    watch = {name: options.pop(name) for name in list(options) if name in WatchOptions.__dataclass_fields__}
    seed = options.pop("seed", 123)
    run = {name: options.pop(name) for name in list(options) if name in RunOptions.__dataclass_fields__}
    train(
        ModelOptions(**{**TINY, "nIteration": 4, **options}),
        WatchOptions(**{"checkpointFreq": 2, "nTest": 2, "silent": True, **watch}),
        DataOptions(data_file=shapes / "objects", base_dir=shapes, cache_dir=shapes / "cache", batchSize=4, seed=seed),
        RunOptions(out=out, resume=resume, sample_every=0, **run),
        flags,
    )


def rows(file: Path) -> list[dict[str, str]]:
    with file.open(newline="") as stream:
        return list(csv.DictReader(stream))


def last(out: Path) -> dict[str, Any]:
    return torch.load(out / "checkpoints" / "last.ckpt", map_location="cpu", weights_only=True)


def test_collapse_starts_again_with_another_seed_until_the_limit(
    shapes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A bound near one half makes every attempt a collapsed one."""
    out = tmp_path / "run"
    with pytest.raises(RunFailed, match="all 3 attempts collapsed"):
        trained(shapes, out, autoRestart=0.4999, maxRestarts=2)
    record = rows(out / "restarts.csv")
    assert [(row["attempt"], row["seed"], row["iteration"]) for row in record] == [
        ("0", "123", "2"),
        ("1", str(attempt_seed(123, 1)), "2"),
        ("2", str(attempt_seed(123, 2)), "2"),
    ]
    assert all(float(row["train_region"]) < 0.5 for row in record)
    assert all(row["action"] == "restart" for row in record)
    for attempt in range(3):
        assert (out / f"attempt_{attempt}" / "provenance.json").exists()
        assert not list((out / f"attempt_{attempt}").glob("state_*.pth")), "a collapsed state is not written"
    assert not (out / "checkpoints").exists()
    again = partial(trained, shapes, out, autoRestart=0.4999, maxRestarts=2, resume=True)
    assert guarded(again) == 3, "a script can tell it from other failures"
    assert capsys.readouterr().err.startswith(f"failed: {out}: all 3 attempts collapsed or got stuck")


def test_a_restarted_run_is_the_run_of_that_seed(shapes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing of the collapsed attempt lives on: networks, optimisers, order, noise and counters are new."""
    monkeypatch.setattr(Redrawer, "running_smallest_region", lambda self: 0.5 * (self.attempt > 0))
    trained(shapes, tmp_path / "again", autoRestart=0.4999, restartUntil=2, maxRestarts=1, clean=True)
    monkeypatch.undo()
    record = rows(tmp_path / "again" / "restarts.csv")
    assert record[0]["action"] == "restart"
    assert not (tmp_path / "again" / "attempt_0").exists(), "--clean deletes it"
    trained(
        shapes, tmp_path / "fresh", seed=attempt_seed(123, 1), nIteration=last(tmp_path / "again")["redo"]["iteration"]
    )
    first, second = last(tmp_path / "again"), last(tmp_path / "fresh")
    for part in ("state_dict", "redo"):
        for key, value in first[part].items():
            same = torch.equal(value, second[part][key]) if isinstance(value, Tensor) else value == second[part][key]
            assert same, key


def test_no_run_repeats_an_attempt_of_another() -> None:
    seeds = [attempt_seed(seed, attempt) for seed in range(200) for attempt in range(11)]
    assert len(set(seeds)) == len(seeds)
    assert all(attempt_seed(seed, 0) == seed for seed in (0, 123))


def test_late_collapse_stops_the_run_and_keeps_its_checkpoints(
    shapes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    trained(shapes, tmp_path / "run", autoRestart=0.4999, restartUntil=1, nIteration=20)
    assert "late collapse" in capsys.readouterr().err
    assert rows(tmp_path / "run" / "restarts.csv")[0]["action"] == "stop"
    assert last(tmp_path / "run")["redo"]["iteration"] == 2
    assert list((tmp_path / "run" / "checkpoints").glob("*val_loss*"))


def test_without_restarts_collapse_is_only_told(
    shapes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("redo.restarts.WARN_BELOW", 0.4999)
    trained(shapes, tmp_path / "run")
    assert capsys.readouterr().err.count("the run has collapsed; --autoRestart .1 would start again") == 1
    assert not (tmp_path / "run" / "restarts.csv").exists()


def test_a_region_drawn_for_nothing_starts_again(shapes: Path, tmp_path: Path) -> None:
    with pytest.raises(RunFailed, match="all 1 attempts collapsed"):
        trained(shapes, tmp_path / "run", stuckError=1e-6, stuckAfter=1, maxRestarts=0)
    with pytest.raises(RunFailed, match="all 1 attempts collapsed"):
        trained(shapes, tmp_path / "later", stuckError=1e-6, stuckAfter=3, maxRestarts=0)
    assert rows(tmp_path / "later" / "restarts.csv")[0]["iteration"] == "4"


def test_the_early_look_needs_no_evaluation(shapes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("redo.module.RUNNING", "redo.restarts.RUNNING", "redo.restarts.EARLY_EVERY"):
        monkeypatch.setattr(name, 3)
    with pytest.raises(RunFailed):
        trained(shapes, tmp_path / "run", autoRestart=0.4999, maxRestarts=0, nIteration=20, checkpointFreq=20)
    assert rows(tmp_path / "run" / "restarts.csv")[0]["iteration"] == "3"


def test_killed_while_setting_aside_repeats_the_attempt(tmp_path: Path) -> None:
    restarts = Restarts(tmp_path)
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "metrics.csv").write_text("x")
    row = {"attempt": 0, "seed": 1, "iteration": 2, "train_region": 0.1, "val_region": 0.1, "action": "restart"}
    (tmp_path / "attempt_0").mkdir()
    (tmp_path / "attempt_0" / "half.moved").write_text("of a process that was killed")
    assert restarts.count() == 0
    restarts.set_aside(row, clean=False)
    assert restarts.count() == 1
    assert sorted(path.name for path in (tmp_path / "attempt_0").iterdir()) == ["checkpoints", "metrics.csv"]


@pytest.mark.parametrize("part", ["loss of discriminator", "loss of mask network"])
def test_a_loss_that_is_no_number_stops_before_any_step(
    shapes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, part: str
) -> None:
    name = "hinge_loss" if "discriminator" in part else "adversarial_loss"
    monkeypatch.setattr(iteration, name, lambda *scores: scores[0].mean() * math.nan)
    with pytest.raises(RunFailed, match=f"iteration 0: the {part}"):
        trained(shapes, tmp_path / "run")


def test_states_in_the_originals_layout_continue_a_run(shapes: Path, tmp_path: Path) -> None:
    """Continuing from a container is continuing the run, counters and Adam included."""
    trained(shapes, tmp_path / "whole", nIteration=6)
    trained(shapes, tmp_path / "part", nIteration=2)
    (tmp_path / "rest").mkdir()
    state = tmp_path / "part" / "state_00002.pth"
    (tmp_path / "rest" / state.name).write_bytes(state.read_bytes())
    trained(shapes, tmp_path / "rest", nIteration=6, iteration=2)
    whole, rest = last(tmp_path / "whole"), last(tmp_path / "rest")
    assert rest["redo"]["iteration"] == 6
    for key, value in whole["state_dict"].items():
        if key.startswith("networks."):
            torch.testing.assert_close(rest["state_dict"][key], value, rtol=0, atol=0)
    with pytest.raises(InputError, match=r"--iteration 7: .*state_00007\.pth is not there"):
        trained(shapes, tmp_path / "none", nIteration=9, iteration=7)


def test_clean_keeps_the_newest_state(shapes: Path, tmp_path: Path) -> None:
    trained(shapes, tmp_path / "run", clean=True)
    assert [file.name for file in (tmp_path / "run").glob("state_*.pth")] == ["state_00004.pth"]


def test_a_run_can_be_made_longer_and_other_options_not_changed(shapes: Path, tmp_path: Path) -> None:
    trained(shapes, tmp_path / "whole", nIteration=6)
    trained(shapes, tmp_path / "run", nIteration=4)
    trained(shapes, tmp_path / "run", nIteration=6, resume=True)
    whole, longer = last(tmp_path / "whole"), last(tmp_path / "run")
    assert all(torch.equal(value, longer["state_dict"][key]) for key, value in whole["state_dict"].items())
    with pytest.raises(InputError, match="wrecZ was"):
        trained(shapes, tmp_path / "run", nIteration=6, wrecZ=1.0, resume=True)


def test_a_short_only_stretch_cannot_be_made_longer(shapes: Path, tmp_path: Path) -> None:
    trained(shapes, tmp_path / "run", nIteration=3, checkpointFreq=5)
    assert last(tmp_path / "run")["redo"]["iteration"] == 3
    with pytest.raises(InputError, match="between two evaluations"):
        trained(shapes, tmp_path / "run", nIteration=10, checkpointFreq=5, resume=True)


def test_stretches_are_whole(capsys: pytest.CaptureFixture[str]) -> None:
    assert stretches(1000, 0, 500) == (500, 2)
    assert stretches(300, 0, 500) == (300, 1)
    assert stretches(1000, 500, 500) == (500, 1)
    assert stretches(700, 0, 500) == (500, 2)
    assert "--nIteration 700 becomes 1000" in capsys.readouterr().out
    with pytest.raises(InputError, match="nothing to do after --iteration 500"):
        stretches(500, 500, 500)


@pytest.mark.parametrize(
    ("options", "networks"), [({"wrecZ": 0.0}, "MXD"), ({"nMasks": 3}, "MXDZ"), ({"nx": 1}, "MXDZ")]
)
def test_other_shapes_of_the_method_train(shapes: Path, tmp_path: Path, options: dict[str, Any], networks: str) -> None:
    trained(shapes, tmp_path / "run", **options)
    restored = restore(tmp_path / "run")
    assert set(restored.networks) == set(networks)
    header = rows(tmp_path / "run" / "metrics.csv")[0].keys()
    assert {"val/loss", "val/iou_dataset"} <= set(header)
    assert ("val/worst_noise_error" in header) == ("Z" in networks)


def test_half_precision_trains(shapes: Path, tmp_path: Path) -> None:
    bf16 = replace(FLAGS, precision="bf16-mixed")
    trained(shapes, tmp_path / "half", flags=bf16)
    trained(shapes, tmp_path / "full")
    half, full = (rows(tmp_path / name / "metrics.csv") for name in ("half", "full"))
    name = "train/discriminator_loss"
    first = [next(float(row[name]) for row in part if row[name]) for part in (half, full)]
    assert first[0] == pytest.approx(first[1], rel=0.05)
    assert first[0] != first[1]


def test_the_last_batch_can_be_what_is_looked_at(shapes: Path, tmp_path: Path) -> None:
    with pytest.raises(RunFailed, match="all 1 attempts collapsed"):
        trained(shapes, tmp_path / "run", autoRestart=0.4999, maxRestarts=0, collapse_stat="last_batch")


def test_steps_that_are_not_due_leave_global_step_an_iteration_counter(shapes: Path, tmp_path: Path) -> None:
    trained(shapes, tmp_path / "run", dStepFreq=2)
    assert last(tmp_path / "run")["global_step"] == last(tmp_path / "run")["redo"]["iteration"] == 4


def test_more_images_per_step_than_there_are(shapes: Path) -> None:
    options = DataOptions(data_file=shapes / "objects", base_dir=shapes, cache_dir=shapes / "cache", batchSize=11)
    module = RedoDataModule(options, 32)
    module.prepare("train", "val")
    with pytest.raises(InputError, match=r"--batchSize 11: 11 images per step, but .* has 10; give at most 10"):
        module.prepare_data()
