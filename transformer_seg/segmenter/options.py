"""The options of Segmenter, torch-free, so that ``--help`` is quick. The defaults are the published ADE20K settings."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from common.errors import InputError
from transformer_seg.options import ImageDataOptions

ALIASES = {
    "--crop-size": "--crop_size",
    "--window-size": "--window_size",
    "--window-stride": "--window_stride",
    "--stride": "--window_stride",
}


@dataclass(frozen=True, kw_only=True)
class SegmenterOptions:
    """Network, loss and optimiser."""

    arch: str = "tiny"
    """Backbone: tiny (ViT-Ti/16, width 192), standard (ViT-B/8, width 768), a published name such as
    vit_small_patch16_384 or deit_base_distilled_patch16_384, or custom (the four sizes below)."""
    patch_size: int = 16
    """Side of a patch in pixels (custom)."""
    embed_dim: int = 192
    """Width of a token (custom), a multiple of 64 for the mask transformer."""
    depth: int = 12
    """Blocks (custom)."""
    heads: int = 3
    """Attention heads (custom)."""
    decoder: Literal["mask_transformer", "linear"] = "mask_transformer"
    """Decoder."""
    decoder_depth: int = 2
    """Blocks of the mask transformer."""
    decoder_dropout: float = 0.1
    """Dropout in the mask transformer."""
    drop_path: float = 0.1
    """Share of samples that skip a branch of the encoder's last block; it rises linearly from 0."""
    num_classes: int | None = None
    """Number of classes; default: from NAME_classes.csv beside the split."""
    pretrained: bool = False
    """Start from the ImageNet weights of the backbone, by timm; offline, name a file with --backbone_weights."""
    backbone_weights: Path | None = None
    """File of a timm backbone (state dict or .safetensors), as --pretrained downloads it."""
    reset_head: bool = False
    """With --ckpt_path: keep the fresh decoder where the number of classes differs."""
    optim: Literal["SGD", "AdamW"] = "SGD"
    """SGD with Nesterov momentum is the published one."""
    learning_rate: float = 1e-3
    """Learning rate of the first iteration."""
    min_lr: float = 1e-5
    """Learning rate of the last iteration."""
    poly_power: float = 0.9
    """Exponent of the polynomial decay."""
    warmup: int = 0
    """Iterations of linear warm-up."""
    momentum: float = 0.9
    """Momentum of SGD."""
    weight_decay: float = 0.0
    """Weight decay."""
    schedule_epochs: int | None = None
    """Epochs that the decay reaches its end in; default --max_epochs."""


@dataclass(frozen=True, kw_only=True)
class SegmenterDataOptions(ImageDataOptions):
    """Data. Without --data_file, embedded scenes are made and used."""

    batch_size: int = 8
    """Crops per batch and process."""
    image_size: int = 512
    """Short side that pictures are resized to before crops are taken."""
    max_ratio: float = 4.0
    """Longest side, in short sides; ADE20K 4, Cityscapes 2, Pascal Context 8."""
    crop_size: int = 512
    """Side of a crop in training, and of a window."""
    window_size: int | None = None
    """Side of a window in validation and prediction; default: the crop."""
    window_stride: int | None = None
    """Distance of neighbouring windows; default: the window less 32 pixels (half of it below 64)."""
    augment: bool = True
    """Random size, crop, flip and colours in training; otherwise the top left crop of the resized picture."""
    flip: bool = True
    """With --augment: mirror every second crop; the published trainings do."""
    distort: bool = True
    """With --augment: change brightness, contrast, saturation and hue; the published trainings do."""
    random_scale: list[float] | None = None
    """Range of the random size; default 0.5 2."""
    cat_max_ratio: float = 0.75
    """Crops of which one class fills this share are drawn again, up to ten times, so places amid one class are seldom
    trained on; 1: the first crop is taken."""


@dataclass(frozen=True, kw_only=True)
class WindowOptions:
    """Segmenter's windows and views; the defaults are those of its training."""

    short_side: int | None = None
    """Short side that pictures are resized to."""
    window_size: int | None = None
    """Side of a window in pixels."""
    window_stride: int | None = None
    """Distance of neighbouring windows in pixels."""
    multi_scale: bool = False
    """Average over six sizes from 0.5 to 1.75, each plain and mirrored."""
    window_batch: int = 8
    """Windows that go through the network at once."""


@dataclass(frozen=True, kw_only=True)
class SegmenterChainOptions:
    """The chain."""

    test_file: Path | None = None
    """Split to predict and score; default: the _test split of --data_file, or its _val split when there is none."""
    multi_scale: bool = False
    """Average over six sizes from 0.5 to 1.75, each plain and mirrored."""


def stride_of(window: int, stride: int | None) -> int:
    """The distance of windows that the options ask for."""
    if stride is not None:
        return stride
    return window - 32 if window >= 64 else max(window // 2, 1)


def check_segmenter(model: SegmenterOptions, data: SegmenterDataOptions, patch_size: int) -> None:
    """Refuse options that training cannot work with.

    Raises:
        InputError: names flag, value and remedy.
    """
    if data.crop_size < patch_size or data.crop_size % patch_size:
        raise InputError(f"--crop_size {data.crop_size}: give a multiple of the patch size {patch_size}")
    for name, least in (("image_size", patch_size), ("max_ratio", 1), ("window_size", patch_size)):
        value = getattr(data, name)
        if value is not None and value < least:
            raise InputError(f"--{name} {value}: give at least {least}")
    window = data.window_size or data.crop_size
    if not 1 <= stride_of(window, data.window_stride) <= window:
        raise InputError(f"--window_stride {data.window_stride}: give 1 to {window}, or pixels are never seen")
    if not 0 < data.cat_max_ratio <= 1:
        raise InputError(f"--cat_max_ratio {data.cat_max_ratio}: give a share above 0 and up to 1, which draws once")
    if data.random_scale is not None and not (
        len(data.random_scale) == 2 and 0 < data.random_scale[0] <= data.random_scale[1]
    ):
        raise InputError("--random_scale: give two numbers above 0, the smaller first, such as 0.5 2")
    for name in ("drop_path", "decoder_dropout"):
        if not 0 <= getattr(model, name) < 1:
            raise InputError(f"--{name} {getattr(model, name)}: give a share from 0 to below 1")
    if model.num_classes is not None and not 1 <= model.num_classes <= 255:
        raise InputError(f"--num_classes {model.num_classes}: give 1 to 255 (255 is void)")
    if model.learning_rate <= 0 or model.min_lr < 0:
        raise InputError("--learning_rate, --min_lr: give a rate above 0 and an end from 0")
