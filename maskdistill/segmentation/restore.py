"""A trained semantic network from a file: a run directory, our checkpoint, or a published file; and back."""

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch

from common.errors import InputError
from common.files import atomic_path
from maskdistill.checkpoints import export_segmentation, read_published
from maskdistill.segmentation.networks import SemanticNetwork, import_network

OURS, AVERAGED = "network.", "averaged_network."
Select = Literal["last", "best"]


@dataclass(frozen=True)
class Restored:
    """A network and what its file tells of it."""

    network: SemanticNetwork
    file: Path
    image_px: int | None
    """Side of the input it was trained at, where the file says so."""

    @property
    def num_classes(self) -> int:
        """Outputs, background included."""
        weights = list(self.network.state_dict().items())
        return len(next(value for key, value in reversed(weights) if key.endswith("weight")))

    def hash(self) -> str:
        """Hash of the file's content."""
        return hashlib.sha256(self.file.read_bytes()).hexdigest()


def restore(path: Path, select: Select = "last") -> Restored:
    """The network of a file, or of a run directory, in evaluation mode; the averaged one where there is an average.

    Raises:
        InputError: No such file, or none of a semantic network.
    """
    file = checkpoint_file(path, select) if path.is_dir() else path
    content = read_published(file)
    known: dict[str, Any] = content.get("hyper_parameters", {})
    weights = content.get("state_dict", {})
    for prefix in (AVERAGED, OURS):
        own = {key.removeprefix(prefix): value for key, value in weights.items() if key.startswith(prefix)}
        if own:
            return Restored(import_network(own, str(file)), file, known.get("image_px"))
    return Restored(import_network(content, str(file)), file, known.get("image_px"))


def checkpoint_file(folder: Path, select: Select) -> Path:
    """The last checkpoint of a run directory, or the one with the best validation score; else ``model.pth.tar``.

    Raises:
        InputError: There is none.
    """
    inner = folder / "checkpoints"
    if select == "best":
        scored = [(float(found[1]), file) for file in inner.glob("*.ckpt") if (found := SCORE.search(file.name))]
        if scored:
            return max(scored)[1]
        raise InputError(f"--select best: no checkpoint in {inner} bears a val_miou; use --select last")
    for file in (inner / "last.ckpt", folder / "model.pth.tar"):
        if file.is_file():
            return file
    raise InputError(f"{folder}: no checkpoints/last.ckpt or model.pth.tar in it; train first, or name a file")


SCORE = re.compile(r"val_miou=(\d+\.\d+)")


def save_original(network: SemanticNetwork, path: Path) -> None:
    """Write the weights in the published layout, which the original code reads."""
    with atomic_path(path) as temporary:
        torch.save(export_segmentation(network), temporary)
