"""Mean-field inference in a fully connected CRF (Krähenbühl and Koltun, 2011), by pydensecrf."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from common.errors import InputError

Maps = NDArray[np.float32]
SMALLEST_PROBABILITY = 1e-5  # probabilities are clipped here before their logarithm


@dataclass(frozen=True)
class Pairwise:
    """A Gaussian Potts term: neighbours of like position, and of like colour where a scale for it is given.

    Attributes:
        weight: Potts weight.
        sigma_space_px: Scale of the distance in pixels.
        sigma_colour: Scale of the difference in each channel, in the unit of the image; empty = position only.
        rows_first: Order of the two coordinates. The filter works on a lattice, so the order changes the third digit;
            published results of W-Net have rows first, those of DeepLab columns.
    """

    weight: float
    sigma_space_px: float
    sigma_colour: tuple[float, ...] = ()
    rows_first: bool = False


def mean_field(probabilities: Maps, image: NDArray[np.generic], terms: tuple[Pairwise, ...], iterations: int) -> Maps:
    """Marginals of the CRF with symmetric normalisation.

    Args:
        probabilities: (K, H, W), sum to one over K.
        image: (C, H, W).
        terms: Pairwise terms.
        iterations: Mean-field iterations.

    Returns:
        float32 (K, H, W); the labels are its argmax.

    Raises:
        InputError: pydensecrf is not installed.
    """
    try:
        from pydensecrf.densecrf import DenseCRF
    except ImportError as error:
        raise InputError("the CRF needs pydensecrf: pip install pydensecrf2 (and a C++ compiler)") from error
    K, H, W = probabilities.shape
    unary = -np.log(np.clip(probabilities, SMALLEST_PROBABILITY, 1.0)).reshape(K, H * W)
    crf = DenseCRF(H * W, K)
    crf.setUnaryEnergy(np.ascontiguousarray(unary, dtype=np.float32))
    for term in terms:
        crf.addPairwiseEnergy(_features(image, term), compat=term.weight)
    return np.asarray(crf.inference(iterations), dtype=np.float32).reshape(K, H, W)


def _features(image: NDArray[np.generic], term: Pairwise) -> Maps:
    """Position and colour in units of their scales (D, H*W)."""
    C, H, W = image.shape
    position = np.mgrid[:H, :W] if term.rows_first else np.mgrid[:H, :W][::-1]
    features = position.astype(np.float32) / np.float32(term.sigma_space_px)
    if term.sigma_colour:
        if len(term.sigma_colour) != C:
            raise ValueError(f"sigma_colour has {len(term.sigma_colour)} values for an image of {C} channels")
        scales = np.asarray(term.sigma_colour, dtype=np.float32)[:, None, None]
        features = np.concatenate([features, image.astype(np.float32) / scales])
    return np.ascontiguousarray(features.reshape(-1, H * W))
