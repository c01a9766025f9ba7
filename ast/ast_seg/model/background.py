"""The background model: an auto-encoder with sixteen latents that also predicts its own error (AE-NE).

Trained on raw frames with a robust loss, it can reproduce only what the frames have in common, a low-dimensional
manifold of backgrounds. Images go in and come out in the range 0..255, without normalisation. Source: Sauvalle and de
La Fortelle, "Autoencoder-based background reconstruction and foreground segmentation with background noise
estimation", WACV 2023 (arXiv 2112.08001).
"""

import torch
from torch import Tensor, nn

from ast_seg.model.background_sizes import BlockSizes, encoder_blocks, generator_blocks
from ast_seg.model.celu import celu

NUM_LATENTS = 16
LEAST_START = 0.25
"""Grey levels that a fixed start keeps from 0 and 255, where a sigmoid has no gradient."""
ENCODER_CHANNELS = {
    (5, False): (3, 64, 160, 160, 32, 16),
    (5, True): (3, 64, 160, 160, 16, 16),
    (6, False): (3, 64, 160, 320, 160, 32, 16),
    (6, True): (3, 64, 160, 320, 160, 16, 16),
    (7, False): (3, 64, 160, 320, 160, 160, 32, 16),
    (7, True): (3, 64, 320, 640, 640, 320, 16, 16),
}
"""By number of blocks and complexity, from the image to the latents."""
GENERATOR_CHANNELS = {
    (5, False): (4, 144, 256, 256, 32, 16),
    (5, True): (4, 144, 640, 640, 16, 16),
    (6, False): (4, 144, 256, 512, 256, 32, 16),
    (6, True): (4, 144, 640, 1280, 640, 16, 16),
    (7, False): (4, 144, 256, 512, 256, 256, 32, 16),
    (7, True): (4, 144, 640, 1280, 640, 320, 16, 16),
}
"""By number of blocks and complexity, from the image to the latents."""


def coordinate_map(height: int, width: int) -> Tensor:
    """Row and column of every pixel, each from -0.5 to 0.5 (1 along an axis of one pixel): (1, 2, H, W)."""
    # not linspace: narrow networks amplify the last bit, and this is how the published maps are rounded
    rows, columns = (torch.arange(n) / (n - 1) - 0.5 if n > 1 else torch.ones(1) for n in (height, width))
    return torch.stack(torch.meshgrid(rows, columns, indexing="ij"))[None]


def group_norm(channels: int) -> nn.GroupNorm:
    """Groups of sixteen channels, one group below that."""
    return nn.GroupNorm(max(1, channels // 16), channels)


class EncoderBlock(nn.Module):
    """Convolution over the input and its coordinates, normalisation, CELU."""

    coordinates: Tensor

    def __init__(self, sizes: BlockSizes, in_channels: int, out_channels: int) -> None:
        super().__init__()
        rows, columns = sizes
        self.register_buffer("coordinates", coordinate_map(*sizes.size), persistent=False)
        self.conv = nn.Conv2d(
            in_channels + 2,
            out_channels,
            kernel_size=(rows.kernel, columns.kernel),
            stride=(rows.stride, columns.stride),
            padding=(rows.padding, columns.padding),
            bias=False,
        )
        self.norm = group_norm(out_channels)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) at the block's size, shrunk."""
        coordinates = self.coordinates.to(x.dtype).expand(len(x), -1, -1, -1)
        return celu(self.norm(self.conv(torch.cat([x, coordinates], dim=1))))


class GeneratorBlock(nn.Module):
    """Transposed convolution over the input and its coordinates; normalisation and CELU unless it is the last."""

    coordinates: Tensor

    def __init__(self, sizes: BlockSizes, in_channels: int, out_channels: int, last: bool) -> None:
        super().__init__()
        rows, columns = sizes
        self.size = sizes.size
        self.stride, self.padding = (rows.stride, columns.stride), (rows.padding, columns.padding)
        self.register_buffer("coordinates", coordinate_map(*sizes.shrunk), persistent=False)
        self.conv = nn.ConvTranspose2d(
            in_channels + 2,
            out_channels,
            kernel_size=(rows.kernel, columns.kernel),
            stride=self.stride,
            padding=self.padding,
            output_padding=(rows.output_padding, columns.output_padding),
            bias=False,
        )
        self.norm = None if last else group_norm(out_channels)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, h, w) at the block's shrunk size, enlarged."""
        coordinates = self.coordinates.to(x.dtype).expand(len(x), -1, -1, -1)
        x = torch.cat([x, coordinates], dim=1)
        if self.norm is None:
            return self._drawn(x)
        return celu(self.norm(self.conv(x)))

    def _drawn(self, x: Tensor) -> Tensor:
        """The image: on a CPU, so few channels are slow in a transposed convolution; a product and a sum are not."""
        if torch.is_grad_enabled() or x.device.type != "cpu" or x.dtype != torch.float32:
            return self.conv(x)
        columns = self.conv.weight.flatten(1).t() @ x.flatten(2)
        return nn.functional.fold(columns, self.size, self.conv.kernel_size, stride=self.stride, padding=self.padding)


