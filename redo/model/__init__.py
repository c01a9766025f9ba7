"""The four networks of ReDO: mask network M, region generators X, discriminator D, noise encoder Z."""

from redo.model.encoders import Discriminator, NoiseEncoder
from redo.model.generators import Generators
from redo.model.mask_network import MaskNetwork
from redo.model.networks import Networks
from redo.options import NetworkOptions

__all__ = ["Discriminator", "Generators", "MaskNetwork", "NetworkOptions", "Networks", "NoiseEncoder"]
