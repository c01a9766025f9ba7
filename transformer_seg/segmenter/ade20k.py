"""Labels of ADE20K (SceneParsing-150): annotation value 0 is unlabelled, 1..150 are the classes."""

import numpy as np
from numpy.typing import NDArray

from common.makers.ade20k import NUM_CLASSES, VOID, training_labels

__all__ = ["NUM_CLASSES", "VOID", "annotation_values", "training_labels"]


def annotation_values(labels: NDArray[np.integer]) -> NDArray[np.uint8]:
    """Classes 0..149 as the test server wants them: 1..150."""
    return (labels + 1).astype(np.uint8)
