"""Our names for the tensors of the original containers, both ways. Key mapping only; ``containers.py`` reads files.

A container holds one state dict per network. Its layers are ours one to one, except for the linear maps of the noise: a
layer each in the original, rows of one matrix here (`redo.model.generators`). Everything is listed in the order in
which the original registers its parameters, because its optimiser states count by that order.
"""

from collections.abc import Iterator, Mapping
from typing import NamedTuple

import torch
from torch import Tensor, nn

from common.errors import InputError
from redo.model.encoders import Discriminator, NoiseEncoder
from redo.model.generators import Generators, RegionGenerator
from redo.model.layers import SelfAttention, SpectralConv2d
from redo.model.mask_network import MaskNetwork

LISTED = 4  # keys named in an error
VECTORS = ("u", "v")


class Layer(NamedTuple):
    """A layer (or bare parameter) of the original and ours that it is, or whose rows [first, last) it is."""

    original: str
    ours: str
    rows: tuple[int, int] | None = None


class Pair(NamedTuple):
    """A tensor of the original with its shape, and ours that it is, or whose rows [first, last) it is."""

    original: str
    ours: str
    rows: tuple[int, int] | None
    shape: tuple[int, ...]


def pairs(network: nn.Module, parameters_only: bool = False) -> list[Pair]:
    """All tensors of a network, in the original's order.

    Args:
        network: One of the four networks, or one of their self-attentions.
        parameters_only: Without the vectors of the power iterations.
    """
    found = [pair for layer in _layers(network) for pair in _tensors(network, layer)]
    return [pair for pair in found if not (parameters_only and pair.ours.endswith((".u", ".v")))]


def import_state(network: nn.Module, state: Mapping[str, Tensor], source: object = "container") -> dict[str, Tensor]:
    """The original's tensors under our names, ready for ``network.load_state_dict``.

    Very old PyTorch also wrote ``weight`` beside ``weight_orig`` (dropped) or no ``weight_v`` (computed from u).

    Args:
        network: What the tensors should fit.
        state: The original's state dict.
        source: File to name in an error.

    Raises:
        InputError: Tensors missing, left over or of another shape; the first ones are listed.
    """
    state = _modernised(state)
    expected = {pair.original: pair.shape for pair in pairs(network)}
    faults = {
        "missing": [key for key in expected if key not in state],
        "unexpected": [key for key in state if key not in expected],
        "of another shape": [
            f"{key} {list(state[key].shape)} instead of {list(shape)}"
            for key, shape in expected.items()
            if key in state and tuple(state[key].shape) != shape
        ],
    }
    listed = [
        f"{len(keys)} {fault}: {', '.join(keys[:LISTED])}{' ...' if len(keys) > LISTED else ''}"
        for fault, keys in faults.items()
        if keys
    ]
    if listed:
        raise InputError(f"{source}: weights do not fit the {type(network).__name__} ({'; '.join(listed)})")
    return to_ours(network, state)


def export_state(network: nn.Module) -> dict[str, Tensor]:
    """Copies of the network's tensors under the original's keys, in its order."""
    return {key: tensor.detach().clone() for key, tensor in to_original(network, network.state_dict()).items()}


