"""Training of stflow from options: module, data, the original's ``results.csv``, the collapse watch."""

from typing import Any

import numpy as np
import pytorch_lightning as pl
from torch import Tensor

from common.callbacks import CollapseWatch, CsvRows
from common.options import RunOptions, TrainerFlags
from common.training import fit, seed_everything
from stflow.checks import check_training
from stflow.data import FlowDataModule, split_hash
from stflow.module import MotionSegmenter
from stflow.options import DataOptions, ModelOptions
from stflow.restore import load_weights

RESULT_COLUMNS = ["epoch", "step_label", "file_name", "losses", "masks_usages", "jaccs"]


def train(model: ModelOptions, data: DataOptions, run: RunOptions, flags: TrainerFlags) -> pl.Trainer:
    """Train from options; see ``common.training.fit`` for what the run directory holds.

    Raises:
        InputError: options or data that cannot be trained on.
    """
    assert run.out is not None
    check_training(model, data, run.out)
    seed_everything(data.seed)
    module = MotionSegmenter(model, data.img_size, data.seed, data.boundaries)
    if run.ckpt_path is not None and not run.resume:
        load_weights(module, run.ckpt_path)
    datamodule = FlowDataModule(data, module.requests)
    datamodule.prepare("train", "val")
    return fit(
        module,
        datamodule,
        run=run,
        flags=flags,
        options=(model, data),
        callbacks=[
            ResultsCsv(run.out / "results.csv", RESULT_COLUMNS),
            CollapseWatch("train/mask_usage", 1.1, 3, "the network uses one segment only; try a lower --optim.lr"),
        ],
        facts={"method": "stflow", "seed": data.seed, "split_hash": split_hash(datamodule)},
    )


class ResultsCsv(CsvRows):
    """``results.csv``: loss, used segments and Jaccard of every sample of every epoch, as the original writes it."""

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Append the training samples of a batch."""
        self._add(trainer, outputs["rows"], "train")

    def on_validation_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Append the validation samples of a batch."""
        if not trainer.sanity_checking:
            self._add(trainer, outputs["rows"], "val")

    def _add(self, trainer: pl.Trainer, rows: Tensor, step: str) -> None:
        if trainer.world_size > 1:
            rows = trainer.strategy.all_gather(rows).flatten(0, 1)
        windows = trainer.datamodule.windows[step]  # type: ignore[attr-defined]
        lines = []
        for index, loss, usage, jacc in rows.tolist():
            if index >= 0:
                score = "" if np.isnan(jacc) else f"{jacc:.3f}"
                lines.append(
                    [trainer.current_epoch, step, windows.paths[int(index)], f"{loss:.3f}", f"{usage:.3f}", score]
                )
        self.append(lines)
