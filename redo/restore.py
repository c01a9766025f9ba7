"""Trained networks from a file: ours, or the authors' containers."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import torch
from torch import nn

from common.checkpoints import best_checkpoint, check_keys, load_checkpoint, state_dict_of
from common.errors import InputError
from redo.containers import ARCHIVES, import_containers
from redo.model import NetworkOptions, Networks
from redo.module import Redrawer

LETTERS = {"mask": "M", "generators": "X", "discriminator": "D", "noise": "Z"}
OURS = "networks."  # every network key of our own checkpoints begins so


@dataclass(frozen=True)
class Trained:
    """What a file holds.

    Attributes:
        file: It.
        options: Sizes of the networks.
        networks: Those found, by the letters M, X, D and Z, in evaluation mode.
        object_region: Region that was the object of the run's validation data, where it had annotations.
    """

    file: Path
    options: NetworkOptions
    networks: Mapping[str, nn.Module]
    object_region: int | None = None

    def network(self, letter: str) -> nn.Module:
        """One of the networks.

        Raises:
            InputError: The file does not hold it.
        """
        if letter not in self.networks:
            raise InputError(f"{self.file}: holds the networks {', '.join(self.networks)}, but {letter} is needed")
        return self.networks[letter]


def restore(path: Path) -> Trained:
    """The networks of a checkpoint, of a run directory's best checkpoint, or of published weights.

    Raises:
        InputError: No such file, not a checkpoint of this method, weights that do not fit.
    """
    file = best_checkpoint(path) if path.is_dir() else path
    if file.name.endswith((*ARCHIVES, ".pth")):
        published = import_containers([file])
        return Trained(file, published.options, published.networks)
    content = load_checkpoint(file)
    known = content.get("hyper_parameters", {})
    if "nResM" not in known or "wrecZ" not in known:
        raise InputError(f"{file}: no checkpoint of redo; give one of its run directories, or weights as .pth, .tar.gz")
    options = NetworkOptions(**{item.name: known[item.name] for item in fields(NetworkOptions)})
    with torch.device("meta"):
        networks = Networks(options, recover_noise=known["wrecZ"] > 0)
    weights = {k.removeprefix(OURS): v for k, v in state_dict_of(content, file).items() if k.startswith(OURS)}
    check_keys(weights, networks.state_dict(), file)
    networks.load_state_dict(weights, assign=True)
    found = {letter: getattr(networks, name) for name, letter in LETTERS.items()}
    region = content.get("redo", {}).get("object_region")
    return Trained(file, options, {k: v.eval() for k, v in found.items() if v is not None}, region)


def load_weights(module: Redrawer, path: Path) -> None:
    """Put the weights of a file into networks made from other options.

    Raises:
        InputError: As ``restore``, or networks of other sizes; the first differing tensors are listed.
    """
    trained = restore(path)
    for name, letter in LETTERS.items():
        network = getattr(module.networks, name)
        if network is not None and letter in trained.networks:
            fill(network, trained.networks[letter].state_dict(), f"{trained.file}: {letter}")


def fill(network: nn.Module, weights: Mapping[str, Any], source: str) -> None:
    """Load weights into a network.

    Raises:
        InputError: Tensors that are missing, left over, or of another shape.
    """
    expected = network.state_dict()
    check_keys(weights, expected, source)
    wrong = [
        f"{k} {list(v.shape)} instead of {list(expected[k].shape)}"
        for k, v in weights.items()
        if v.shape != expected[k].shape
    ]
    if wrong:
        more = " ..." if len(wrong) > 3 else ""
        raise InputError(f"{source}: {len(wrong)} tensors of another shape: {', '.join(wrong[:3])}{more}")
    network.load_state_dict(weights)
