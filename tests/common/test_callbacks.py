"""Callbacks one by one, with a stand-in for the Trainer."""

import os
import signal
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from common.callbacks import CollapseWatch, CsvRows, LastCheckpoint, LogPosition, LossWatch
from common.errors import Interrupted, RunFailed
from common.loggers import CsvLogger


def trainer(**values: Any) -> Any:
    standing = {
        "is_global_zero": True,
        "world_size": 1,
        "global_step": 1,
        "is_last_batch": False,
        "callback_metrics": {},
        "current_epoch": 0,
    }
    saved: list[Path] = []
    return SimpleNamespace(**{**standing, **values}, saved=saved, save_checkpoint=lambda path, _: saved.append(path))


def test_rows_after_the_checkpoint_are_cut_off(tmp_path: Path) -> None:
    rows = CsvRows(tmp_path / "rows.csv", ["a", "b"])
    rows.append([[1, 2], [3, 4]])
    state = rows.state_dict()
    rows.append([[5, 6]])
    resumed = CsvRows(tmp_path / "rows.csv", ["a", "b"])
    resumed.load_state_dict(state)
    resumed.on_train_start(trainer(), None)  # type: ignore[arg-type]
    resumed.append([[7, 8]])
    assert (tmp_path / "rows.csv").read_text().split() == ["a,b", "1,2", "3,4", "7,8"]


def test_rows_without_a_file_begin_with_the_header(tmp_path: Path) -> None:
    rows = CsvRows(tmp_path / "rows.csv", ["a"])
    assert rows.state_dict() == {"bytes": 0}
    rows.load_state_dict({"bytes": 0})
    rows.on_train_start(trainer(), None)  # type: ignore[arg-type]
    rows.append([[1]])
    assert (tmp_path / "rows.csv").read_text().split() == ["a", "1"]


def test_checkpoint_before_the_first_row_leaves_no_doubled_header(tmp_path: Path) -> None:
    rows = CsvRows(tmp_path / "rows.csv", ["a"])
    state = rows.state_dict()
    rows.append([[1]])
    resumed = CsvRows(tmp_path / "rows.csv", ["a"])
    resumed.load_state_dict(state)
    resumed.on_train_start(trainer(), None)  # type: ignore[arg-type]
    resumed.append([[2]])
    assert (tmp_path / "rows.csv").read_text().split() == ["a", "2"]


def test_run_without_a_checkpoint_starts_the_file_anew(tmp_path: Path) -> None:
    CsvRows(tmp_path / "rows.csv", ["a"]).append([[1]])
    again = CsvRows(tmp_path / "rows.csv", ["a"])
    again.on_train_start(trainer(), None)  # type: ignore[arg-type]
    again.append([[2]])
    assert (tmp_path / "rows.csv").read_text().split() == ["a", "2"]


def test_log_position_restores_the_rows_of_the_checkpoint(tmp_path: Path) -> None:
    logger = CsvLogger(tmp_path)
    position = LogPosition(logger)
    logger.log_metrics({"loss": 1.0, "epoch": 0}, 0)
    state = position.state_dict()
    logger.log_metrics({"loss": 2.0, "epoch": 0}, 1)
    logger.save()
    fresh = CsvLogger(tmp_path)
    LogPosition(fresh).load_state_dict(state)
    fresh.log_metrics({"loss": 3.0, "epoch": 0}, 1)
    fresh.save()
    assert (tmp_path / "metrics.csv").read_text().split() == ["step,epoch,loss", "0,0,1.0", "1,0,3.0"]


@pytest.mark.parametrize(("step", "last", "saves"), [(1, False, 0), (2, False, 1), (2, True, 0), (4, False, 1)])
def test_last_checkpoint_saves_every_so_many_steps(tmp_path: Path, step: int, last: bool, saves: int) -> None:
    here = trainer(global_step=step, is_last_batch=last)
    LastCheckpoint(tmp_path / "last.ckpt", 2).on_train_batch_end(here, None, None, None, 0)  # type: ignore[arg-type]
    assert len(here.saved) == saves


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signal_saves_after_the_batch_and_the_handlers_come_back(tmp_path: Path, number: signal.Signals) -> None:
    before = signal.getsignal(number)
    here, watch = trainer(), LastCheckpoint(tmp_path / "last.ckpt")
    (tmp_path / ".last.0a1b.tmp.ckpt").write_text("half of a checkpoint, from a run that was killed")
    watch.on_train_start(here, None)  # type: ignore[arg-type]
    assert not list(tmp_path.iterdir())
    try:
        os.kill(os.getpid(), number)
        with pytest.raises(Interrupted, match="--resume"):
            watch.on_train_batch_end(here, None, None, None, 0)  # type: ignore[arg-type]
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), number)
    finally:
        watch.teardown(here, None, "fit")  # type: ignore[arg-type]
    assert here.saved == [tmp_path / "last.ckpt"]
    assert signal.getsignal(number) == before


def test_signal_in_the_last_batch_waits_for_the_end_of_the_epoch(tmp_path: Path) -> None:
    here, watch = trainer(is_last_batch=True), LastCheckpoint(tmp_path / "last.ckpt")
    watch.received = signal.SIGINT
    watch.on_train_batch_end(here, None, None, None, 0)  # type: ignore[arg-type]
    assert not here.saved
    with pytest.raises(Interrupted):
        watch.on_train_epoch_end(here, None)  # type: ignore[arg-type]
    assert len(here.saved) == 1


def test_collapse_is_said_once_after_epochs_in_a_row(capsys: pytest.CaptureFixture[str]) -> None:
    watch = CollapseWatch("train/mask_usage", 1.1, 3, "try a lower rate")
    said = []
    for value in (1.0, 1.0, 2.0, 1.0, 1.0, 1.0, 1.0):
        watch.on_train_epoch_end(trainer(callback_metrics={"train/mask_usage": torch.tensor(value)}), None)  # type: ignore[arg-type]
        said.append("try a lower rate" in capsys.readouterr().err)
    assert said == [False, False, False, False, False, True, False]


def test_collapse_counts_on_after_a_resume(capsys: pytest.CaptureFixture[str]) -> None:
    metrics = {"m": torch.tensor(0.0)}
    first, second = (CollapseWatch("m", 1.0, 2, "advice") for _ in range(2))
    first.on_train_epoch_end(trainer(callback_metrics=metrics), None)  # type: ignore[arg-type]
    second.load_state_dict(first.state_dict())
    second.on_train_epoch_end(trainer(callback_metrics=metrics), None)  # type: ignore[arg-type]
    assert "stayed below 1.0 for 2 epochs" in capsys.readouterr().err


def test_metric_that_was_not_logged_is_no_collapse() -> None:
    watch = CollapseWatch("m", 1.0, 1, "advice")
    watch.on_train_epoch_end(trainer(), None)  # type: ignore[arg-type]
    assert watch.count == 0


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_loss_that_is_no_number_names_the_samples(value: float) -> None:
    with pytest.raises(RunFailed, match=r"step 1: lower the learning rate .* a\.flo, b\.flo"):
        LossWatch().on_train_batch_end(
            trainer(),
            None,  # type: ignore[arg-type]
            {"loss": torch.tensor(value)},
            {"path": ["a.flo", "b.flo"]},
            0,
        )


def test_finite_loss_goes_on() -> None:
    LossWatch().on_train_batch_end(trainer(), None, {"loss": torch.tensor(1.0)}, {}, 0)  # type: ignore[arg-type]
    LossWatch().on_train_batch_end(trainer(), None, None, {}, 0)  # type: ignore[arg-type]
