"""From a mask on patches to an entry of a COCO file."""

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from maskdistill import rle
from maskdistill.polygons import mask_to_polygons

Mask = NDArray[np.bool_]
MaskResize = Literal["legacy", "bilinear", "nearest"]

POLYGON_TOLERANCE_PX = 2.0


def patches_to_pixels(patches: NDArray[Any], patch_size: int, size: tuple[int, int]) -> Mask:
    """A mask on patches (h, w) on the pixels of the network's input, cropped to ``size`` (H, W) without its padding."""
    pixels = np.repeat(np.repeat(np.asarray(patches, dtype=np.bool_), patch_size, axis=0), patch_size, axis=1)
    return pixels[: size[0], : size[1]]


def resize_mask(mask: NDArray[Any], size: tuple[int, int], method: MaskResize = "legacy") -> Mask:
    """A mask at another size.

    Args:
        mask: (h, w), non-zero is inside.
        size: (H, W).
        method: ``legacy``: bicubic on 8 bit, and whatever is not 0 is inside, so the mask grows by about a source
            pixel; the published files were made so. ``bilinear`` keeps values of at least one half. ``nearest`` takes
            the pixel under each centre.
    """
    mask = np.asarray(mask, dtype=np.bool_)
    if mask.shape == tuple(size):
        return mask
    image = Image.fromarray(mask.astype(np.uint8) * 255)
    filters = {"legacy": Image.Resampling.BICUBIC, "bilinear": Image.Resampling.BILINEAR}
    resized = np.asarray(image.resize((size[1], size[0]), filters.get(method, Image.Resampling.NEAREST)))
    return resized != 0 if method == "legacy" else resized >= 128


def annotation_entry(
    mask: NDArray[Any],
    *,
    annotation_id: int,
    image_id: int | str,
    category_id: int = 0,
    segmentation_format: str = "rle",
    tolerance_px: float = POLYGON_TOLERANCE_PX,
) -> dict[str, Any] | None:
    """The entry of one object.

    Args:
        mask: (H, W) of the image, non-zero is inside.
        annotation_id: Id of the entry.
        image_id: Id of its image.
        category_id: 0 before clustering.
        segmentation_format: ``rle``, exact, or ``polygon``, simplified and without holes. Area and box come from the
            mask in either case.
        tolerance_px: See :func:`~maskdistill.polygons.simplify`.

    Returns:
        None for a mask that is empty or leaves no polygon.
    """
    mask = np.asarray(mask, dtype=np.bool_)
    area = int(mask.sum())
    polygons = mask_to_polygons(mask, tolerance_px) if area and segmentation_format == "polygon" else None
    if not area or polygons == []:
        return None
    return {
        "score": 1.0,
        "id": annotation_id,
        "image_id": image_id,
        "category_id": category_id,
        "iscrowd": 0,
        "area": area,
        "bbox": rle.bounding_box(mask),
        "segmentation": rle.encode(mask) if polygons is None else polygons,
        "width": mask.shape[1],
        "height": mask.shape[0],
    }


def image_entry(file_name: str, size: tuple[int, int], image_id: int | str) -> dict[str, Any]:
    """The entry of an image of ``size`` (H, W)."""
    return {"file_name": file_name, "height": size[0], "width": size[1], "id": image_id}


def category_table(names: Sequence[str]) -> list[dict[str, Any]]:
    """The category list of names, ids from 0."""
    return [{"supercategory": "", "id": index, "name": name} for index, name in enumerate(names)]
