"""Refinement of a segmentation by a fully connected CRF (Krähenbühl and Koltun, 2011), as W-Net uses it."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from common.crf import Pairwise, mean_field

Maps = NDArray[np.float32]


@dataclass(frozen=True)
class CrfOptions:
    """The bilateral term and the number of iterations.

    Attributes:
        iterations: Mean-field iterations. Labels seldom change after ten; published results used 150.
        sigma_space_px: Scale of the distance in pixels.
        sigma_colour: Scale of the difference in each channel, for values in [0, 1].
        weight: Potts weight.
    """

    iterations: int = 10
    sigma_space_px: float = 25.0
    sigma_colour: tuple[float, ...] = (0.05, 0.05, 0.05)
    weight: float = 100.0


LEGACY_CRF = CrfOptions(iterations=150, sigma_colour=(0.05, 0.05, 1.0))
"""As published results were made: with two colour scales for three channels, so that blue hardly counts."""


def refine(probabilities: Maps, image: Maps, options: CrfOptions | None = None) -> Maps:
    """Marginals of the CRF.

    One image of 128 x 192 pixels with 20 segments takes 0.1 s.

    Args:
        probabilities: Sum to one over K (K, H, W).
        image: In [0, 1] (C, H, W).
        options: None takes ours; `LEGACY_CRF` the published ones.

    Returns:
        float32 (K, H, W); the labels are its argmax.

    Raises:
        InputError: pydensecrf is not installed.
    """
    options = options or CrfOptions()
    term = Pairwise(options.weight, options.sigma_space_px, options.sigma_colour, rows_first=True)
    return mean_field(probabilities, image, (term,), options.iterations)
