"""Sizes of the background auto-encoder's blocks: how an image of any supported size shrinks to 1 x 1.

Every block shrinks both axes at once, each with a kernel, stride and padding of its own. The generator of a small image
follows another rule on its width than the encoder; that is a slip of the published code, kept because the shapes of
the published weights depend on it. Where that rule does not end at 1 x 1 in five to seven blocks (very tall images, and
wide ones of 24..48 pixels), the generator mirrors the encoder.
"""

from typing import NamedTuple

from common.errors import InputError

SMALL_BELOW = 200  # pixels of the longer side
NUM_BLOCKS = (5, 6, 7)


class AxisStep(NamedTuple):
    """Convolution along one axis, from ``size`` pixels to ``shrunk`` pixels."""

    size: int
    kernel: int
    stride: int
    padding: int

    @property
    def shrunk(self) -> int:
        """Size after the convolution; below 1 where the kernel does not fit."""
        return 1 + (self.size + 2 * self.padding - self.kernel) // self.stride

    @property
    def output_padding(self) -> int:
        """What the transposed convolution adds to come back to ``size``."""
        return (self.size + 2 * self.padding - self.kernel) % self.stride


class BlockSizes(NamedTuple):
    """One block: its two axes at the resolution nearer to the image."""

    rows: AxisStep
    columns: AxisStep

    @property
    def size(self) -> tuple[int, int]:
        """(H, W) on the image's side of the block."""
        return self.rows.size, self.columns.size

    @property
    def shrunk(self) -> tuple[int, int]:
        """(H, W) on the latents' side of the block."""
        return self.rows.shrunk, self.columns.shrunk


def encoder_blocks(height: int, width: int) -> list[BlockSizes]:
    """The encoder's blocks, from the image to 1 x 1.

    Raises:
        InputError: The size needs fewer than five or more than seven blocks.
    """
    small = max(height, width) < SMALL_BELOW
    blocks = []
    while (height, width) != (1, 1):
        blocks.append(BlockSizes(_step(height, small), _step(width, small)))
        height, width = blocks[-1].shrunk
    if len(blocks) not in NUM_BLOCKS:
        size = blocks[0].size if blocks else (height, width)
        raise InputError(
            f"image size {size[0]}x{size[1]}: the background network needs a longer side of 25..192 or 200..3645 "
            "pixels; pass --resize HxW"
        )
    return blocks


def generator_blocks(height: int, width: int) -> list[BlockSizes]:
    """The generator's blocks, in the encoder's order (image first).

    Raises:
        InputError: See :func:`encoder_blocks`.
    """
    mirrored = encoder_blocks(height, width)
    if max(height, width) >= SMALL_BELOW:
        return mirrored
    blocks: list[BlockSizes] = []
    while (height, width) != (1, 1) and min(height, width) > 0:
        blocks.append(BlockSizes(_step(height, small=True), _published_width_step(height, width)))
        height, width = blocks[-1].shrunk
    return blocks if (height, width) == (1, 1) and len(blocks) in NUM_BLOCKS else mirrored


def _step(size: int, small: bool) -> AxisStep:
    if size > 5:
        return AxisStep(size, kernel=5, stride=2 if small else 3, padding=2)
    if size > 3 and small:
        return AxisStep(size, kernel=4, stride=2, padding=1)
    return AxisStep(size, kernel=size, stride=1, padding=0)


def _published_width_step(height: int, width: int) -> AxisStep:
    """The width's step of a small generator, which looks at the height where it should look at the width."""
    if width <= 5 and height > 3:
        return AxisStep(width, kernel=4, stride=2, padding=1)
    if width <= 5:
        return AxisStep(width, kernel=width, stride=1, padding=0)
    return _step(width, small=True)
