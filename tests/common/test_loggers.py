"""Loggers: the CSV file is valid at any moment, and all loggers hold the same names."""

import csv
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from common.errors import InputError
from common.loggers import CsvLogger, make_loggers
from common.options import RunOptions, TrainerFlags
from common.training import fit


def rows(folder: Path) -> list[dict[str, str]]:
    with (folder / "metrics.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_columns_appear_as_metrics_do(tmp_path: Path) -> None:
    logger = CsvLogger(tmp_path)
    logger.log_metrics({"train/loss": 0.1, "epoch": 0.0}, 3)
    logger.save()
    logger.log_metrics({"val/loss": 1e-12, "epoch": 0.0}, 3)
    logger.finalize("success")
    assert rows(tmp_path) == [
        {"step": "3", "epoch": "0", "train/loss": "0.1", "val/loss": ""},
        {"step": "3", "epoch": "0", "train/loss": "", "val/loss": "1e-12"},
    ]


def test_rows_are_on_disk_without_an_end(tmp_path: Path) -> None:
    logger = CsvLogger(tmp_path)
    for step in range(CsvLogger.FLUSH_EVERY + 3):
        logger.log_metrics({"loss": step}, step)
    assert len(rows(tmp_path)) == CsvLogger.FLUSH_EVERY
    assert [path.name for path in tmp_path.iterdir()] == ["metrics.csv"]


@pytest.mark.parametrize("kept", [0, 2, 9])
def test_restore_takes_up_the_first_rows(tmp_path: Path, kept: int) -> None:
    logger = CsvLogger(tmp_path)
    for step in range(4):
        logger.log_metrics({"loss": step / 3}, step)
    logger.save()
    resumed = CsvLogger(tmp_path)
    resumed.restore(kept)
    resumed.log_metrics({"loss": 9.0}, 9)
    resumed.save()
    assert [row["step"] for row in rows(tmp_path)] == [*map(str, range(min(kept, 4))), "9"]
    assert [float(row["loss"]) for row in rows(tmp_path)][:-1] == [step / 3 for step in range(min(kept, 4))]


def test_nothing_logged_writes_nothing(tmp_path: Path) -> None:
    logger = CsvLogger(tmp_path / "run")
    logger.finalize("success")
    assert not (tmp_path / "run").exists()


def test_unknown_logger(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="--logger csv,wand: 'wand' is not known"):
        make_loggers("csv,wand", tmp_path, "unseg")


def test_csv_comes_first_whatever_is_asked(tmp_path: Path) -> None:
    assert isinstance(make_loggers("tensorboard", tmp_path, "unseg")[0], CsvLogger)
    assert len(make_loggers(" csv , csv", tmp_path, "unseg")) == 1


class Line(pl.LightningModule):
    """Fits a line; logs a training and a validation metric."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(1, 1)

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        loss = (self.layer(batch) - batch).square().mean()
        self.log("train/loss", loss)
        return loss

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log("val/loss", (self.layer(batch) - batch).square().mean())

    def sample_pictures(self) -> dict[str, Any]:
        return {}

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), 0.1)


class Numbers(pl.LightningDataModule):
    def train_dataloader(self) -> Any:
        return torch.utils.data.DataLoader(torch.linspace(-1, 1, 6)[:, None], batch_size=2)

    val_dataloader = train_dataloader


def test_all_loggers_hold_the_same_metrics(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wandb = pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    logged: list[str] = []
    original = wandb.sdk.wandb_run.Run.log

    def log(self: Any, data: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
        logged.extend(data)
        return original(self, data, *args, **kwargs)

    monkeypatch.setattr(wandb.sdk.wandb_run.Run, "log", log)
    out = tmp_path / "run"
    flags = TrainerFlags(
        accelerator="cpu", max_epochs=2, log_every_n_steps=1, enable_progress_bar=False, enable_model_summary=False
    )
    run = RunOptions(out=out, logger="csv,wandb,tensorboard")
    fit(Line(), Numbers(), run=run, flags=flags, options=())
    wandb.finish()
    names = set(rows(out)[0]) - {"step", "epoch"}
    assert names == {"train/loss", "val/loss"}
    events = EventAccumulator(str(out / "tensorboard")).Reload()
    assert names <= set(events.Tags()["scalars"])
    assert names <= set(logged)
    assert list((out / "wandb").glob("offline-run-*/*.wandb"))
    shown = [float(row["val/loss"]) for row in rows(out) if row["val/loss"]]
    assert [event.value for event in events.Scalars("val/loss")] == pytest.approx(shown)
