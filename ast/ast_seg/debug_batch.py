"""Keeps the batch whose loss is no number for a look at it; stopping the run is the part of `common.callbacks`."""

from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch

from common.files import atomic_path
from common.messages import tell


class DebugBatch(pl.Callback):
    """Writes ``debug_batch.npz``: images, backgrounds if any, file names, update and loss.

    Args:
        folder: The run directory.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Look at the loss of the batch."""
        loss = outputs["loss"] if isinstance(outputs, dict) else outputs
        if torch.isfinite(loss).all():
            return
        # several processes see several batches
        file = self.folder / (
            "debug_batch.npz" if trainer.world_size == 1 else f"debug_batch_{trainer.global_rank}.npz"
        )
        arrays = {name: value.cpu().numpy() for name, value in batch.items() if isinstance(value, torch.Tensor)}
        arrays |= {"path": np.array(batch["path"]), "update": np.array(trainer.global_step)}
        arrays["loss"] = loss.detach().float().cpu().numpy()
        with atomic_path(file) as temporary, temporary.open("wb") as stream:
            np.savez_compressed(stream, allow_pickle=False, **arrays)
        tell(f"{file}: the batch whose loss is no number; besides a lower --learning_rate, --precision 32 may help")
