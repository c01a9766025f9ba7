"""Checkpoint files: safe loading, what they hold, and picking the best one of a run.

No code from a file ever runs: every file is opened with ``weights_only=True``. The mapping of published weights to our
names is each method's own ``checkpoints.py``.
"""

import pickle
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch

from common.errors import InputError


def load_checkpoint(path: Path | str) -> dict[str, Any]:
    """Read a checkpoint or a bare state dict on the CPU.

    Raises:
        InputError: missing or unreadable file, a file that is no checkpoint, or one that needs code to be opened.
    """
    path = Path(path)
    try:
        if not path.is_file():
            raise InputError(f"{path}: no such checkpoint file")
        content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        named = re.search(r"(?:GLOBAL|global) ([\w.]+)", str(error))
        what = f"it needs {named[1]} to be opened" if named else "not a checkpoint file, or a damaged one"
        raise InputError(f"{path}: refused: {what}; it may hold tensors and plain values only") from error
    except (RuntimeError, EOFError, OSError, ValueError, KeyError, IndexError, AssertionError) as error:
        raise InputError(f"{path}: not a readable PyTorch file, perhaps truncated ({type(error).__name__})") from error
    if not isinstance(content, dict):
        raise InputError(f"{path}: holds a {type(content).__name__}, not a dictionary of weights")
    return content


def state_dict_of(checkpoint: Mapping[str, Any], path: Path | str = "checkpoint") -> dict[str, torch.Tensor]:
    """The weights of a loaded file: its ``state_dict`` entry, or the file itself when it is a bare state dict.

    Raises:
        InputError: no tensors in it.
    """
    weights = checkpoint.get("state_dict", checkpoint)
    if not isinstance(weights, Mapping):
        raise InputError(f"{path}: its state_dict is a {type(weights).__name__}, not a dictionary of weights")
    tensors = {key: value for key, value in weights.items() if isinstance(value, torch.Tensor)}
    if not tensors:
        raise InputError(f"{path}: holds no weights (keys: {', '.join(map(str, list(weights)[:5]))})")
    return tensors


def check_keys(found: Iterable[str], expected: Iterable[str], path: Path | str = "checkpoint") -> None:
    """Compare key names strictly.

    Raises:
        InputError: missing or unexpected keys, the first ones listed.
    """
    found, expected = set(found), set(expected)
    missing, unexpected = sorted(expected - found), sorted(found - expected)
    if missing or unexpected:
        parts = [
            f"{len(keys)} {what} ({', '.join(keys[:4])}{' ...' if len(keys) > 4 else ''})"
            for what, keys in (("missing", missing), ("unexpected", unexpected))
            if keys
        ]
        raise InputError(f"{path}: weights do not fit the network: {', '.join(parts)}")


def best_checkpoint(folder: Path | str) -> Path:
    """The checkpoint of a run directory with the smallest loss in its name; the newest of equal ones.

    Reads our names (``epoch=003-val_loss=0.12345.ckpt``), the authors' (``3-epoch_val_loss:0.12345.ckpt``), both also
    with a ``-v1`` suffix. Without a loss in any name: ``last.ckpt``.

    Raises:
        InputError: no checkpoint in the folder.
    """
    folder = Path(folder)
    inner = folder / "checkpoints" if (folder / "checkpoints").is_dir() else folder
    scored = []
    for file in inner.glob("*.ckpt"):
        match = re.search(r"loss[=:]([-+\d.e]*\d)", file.name)
        if match:
            scored.append((float(match.group(1)), -file.stat().st_mtime, file))
    if scored:
        return min(scored)[2]
    if (inner / "last.ckpt").exists():
        return inner / "last.ckpt"
    raise InputError(f"{inner}: no checkpoint (*.ckpt) in this folder; train first or name the file")
