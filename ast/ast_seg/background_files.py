"""The background data set in the published layout: five folders of numbered PNG files per split."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ast_seg.background_masks import Bytes
from ast_seg.quick_png import write_png
from ast_seg.sample_grid import COLOURS
from common.files import write_labels

FILES = {
    "input": "input_images_{split}/input_image_{index:06d}.png",
    "background": "background_images_{split}/background_{index:06d}.png",
    "rgba": "backgrounds_rgba_{split}/background_{index:06d}.png",
    "mask": "masks_{split}/bin{index:06d}.png",
    "target": "GT_masks_{split}/GT_mask_{index:06d}.png",
}
"""Names below the results folder, by content; ``index`` counts from 1."""


def target_palette() -> Bytes:
    """Colours of the true labels' files: the 14 colours four times, then black, uint8 (256, 3)."""
    palette = np.zeros((256, 3), np.uint8)
    palette[: 4 * len(COLOURS)] = np.tile(np.array(COLOURS, np.uint8), (4, 1))
    return palette


def file_paths(folder: Path, split: str, index: int) -> dict[str, Path]:
    """The files of one frame, by content; ``index`` counts from 1."""
    return {content: folder / name.format(split=split, index=index) for content, name in FILES.items()}


def write_frame(
    folder: Path,
    split: str,
    index: int,
    image: Bytes,
    prediction: Bytes,
    mask: Bytes,
    target: NDArray[np.integer] | None,
) -> dict[str, Path]:
    """Write the five files of one frame.

    Args:
        folder: The results folder.
        split: ``train`` or ``test``.
        index: Number of the frame, from 1.
        image: The input, uint8 (H, W, 3).
        prediction: Background RGB and predicted error, uint8 (H, W, 4).
        mask: Foreground, 0 or 255, uint8 (H, W).
        target: True labels (H, W); None writes zeros.

    Returns:
        The paths, by content.
    """
    paths = file_paths(folder, split, index)
    write_png(paths["input"], image)
    write_png(paths["background"], prediction[..., :3])
    write_png(paths["rgba"], prediction)
    write_png(paths["mask"], mask)
    labels = np.zeros(mask.shape, np.uint8) if target is None else target
    write_labels(paths["target"], labels, target_palette())
    return paths
