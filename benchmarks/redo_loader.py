"""A training batch of photos as large as those of Oxford Flowers: decoded with their masks, beside mapped squares."""

import atexit
import shutil
import tempfile
from pathlib import Path

import numpy as np
import torch
from measuring import Benchmark
from PIL import Image
from torch import Tensor

from common.makers.flowers import flower_of
from common.splits import Split
from redo.data import SquareImages
from redo.options import DataOptions
from redo.preparation import network_images, square


def build(tiny: bool) -> Benchmark:
    """32 photos of 667 x 500 pixels to squares of 128; the first pass, which decodes the photos, is not counted."""
    images = photo_images(tiny)
    images.build()
    count, size = len(images), images.images.shape[0]
    files = [images.split.path(row, "Image") for row in range(count)]

    def check(textbook: Tensor, ours: Tensor) -> None:
        torch.testing.assert_close(ours, textbook)

    return Benchmark(
        f"{count} photos to squares of {size}, every epoch after the first",
        lambda: textbook_batch(files, size),
        lambda: network_images(images.__getitems__([(i, i) for i in range(count)])["image"]),
        check,
        frames=count,
        least_bytes=count * 3 * size**2 * (1 + 4),  # bytes from the map, floats for the networks
    )


def photo_images(tiny: bool) -> SquareImages:
    """Photos with a segmentation beside each, on the disk, and the set of their squares."""
    folder = Path(tempfile.mkdtemp(prefix="redo-benchmark-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    rng = np.random.default_rng(0)
    rows, columns, count, size = (60, 80, 2, 32) if tiny else (500, 667, 32, 128)
    for k in range(count):
        coarse = rng.integers(0, 256, (rows // 10, columns // 10, 3), dtype=np.uint8)
        photo = Image.fromarray(coarse).resize((columns, rows), Image.Resampling.BICUBIC)
        photo.save(folder / f"image_{k}.jpg", quality=90)
        photo.save(folder / f"segmim_{k}.jpg", quality=90)
    cells = [{"Sequence": str(k), "Sequence_Index": 0, "Image": f"image_{k}.jpg"} for k in range(count)]
    split = Split.from_rows(cells, folder, folder / "split.csv")
    return SquareImages(split, size, 3, DataOptions(cache_dir=folder / "cache"), scored=False)


def textbook_batch(files: list[Path], size: int) -> Tensor:
    """Image and mask of each file, decoded, resized and cut; the masks are not used in training."""
    images, masks = [], []
    for file in files:
        with Image.open(file) as image, Image.open(file.with_name(file.name.replace("image", "segmim"))) as mask:
            images.append(torch.from_numpy(np.array(square(np.asarray(image.convert("RGB")), size))))
            masks.append(square(flower_of(np.asarray(mask)), size))
    return torch.stack(images).permute(0, 3, 1, 2).float() / 127.5 - 1
