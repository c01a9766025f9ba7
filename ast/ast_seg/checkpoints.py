"""Read the checkpoints of the published code: names of tensors, and what their shapes say about the model.

A background file holds ``encoder_state_dict``, ``generator_state_dict`` and ``complexity``; a foreground file holds
``encoder_state_dict``, ``generator_state_dict``, ``trainer_state_dict`` and, unless its backgrounds were frozen,
``background_encoder_state_dict`` and ``background_generator_state_dict``. Every tensor of ours has one name there.
Constant maps are stored there and computed here. SegFormer's tensors come in the names of transformers 4 (the published
files) or of transformers 5; both are read, whichever is installed.
"""

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ast_seg.model.background import ENCODER_CHANNELS, BackgroundModel
from ast_seg.model.renderer import Renderer
from ast_seg.model.slots import SlotEncoder
from common.errors import InputError

LISTED = 4  # keys named in an error
State = Mapping[str, Tensor]

# Ours to the published name; the first pattern that fits decides.
_NAMES = (
    (r"encoder\.blocks\.(\d+)\.conv\.(.+)", r"background_encoder.\1.downsample.0.\2"),
    (r"encoder\.blocks\.(\d+)\.norm\.(.+)", r"background_encoder.\1.downsample.1.\2"),
    (r"generator\.blocks\.(\d+)\.conv\.(.+)", r"background_generator.\1.upsample.0.\2"),
    (r"generator\.start", r"background_start"),  # ours only
    (r"generator\.blocks\.(\d+)\.norm\.(.+)", r"background_generator.\1.upsample.1.\2"),
    (r"feature_maps\.network\.(.+)", r"feature_and_attention_map_generator.complete_model.\1"),
    (r"feature_maps\.first\.(.+)", r"feature_and_attention_map_generator.first_feature_map.\1"),
    (r"feature_maps\.downs\.(\d+)\.halve\.(.+)", r"feature_and_attention_map_generator.downsample_blocks.\1.bloc1.\2"),
    (r"feature_maps\.downs\.(\d+)\.refine\.(.+)", r"feature_and_attention_map_generator.downsample_blocks.\1.bloc2.\2"),
    (r"feature_maps\.centre\.(.+)", r"feature_and_attention_map_generator.center_block.\1"),
    (r"feature_maps\.ups\.(\d+)\.refine\.(.+)", r"feature_and_attention_map_generator.upsample_blocks.\1.bloc1.\2"),
    (r"feature_maps\.ups\.(\d+)\.enlarge\.(.+)", r"feature_and_attention_map_generator.upsample_blocks.\1.bloc2.0.\2"),
    (r"feature_maps\.ups\.(\d+)\.norm\.(.+)", r"feature_and_attention_map_generator.upsample_blocks.\1.bloc2.1.\2"),
    (r"feature_maps\.last_skip\.(.+)", r"feature_and_attention_map_generator.last_skip_layer.\1"),
    (r"feature_maps\.last_residual\.(.+)", r"feature_and_attention_map_generator.last_residual_layer.\1"),
    (r"feature_maps\.last\.(.+)", r"feature_and_attention_map_generator.conv1x1.\1"),
    (r"embedding\.(.+)", r"feature_vector_embedding.\1"),
    (r"projection\.(.+)", r"latents_projection.\1"),
    (r"transformer\.(.+)", r"transformer.\1"),
    (r"glimpses\.layers\.(.+)", r"glimpse_generator.\1"),
    (r"background_logit", "background_activation_logit"),
    (r"local_background_logit", "local_background_activation_logit"),
)

# SegFormer: transformers 5 to transformers 4, which is what the published files hold.
_SEGFORMER_NAMES = (
    (r"segformer\.stages\.(\d+)\.patch_embeddings\.", r"segformer.encoder.patch_embeddings.\1."),
    (r"segformer\.stages\.(\d+)\.layer_norm\.", r"segformer.encoder.layer_norm.\1."),
    (r"segformer\.stages\.(\d+)\.blocks\.(\d+)\.", r"segformer.encoder.block.\1.\2."),
    (r"\.layernorm_before\.", ".layer_norm_1."),
    (r"\.layernorm_after\.", ".layer_norm_2."),
    (r"\.attention\.q_proj\.", ".attention.self.query."),
    (r"\.attention\.k_proj\.", ".attention.self.key."),
    (r"\.attention\.v_proj\.", ".attention.self.value."),
    (r"\.attention\.o_proj\.", ".attention.output.dense."),
    (r"\.attention\.sequence_reduction\.sequence_reduction\.", ".attention.self.sr."),
    (r"\.attention\.sequence_reduction\.layer_norm\.", ".attention.self.layer_norm."),
    (r"\.mlp\.fc1\.", ".mlp.dense1."),
    (r"\.mlp\.fc2\.", ".mlp.dense2."),
    (r"decode_head\.linear_projections\.", "decode_head.linear_c."),
)

