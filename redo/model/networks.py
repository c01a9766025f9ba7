"""The four networks together."""

from torch import nn

from redo.model.encoders import Discriminator, NoiseEncoder
from redo.model.generators import Generators
from redo.model.mask_network import MaskNetwork
from redo.options import NetworkOptions


class Networks(nn.Module):
    """M, X, D and, unless the noise goes unrecovered, Z.

    Args:
        options: Their sizes.
        recover_noise: With Z; the original leaves it out when ``wrecZ`` is 0.
    """

    def __init__(self, options: NetworkOptions, recover_noise: bool = True) -> None:
        super().__init__()
        self.options = options
        self.mask = mask_network(options)
        self.generators = region_generators(options)
        self.discriminator = discriminator(options)
        self.noise = noise_encoder(options) if recover_noise else None


def mask_network(options: NetworkOptions) -> MaskNetwork:
    """M of these sizes."""
    return MaskNetwork(
        num_masks=options.nMasks,
        width=options.width("M"),
        num_blocks=options.nResM,
        size=options.sizex,
        in_channels=options.nx,
        temperature=options.temperature,
    )


def region_generators(options: NetworkOptions) -> Generators:
    """X of these sizes."""
    return Generators(
        num_masks=options.nMasks,
        width=options.width("X"),
        noise_size=options.nz,
        size=options.sizex,
        attention=options.useSelfAttG,
        out_channels=options.nx,
    )


def discriminator(options: NetworkOptions) -> Discriminator:
    """D of these sizes."""
    return Discriminator(
        width=options.width("D"), size=options.sizex, in_channels=options.nx, attention=options.useSelfAttD
    )


def noise_encoder(options: NetworkOptions) -> NoiseEncoder:
    """Z of these sizes."""
    return NoiseEncoder(
        num_masks=options.nMasks,
        noise_size=options.nz,
        width=options.width("Z"),
        size=options.sizex,
        in_channels=options.nx,
    )
