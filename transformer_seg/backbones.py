"""The published vision transformers by name: sizes, input normalisation, and where timm has their weights."""

from dataclasses import dataclass
from typing import Any, Literal

from common.errors import InputError

Normalisation = Literal["vit", "deit"]
MEAN_STD: dict[str, tuple[tuple[float, float, float], tuple[float, float, float]]] = {
    "vit": ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
    "deit": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
}
"""Mean and standard deviation of the colours in [0, 1]; ``deit`` (ImageNet's) is DINO's too."""

WIDTHS = {"tiny": (192, 3, 12), "small": (384, 6, 12), "base": (768, 12, 12), "large": (1024, 16, 24)}


@dataclass(frozen=True)
class Backbone:
    """A published network.

    Attributes:
        width: D.
        heads: Attention heads.
        depth: Blocks.
        patch_size: P.
        image_size: Side in pixels that it was trained at.
        normalisation: Key of `MEAN_STD`.
        distilled: It has a distillation token.
        timm_name: Name of its weights in timm.
    """

    width: int
    heads: int
    depth: int
    patch_size: int
    image_size: int
    normalisation: Normalisation
    distilled: bool
    timm_name: str

    def sizes(self) -> dict[str, Any]:
        """The arguments of `VisionTransformer` that follow from the name."""
        return {
            "patch_size": self.patch_size,
            "width": self.width,
            "depth": self.depth,
            "heads": self.heads,
            "distilled": self.distilled,
        }


def _vit(size: str, patch: int, timm_name: str | None = None) -> Backbone:
    name = timm_name or f"vit_{size}_patch{patch}_384.augreg_in21k_ft_in1k"
    return Backbone(*WIDTHS[size], patch, 384, "vit", False, name)


def _deit(size: str, pixels: int) -> Backbone:
    name = f"deit_{size}_distilled_patch16_{pixels}.fb_in1k"
    return Backbone(*WIDTHS[size], 16, pixels, "deit", True, name)


def _dino(size: str, patch: int) -> Backbone:
    return Backbone(*WIDTHS[size], patch, 224, "deit", False, f"vit_{size}_patch{patch}_224.dino")


BACKBONES = {
    "vit_tiny_patch16_384": _vit("tiny", 16),
    "vit_small_patch16_384": _vit("small", 16),
    "vit_small_patch32_384": _vit("small", 32),
    "vit_base_patch16_384": _vit("base", 16),
    "vit_base_patch32_384": _vit("base", 32),
    # Never published at 384 pixels; these weights are for 224, their positions are resized.
    "vit_base_patch8_384": _vit("base", 8, "vit_base_patch8_224.augreg_in21k_ft_in1k"),
    "vit_large_patch16_384": _vit("large", 16),
    "vit_large_patch32_384": _vit("large", 32, "vit_large_patch32_384.orig_in21k_ft_in1k"),
    "deit_tiny_distilled_patch16_224": _deit("tiny", 224),
    "deit_small_distilled_patch16_224": _deit("small", 224),
    "deit_base_distilled_patch16_224": _deit("base", 224),
    "deit_base_distilled_patch16_384": _deit("base", 384),
    "dino_vits16": _dino("small", 16),
    "dino_vits8": _dino("small", 8),
    "dino_vitb16": _dino("base", 16),
    "dino_vitb8": _dino("base", 8),
}
SHORT_NAMES = {"tiny": "vit_tiny_patch16_384", "standard": "vit_base_patch8_384"}


def backbone(name: str) -> Backbone:
    """The network of a published name, or of ``tiny`` and ``standard``.

    Raises:
        InputError: Unknown name.
    """
    found = BACKBONES.get(SHORT_NAMES.get(name, name))
    if found is None:
        known = ", ".join((*SHORT_NAMES, *BACKBONES))
        raise InputError(f"--arch {name}: unknown backbone, choose one of {known}")
    return found
