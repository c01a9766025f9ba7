"""Read published DINO weights: flat backbones, full training checkpoints, timm's and Hugging Face's containers.

Backbone tensors have our names everywhere but at Hugging Face. What they do not show is the number of heads, which is
D / 64 in every published network.
"""

import argparse
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from common.checkpoints import load_checkpoint, state_dict_of
from common.errors import InputError
from transformer_seg.dino.model import EPS, DinoHead
from transformer_seg.fitting import check_fits
from transformer_seg.positions import square_grid
from transformer_seg.vit import VisionTransformer

Part = Literal["teacher", "student"]
HEAD_WIDTH = 64
OTHER_ARCHITECTURES = {"cls_attn_blocks.": "XCiT", "layer1.": "a ResNet", "layers.0.blocks.": "Swin"}
HUGGING_FACE = (
    (r"embeddings\.cls_token", "cls_token"),
    (r"embeddings\.position_embeddings", "pos_embed"),
    (r"embeddings\.patch_embeddings\.projection\.(\w+)", r"patch_embed.proj.\1"),
    (r"encoder\.layer\.(\d+)\.layernorm_before\.(\w+)", r"blocks.\1.norm1.\2"),
    (r"encoder\.layer\.(\d+)\.layernorm_after\.(\w+)", r"blocks.\1.norm2.\2"),
    (r"encoder\.layer\.(\d+)\.attention\.output\.dense\.(\w+)", r"blocks.\1.attn.proj.\2"),
    (r"encoder\.layer\.(\d+)\.intermediate\.dense\.(\w+)", r"blocks.\1.mlp.fc1.\2"),
    (r"encoder\.layer\.(\d+)\.output\.dense\.(\w+)", r"blocks.\1.mlp.fc2.\2"),
    (r"layernorm\.(\w+)", r"norm.\1"),
)
THIRDS = ("query", "key", "value")  # of qkv, in this order


@dataclass(frozen=True)
class PublishedDino:
    """What a file holds.

    Attributes:
        backbone: In evaluation mode.
        head: Of a full checkpoint.
        center: Of a full checkpoint (1, K).
        arguments: The options it was trained with.
    """

    backbone: VisionTransformer
    head: DinoHead | None = None
    center: Tensor | None = None
    arguments: dict[str, Any] = field(default_factory=dict)


def strip_prefix(state: Mapping[str, Tensor], *prefixes: str) -> dict[str, Tensor]:
    """Names without these prefixes, each taken off once, in this order, from the names that begin with it."""
    found = {}
    for key, tensor in state.items():
        for prefix in prefixes:
            key = key.removeprefix(prefix)
        found[key] = tensor
    return found


