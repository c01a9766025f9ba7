"""Dense CRF on the logits of a semantic network (Kraehenbuehl and Koltun 2011)."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from common.errors import InputError

NUM_ITERATIONS = 10
GAUSSIAN = {"sxy": 1, "compat": 3}
BILATERAL = {"sxy": 67, "srgb": 3, "compat": 4}
SMALLEST_PROBABILITY = 1e-5


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
    try:
        from pydensecrf.densecrf import DenseCRF2D
    except ImportError as error:
        raise InputError("--crf-postprocess needs pydensecrf: pip install pydensecrf2 (and a C++ compiler)") from error
    H, W = image.shape[:2]
    upsampled = F.interpolate(logits[None].float(), size=(H, W), mode="bilinear", align_corners=False)
    probabilities = upsampled[0].softmax(0).cpu()
    marginals = np.zeros(probabilities.shape, dtype=np.float32)
    used = torch.nonzero(probabilities.amax((1, 2)) >= smallest_class_probability)[:, 0]
    unary = -probabilities[used].clamp(SMALLEST_PROBABILITY, 1.0).log()
    field = DenseCRF2D(W, H, len(used))
    field.setUnaryEnergy(np.ascontiguousarray(unary.reshape(len(used), -1).numpy()))
    field.addPairwiseGaussian(**GAUSSIAN)
    field.addPairwiseBilateral(rgbim=np.ascontiguousarray(image), **BILATERAL)
    marginals[used.numpy()] = np.array(field.inference(NUM_ITERATIONS)).reshape(len(used), H, W)
    return marginals
