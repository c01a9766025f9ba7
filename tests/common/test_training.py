"""The shared training loop: flags, run directory, provenance, and what ends in one line."""

import inspect
import json
import signal
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
import yaml
from pytorch_lightning.utilities.exceptions import MisconfigurationException

from common.errors import InputError, Interrupted, RunFailed
from common.options import RunOptions, TrainerFlags, resolve_gpus
from common.provenance import Provenance, git_commit
from common.training import check_run, checked_trainer, fit, plain_failures, to_plain

QUIET = {"accelerator": "cpu", "enable_progress_bar": False, "enable_model_summary": False}
OWN_DEFAULTS = {"num_sanity_val_steps": 0, "check_val_every_n_epoch": 1}


class Line(pl.LightningModule):
    """Fits a line."""

    def __init__(self, fails: Exception | None = None) -> None:
        super().__init__()
        self.layer, self.fails = torch.nn.Linear(1, 1), fails

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        if self.fails is not None:
            raise self.fails
        return (self.layer(batch) - batch).square().mean()

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log("val/loss", (self.layer(batch) - batch).square().mean())

    def sample_pictures(self) -> dict[str, Any]:
        return {}

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), 0.1)


class Numbers(pl.LightningDataModule):
    def __init__(self, bad: bool = False) -> None:
        super().__init__()
        self.bad = bad

    def prepare_data(self) -> None:
        if self.bad:
            raise InputError("x.flo: no such file")

    def train_dataloader(self) -> Any:
        return torch.utils.data.DataLoader(torch.linspace(-1, 1, 6)[:, None], batch_size=2)

    val_dataloader = train_dataloader


def train(out: Path, resume: bool = False, module: Line | None = None, **flags: Any) -> pl.Trainer:
    options = TrainerFlags(**{**QUIET, "max_epochs": 1, **flags})
    return fit(module or Line(), Numbers(), run=RunOptions(out=out, resume=resume), flags=options, options=())


def test_trainer_flags_are_lightnings() -> None:
    parameters = inspect.signature(pl.Trainer.__init__).parameters
    for item in fields(TrainerFlags):
        assert item.name in parameters, item.name
        expected = OWN_DEFAULTS.get(item.name, parameters[item.name].default)
        assert item.default == expected, item.name


@pytest.mark.parametrize(
    ("gpus", "flags", "devices", "expected"),
    [
        (None, {}, 0, ("auto", "auto")),
        (0, {}, 4, ("cpu", "auto")),
        (0, {"devices": 2}, 0, ("cpu", 2)),
        (1, {}, 4, ("gpu", 1)),
        (-1, {}, 4, ("gpu", -1)),
    ],
)
def test_gpus(gpus: int | None, flags: dict[str, Any], devices: int, expected: tuple[Any, Any]) -> None:
    resolved = resolve_gpus(gpus, {"accelerator": "auto", "devices": "auto", **flags}, devices)
    assert (resolved["accelerator"], resolved["devices"]) == expected


@pytest.mark.parametrize(
    ("gpus", "flags", "devices", "part"),
    [
        (1, {}, 0, "--gpus 1: torch sees no CUDA device"),
        (-1, {}, 0, "--gpus -1: torch sees no CUDA device"),
        (None, {"accelerator": "gpu"}, 0, "--accelerator gpu: torch sees no CUDA device"),
        (5, {}, 2, "--gpus 5: torch sees 2 CUDA"),
        (-2, {}, 0, "--gpus -2: give the number"),
        (1, {"devices": 1}, 2, "twice"),
        (0, {"accelerator": "gpu"}, 2, "twice"),
    ],
)
def test_gpus_that_cannot_be(gpus: int | None, flags: dict[str, Any], devices: int, part: str) -> None:
    with pytest.raises(InputError, match=part):
        resolve_gpus(gpus, {"accelerator": "auto", "devices": "auto", **flags}, devices)


