"""The foreground networks that the options ask for."""

from ast_seg.model.renderer import Renderer
from ast_seg.model.segformer import SegformerMaps, mit_architecture
from ast_seg.model.slots import SlotEncoder, num_feature_maps
from ast_seg.model.unet import UNet, published_widths
from ast_seg.options import ModelOptions
from common.errors import InputError

MASK_FLOOR = 1e-5
"""Version 1 of the paper adds it to every mask."""
LARGEST_GLIMPSE = {1: 64, 2: 128}
"""Pixels a side, by version of the paper."""


def check_model(options: ModelOptions) -> None:
    """Refuse sizes that cannot work.

    Raises:
        InputError: Names the flag, the value and the bound.
    """
    for name in ("max_set_size", "z_what_dim", "transformer_nlayers", "transformer_dim"):
        if getattr(options, name) < 1:
            raise InputError(f"--{name} {getattr(options, name)}: give at least 1")
    if options.max_scaling_factor <= options.min_scaling_factor:
        raise InputError(
            f"--max_scaling_factor {options.max_scaling_factor}: must be larger than --min_scaling_factor "
            f"{options.min_scaling_factor}"
        )
    if options.transformer_dim % options.transformer_nhead:
        raise InputError(
            f"--transformer_dim {options.transformer_dim}: must be a multiple of --transformer_nhead "
            f"{options.transformer_nhead}"
        )
    if options.unet_widths is not None and len(options.unet_widths) < 2:
        raise InputError(f"--unet_widths {options.unet_widths}: give channels of at least two levels, e.g. 16 24 32 48")


def build_encoder(options: ModelOptions, size: tuple[int, int]) -> SlotEncoder:
    """The slot encoder for images of a size.

    Raises:
        InputError: Sizes that do not fit, pretrained weights that cannot be had.
    """
    check_model(options)
    slots, what_dim, isotropic = options.max_set_size, options.z_what_dim, options.isotropic_scaling
    num_maps = num_feature_maps(slots, what_dim, isotropic)
    if options.feature_map_generator_name == "Segformer":
        maps: UNet | SegformerMaps = SegformerMaps(
            num_maps,
            pretrained=options.pretrained_backbone_weights_reference,
            architecture=mit_architecture(options.segformer_architecture),
            imagenet_norm=options.imagenet_norm,
        )
    else:
        widths = options.unet_widths or published_widths(*size)
        smallest = 2 ** (len(widths) - 1)
        if min(size) < smallest:
            raise InputError(
                f"images of {size[0]}x{size[1]}: the U-Net halves them {len(widths) - 1} times and needs {smallest} "
                "pixels a side; give fewer --unet_widths, or larger images"
            )
        maps = UNet(num_maps, widths, options.unet_normalisation)
    return SlotEncoder(
        maps,
        num_slots=slots,
        what_dim=what_dim,
        isotropic=isotropic,
        dim=options.transformer_dim,
        num_heads=options.transformer_nhead,
        num_layers=options.transformer_nlayers,
        feedforward_dim=options.transformer_dim_feedforward,
        dropout=options.transformer_dropout,
        exact_coordinates=options.exact_coordinates,
    )


def build_renderer(options: ModelOptions, size: tuple[int, int], paper_version: int = 2) -> Renderer:
    """The renderer for images of a size."""
    return Renderer(
        height=size[0],
        width=size[1],
        what_dim=options.z_what_dim,
        isotropic=options.isotropic_scaling,
        max_scale=options.max_scaling_factor,
        min_scale=options.min_scaling_factor,
        background_logit=options.initial_background_activation_logit,
        variable_background=options.variable_background_activation,
        mask_floor=MASK_FLOOR if paper_version == 1 else 0.0,
        largest_glimpse=LARGEST_GLIMPSE[paper_version],
        legacy_isotropic_activation=options.legacy_isotropic_activation,
    )
