"""A trained segmenter from a file: ours, the authors', or a bare state dict."""

from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from common.checkpoints import best_checkpoint, check_keys, load_checkpoint, state_dict_of
from common.errors import InputError
from stflow.checkpoints import import_state_dict
from stflow.module import MotionSegmenter
from stflow.options import ModelOptions, OptimOptions, UNetOptions

OURS = "model."  # every network key of our own checkpoints begins so


def restore(path: Path) -> MotionSegmenter:
    """The segmenter of a checkpoint file, or of a run directory's best checkpoint, in evaluation mode.

    Raises:
        InputError: no such file, not a checkpoint of this method, weights that do not fit.
    """
    file = best_checkpoint(path) if path.is_dir() else path
    unet, weights, known = _read(file)
    values = {item.name: known[item.name] for item in fields(ModelOptions) if item.name in known}
    values["unet"] = UNetOptions(**{item.name: unet[item.name] for item in fields(UNetOptions)})
    values["nAffineMasks"] = unet["num_classes"]
    values["optim"] = OptimOptions(**values["optim"]) if isinstance(values.get("optim"), dict) else OptimOptions()
    module = MotionSegmenter(
        ModelOptions(**values),
        known.get("img_size", [128, 224]),
        known.get("seed", 123),
        known.get("boundaries", "Ignore"),
    )
    _load(module, weights, file)
    return module.eval()


def load_weights(module: MotionSegmenter, path: Path) -> None:
    """Put the weights of a checkpoint into a segmenter made from other options.

    Raises:
        InputError: as ``restore``, or another number of segments or another network.
    """
    file = best_checkpoint(path) if path.is_dir() else path
    unet, weights, _ = _read(file)
    ours = replace(module.options.unet)
    for name in ("num_layers", "features_start", "inner_normalisation"):
        if unet[name] != getattr(ours, name):
            raise InputError(
                f"{file}: --unet.{name} is {unet[name]} there and {getattr(ours, name)} here; give {unet[name]}"
            )
    if unet["num_classes"] != module.options.nAffineMasks:
        raise InputError(f"{file}: has {unet['num_classes']} segments, not {module.options.nAffineMasks}; give -L")
    _load(module, weights, file)


def _read(file: Path) -> tuple[dict[str, Any], dict[str, Tensor], dict[str, Any]]:
    """Network options, network weights under our names, and the hyper-parameters."""
    content = load_checkpoint(file)
    weights = state_dict_of(content, file)
    known = dict(content.get("hyper_parameters", {}))
    ours = {key.removeprefix(OURS): value for key, value in weights.items() if key.startswith(OURS)}
    if ours and "unet" in known:
        return {**known["unet"], "num_classes": known["nAffineMasks"]}, ours, known
    try:
        options, imported = import_state_dict(weights, known)
    except InputError as error:
        raise InputError(f"{file}: {error}") from error
    return options, imported, known


def _load(module: MotionSegmenter, weights: dict[str, Tensor], file: Path) -> None:
    expected = module.model.state_dict()
    check_keys(weights, expected, file)
    for key, value in weights.items():
        if value.shape != expected[key].shape:
            raise InputError(f"{file}: {key} has shape {tuple(value.shape)}, the network {tuple(expected[key].shape)}")
    module.model.load_state_dict(weights)