def test_whole_numbers_become_counts_and_shares_stay() -> None:
    flags = TrainerFlags(limit_train_batches=5.0, limit_val_batches=1.0, overfit_batches=0.5, devices="2").arguments()
    assert flags["limit_train_batches"] == 5
    assert isinstance(flags["limit_train_batches"], int)
    assert isinstance(flags["limit_val_batches"], float)
    assert (flags["overfit_batches"], flags["devices"]) == (0.5, 2)


@pytest.mark.parametrize(
    ("flag", "value", "bound"),
    [
        ("accumulate_grad_batches", 0, 1),
        ("log_every_n_steps", 0, 1),
        ("gradient_clip_val", -1.0, 0),
        ("max_epochs", -3, -1),
    ],
)
def test_numbers_that_mean_nothing(flag: str, value: float, bound: int) -> None:
    with pytest.raises(InputError, match=f"--{flag} {value}: give at least {bound}"):
        TrainerFlags(**{flag: value}).arguments()


@pytest.mark.parametrize(("flag", "value"), [("precision", "foo"), ("strategy", "foo"), ("profiler", "foo")])
def test_what_lightning_refuses_is_one_line(flag: str, value: Any) -> None:
    with pytest.raises(InputError, match="Trainer flags: ") as caught:
        checked_trainer(**{flag: value})
    assert "\n" not in str(caught.value)
    assert flag in str(caught.value).lower()


def test_bad_data_leaves_nothing_behind(tmp_path: Path) -> None:
    run = RunOptions(out=tmp_path / "run")
    with pytest.raises(InputError, match=r"x\.flo"):
        fit(Line(), Numbers(bad=True), run=run, flags=TrainerFlags(**QUIET), options=())
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("limit", "batches"), [(None, 3), (2, 2), (0.4, 1)])
def test_an_interval_that_no_epoch_reaches_leaves_nothing_behind(tmp_path: Path, limit: Any, batches: int) -> None:
    with pytest.raises(InputError, match=f"--val_check_interval 4: an epoch has {batches} training batches"):
        train(tmp_path / "run", val_check_interval=4, limit_train_batches=limit)
    assert not list(tmp_path.iterdir())


def test_intervals_that_can_be(tmp_path: Path) -> None:
    train(tmp_path / "counted", val_check_interval=3)
    train(tmp_path / "share", val_check_interval=0.5)
    assert train(tmp_path / "over epochs", val_check_interval=4, check_val_every_n_epoch=None).global_step == 3


def test_provenance_of_a_run(tmp_path: Path) -> None:
    trainer = train(tmp_path / "run", max_epochs=2)
    facts = json.loads((tmp_path / "run" / "provenance.json").read_text())
    assert facts["finished"] is True
    assert (facts["epochs"], facts["steps"]) == (2, trainer.global_step) == (2, 6)
    assert facts["versions"]["torch"] == torch.__version__.split("+")[0]
    assert facts["peak_memory_mb"] > 1
    assert yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())["max_epochs"] == 2


def test_resuming_a_finished_run_changes_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    train(tmp_path / "run")
    names = ("provenance.json", "metrics.csv")
    before = [(tmp_path / "run" / name).read_bytes() for name in names]
    train(tmp_path / "run", resume=True)
    assert [(tmp_path / "run" / name).read_bytes() for name in names] == before
    assert "finished already after 1 epochs" in capsys.readouterr().out


def test_a_finished_run_goes_on_with_more_epochs(tmp_path: Path) -> None:
    train(tmp_path / "run")
    assert train(tmp_path / "run", resume=True, max_epochs=3).global_step == 9
    assert json.loads((tmp_path / "run" / "provenance.json").read_text())["epochs"] == 3


def test_a_kill_between_the_best_and_the_last_checkpoint_doubles_no_file(tmp_path: Path) -> None:
    train(tmp_path / "run", max_epochs=1)
    last = tmp_path / "run" / "checkpoints" / "last.ckpt"
    of_first_epoch = last.read_bytes()
    train(tmp_path / "run", resume=True, max_epochs=2)
    names = sorted(file.name for file in last.parent.iterdir())
    assert any("epoch=001" in name for name in names)  # the second epoch was better
    last.write_bytes(of_first_epoch)  # as if killed just before it was written anew
    train(tmp_path / "run", resume=True, max_epochs=2)
    assert sorted(file.name for file in last.parent.iterdir()) == names


