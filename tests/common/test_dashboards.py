"""Dashboards: every metric that runs log has its chart, and an offline run holds what the pages ask for."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.loggers import WandbLogger

from common.dashboards import NAME, Logged, charts, main, outline, read_logged, report, shared, workspace
from common.errors import InputError
from common.files import read_image, write_image
from common.options import RunOptions, TrainerFlags
from common.training import fit
from tests.wandb_runs import read_offline_run

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:wandb_workspaces")
STFLOW = Logged(
    "stflow",
    ("train/loss", "train/mask_usage", "val/loss", "val/jaccard", "val/jf_mean"),
    ("samples/flow", "samples/masks"),
)
REDO = Logged("redo", ("train/noise_error", "train/attempt", "val/jaccard", "val/smallest_region"), ())


class Line(pl.LightningModule):
    """Fits a line; logs what methods log: metrics of two stages and a picture."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(1, 1)

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        loss = (self.layer(batch) - 2 * batch).square().mean()
        self.log("train/loss", loss, on_step=False, on_epoch=True)
        return loss

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log("val/loss", (self.layer(batch) - 2 * batch).square().mean())
        self.log("val/accuracy", torch.tensor(0.5))

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.1)

    def sample_pictures(self) -> dict[str, np.ndarray]:
        return {"line": np.full((8, 9, 3), 77, np.uint8)}


class Numbers(pl.LightningDataModule):
    def train_dataloader(self) -> Any:
        return torch.utils.data.DataLoader(torch.linspace(-1, 1, 6)[:, None], batch_size=2)

    val_dataloader = train_dataloader


@pytest.fixture(scope="module")
def offline(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("offline") / "line"
    flags = TrainerFlags(
        accelerator="cpu", max_epochs=3, log_every_n_steps=1, enable_progress_bar=False, enable_model_summary=False
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WANDB_MODE", "offline")
        patch.setenv("WANDB_SILENT", "true")
        trainer = fit(Line(), Numbers(), run=RunOptions(out=out, logger="csv,wandb"), flags=flags, options=())
        (logger,) = [logger for logger in trainer.loggers if isinstance(logger, WandbLogger)]
        logger.experiment.finish()  # of this run, whichever one wandb takes for the current one
    return out


def test_offline_run_holds_metrics_configuration_and_pictures(offline: Path) -> None:
    """Read back from the file: the names and values of metrics.csv, config.yaml's options, the sample's pixels."""
    import pandas as pd

    found = read_offline_run(offline)
    logged = read_logged(offline)
    assert set(logged.metrics) == {"train/loss", "val/loss", "val/accuracy"}
    table = pd.read_csv(offline / "metrics.csv")
    for name in logged.metrics:
        assert found.history[name] == pytest.approx(table[name].dropna().tolist()), name
    assert found.config["method"] == logged.method
    assert found.config["options"]["max_epochs"] == 3
    assert logged.pictures == ("samples/line",)
    pictures = found.history["samples/line"]
    assert len(pictures) == 3
    (file,) = {*offline.rglob(Path(pictures[0]["filenames"][0]).name)}
    assert (read_image(file) == 77).all()


def test_workspace_shows_what_the_offline_run_holds(offline: Path) -> None:
    found, logged = read_offline_run(offline), read_logged(offline)
    made = workspace(logged, "unseg", "me")
    shown = {name for section in made.sections for panel in section.panels for name in getattr(panel, "y", None) or ()}
    media = {name for section in made.sections for panel in section.panels for name in getattr(panel, "media_keys", ())}
    assert shown | media == {name for name in found.history if "/" in name and not name.startswith("trainer/")}
    assert made._to_model().display_name == logged.method  # what would be sent
    assert f"'{found.config['method']}'" in made.runset_settings.filters


def test_metrics_share_charts_by_stage() -> None:
    assert charts(STFLOW.metrics) == {
        "Losses": {"loss": ["train/loss", "val/loss"]},
        "Scores": {"jaccard": ["val/jaccard"], "jf_mean": ["val/jf_mean"]},
        "Training": {"mask_usage": ["train/mask_usage"]},
    }


def test_report_compares_what_methods_share() -> None:
    assert shared([STFLOW, REDO]) == ["val/jaccard"]
    made = report([STFLOW, REDO], "unseg", "me")
    grids = [block for block in made.blocks if type(block).__name__ == "PanelGrid"]
    assert [len(grid.runsets) for grid in grids] == [2, 1, 1]
    bars = [panel.metrics[0].name for panel in grids[0].panels if type(panel).__name__ == "BarPlot"]
    assert bars == ["val/jaccard"]
    lines = [name for panel in grids[1].panels for name in getattr(panel, "y", None) or ()]
    assert lines == [name for found in charts(STFLOW.metrics).values() for names in found.values() for name in names]


def write_run(folder: Path, header: str, **facts: str) -> Path:
    folder.mkdir()
    (folder / "metrics.csv").write_text(header + "\n")
    (folder / "provenance.json").write_text(json.dumps(facts))
    return folder


def test_dry_run_needs_no_login(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    a = write_run(tmp_path / "a", "step,epoch,train/loss,val/miou", method="stflow")
    b = write_run(tmp_path / "b", "step,epoch,train/loss,val/miou", method="redo")
    write_image(a / "samples" / "masks_epoch=0003.png", np.zeros((4, 4, 3), np.uint8))
    assert main([str(a), str(b), "--dry_run"]) == 0
    assert capsys.readouterr().out.splitlines() == outline([read_logged(a), read_logged(b)])
    assert "  Pictures: samples/masks" in outline([read_logged(a)])
    assert outline([read_logged(a), read_logged(b)])[-1] == "report on stflow, redo; compared: val/miou"


def test_mistakes_are_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    good = str(write_run(tmp_path / "good", "step,val/miou", method="x"))
    strange = str(write_run(tmp_path / "strange", "step,val_loss"))
    for arguments, message in (
        ([], "name one or more"),
        ([str(tmp_path)], "holds no metrics.csv"),
        ([strange], "'val_loss' among its columns; metrics are named stage/metric"),
        ([good, good], "two of the run directories are of x"),
        ([good], "'wandb login' first, or pass --dry_run"),
    ):
        assert main(arguments) == 2
        error = capsys.readouterr().err
        assert message in error
        assert error.count("\n") == 1


def test_unreadable_provenance(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", "step,val/miou")
    (run / "provenance.json").write_text("{")
    with pytest.raises(InputError, match="cannot be read"):
        read_logged(run)


@pytest.mark.parametrize("name", ["loss", "val_loss", "Val/loss", "val/loss epoch", "fit/loss"])
def test_other_names_are_not_stage_and_metric(name: str) -> None:
    assert NAME.fullmatch(name) is None
