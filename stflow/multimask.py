"""Label maps as the indexed PNG images of DAVIS17: every segment a proposal, colours of PASCAL VOC."""

# ruff: noqa: E741 - I J are this field's letters for rows and columns

import numpy as np
from numpy.typing import NDArray


def nearest_indices(target: int, source: int) -> NDArray[np.int64]:
    """Source index floor(target index * source / target) of a resize by nearest neighbour, in exact integers.

    This is torch's mode "nearest" and OpenCV's INTER_NEAREST; Pillow's and "nearest-exact" take other pixels.
    """
    return np.arange(target) * source // target


def indexed_image(labels: NDArray[np.integer], size: tuple[int, int]) -> NDArray[np.uint8]:
    """Palette indices of a label map: label + 1, so that no segment is background.

    Args:
        labels: (..., I, J), 0 to 254.
        size: Rows and columns of the image.

    Returns:
        (..., rows, columns).

    Raises:
        ValueError: Labels that do not fit a palette.
    """
    if labels.size and not 0 <= labels.min() <= labels.max() < 255:
        raise ValueError(f"labels from {labels.min()} to {labels.max()} do not fit a palette of 256")
    I, J = labels.shape[-2:]
    rows, columns = nearest_indices(size[0], I), nearest_indices(size[1], J)
    return (labels[..., rows[:, None], columns] + 1).astype(np.uint8)
