"""Logits of the semantic network to label maps at the size of the image."""

from typing import Literal

import cv2
import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from maskdistill.model.deeplab import upsample

PredictResize = Literal["labels", "logits"]


def predicted_labels(
    logits: Tensor, size: tuple[int, int], predict_resize: PredictResize = "labels"
) -> NDArray[np.uint8]:
    """The label map of one image.

    Args:
        logits: (C, h, w) at the network's input size.
        size: (H, W) of the image.
        predict_resize: ``labels`` takes the argmax first and resizes it by nearest neighbour (OpenCV), as published;
            ``logits`` resizes first, which gives smoother borders.

    Returns:
        uint8 (H, W).
    """
    if predict_resize == "logits":
        return upsample(logits[None], size)[0].argmax(0).byte().cpu().numpy()
    labels = logits.argmax(0).byte().cpu().numpy()
    return np.asarray(cv2.resize(labels, (size[1], size[0]), interpolation=cv2.INTER_NEAREST), dtype=np.uint8)