def to_original(network: nn.Module, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors by our names, such as weights, gradients or Adam's moments, cut and named as in the original."""
    found = {}
    for original, ours, rows, shape in pairs(network):
        if ours in tensors:
            part = tensors[ours] if rows is None else tensors[ours][slice(*rows)]
            found[original] = part.reshape(shape)
    return found


def to_ours(network: nn.Module, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The inverse of `to_original`."""
    shapes = {name: tensor.shape for name, tensor in network.state_dict().items()}
    found: dict[str, Tensor] = {}
    for original, ours, rows, _ in pairs(network):
        if original not in tensors:
            continue
        tensor = tensors[original]
        if rows is None:
            found[ours] = tensor
        else:
            whole = found.setdefault(ours, torch.zeros(shapes[ours], dtype=tensor.dtype, device=tensor.device))
            whole[slice(*rows)] = tensor.reshape(-1, *shapes[ours][1:])
    return found


def _modernised(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    modern = dict(state)
    for key, weight in state.items():
        layer, _, name = key.rpartition(".")
        if name == "weight_orig":
            modern.pop(f"{layer}.weight", None)
            if f"{layer}.weight_u" in state and f"{layer}.weight_v" not in state:
                v = weight.flatten(1).t() @ state[f"{layer}.weight_u"]
                modern[f"{layer}.weight_v"] = nn.functional.normalize(v, dim=0)
    return modern


def _tensors(network: nn.Module, layer: Layer) -> Iterator[Pair]:
    original, ours, rows = layer
    parent, _, last = ours.rpartition(".")
    owner = getattr(network.get_submodule(parent), last)
    if isinstance(owner, Tensor):
        yield Pair(original, ours, None, tuple(owner.shape))
        return
    if isinstance(owner, SpectralConv2d):  # lists its bias first
        names = {"bias": "bias", "weight_orig": "weight", "weight_u": "u", "weight_v": "v"}
    else:
        names = {"weight": "weight", "bias": "bias"}
    for theirs, name in names.items():
        tensor = getattr(owner, name)
        if tensor is None:
            continue
        shape = tuple(tensor.shape)
        if rows is not None:  # a 1x1 convolution in the original
            shape = (rows[1] - rows[0], *shape[1:], *[1, 1] * (tensor.dim() - 1))
        yield Pair(f"{original}.{theirs}", f"{ours}.{name}", rows, shape)


def _layers(network: nn.Module) -> list[Layer]:
    match network:
        case MaskNetwork():
            return _mask_layers(network)
        case Generators():
            regions = [region for region in network if isinstance(region, RegionGenerator)]
            return [
                Layer(f"net.{k}.{layer.original}", f"{k}.{layer.ours}", layer.rows)
                for k, region in enumerate(regions)
                for layer in _region_layers(region)
            ]
        case Discriminator():
            return _discriminator_layers(network)
        case NoiseEncoder():
            return _noise_layers(network)
        case SelfAttention():
            return _attention_layers()
    raise TypeError(f"{type(network).__name__} is none of the original's networks")


def _mask_layers(network: MaskNetwork) -> list[Layer]:
    layers = [Layer(f"cnn.0.mods.{i + 1}", f"stem.{i}") for i in (0, 1, 3, 4, 6, 7)]
    for k in range(len(network.blocks)):
        for original, ours in (
            ("blocs.0", "conv1"),
            ("blocs.1", "norm1"),
            ("blocs.3", "conv2"),
            ("activationF.0", "norm2"),
        ):
            layers.append(Layer(f"cnn.{k + 1}.{original}", f"blocks.{k}.{ours}"))
    layers += [Layer(f"psp.{k}.1", f"pyramid.{k}") for k in range(len(network.pyramid))]
    ends = {1: "up1", 2: "up1_norm", 5: "up2", 6: "up2_norm", 9: "head"}
    return layers + [Layer(f"out.mods.{i}", ours) for i, ours in ends.items()]


def _region_layers(region: RegionGenerator) -> list[Layer]:
    levels = range(len(region.blocks))
    layers = _attention_layers("selfAtt.", "attention.") if region.attention is not None else []
    layers.append(Layer("dense", "dense"))
    layers += [Layer(f"convA.{k}.1", f"blocks.{k}.conv_a") for k in levels]
    layers += [Layer(f"convB.{k}", f"blocks.{k}.conv_b") for k in levels]
    # Rows: the scale of each norm, A and B of each block in turn and the last one, then the shifts likewise.
    ends = torch.tensor(region.norm_widths * 2).cumsum(0).tolist()
    starts = [0, *ends[:-1]]
    num_norms = len(region.norm_widths)

    def rows(first: int, norm: int) -> tuple[int, int]:
        return starts[first + norm], ends[first + norm]

    for name, first in (("gamma", 0), ("beta", num_norms)):
        for letter, offset in (("A", 0), ("B", 1)):
            layers += [Layer(f"{name}{letter}.{k}", "modulation", rows(first, 2 * k + offset)) for k in levels]
    layers += [Layer(f"sc.{k}.1", f"blocks.{k}.shortcut") for k in levels]
    layers.append(Layer("gammaOut", "modulation", rows(0, num_norms - 1)))
    layers.append(Layer("betaOut", "modulation", rows(num_norms, num_norms - 1)))
    return [*layers, Layer("convOut", "head")]


def _discriminator_layers(network: Discriminator) -> list[Layer]:
    layers = [Layer("bloc0.0", "first.conv1"), Layer("bloc0.2", "first.conv2"), Layer("sc0.1", "first.shortcut")]
    if network.attention is not None:
        layers += _attention_layers("selfAtt.", "attention.")
    layers.append(Layer("dense", "dense"))
    for k in range(len(network.blocks)):
        layers += [Layer(f"blocs.{k}.1", f"blocks.{k}.conv1"), Layer(f"blocs.{k}.3", f"blocks.{k}.conv2")]
    return layers + [Layer(f"sc.{k}.1", f"blocks.{k}.shortcut") for k in range(len(network.blocks) - 1)]


def _noise_layers(network: NoiseEncoder) -> list[Layer]:
    layers = [Layer("net.dense", "dense"), Layer("net.blocs.0.0", "first.conv1"), Layer("net.blocs.0.2", "first.conv2")]
    for k in range(len(network.blocks)):
        layers.append(Layer(f"net.blocs.{k + 1}.1", f"blocks.{k}.conv1"))
        layers.append(Layer(f"net.blocs.{k + 1}.3", f"blocks.{k}.conv2"))
    layers.append(Layer("net.sc.0.1", "first.shortcut"))
    return layers + [Layer(f"net.sc.{k + 1}.1", f"blocks.{k}.shortcut") for k in range(len(network.blocks) - 1)]


def _attention_layers(original: str = "", ours: str = "") -> list[Layer]:
    names = {"gamma": "gamma", "f": "query", "g": "key", "h": "value", "o": "output"}
    return [Layer(f"{original}{theirs}", f"{ours}{name}") for theirs, name in names.items()]
