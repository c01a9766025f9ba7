"""Loggers: ``metrics.csv`` always, Weights & Biases and TensorBoard on request, the same metric names in all."""

import csv
import os
from argparse import Namespace
from pathlib import Path
from typing import Any

from pytorch_lightning.loggers import Logger, TensorBoardLogger, WandbLogger
from pytorch_lightning.utilities import rank_zero_only

from common.errors import InputError
from common.files import atomic_path

KNOWN = ("csv", "wandb", "tensorboard")


class CsvLogger(Logger):
    """One row per logging step in ``metrics.csv``; columns appear as metrics do.

    The rows are kept in memory and written as a whole, atomically: the file is valid at any moment. A checkpoint holds
    the number of rows (``callbacks.LogPosition``), so that a resumed run drops what an interrupted one wrote after it.
    """

    FLUSH_EVERY = 20

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.path = folder / "metrics.csv"
        self.rows: list[dict[str, str]] = []
        self._unsaved = 0

    @property
    def name(self) -> str:
        """Empty: the file lies in the run directory itself."""
        return ""

    @property
    def version(self) -> str:
        """Empty: one run directory is one version."""
        return ""

    @property
    def save_dir(self) -> str:
        """The run directory."""
        return str(self.path.parent)

    def restore(self, num_rows: int) -> None:
        """Take up the first ``num_rows`` rows of the file that an earlier part of this run wrote."""
        if self.path.exists():
            with self.path.open(newline="") as file:
                self.rows = [{k: v for k, v in row.items() if v} for row in csv.DictReader(file)][:num_rows]

    @rank_zero_only
    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        """Append a row."""
        values = {key: repr(float(value)) for key, value in metrics.items() if key != "epoch"}
        epoch = {"epoch": str(int(metrics["epoch"]))} if "epoch" in metrics else {}
        self.rows.append({"step": str(step), **epoch, **values})
        self._unsaved += 1
        if self._unsaved >= self.FLUSH_EVERY:
            self.save()

    @rank_zero_only
    def log_hyperparams(self, params: dict[str, Any] | Namespace, *args: Any, **kwargs: Any) -> None:
        """Nothing: the options stand in config.yaml."""

    @rank_zero_only
    def save(self) -> None:
        """Write all rows."""
        if not self._unsaved:
            return
        columns = list(dict.fromkeys(["step", "epoch", *(key for row in self.rows for key in row)]))
        with atomic_path(self.path) as temporary, temporary.open("w", newline="") as file:
            writer = csv.DictWriter(file, columns)
            writer.writeheader()
            writer.writerows(self.rows)
        self._unsaved = 0

    @rank_zero_only
    def finalize(self, status: str) -> None:
        """Write what is left."""
        self.save()


def make_loggers(names: str, folder: Path, project: str) -> list[Logger]:
    """Build the loggers of a comma list such as ``csv,wandb``; the CSV logger comes first and is always there.

    Raises:
        InputError: a name that is not known.
    """
    wanted = [name.strip() for name in names.split(",") if name.strip()]
    for name in wanted:
        if name not in KNOWN:
            raise InputError(f"--logger {names}: {name!r} is not known; choose from {', '.join(KNOWN)}")
    loggers: list[Logger] = [CsvLogger(folder)]
    if "wandb" in wanted:
        offline = not wandb_key_known()
        if offline:
            rank_zero_only(print)(f"wandb: no API key, logging offline; later: wandb sync {folder}/wandb/offline-run-*")
        loggers.append(WandbLogger(project=project, name=folder.name, save_dir=str(folder), offline=offline))
    if "tensorboard" in wanted:
        loggers.append(TensorBoardLogger(save_dir=str(folder), name="", version="tensorboard"))
    return loggers


def wandb_key_known() -> bool:
    """Whether wandb can log in without asking: its variables, or its line in ~/.netrc."""
    if os.environ.get("WANDB_MODE") in ("offline", "disabled"):
        return False
    if os.environ.get("WANDB_API_KEY"):
        return True
    path = Path.home() / ".netrc"
    return path.exists() and "api.wandb.ai" in path.read_text(errors="replace")
