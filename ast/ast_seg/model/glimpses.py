"""The glimpse generator: appearance latents to a small picture of one object with its mask."""

from torch import Tensor, nn

from ast_seg.model.celu import CELU


def glimpse_size(height: int, width: int, largest: int = 128) -> int:
    """Pixels a side of the glimpses for images of a size: 32, 64 or 128.

    Args:
        height: Rows of the images.
        width: Columns of the images.
        largest: Upper bound; the v1 paper has 64.
    """
    longer = max(height, width)
    return min(32 if longer <= 64 else 64 if longer <= 128 else 128, largest)


class GlimpseGenerator(nn.Module):
    """Transposed convolutions from 1 x 1 to the glimpse.

    Args:
        what_dim: Size of the appearance latents.
        size: Pixels a side, a power of two from 4 on.
    """

    def __init__(self, what_dim: int, size: int) -> None:
        super().__init__()
        channels = 2 * size
        layers: list[nn.Module] = [nn.ConvTranspose2d(what_dim, channels, 2, bias=False)]
        while channels > 4:
            layers += [nn.GroupNorm(max(1, channels // 16), channels), CELU()]
            channels //= 2
            layers += [nn.ConvTranspose2d(2 * channels, channels, 4, stride=2, padding=1, bias=channels == 4)]
        self.layers = nn.Sequential(*layers, nn.Sigmoid())
        self.size = size

    def forward(self, what: Tensor) -> Tensor:
        """(B, Z) to (B, 4, G, G) in [0, 1]: RGB and mask."""
        return self.layers(what[:, :, None, None])
