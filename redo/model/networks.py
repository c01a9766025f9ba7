"""The four networks together, and the sizes that make them."""

from dataclasses import dataclass

from torch import nn

from common.errors import InputError
from redo.model.encoders import Discriminator, NoiseEncoder
from redo.model.generators import Generators
from redo.model.mask_network import MaskNetwork


@dataclass(frozen=True)
class NetworkOptions:
    """What the networks' shapes depend on, under the names of the original command line.

    Attributes:
        nx: Image channels.
        sizex: Side of the square images; published 128, here 32, 64, 128 or 256.
        nz: Noise numbers per region.
        nMasks: Regions.
        nResM: Residual blocks of the mask network.
        nf: Base width of all networks, at least 4.
        nfM: Width of the mask network, nf when None.
        nfX: Width of the region generators, nf when None.
        nfD: Width of the discriminator, nf when None.
        nfZ: Width of the noise encoder, nf when None.
        useSelfAttD: Self-attention in the discriminator.
        useSelfAttG: Self-attention in the region generators.
        temperature: Divides the mask logits.
    """

    nx: int = 3
    sizex: int = 128
    nz: int = 32
    nMasks: int = 2
    nResM: int = 3
    nf: int = 64
    nfM: int | None = None
    nfX: int | None = None
    nfD: int | None = None
    nfZ: int | None = None
    useSelfAttD: bool = False
    useSelfAttG: bool = False
    temperature: float = 1.0

    def width(self, network: str) -> int:
        """Width of network M, X, D or Z."""
        own = getattr(self, f"nf{network}")
        return self.nf if own is None else own

    def check(self) -> None:
        """Refuse sizes that no network can have.

        Raises:
            InputError: Names the option, its value and what it may be.
        """
        if self.sizex not in (32, 64, 128, 256):
            raise InputError(f"--sizex {self.sizex}: the networks exist for 32, 64, 128 and 256")
        for name, value, least in (("nMasks", self.nMasks, 2), ("nx", self.nx, 1), ("nz", self.nz, 1)):
            if value < least:
                raise InputError(f"--{name} {value}: needs to be at least {least}")
        if self.nResM < 0:
            raise InputError(f"--nResM {self.nResM}: needs to be 0 or more")
        for network in "MXDZ":
            if self.width(network) < 4:
                raise InputError(f"--nf{network} (or --nf) {self.width(network)}: needs to be at least 4")
        if not self.temperature > 0:
            raise InputError(f"--temperature {self.temperature}: needs to be above 0")


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
