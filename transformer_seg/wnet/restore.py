"""A trained WNet from a file: ours, taoroalin's, fkodom's."""

from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

from common.checkpoints import load_checkpoint, state_dict_of
from common.errors import InputError
from transformer_seg.fitting import check_fits
from transformer_seg.wnet.checkpoints import import_wnet, load_wnet
from transformer_seg.wnet.lite import LiteWNet
from transformer_seg.wnet.model import WNet
from transformer_seg.wnet.module import WnetModule
from transformer_seg.wnet.options import NcutOptions, WnetOptions

OURS = "model."  # every network key of our own checkpoints begins so


def restore_wnet(file: Path) -> WnetModule:
    """The segmenter of a checkpoint file, in evaluation mode.

    Raises:
        InputError: no such file, not a WNet, weights that do not fit.
    """
    network, known = _read(file)
    values = {item.name: known[item.name] for item in fields(WnetOptions) if item.name in known}
    if isinstance(values.get("kernel"), dict):
        values["kernel"] = NcutOptions(**values["kernel"])
    values.update(_sizes(network))
    return WnetModule(WnetOptions(**values), known.get("image_size", 0), network).eval()


def load_weights(module: WnetModule, file: Path) -> None:
    """Put the weights of a checkpoint into a module made from other options.

    Raises:
        InputError: as ``restore_wnet``, or a network of another size.
    """
    network, _ = _read(file)
    for name, value in _sizes(network).items():
        ours = getattr(module.options, name)
        if value != ours:
            raise InputError(f"{file}: --{name} is {value} there and {ours} here; give --{name} {value}")
    found, expected = network.state_dict(), module.model.state_dict()
    check_fits(found, expected, file)
    module.model.load_state_dict(found)


def _read(file: Path) -> tuple[WNet | LiteWNet, dict[str, Any]]:
    """Network, and the hyper-parameters of our own checkpoint (none of published ones)."""
    known = _known(file)
    if known.get("system") == "wnet":
        weights = state_dict_of(load_checkpoint(file), file)
        ours = {key.removeprefix(OURS): value for key, value in weights.items() if key.startswith(OURS)}
        return import_wnet(ours, order=known["order"], dropout=known["dropout"], path=file), known
    return load_wnet(file), known


def _known(file: Path) -> dict[str, Any]:
    from transformer_seg.wnet.legacy_pickle import is_legacy

    if not file.is_file() or is_legacy(file):
        return {}
    content: Mapping[str, Any] = load_checkpoint(file)
    return dict(content.get("hyper_parameters", {}))


def _sizes(network: WNet | LiteWNet) -> dict[str, Any]:
    """The options that the tensors show."""
    if isinstance(network, LiteWNet):
        return {"variant": "lite", "num_classes": len(network.state_dict()["encoder.output.layers.4.weight"])}
    return {
        "variant": "sep",
        "num_classes": len(network.UEnc.final.weight),
        "width": len(network.UEnc.enc1.conv1.weight),
    }
