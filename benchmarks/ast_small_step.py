"""A foreground update of the embedded recipe: its small U-Net, where activations and pooling weigh more."""

from ast_step import update
from measuring import Benchmark


def build(tiny: bool) -> Benchmark:
    """Sixteen images of 32 x 32, three slots, three halvings."""
    return update(*((2, 32, [8, 16]) if tiny else (16, 32, [16, 24, 32, 48])))