_CONSTANTS = re.compile(
    r"position_map|background_mask(_logit)?|background_(encoder|generator)\.\d+\.positional_encoding"
)


def transformers4_name(key: str) -> str:
    """A published name with SegFormer's part as transformers 4 spells it; other names stay as they are."""
    if "segformer." in key or "decode_head." in key:
        for pattern, name in _SEGFORMER_NAMES:
            key = re.sub(pattern, name, key)
    return key


def published_name(key: str) -> str:
    """The published name of a tensor of `BackgroundModel`, `SlotEncoder` or `Renderer`.

    Raises:
        KeyError: No tensor of theirs.
    """
    for pattern, name in _NAMES:
        if match := re.fullmatch(pattern, key):
            published = transformers4_name(match.expand(name))
            if "complete_model" in published or "feature_and_attention" not in published:
                return published
            # the published U-Net's convolutions and normalisations are numbered
            return re.sub(r"\.conv\.(?=\w+$)", ".0.", re.sub(r"\.norm\.(?=\w+$)", ".1.", published))
    raise KeyError(key)


def import_state(network: nn.Module, state: State, source: object = "checkpoint") -> dict[str, Tensor]:
    """Published tensors under our names, ready for ``network.load_state_dict``.

    Args:
        network: What the tensors should fit: `BackgroundModel`, `SlotEncoder` or `Renderer`.
        state: Tensors under published names.
        source: File to name in an error.

    Raises:
        InputError: Tensors missing, left over or of another shape.
    """
    expected = {published_name(key): key for key in network.state_dict()}
    shapes = {name: network.state_dict(keep_vars=True)[key].shape for name, key in expected.items()}
    found = {transformers4_name(key): tensor for key, tensor in state.items() if not _CONSTANTS.fullmatch(key)}
    missing = [name for name in expected if name not in found]
    unexpected = [name for name in found if name not in expected]
    reshaped = [
        f"{name} {tuple(found[name].shape)} instead of {tuple(shape)}"
        for name, shape in shapes.items()
        if name in found and found[name].shape != shape
    ]
    if missing or unexpected or reshaped:
        raise InputError(
            f"{source}: does not fit the network: missing {_listed(missing)}; unexpected {_listed(unexpected)}; "
            f"other shape {_listed(reshaped)}"
        )
    return {key: found[name] for name, key in expected.items()}


def export_state(network: nn.Module) -> dict[str, Tensor]:
    """Our tensors under published names, without the constant maps."""
    return {published_name(key): tensor for key, tensor in network.state_dict().items()}


def import_background(checkpoint: Mapping[str, Any], source: object = "checkpoint") -> BackgroundModel:
    """The background model of a background file, or the one inside a foreground file.

    Image size and complexity are read off the tensors; a ``complexity`` that says otherwise is ignored, because the
    unsupervised mode of the published code stores a wrong one.

    Raises:
        InputError: No background networks in it, or they do not fit.
    """
    prefix = "background_" if "background_encoder_state_dict" in checkpoint else ""
    encoder: State = checkpoint.get(f"{prefix}encoder_state_dict", {})
    generator: State = checkpoint.get(f"{prefix}generator_state_dict", {})
    first = encoder.get("background_encoder.0.positional_encoding")
    if first is None:
        raise InputError(f"{source}: holds no background network; name a file of the background stage")
    height, width = first.shape[-2:]
    offset = float(checkpoint.get("input_offset", 0.0))  # ours only
    model = BackgroundModel(
        height=height,
        width=width,
        complexity=_complexity(encoder, source),
        input_offset=offset,
        from_start="background_start" in generator,
    )
    model.load_state_dict(import_state(model, {**encoder, **generator}, source))
    return model


def _complexity(encoder: State, source: object) -> bool:
    weights = [tensor for key, tensor in encoder.items() if key.endswith("downsample.0.weight")]
    channels = (3, *(tensor.shape[0] for tensor in weights))
    for (_, complexity), known in ENCODER_CHANNELS.items():
        if channels == known:
            return complexity
    raise InputError(f"{source}: background encoder with channels {channels} is none of the published ones")


