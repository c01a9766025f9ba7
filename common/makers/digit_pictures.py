"""The toy data of the paper, colored-2-MNIST: an even and an odd digit of different colours on a grey-ish ground.

Three regions with exact masks. Given the draws, the composition is exact. Source: ReDO's code.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

SIZE = 128
GLYPH = 56  # side of a digit, twice MNIST's 28


@dataclass(frozen=True)
class DigitDraw:
    """The random part of one picture.

    Attributes:
        background: Colour (3,) in [0, 1]: U(.33, .66) with green like red.
        even_colour: Of the even digit: U(0, .33) with blue like green.
        odd_colour: Of the odd digit: U(.66, 1) with blue like red.
        even_place: Row and column of the even digit's corner, 0..71.
        odd_place: Of the odd digit's.
        odd_on_top: Which one is pasted later.
    """

    background: NDArray[np.float32]
    even_colour: NDArray[np.float32]
    odd_colour: NDArray[np.float32]
    even_place: tuple[int, int]
    odd_place: tuple[int, int]
    odd_on_top: bool


def draw_digits(rng: np.random.Generator) -> DigitDraw:
    """The published distributions."""
    background, even, odd = (
        rng.uniform(low, high, 3).astype(np.float32) for low, high in ((0.33, 0.66), (0, 0.33), (0.66, 1))
    )
    background[1], even[2], odd[2] = background[0], even[1], odd[0]
    places = rng.integers(0, SIZE - GLYPH, (2, 2))
    even_place, odd_place = ((int(row), int(column)) for row, column in places)
    return DigitDraw(background, even, odd, even_place, odd_place, bool(rng.integers(2)))


def compose_digits(
    even: NDArray[np.uint8], odd: NDArray[np.uint8], draw: DigitDraw
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """The picture of two digits.

    Args:
        even: Glyph of an even digit, uint8 (28, 28), bright on dark.
        odd: Of an odd one.
        draw: Colours, places and order.

    Returns:
        The image, float32 (3, 128, 128) in [-1, 1], and the masks of even digit, odd digit and background, bool
        (3, 128, 128), of which exactly one holds at each pixel.
    """
    labels = np.full((SIZE, SIZE), 2)
    digits = [(0, even, draw.even_place), (1, odd, draw.odd_place)]
    for label, glyph, (row, column) in digits if draw.odd_on_top else digits[::-1]:
        shape = glyph.repeat(2, axis=0).repeat(2, axis=1) >= 128
        labels[row : row + GLYPH, column : column + GLYPH][shape] = label
    colours = np.stack([draw.even_colour, draw.odd_colour, draw.background]).astype(np.float32)
    image = np.moveaxis(colours[labels], -1, 0) * 2 - 1
    return image, labels == np.arange(3)[:, None, None]
