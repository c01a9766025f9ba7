"""How Lightning's checkpoints reach the disk: whole or not at all, in the folder where they will stand."""

import os
from pathlib import Path
from typing import Any

import torch
from lightning_fabric.plugins import TorchCheckpointIO

from common.files import atomic_path


class WholeCheckpoints(TorchCheckpointIO):
    """Writes a checkpoint beside its final name and renames it.

    Lightning's own writer holds the file in memory and moves it from the system's temporary folder, which between two
    file systems is a copy: a kill or a full disk then leaves half a checkpoint under its final name.
    """

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | os.PathLike[str], storage_options: Any | None = None
    ) -> None:
        """Save the state of a training.

        Raises:
            InputError: The disk is full, or the folder cannot be written; an older file stays.
        """
        with atomic_path(path) as temporary, temporary.open("wb") as stream:
            try:
                torch.save(checkpoint, stream)
            except RuntimeError as error:
                if isinstance(error.__context__, OSError):  # torch ends its archive after a write that failed
                    raise error.__context__ from error
                raise


def remove_leftovers(folder: Path) -> None:
    """Remove what a killed process had not finished writing."""
    for file in folder.glob(".*.tmp.ckpt"):
        file.unlink(missing_ok=True)
