"""The first pass over photos, which fills the memory map: images alone, beside images with their masks."""

from pathlib import Path

import torch
from measuring import Benchmark
from redo_loader import photo_images, textbook_batch
from torch import Tensor

from redo.preparation import network_images


def build(tiny: bool) -> Benchmark:
    """32 photos of 667 x 500 pixels, decoded and written to the map."""
    images = photo_images(tiny)
    count, size = len(images.split), images.images.shape[0]
    files = [images.split.path(row, "Image") for row in range(count)]

    def first_pass() -> Tensor:
        map_file: Path = images.images.array_path
        map_file.unlink(missing_ok=True)
        images.build()
        images.images._array = None
        return network_images(images.__getitems__([(i, i) for i in range(count)])["image"])

    def check(textbook: Tensor, ours: Tensor) -> None:
        torch.testing.assert_close(ours, textbook)

    return Benchmark(
        f"{count} photos to squares of {size}, first epoch",
        lambda: textbook_batch(files, size),
        first_pass,
        check,
        frames=count,
    )