class BackgroundEncoder(nn.Module):
    """Images to sixteen latents."""

    def __init__(self, *, height: int, width: int, complexity: bool) -> None:
        super().__init__()
        sizes = encoder_blocks(height, width)
        channels = ENCODER_CHANNELS[len(sizes), complexity]
        self.blocks = nn.Sequential(
            *(EncoderBlock(*block) for block in zip(sizes, channels, channels[1:], strict=False))
        )

    def forward(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) in 0..255 to (B, 16)."""
        return self.blocks(images).flatten(1)


class BackgroundGenerator(nn.Module):
    """Sixteen latents to a background with its predicted error.

    Args:
        height: Rows of the images.
        width: Columns of the images.
        complexity: The wide network.
        from_start: See `BackgroundModel`.
    """

    start: Tensor | None

    def __init__(self, *, height: int, width: int, complexity: bool, from_start: bool = False) -> None:
        super().__init__()
        sizes = generator_blocks(height, width)
        channels = GENERATOR_CHANNELS[len(sizes), complexity]
        deepest_first = reversed(range(len(sizes)))
        self.blocks = nn.Sequential(
            *(GeneratorBlock(sizes[i], channels[i + 1], channels[i], last=i == 0) for i in deepest_first)
        )
        self.register_buffer("start", torch.zeros(1, 4, height, width) if from_start else None)

    def start_at(self, picture: Tensor) -> None:
        """Draw this picture (1, 4, H, W) in 0..255, whatever the latents, until training changes it."""
        assert self.start is not None
        self.start.copy_(torch.logit(picture / 255, eps=LEAST_START / 255))
        nn.init.zeros_(self.blocks[-1].conv.weight)  # type: ignore[union-attr,arg-type]

    def forward(self, latents: Tensor) -> Tensor:
        """(B, 16) to (B, 4, H, W) in 0..255: RGB, then the predicted error."""
        logits = self.blocks(latents[:, :, None, None]).float()
        return 255 * torch.sigmoid(logits if self.start is None else logits + self.start)


class BackgroundModel(nn.Module):
    """The auto-encoder for images of one size.

    Args:
        height: Rows of the images.
        width: Columns of the images; the longer side is 25..192 or 200..3645 pixels.
        complexity: The wide networks, for backgrounds that vary a lot (``background_complexity``).
        input_offset: Grey level that the encoder takes for zero. Its convolutions have no bias, so with the published 0
            a brighter image gives larger features of the same kind, which the first normalisation scales back: such an
            encoder cannot see a change of the light.
        from_start: The generator adds its output to the logits of a fixed picture, that of ``generator.start_at``.
    """

    def __init__(
        self,
        *,
        height: int,
        width: int,
        complexity: bool = True,
        input_offset: float = 0.0,
        from_start: bool = False,
    ) -> None:
        super().__init__()
        self.height, self.width, self.complexity, self.input_offset = height, width, complexity, input_offset
        self.encoder = BackgroundEncoder(height=height, width=width, complexity=complexity)
        self.generator = BackgroundGenerator(height=height, width=width, complexity=complexity, from_start=from_start)

    @property
    def from_start(self) -> bool:
        """Whether the generator departs from a fixed picture."""
        return self.generator.start is not None

    def forward(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) in 0..255 to (B, 4, H, W) in 0..255: background RGB and predicted error."""
        return self.generator(self.encoder(images - self.input_offset if self.input_offset else images))
