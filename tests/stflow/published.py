"""State dicts under the published checkpoints' key names, by the naming rule of the reference (not by the importer)."""

import torch

from stflow.model import UNet3D
from tests.golden import Case, formula_tensor

PREFIX = "backbone_model.model.model."


def published_names(num_layers: int, norm_tensors: tuple[str, ...]) -> dict[str, str]:
    """Published name, from ``layers.`` on, to the name in `UNet3D`, in the published order."""
    names = {}
    for k in range(num_layers):
        level = f"layers.level_{k}"
        if k > 0:
            names |= {f"{level}.down.downsample.{p}": f"downs.{k - 1}.{p}" for p in ("weight", "bias")}
        for side, ours in (("convl", "encoders"), ("convr", "decoders")):
            if side == "convr" and k == num_layers - 1:
                continue
            for index in range(6):
                parts = {0: ("weight", "bias"), 3: ("weight", "bias"), 1: norm_tensors, 4: norm_tensors}.get(index, ())
                names |= {f"{level}.{side}.net.{index}.{p}": f"{ours}.{k}.{index}.{p}" for p in parts}
        if k > 0:
            names |= {f"{level}.up.upsample.{p}": f"ups.{k - 1}.{p}" for p in ("weight", "bias")}
    return names | {f"layers.final_layer.{p}": f"head.{p}" for p in ("weight", "bias")}


def network_options(config, num_classes: str, prefix: str) -> dict:
    """Arguments of `UNet3D` from a case's configuration."""
    options = ("features_start", "num_layers", "padding_mode", "inner_normalisation", "train_bn")
    return {"num_classes": config[num_classes]} | {name: config[prefix + name] for name in options}


def formula_state_dict(case: Case, options: dict) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """The checkpoint of a case by the weights rule, and its names in `UNet3D` by published name."""
    assert "weights" not in case.entry, f"{case.name}: unknown weights rule"
    shapes = {name: tensor.shape for name, tensor in UNet3D(**options).state_dict().items()}
    tensors = [name.removeprefix("encoders.0.1.") for name in shapes if name.startswith("encoders.0.1.")]
    running = ("running_mean", "running_var", "num_batches_tracked")
    order = ("weight", "bias", "conv_gaussian.weight", *running)
    names = published_names(options["num_layers"], tuple(t for t in order if t in tensors))
    assert sorted(names.values()) == sorted(shapes)
    weights = {}
    for key, ours in names.items():
        if key.endswith("num_batches_tracked"):
            weights[PREFIX + key] = torch.zeros((), dtype=torch.long)
            continue
        phase = case.config["formula_key_prefix"] + key
        weights[PREFIX + key] = formula_tensor(PREFIX + key, shapes[ours], case.config["gain"], phase)
    return weights, {PREFIX + key: ours for key, ours in names.items()}