def from_hugging_face(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The names of a backbone by those of Hugging Face's ViT; its pooler is left out.

    Raises:
        InputError: A name that is unknown, or a query, key or value missing.
    """
    state = {key: tensor for key, tensor in strip_prefix(state, "vit.").items() if not key.startswith("pooler.")}
    found: dict[str, Tensor] = {}
    for key, tensor in state.items():
        if match := re.fullmatch(r"encoder\.layer\.(\d+)\.attention\.attention\.(query|key|value)\.(\w+)", key):
            parts = [state.get(key.replace(match[2], third)) for third in THIRDS]
            if any(part is None for part in parts):
                raise InputError(f"checkpoint: query, key and value beside {key} are not complete")
            found[f"blocks.{match[1]}.attn.qkv.{match[3]}"] = torch.cat([part for part in parts if part is not None])
            continue
        names = [re.sub(pattern, name, key) for pattern, name in HUGGING_FACE if re.fullmatch(pattern, key)]
        if not names:
            raise InputError(f"checkpoint: {key} is no tensor of a vision transformer")
        found[names[0]] = tensor
    return found


def import_backbone(
    state: Mapping[str, Tensor], *, heads: int | None = None, drop_path: float = 0.0, path: Path | str = "checkpoint"
) -> VisionTransformer:
    """The backbone of a state dict (ours, timm's or Hugging Face's names), in evaluation mode.

    Args:
        state: Tensors, without prefixes. timm's classification head is left out.
        heads: None takes D / 64.
        drop_path: See `VisionTransformer`.
        path: Named in errors.

    Raises:
        InputError: Another architecture, or tensors missing, left over or of another shape.
    """
    if any("embeddings.cls_token" in key for key in state):
        state = from_hugging_face(state)
    for start, name in OTHER_ARCHITECTURES.items():
        if any(key.startswith(start) for key in state):
            raise InputError(f"{path}: this is {name}; only vision transformers are read")
    state = {key: tensor for key, tensor in state.items() if not key.startswith(("head.", "fc_norm."))}
    if missing := [key for key in ("pos_embed", "patch_embed.proj.weight") if key not in state]:
        raise InputError(f"{path}: not a vision transformer: {' and '.join(missing)} missing")
    width, _, patch_size, _ = state["patch_embed.proj.weight"].shape
    side, _ = square_grid(state["pos_embed"], 1)
    with torch.device("meta"):
        network = VisionTransformer(
            image_size=side * patch_size,
            patch_size=patch_size,
            width=width,
            depth=len({key.split(".")[1] for key in state if key.startswith("blocks.")}),
            heads=heads or max(width // HEAD_WIDTH, 1),
            eps=EPS,
            position_rule="bicubic",
            drop_path=drop_path,
        )
    check_fits(state, network.state_dict(), path)
    network.load_state_dict(dict(state), assign=True)
    return network.requires_grad_(True).eval()


def import_head(
    state: Mapping[str, Tensor], *, norm_last_layer: bool = True, path: Path | str = "checkpoint"
) -> DinoHead:
    """The projection head of a state dict, in evaluation mode, whichever way its weight norm was stored.

    Args:
        state: ``mlp.*`` and ``last_layer.*``.
        norm_last_layer: See `DinoHead`.
        path: Named in errors.

    Raises:
        InputError: Tensors missing, left over or of another shape.
    """
    renamed = {"parametrizations.weight.original0": "weight_g", "parametrizations.weight.original1": "weight_v"}
    state = {
        next((key.replace(old, new) for old, new in renamed.items() if key == f"last_layer.{old}"), key): tensor
        for key, tensor in state.items()
    }
    linears = [key for key, tensor in state.items() if re.fullmatch(r"mlp\.(\d+\.)?weight", key) and tensor.ndim == 2]
    if not linears or "last_layer.weight_v" not in state:
        raise InputError(f"{path}: no projection head: mlp or last_layer.weight_v is missing")
    linears.sort(key=lambda key: int(re.sub(r"\D", "", key) or 0))
    outputs, bottleneck = state["last_layer.weight_v"].shape
    with torch.device("meta"):
        head = DinoHead(
            state[linears[0]].shape[1],
            outputs,
            use_bn=any(key.endswith("running_mean") for key in state),
            norm_last_layer=norm_last_layer,
            num_layers=len(linears),
            hidden=state[linears[0]].shape[0],
            bottleneck=bottleneck,
        )
    check_fits(state, head.state_dict(), path)
    head.load_state_dict(dict(state), assign=True)
    head.requires_grad_(True).last_layer.weight_g.requires_grad_(not norm_last_layer)
    return head.eval()


def import_dino(content: Mapping[str, Any], part: Part = "teacher", path: Path | str = "checkpoint") -> PublishedDino:
    """What a loaded file holds: a flat backbone, or a full checkpoint with student and teacher.

    Args:
        content: The file.
        part: Which of the two networks of a full checkpoint.
        path: Named in errors.

    Raises:
        InputError: Another architecture, or tensors missing, left over or of another shape.
    """
    if part not in content:
        state = strip_prefix(state_dict_of(content, path), "module.", "backbone.")
        return PublishedDino(import_backbone(state, path=path))
    state = strip_prefix(content[part], "module.")
    backbone = {key.removeprefix("backbone."): value for key, value in state.items() if not key.startswith("head.")}
    head = {key.removeprefix("head."): value for key, value in state.items() if key.startswith("head.")}
    arguments = content.get("args", {})
    arguments = dict(arguments) if isinstance(arguments, Mapping) else vars(arguments)
    norm_last_layer = bool(arguments.get("norm_last_layer", True))
    return PublishedDino(
        import_backbone(backbone, heads=arguments.get("heads"), path=path),
        import_head(head, norm_last_layer=norm_last_layer, path=path) if head else None,
        content.get("dino_loss", {}).get("center"),
        arguments,
    )


def load_dino(path: Path | str, part: Part = "teacher") -> PublishedDino:
    """What a file holds; see `import_dino`. The options in a full checkpoint are the one class that is let in.

    Raises:
        InputError: A file that is no such thing.
    """
    with torch.serialization.safe_globals([argparse.Namespace]):
        content = load_checkpoint(path)
    return import_dino(content, part, path)