@dataclass(frozen=True)
class ForegroundSizes:
    """What the shapes of a foreground file say about its model."""

    max_set_size: int
    z_what_dim: int
    isotropic_scaling: bool
    feature_map_generator_name: str
    map_height: int
    map_width: int
    glimpse_size: int
    transformer_dim: int
    transformer_nlayers: int
    transformer_dim_feedforward: int
    variable_background_activation: bool


def foreground_sizes(checkpoint: Mapping[str, Any], source: object = "checkpoint") -> ForegroundSizes:
    """The sizes of a foreground file; the map's size is the image's for the U-Net, a quarter of it for SegFormer.

    Raises:
        InputError: Not a foreground file.
    """
    maps = "feature_and_attention_map_generator"
    try:
        encoder, renderer = checkpoint["encoder_state_dict"], checkpoint["generator_state_dict"]
        segformer = f"{maps}.complete_model.decode_head.classifier.weight" in encoder
        last = f"{maps}.complete_model.decode_head.classifier" if segformer else f"{maps}.conv1x1"
        dim, num_latents = encoder["feature_vector_embedding.weight"].shape
        what_dim = renderer["glimpse_generator.0.weight"].shape[0]
        return ForegroundSizes(
            max_set_size=encoder[f"{last}.weight"].shape[0] - num_latents + 2,
            z_what_dim=what_dim,
            isotropic_scaling=num_latents == what_dim + 4,
            feature_map_generator_name="Segformer" if segformer else "Unet",
            map_height=encoder["position_map"].shape[-2],
            map_width=encoder["position_map"].shape[-1],
            glimpse_size=renderer["glimpse_generator.0.weight"].shape[1] // 2,
            transformer_dim=dim,
            transformer_nlayers=len({key.split(".")[2] for key in encoder if key.startswith("transformer.layers.")}),
            transformer_dim_feedforward=encoder["transformer.layers.0.linear1.weight"].shape[0],
            variable_background_activation="local_background_activation_logit" in renderer,
        )
    except KeyError as error:
        raise InputError(f"{source}: not a foreground checkpoint, it has no {error.args[0]}") from error


def import_foreground(
    encoder: SlotEncoder, renderer: Renderer, checkpoint: Mapping[str, Any], source: object = "checkpoint"
) -> None:
    """Load a foreground file into an encoder and a renderer of its sizes.

    A background logit learned per pixel for another image size is interpolated.

    Raises:
        InputError: Another number of slots, size or kind of network (all that differ are named, with both values).
    """
    theirs, ours = foreground_sizes(checkpoint, source), _sizes_of(encoder, renderer)
    differing = [
        f"{name} is {value}, the model's is {ours[name]}"
        for name, value in asdict(theirs).items()
        if name in ours and value != ours[name]
    ]
    if differing:
        raise InputError(f"{source}: {'; '.join(differing)}")
    rendered = dict(checkpoint["generator_state_dict"])
    if renderer.local_background_logit is not None:
        key, size = "local_background_activation_logit", renderer.local_background_logit.shape[-2:]
        rendered[key] = _resized(rendered[key], size)
    encoder.load_state_dict(import_state(encoder, checkpoint["encoder_state_dict"], source))
    renderer.load_state_dict(import_state(renderer, rendered, source))


def _sizes_of(encoder: SlotEncoder, renderer: Renderer) -> dict[str, Any]:
    return {
        "max_set_size": encoder.num_slots,
        "z_what_dim": encoder.what_dim,
        "isotropic_scaling": encoder.isotropic,
        "feature_map_generator_name": "Segformer" if hasattr(encoder.feature_maps, "network") else "Unet",
        "glimpse_size": renderer.glimpses.size,
        "transformer_dim": encoder.embedding.out_features,
        "transformer_nlayers": encoder.transformer.num_layers,
        "variable_background_activation": renderer.local_background_logit is not None,
    }


def _resized(logits: Tensor, size: torch.Size) -> Tensor:
    if logits.shape[-2:] == size:
        return logits
    return nn.functional.interpolate(logits[0], size=list(size), mode="bilinear", align_corners=False)[None]


def _listed(keys: list[str]) -> str:
    return f"{len(keys)} ({', '.join(keys[:LISTED])}{' ...' if len(keys) > LISTED else ''})" if keys else "0"
