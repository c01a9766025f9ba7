"""The last semantic network of a run."""

import re
from pathlib import Path

from common.errors import InputError
from maskdistill.segmentation.restore import Restored, Select, restore


def final_network(path: Path, select: Select = "last") -> Restored:
    """Of a chain's run directory the network of the last round that has one; otherwise as ``restore``.

    Raises:
        InputError: Nothing there, or no semantic network.
    """
    if not path.exists():
        raise InputError(f"{path}: no such run directory or checkpoint; train first, or give --model_dir")
    rounds = sorted(path.glob("F_round*/checkpoints/last.ckpt"), key=_number)
    first = path / "E_deeplab" / "checkpoints" / "last.ckpt"
    for checkpoint in (*reversed(rounds), first):
        if checkpoint.is_file():
            return restore(checkpoint.parent.parent, select)
    return restore(path, select)


def _number(checkpoint: Path) -> int:
    found = re.search(r"F_round(\d+)", str(checkpoint))
    assert found is not None
    return int(found[1])
