"""Backbones by name: DINO's own sizes, published names, and any vision transformer of timm.

Symbols: B images, H W pixels, P patch size, h w = H / P, W / P token grid, E extra tokens, N = h w, D width, A heads.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn

from common.errors import InputError
from transformer_seg.backbones import BACKBONES, SHORT_NAMES, WIDTHS
from transformer_seg.dino.model import EPS
from transformer_seg.vit import VisionTransformer, attention_weights

DEFAULT_PATCH = 16


class TimmBackbone(nn.Module):
    """A vision transformer of timm with the interface of `VisionTransformer`; its positions are resized timm's way.

    Register tokens (DINOv2) count as extra tokens.

    Args:
        name: timm's name.
        image_size: Side in pixels that its positions are for.
        drop_path: Stochastic depth.

    Raises:
        InputError: No such network, or not a vision transformer with a class token.
    """

    def __init__(self, name: str, image_size: int, drop_path: float = 0.0):
        super().__init__()
        import timm
        from timm.models.vision_transformer import VisionTransformer as TimmTransformer

        if not timm.is_model(name):
            near = timm.list_models(f"*{name}*")[:3]
            hint = f"; did you mean {', '.join(near)}?" if near else "; see timm.list_models('vit_*')"
            raise InputError(f"--arch {name}: neither one of ours ({', '.join(names())}) nor a network of timm{hint}")
        if not name.startswith(("vit_", "deit", "flexivit")):
            raise InputError(f"--arch {name}: only vision transformers can be used (timm: vit_*, deit*)")
        try:
            network = timm.create_model(
                name, num_classes=0, img_size=image_size, dynamic_img_size=True, drop_path_rate=drop_path
            )
        except (TypeError, ValueError, AssertionError, RuntimeError) as error:
            raise InputError(f"--arch {name}: timm cannot make it for {image_size} pixels ({error})") from error
        if not isinstance(network, TimmTransformer) or network.cls_token is None:
            kind = type(network).__name__
            raise InputError(f"--arch {name}: a {kind} without a plain class token; choose another vit_* of timm")
        self.network: Any = network
        self.patch_size: int = network.patch_embed.patch_size[0]
        self.extra: int = network.num_prefix_tokens
        self.width: int = network.embed_dim

    @property
    def blocks(self) -> nn.Sequential:
        """The blocks, first to last."""
        return self.network.blocks

    def forward(self, image: Tensor) -> Tensor:
        """Normalised tokens (B, E + N, D) of normalised images (B, 3, H, W)."""
        check_image(image, self.patch_size)
        return self.network.forward_features(image)

    def after_blocks(self, image: Tensor) -> Iterator[Tensor]:
        """Tokens (B, E + N, D) as they enter the first block, then as they leave each block, not normalised."""
        check_image(image, self.patch_size)
        x = self.network.norm_pre(self.network.patch_drop(self.network._pos_embed(self.network.patch_embed(image))))
        yield x
        for block in self.blocks:
            x = block(x)
            yield x

    @torch.no_grad()
    def class_attention(self, image: Tensor) -> Tensor:
        """What the class token attends to in the last block, extra tokens left out: (B, A, h, w), sums below one."""
        h, w = (side // self.patch_size for side in image.shape[-2:])
        states = self.after_blocks(image)
        before_last = next(islice(states, len(self.blocks) - 1, None))
        rows = attention_weights(self.blocks[-1], before_last, queries=1)
        return rows[:, :, 0, self.extra :].unflatten(-1, (h, w))


AnyBackbone = VisionTransformer | TimmBackbone


@dataclass(frozen=True)
class Architecture:
    """What makes a backbone.

    Attributes:
        arch: Name.
        patch_size: None takes that of the name, or 16.
        image_size: Side in pixels that positions are for.
        width: None takes that of the name.
        depth: Likewise.
        heads: Likewise.
    """

    arch: str = "vit_small"
    patch_size: int | None = None
    image_size: int = 224
    width: int | None = None
    depth: int | None = None
    heads: int | None = None

    @classmethod
    def of(cls, known: Mapping[str, Any]) -> "Architecture":
        """From the hyper-parameters of a checkpoint."""
        return cls(**{name: known[name] for name in cls.__dataclass_fields__ if name in known})

    def build(self, drop_path: float = 0.0) -> AnyBackbone:
        """The backbone with random weights.

        Raises:
            InputError: Unknown name, sizes that do not go together.
        """
        found = self.sizes()
        if found is None:
            if self.width or self.depth or self.heads:
                raise InputError(f"--arch {self.arch}: --width, --depth and --heads are for {', '.join(names())} only")
            backbone = TimmBackbone(self.arch, self.image_size, drop_path)
            if self.patch_size not in (None, backbone.patch_size):
                raise InputError(
                    f"--patch_size {self.patch_size}: --arch {self.arch} has patches of {backbone.patch_size}"
                )
            return backbone
        width, heads, depth, patch_size = found
        if width % heads:
            raise InputError(f"--heads {heads}: must divide --width {width}")
        return VisionTransformer(
            image_size=self.image_size,
            patch_size=patch_size,
            width=width,
            depth=depth,
            heads=heads,
            eps=EPS,
            position_rule="bicubic",
            drop_path=drop_path,
        )

    def sizes(self) -> tuple[int, int, int, int] | None:
        """Width, heads, depth and patch size of our own network of this name; None for one of timm.

        Raises:
            InputError: A patch size that the name contradicts, or that is no positive number.
        """
        name = SHORT_NAMES.get(self.arch, self.arch).replace("deit_", "vit_")
        named = BACKBONES.get(name)
        if named is not None and not named.distilled:
            sizes, patch = (named.width, named.heads, named.depth), named.patch_size
        elif name in (f"vit_{size}" for size in WIDTHS):
            sizes, patch = WIDTHS[name.removeprefix("vit_")], self.patch_size or DEFAULT_PATCH
        else:
            return None
        if self.patch_size not in (None, patch):
            raise InputError(f"--patch_size {self.patch_size}: --arch {self.arch} has patches of {patch}")
        for flag in ("patch_size", "width", "depth", "heads"):
            given = getattr(self, flag)
            if given is not None and given < 1:
                raise InputError(f"--{flag} {given}: give at least 1")
        return self.width or sizes[0], self.heads or sizes[1], self.depth or sizes[2], patch


def names() -> list[str]:
    """Names of our own networks."""
    return [f"vit_{size}" for size in WIDTHS]


def width_of(backbone: AnyBackbone) -> int:
    """Width D of a backbone's tokens."""
    return backbone.width if isinstance(backbone, TimmBackbone) else backbone.pos_embed.shape[2]


def check_image(image: Tensor, patch_size: int) -> None:
    """Whether an image has a patch, and whole ones only, as timm wants it.

    Raises:
        InputError: otherwise.
    """
    sides = image.shape[-2:]
    if min(sides) < patch_size or any(side % patch_size for side in sides):
        size = " x ".join(map(str, sides))
        raise InputError(f"image of {size} pixels: give sides that are multiples of the patch size {patch_size}")


def freeze(network: nn.Module) -> nn.Module:
    """The network in evaluation mode and without gradients."""
    return network.requires_grad_(False).eval()


def device_of(gpus: int | None) -> torch.device:
    """The one device of a command that streams: a GPU where there is one, unless ``--gpus 0``.

    Raises:
        InputError: A GPU is asked for and there is none, or more than one.
    """
    if gpus not in (None, 0, 1):
        raise InputError(f"--gpus {gpus}: this command reads frame after frame on one device; give 0 or 1")
    if gpus == 1 and not torch.cuda.is_available():
        raise InputError("--gpus 1: torch sees no CUDA device here; check the driver (nvidia-smi), or use --gpus 0")
    return torch.device("cuda" if gpus != 0 and torch.cuda.is_available() else "cpu")
