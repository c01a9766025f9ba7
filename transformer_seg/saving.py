"""``--save-model`` and ``--save-logs``: the files that the systems' authors write, beside our own run directory."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Checkpoint
from pytorch_lightning.utilities import rank_zero_only

from common.files import atomic_path


class EpochLog(Checkpoint):
    """``log.txt``: one JSON object per epoch, whose length is part of the checkpoint.

    It is a ``Checkpoint`` because Lightning calls those after the module has logged its epoch, in the order given.

    Args:
        path: The file.
        names: Logged metric -> name in the file.
    """

    def __init__(self, path: Path, names: Mapping[str, str]) -> None:
        self.path, self.names = path, dict(names)
        self.lines: list[str] = []

    @rank_zero_only
    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Add the epoch's line."""
        known = trainer.callback_metrics
        row = {name: float(known[metric]) for metric, name in self.names.items() if metric in known}
        self.lines.append(json.dumps({**row, "epoch": trainer.current_epoch, "num_updates": trainer.global_step}))
        self._write()

    def state_dict(self) -> dict[str, Any]:
        """The lines so far."""
        return {"lines": self.lines}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Drop what came after the checkpoint."""
        self.lines = list(state_dict["lines"])

    def _write(self) -> None:
        with atomic_path(self.path) as temporary:
            temporary.write_text("\n".join(self.lines) + "\n", encoding="utf-8")


class WeightsFile(pl.Callback):
    """``checkpoint.pth`` after the training, in the authors' container.

    Args:
        path: The file.
        content: Makes what is saved from the module.
    """

    def __init__(self, path: Path, content: Callable[[pl.LightningModule], Mapping[str, Any]]) -> None:
        self.path, self.content = path, content

    @rank_zero_only
    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Write it."""
        with atomic_path(self.path) as temporary:
            torch.save(dict(self.content(pl_module)), temporary)
