"""Dense CRF on the logits of a semantic network (Kraehenbuehl and Koltun 2011)."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from common.crf import Pairwise, mean_field

NUM_ITERATIONS = 10
TERMS = (
    Pairwise(weight=3, sigma_space_px=1),
    Pairwise(weight=4, sigma_space_px=67, sigma_colour=(3.0, 3.0, 3.0)),
)


def dense_crf(image: NDArray[np.uint8], logits: Tensor, smallest_class_probability: float = 0.0) -> NDArray[np.float32]:
    """Marginals of a fully connected CRF with Potts terms in position and in position and colour (section 4.7).

    The logits are upsampled to the image before the softmax; ten steps of mean field.

    Args:
        image: 8-bit colour (H, W, 3) at its original size; the order of the channels does not matter.
        logits: (C, h, w).
        smallest_class_probability: Classes that nowhere reach it are left out and stay at 0; time is linear in the
            number of classes. 0 keeps all.

    Returns:
        float32 (C, H, W), the argmax of which is the label map.

    Raises:
        InputError: pydensecrf is not installed.
    """
    H, W = image.shape[:2]
    upsampled = F.interpolate(logits[None].float(), size=(H, W), mode="bilinear", align_corners=False)
    probabilities = upsampled[0].softmax(0).cpu()
    marginals = np.zeros(probabilities.shape, dtype=np.float32)
    used = torch.nonzero(probabilities.amax((1, 2)) >= smallest_class_probability)[:, 0]
    marginals[used.numpy()] = mean_field(probabilities[used].numpy(), image.transpose(2, 0, 1), TERMS, NUM_ITERATIONS)
    return marginals
