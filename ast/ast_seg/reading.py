"""Which files belong together in the folders that the published code reads, and how it reads them.

Our own commands read CSV splits; these functions turn the published layouts into pairs of paths for them.
"""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from common.errors import InputError
from common.files import IMAGE_DAMAGE, IMAGE_SUFFIXES, check_file
from common.layouts import natural_key


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
