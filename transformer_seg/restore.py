"""A trained system from a file, whichever it is."""

from pathlib import Path

from common.checkpoints import best_checkpoint, load_checkpoint
from common.errors import InputError
from transformer_seg.wnet.legacy_pickle import is_legacy


def checkpoint_file(path: Path) -> Path:
    """The checkpoint that a path names.

    That is a file, the ``checkpoint.pth`` of a published model's folder, or the best one of a run directory.

    Raises:
        InputError: nothing there.
    """
    if path.is_dir():
        published = path / "checkpoint.pth"
        return published if published.is_file() and not (path / "checkpoints").is_dir() else best_checkpoint(path)
    if not path.is_file():
        raise InputError(f"{path}: no such run directory or checkpoint file")
    return path


def system_of(file: Path) -> str:
    """``wnet`` or ``segmenter``: what a checkpoint holds.

    Raises:
        InputError: neither.
    """
    if is_legacy(file):
        return "wnet"
    content = load_checkpoint(file)
    known = content.get("hyper_parameters", {})
    if isinstance(known, dict) and known.get("system") in ("wnet", "segmenter"):
        return str(known["system"])
    keys = list(content.get("model", content.get("state_dict", content)))
    if any(str(key).startswith(("UEnc.", "encoder.conv1.")) for key in keys):
        return "wnet"
    if any(str(key).startswith("encoder.patch_embed.") for key in keys):
        return "segmenter"
    raise InputError(
        f"{file}: neither a WNet nor a Segmenter (its first keys: {', '.join(map(str, keys[:4]))}); DINO's weights are"
        " for attention.py"
    )
