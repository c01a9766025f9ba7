"""The sizes of the encoder that the options name."""

from dataclasses import dataclass
from typing import Any

from common.errors import InputError
from transformer_seg.backbones import backbone
from transformer_seg.segmenter.options import SegmenterOptions


@dataclass(frozen=True)
class EncoderSizes:
    """What `VisionTransformer` and the data need to know."""

    arguments: dict[str, Any]
    """Patch size, width, depth, heads and whether there is a distillation token."""
    normalisation: str
    """Key of ``MEAN_STD``."""
    timm_name: str | None
    """Name of its weights in timm."""


def encoder_sizes(options: SegmenterOptions) -> EncoderSizes:
    """Sizes of a published backbone, or of the options for ``custom``.

    Raises:
        InputError: unknown name, sizes that cannot be.
    """
    if options.arch != "custom":
        known = backbone(options.arch)
        sizes = EncoderSizes(known.sizes(), known.normalisation, known.timm_name)
    else:
        for name in ("patch_size", "embed_dim", "depth", "heads"):
            if getattr(options, name) < 1:
                raise InputError(f"--{name} {getattr(options, name)}: give at least 1")
        if options.embed_dim % options.heads:
            raise InputError(f"--embed_dim {options.embed_dim}: give a multiple of --heads {options.heads}")
        arguments = {
            "patch_size": options.patch_size,
            "width": options.embed_dim,
            "depth": options.depth,
            "heads": options.heads,
            "distilled": False,
        }
        sizes = EncoderSizes(arguments, "vit", None)
    if options.decoder == "mask_transformer" and sizes.arguments["width"] % 64:
        width = sizes.arguments["width"]
        raise InputError(f"--embed_dim {width}: the mask transformer needs a multiple of 64; or use --decoder linear")
    return sizes
