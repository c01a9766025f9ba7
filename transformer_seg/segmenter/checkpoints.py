"""Read and write Segmenter checkpoints in the published layout (rstrudel/segmenter), and start from timm backbones.

A published model is a folder with ``checkpoint.pth`` (weights under ``model``) and ``variant.yml`` (its options). The
tensors have our names. What they do not show comes from the options: the number of heads, and dropout.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor, nn

from common.checkpoints import load_checkpoint
from common.errors import InputError
from transformer_seg.fitting import check_fits
from transformer_seg.positions import resize_bilinear, square_grid
from transformer_seg.segmenter.model import HEAD_WIDTH, LinearDecoder, MaskTransformer, Segmenter
from transformer_seg.vit import VisionTransformer

EPS = 1e-5


@dataclass(frozen=True)
class PublishedSegmenter:
    """A published model.

    Attributes:
        network: In evaluation mode.
        variant: Its options, empty where there was no ``variant.yml``.
    """

    network: Segmenter
    variant: dict[str, Any] = field(default_factory=dict)

    @property
    def normalisation(self) -> str:
        """Key of `MEAN_STD`; recorded with the weights, else ``deit`` for distilled networks and ``vit`` for others."""
        recorded = self.variant.get("net_kwargs", {}).get("normalization")
        return str(recorded) if recorded else "deit" if self.network.encoder.distilled else "vit"


class _VariantLoader(yaml.SafeLoader):
    """Safe YAML with Python tuples, which the published files hold."""


_VariantLoader.add_constructor(
    "tag:yaml.org,2002:python/tuple",
    lambda loader, node: tuple(loader.construct_sequence(node)),  # type: ignore[arg-type]
)


def read_variant(path: Path | str) -> dict[str, Any]:
    """The options of ``variant.yml``.

    Raises:
        InputError: Missing, or not such a file.
    """
    try:
        content = yaml.load(Path(path).read_text(), Loader=_VariantLoader)
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(f"{path}: not a readable variant.yml ({reason})") from error
    if not isinstance(content, dict) or "net_kwargs" not in content:
        raise InputError(f"{path}: no net_kwargs in it, is this the variant.yml of a published model?")
    return content


def import_segmenter(
    state: Mapping[str, Tensor], net_kwargs: Mapping[str, Any] | None = None, path: Path | str = "checkpoint"
) -> Segmenter:
    """The network of a published state dict, in evaluation mode.

    Args:
        state: Tensors under ``encoder.`` and ``decoder.``.
        net_kwargs: The published options of the network. Used are ``n_heads`` (else D / 64), ``dropout``,
            ``drop_path_rate`` and those of ``decoder``; sizes are read off the tensors.
        path: Named in errors.

    Raises:
        InputError: Tensors missing, left over or of another shape.
    """
    needed = ("encoder.pos_embed", "encoder.patch_embed.proj.weight")
    if missing := [key for key in needed if key not in state]:
        raise InputError(f"{path}: not a Segmenter: {' and '.join(missing)} missing")
    known = dict(net_kwargs or {})
    with torch.device("meta"):
        network = Segmenter(_encoder(state, known), _decoder(state, known, path))
    check_fits(state, network.state_dict(), path)
    network.load_state_dict(dict(state), assign=True)
    return network.requires_grad_(True).eval()


def _encoder(state: Mapping[str, Tensor], known: Mapping[str, Any]) -> VisionTransformer:
    width, _, patch_size, _ = state["encoder.patch_embed.proj.weight"].shape
    distilled, head = "encoder.dist_token" in state, state.get("encoder.head.weight")
    side, _ = square_grid(state["encoder.pos_embed"], 2 if distilled else 1)
    return VisionTransformer(
        image_size=side * patch_size,
        patch_size=patch_size,
        width=width,
        depth=_depth(state, "encoder.blocks."),
        heads=known.get("n_heads", max(width // HEAD_WIDTH, 1)),
        eps=EPS,
        position_rule="bilinear",
        distilled=distilled,
        num_classes=0 if head is None else len(head),
        dropout=known.get("dropout", 0.0),
        drop_path=known.get("drop_path_rate", 0.0),
    )


def _decoder(state: Mapping[str, Tensor], known: Mapping[str, Any], path: Path | str) -> nn.Module:
    options = known.get("decoder", {})
    if "decoder.cls_emb" in state:
        _, num_classes, width = state["decoder.cls_emb"].shape
        return MaskTransformer(
            width,
            num_classes,
            depth=_depth(state, "decoder.blocks."),
            dropout=options.get("dropout", 0.1),
            drop_path=options.get("drop_path_rate", 0.0),
        )
    if "decoder.head.weight" in state:
        num_classes, width = state["decoder.head.weight"].shape
        return LinearDecoder(width, num_classes)
    raise InputError(f"{path}: no decoder of a Segmenter: neither decoder.cls_emb nor decoder.head.weight")


def _depth(state: Mapping[str, Tensor], prefix: str) -> int:
    numbers = {int(key[len(prefix) :].split(".")[0]) for key in state if key.startswith(prefix)}
    return len(numbers)


def load_segmenter(path: Path | str) -> PublishedSegmenter:
    """A published model: its folder, or the ``checkpoint.pth`` in it, with ``variant.yml`` beside it if there is one.

    Raises:
        InputError: A file that is no such thing.
    """
    file = Path(path) / "checkpoint.pth" if Path(path).is_dir() else Path(path)
    content = load_checkpoint(file)
    options = file.with_name("variant.yml")
    variant = read_variant(options) if options.is_file() else {}
    state = content.get("model", content)
    return PublishedSegmenter(import_segmenter(state, variant.get("net_kwargs"), file), variant)


def load_backbone(encoder: VisionTransformer, state: Mapping[str, Tensor], path: Path | str = "weights") -> None:
    """Fill an encoder with the weights of a timm vision transformer, in place.

    Positions are resized by Segmenter's rule. The classification heads are taken where the encoder has them.

    Args:
        encoder: The encoder.
        state: timm's tensors, whose names are ours.
        path: Named in errors.

    Raises:
        InputError: Weights of another size.
    """
    extra = encoder.extra
    expected = encoder.state_dict()
    heads = ("head.", "head_dist.")
    taken = {key: value for key, value in state.items() if key in expected or not key.startswith(heads)}
    if "pos_embed" in taken:
        positions = taken["pos_embed"]
        taken["pos_embed"] = resize_bilinear(positions, square_grid(positions, extra), encoder.grid, extra)
    check_fits(taken, expected, path)
    encoder.load_state_dict(taken)
