"""What makers of single-object data sets share: plain masks from annotations of their own form."""

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from tqdm import tqdm

from common.errors import InputError
from common.files import check_file, image_size, write_image
from common.layouts import Row
from common.splits import relative_cell

Rule = Callable[[NDArray[np.uint8]], NDArray[np.bool_]]


def object_row(name: str, image: Path, mask: Path | None, base_dir: Path) -> Row:
    """The row of a picture that stands alone."""
    row = {"Sequence": name, "Sequence_Index": "0", "Image": relative_cell(image, base_dir)}
    return row if mask is None else {**row, "GtMask": relative_cell(mask, base_dir)}


def write_masks(pairs: Mapping[Path, tuple[Path, Path]], rule: Rule) -> None:
    """Write annotations as black and white masks of the size of their images.

    What an earlier run wrote is kept, unless the annotation is newer.

    Args:
        pairs: Mask to write -> (annotation, image).
        rule: The object in an annotation's stored pixels, at full size.

    Raises:
        InputError: An annotation is missing or not readable.
    """
    for mask, (annotation, image) in tqdm(pairs.items(), desc="masks", unit="file", disable=None):
        check_file(annotation, "annotation")
        if mask.exists() and mask.stat().st_mtime >= annotation.stat().st_mtime:
            continue
        found = rule(stored_pixels(annotation))
        rows, columns = image_size(image)
        values = np.where(found, 255, 0).astype(np.uint8)
        if values.shape != (rows, columns):
            values = np.asarray(Image.fromarray(values).resize((columns, rows), Image.Resampling.NEAREST))
        write_image(mask, values)


def stored_pixels(path: Path) -> NDArray[np.uint8]:
    """The pixels of an annotation, uint8 (H, W) or (H, W, channels), palette resolved.

    Raises:
        InputError: Not readable as a picture.
    """
    try:
        with Image.open(path) as image:
            return np.asarray(image.convert("RGB") if image.mode == "P" else image).astype(np.uint8)
    except (OSError, ValueError, SyntaxError) as error:
        raise InputError(f"{path}: not a readable annotation ({error}); copy it again") from error


def require(root: Path, *parts: str, layout: str) -> None:
    """Refuse a data set that lacks a file or folder.

    Raises:
        InputError: Names the first that is missing, and the expected layout.
    """
    for part in parts:
        if not (root / part).exists():
            raise InputError(f"{root / part}: not there; {layout}")
