"""Which files belong together in the folders that the published code reads, and how it reads them.

Our own commands read CSV splits; these functions turn the published layouts into pairs of paths for them.
"""

import re
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from common.errors import InputError
from common.files import IMAGE_DAMAGE, IMAGE_SUFFIXES, check_file
from common.layouts import natural_key

CLEVR_CROP = 0.8
"""Share of the shorter side that the crop keeps."""


def image_paths(folder: Path, recursive: bool = False) -> list[Path]:
    """The images of a folder in natural order of their paths; other and hidden files are left out.

    Raises:
        InputError: No folder, or no image in it.
    """
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder")
    found = folder.rglob("*") if recursive else folder.iterdir()
    images = [path for path in found if path.suffix.lower() in IMAGE_SUFFIXES and path.name[0] != "."]
    if not images:
        raise InputError(f"{folder}: no image in this folder; known are {', '.join(IMAGE_SUFFIXES)}")
    return sorted(images, key=lambda path: natural_key(path.relative_to(folder).as_posix()))


def paired_by_rank(*columns: list[Path]) -> list[tuple[Path, ...]]:
    """Files that stand at the same place of their lists.

    Raises:
        InputError: Lists of different length.
    """
    if len({len(column) for column in columns}) > 1:
        counts = ", ".join(f"{column[0].parent} has {len(column)}" for column in columns)
        raise InputError(f"folders with different numbers of images cannot be paired: {counts}")
    return list(zip(*columns, strict=True))


def stage_folder(folder: Path) -> Path:
    """The sub-folder ``input`` where there is one, else the folder itself (the foreground stage's rule)."""
    return folder / "input" if (folder / "input").is_dir() else folder


def read_background(path: Path) -> NDArray[np.uint8]:
    """A stored background with its predicted error: uint8 (H, W, 4); an RGB file gets 255 for the error.

    Raises:
        InputError: Not a readable image.
    """
    check_file(path, "background")
    try:
        with Image.open(path) as image:
            return np.array(image.convert("RGBA"))
    except IMAGE_DAMAGE as error:
        raise InputError(f"{path}: not a readable background ({error}); make it again") from error


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
