"""Labels of ADE20K (SceneParsing-150): annotation value 0 is unlabelled, 1..150 are the classes."""

import numpy as np
from numpy.typing import NDArray

from common.errors import InputError

NUM_CLASSES = 150
VOID = 255


def training_labels(annotation: NDArray[np.integer], file: str = "annotation") -> NDArray[np.uint8]:
    """Classes 0..149 and 255 for void, from an annotation (H, W).

    Raises:
        InputError: A value above 150.
    """
    if annotation.size and int(annotation.max()) > NUM_CLASSES:
        raise InputError(f"{file}: value {int(annotation.max())} is above 150; is this the 150-class annotation?")
    return np.where(annotation == 0, VOID, annotation.astype(np.int64) - 1).astype(np.uint8)


def annotation_values(labels: NDArray[np.integer]) -> NDArray[np.uint8]:
    """Classes 0..149 as the test server wants them: 1..150."""
    return (labels + 1).astype(np.uint8)