def test_taken_run_directory_and_changed_options(tmp_path: Path) -> None:
    train(tmp_path)
    with pytest.raises(InputError, match="holds a run already"):
        check_run(tmp_path, RunOptions(), {})
    (tmp_path / "config.yaml").write_text("lr: 1\nmax_epochs: 1\n")
    with pytest.raises(InputError, match=r"lr was 1 in .* and is 2 now"):
        check_run(tmp_path, RunOptions(resume=True), {"lr": 2})
    assert (
        check_run(tmp_path, RunOptions(resume=True), {"lr": 1, "max_epochs": 9}) == tmp_path / "checkpoints/last.ckpt"
    )


@pytest.mark.parametrize("text", ["{", "just text"])
def test_config_that_is_none(tmp_path: Path, text: str) -> None:
    (tmp_path / "config.yaml").write_text(text)
    with pytest.raises(InputError, match=r"config\.yaml"):
        check_run(tmp_path, RunOptions(resume=True), {})


def test_out_of_memory_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(RunFailed, match="lower --batch_size"):
        train(tmp_path / "run", module=Line(torch.OutOfMemoryError("CUDA out of memory")))
    with pytest.raises(RunFailed, match="lower --batch_size"), plain_failures():
        torch.empty(2**52)


def test_defects_keep_their_own_exception(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError):
        train(tmp_path / "run", module=Line(ZeroDivisionError()))
    with pytest.raises(RuntimeError, match="size mismatch"), plain_failures():
        raise RuntimeError("size mismatch")


def test_misuse_of_the_trainer_is_one_line() -> None:
    with pytest.raises(InputError, match="Trainer flags: no such thing"), plain_failures():
        raise MisconfigurationException("no such thing. And more.")


def test_ctrl_c_inside_lightning_is_an_interrupt(tmp_path: Path) -> None:
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(Interrupted):
        train(tmp_path / "run", module=Line(KeyboardInterrupt()))  # type: ignore[arg-type]
    assert signal.getsignal(signal.SIGINT) == before


def test_plain_values() -> None:
    plain = to_plain({"run": RunOptions(out=Path("a/b")), "sizes": (1, 2)})
    assert plain["run"]["out"] == "a/b"
    assert plain["sizes"] == [1, 2]
    assert yaml.safe_load(yaml.safe_dump(plain)) == plain


def test_provenance_outside_a_repository(tmp_path: Path) -> None:
    assert git_commit(tmp_path) is None
    Provenance(seed=1).write(tmp_path / "p.json", more=2)
    facts = json.loads((tmp_path / "p.json").read_text())
    assert (facts["seed"], facts["more"]) == (1, 2)
    assert {"command", "commit", "started", "python", "machine", "seconds"} <= set(facts)


def test_paths_below_a_run_that_was_moved_are_the_same(tmp_path: Path) -> None:
    old, new = tmp_path / "old", tmp_path / "new"
    before = {"input_file": f"{old}/B/x.json", "data_file": f"{old}/C/data/y", "out": f"{old}/C"}
    (new / "C" / "checkpoints").mkdir(parents=True)
    (new / "C" / "checkpoints" / "last.ckpt").touch()
    (new / "C" / "config.yaml").write_text(yaml.safe_dump(before))
    run = RunOptions(out=new / "C", resume=True)
    now = {"input_file": f"{new}/B/x.json", "data_file": f"{new}/C/data/y", "out": f"{new}/C"}
    assert check_run(new / "C", run, now) is not None
    with pytest.raises(InputError, match=r"input_file was .*old/B/x.json .* is .*new/B/other.json"):
        check_run(new / "C", run, {**now, "input_file": f"{new}/B/other.json"})
