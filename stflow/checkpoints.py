"""Read the checkpoints that the authors of ST-MS published.

They are pickles of Lightning 1.8: a ``state_dict`` with ``grid`` (derived, dropped here) and the network under
``backbone_model.model.model.layers.``, and ``hyper_parameters`` with dotted names. Nothing but keys is mapped; a
network that does not match to the last tensor is refused.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from common.errors import InputError
from stflow.model import UNet3D

# Published name, from "layers." on, to ours.
KEYS: tuple[tuple[str, Callable[[str, str], str]], ...] = (
    (r"level_(\d+)\.convl\.net\.(.+)", lambda k, rest: f"encoders.{k}.{rest}"),
    (r"level_(\d+)\.convr\.net\.(.+)", lambda k, rest: f"decoders.{k}.{rest}"),
    (r"level_(\d+)\.down\.downsample\.(.+)", lambda k, rest: f"downs.{int(k) - 1}.{rest}"),
    (r"level_(\d+)\.up\.upsample\.(.+)", lambda k, rest: f"ups.{int(k) - 1}.{rest}"),
    (r"final_layer()\.(.+)", lambda _, rest: f"head.{rest}"),
)
NETWORK_OPTIONS = ("features_start", "num_layers", "padding_mode", "inner_normalisation", "train_bn")
LISTED = 8  # keys named in an error


@dataclass(frozen=True)
class PublishedModel:
    """A published network and what is known about its training.

    Attributes:
        options: Arguments of `UNet3D`.
        state_dict: Its tensors.
        hyper_parameters: All of the checkpoint's hyper-parameters, empty for a bare state dict.
    """

    options: dict[str, Any]
    state_dict: dict[str, Tensor]
    hyper_parameters: dict[str, Any]

    def network(self) -> UNet3D:
        """The network with its weights, in evaluation mode."""
        network = UNet3D(**self.options)
        network.load_state_dict(self.state_dict)
        return network.eval()

    def summary(self) -> str:
        """Number of segments, image size, inputs and normalisation, on one line."""
        known = self.hyper_parameters
        size = "x".join(map(str, known["img_size"])) if "img_size" in known else "unknown"
        inputs = " ".join(known["inputs"]) if "inputs" in known else "unknown"
        return (
            f"L={self.options['num_classes']}, img_size {size}, inputs {inputs}, "
            f"normalisation {self.options['inner_normalisation']} (train_bn={self.options['train_bn']}), "
            f"{self.options['num_layers']} levels from {self.options['features_start']} features"
        )


def convert_key(key: str) -> str | None:
    """Name in `UNet3D` of a published tensor, whatever stands before ``layers.``; None for one that is not its own."""
    _, found, name = ("." + key).rpartition(".layers.")
    if found:
        for pattern, rename in KEYS:
            if match := re.fullmatch(pattern, name):
                return rename(match[1], match[2])
    return None


def import_state_dict(
    state_dict: Mapping[str, Tensor], hyper_parameters: Mapping[str, Any] | None = None
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Options and tensors of `UNet3D` from a published state dict.

    Args:
        state_dict: Published tensors, with or without the prefix of a checkpoint.
        hyper_parameters: The checkpoint's. Those of the network (``unet.*``) are used, all others ignored; missing ones
            are read off the tensors as far as they show, else they are the published defaults.

    Returns:
        Arguments of `UNet3D`, and its state dict.

    Raises:
        InputError: Tensors missing, left over or of another shape.
    """
    converted: dict[str, Tensor] = {}
    unexpected = []
    for key, tensor in state_dict.items():
        name = convert_key(key)
        if name is not None:
            converted[name] = tensor
        elif key.rpartition(".")[2] != "grid":
            unexpected.append(key)
    options = _options(converted, hyper_parameters or {})
    with torch.device("meta"):
        expected = UNet3D(**options).state_dict()
    missing = [key for key in expected if key not in converted]
    unexpected += [key for key in converted if key not in expected]
    reshaped = [
        f"{key} {tuple(converted[key].shape)} instead of {tuple(expected[key].shape)}"
        for key in expected
        if key in converted and converted[key].shape != expected[key].shape
    ]
    if missing or unexpected or reshaped:
        raise InputError(
            "checkpoint is not a network of this method: "
            f"missing {_listed(missing)}; unexpected {_listed(unexpected)}; other shape {_listed(reshaped)}"
        )
    return options, {key: converted[key] for key in expected}


def import_checkpoint(path: str | Path) -> PublishedModel:
    """Read a published checkpoint, or a bare state dict.

    Raises:
        InputError: A file that is no such thing.
    """
    from common.checkpoints import load_checkpoint

    content = load_checkpoint(path)
    known = dict(content.get("hyper_parameters", {}))
    try:
        options, state_dict = import_state_dict(content.get("state_dict", content), known)
    except InputError as error:
        raise InputError(f"{path}: {error}") from error
    return PublishedModel(options, state_dict, known)


def _options(converted: Mapping[str, Tensor], known: Mapping[str, Any]) -> dict[str, Any]:
    """Network options: as trained where that is recorded, else as the tensors show."""
    first, head = converted.get("encoders.0.0.weight"), converted.get("head.weight")
    if first is None or head is None or first.dim() != 5 or head.dim() != 5:
        raise InputError(
            "checkpoint is not a network of this method: no first and last convolution "
            "(layers.level_0.convl.net.0.weight, layers.final_layer.weight)"
        )
    running = "encoders.0.1.running_mean" in converted
    options = {
        "num_classes": head.shape[0],
        "in_channels": first.shape[1],
        "features_start": first.shape[0],
        "num_layers": 1 + max(int(key.split(".")[1]) for key in converted if key.startswith("encoders.")),
        "padding_mode": "zeros",
        "inner_normalisation": "BatchNorm" if "encoders.0.1.weight" in converted else "InstanceNorm",
        "train_bn": running,
    }
    recorded = {name: known[f"unet.{name}"] for name in NETWORK_OPTIONS if f"unet.{name}" in known}
    # A parser of that time may have recorded the word None as the value.
    if "inner_normalisation" in recorded:
        recorded["inner_normalisation"] = str(recorded["inner_normalisation"])
    return options | recorded


def _listed(names: list[str]) -> str:
    more = f" and {len(names) - LISTED} more" if len(names) > LISTED else ""
    return (", ".join(names[:LISTED]) or "none") + more
