"""The layouts of CLEVR and CLEVRTEX as image files: names, parts, the published crop."""

import re
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from common.errors import InputError

CLEVR_CROP = 0.8
"""Share of the shorter side that the crop keeps."""


class ClevrFile(NamedTuple):
    """A frame of CLEVR or CLEVRTEX and its label map."""

    number: int
    image: Path
    labels: Path


def clevr_files(root: Path, dataset: str = "clevrtex", variant: str = "full") -> list[ClevrFile]:
    """The frames of a variant, at any depth, by index.

    Args:
        root: The folder ``<dataset>_<variant>``, or the one that holds it.
        dataset: ``clevr`` or ``clevrtex``.
        variant: ``full``, ``pbg``, ``vbg``, ``grassbg``, ``camo`` or ``outd``.

    Raises:
        InputError: No such files, a gap in the indices, or a frame without its label map.
    """
    name = f"{dataset}_{variant}"
    folder = root if root.name == name else root / name
    pattern = re.compile(rf"{dataset.upper()}_{variant}_(\d{{6}})\.png")
    matches = ((pattern.fullmatch(path.name), path) for path in folder.rglob("*.png"))
    images = {int(match[1]): path for match, path in matches if match}
    if not images:
        raise InputError(f"{folder}: no files {dataset.upper()}_{variant}_000000.png, ... in this folder or below")
    files = []
    for index in range(max(images) + 1):
        if index not in images:
            raise InputError(f"{folder}: frame {index:06d} is missing, the indices must have no gap")
        labels = images[index].with_name(f"{images[index].stem}_flat.png")
        if not labels.is_file():
            raise InputError(f"{labels}: missing, it should lie beside its image")
        files.append(ClevrFile(index, images[index], labels))
    return files


def clevr_parts(num_frames: int, variant: str = "full") -> dict[str, range]:
    """Indices of each part: the first tenth is test, the next val, the rest train; ``outd`` has one part only."""
    if variant == "outd":
        return {"test": range(num_frames)}
    first, second = int(0.1 * num_frames), int(0.2 * num_frames)
    return {"test": range(first), "val": range(first, second), "train": range(second, num_frames)}


def clevr_view(image: Image.Image, size: tuple[int, int], labels: bool = False) -> NDArray[np.uint8]:
    """The centre square of 0.8 of the shorter side, resized: uint8 (H, W, 3), or (H, W) of labels.

    Args:
        image: The file.
        size: (rows, columns).
        labels: Take the nearest value and keep palette indices, instead of bilinear RGB.
    """
    width, height = image.size
    side = int(CLEVR_CROP * min(width, height))
    box = ((width - side) // 2, (height - side) // 2, (width + side) // 2, (height + side) // 2)
    cropped = (image if labels else image.convert("RGB")).crop(box)
    return np.array(cropped.resize(size[::-1], Image.Resampling.NEAREST if labels else Image.Resampling.BILINEAR))
