"""The images of a split as small squares in one memory-mapped array, decoded once.

At 128 pixels an image is 49 kB. The array is keyed by the files (path, size, time of change) and the side, so a changed
file makes a new one; runs, processes and loader workers share it. Masks have an array of their own, made only where
something is scored: training never opens a mask.
"""

import hashlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from tqdm import tqdm

from common.errors import InputError
from common.files import MaskEncoding, atomic_path, check_file, image_size, read_image, read_mask
from redo.preparation import square

NO_OBJECT_KNOWN = 255
SMALLEST_PX = 8  # an image with a shorter side shows nothing that could be cut


class SquareCache:
    """Squares of some files in one array (N, S, S[, channels]), uint8.

    Args:
        files: Index ``i`` of the cache is ``files[i]``; None: nothing to read, filled with `NO_OBJECT_KNOWN`.
        read: Makes the square of a file.
        name: What the array is, for its file name and the progress bar; different readers need different names.
        shape: Of one square.
        folder: Where the array is stored.
        max_bad: Unreadable files to accept; they are left black.
    """

    def __init__(
        self,
        files: Sequence[Path | None],
        read: Callable[[Path], NDArray[np.uint8]],
        name: str,
        shape: tuple[int, ...],
        folder: Path,
        max_bad: int = 0,
    ) -> None:
        self.files, self.read, self.name, self.shape, self.max_bad = list(files), read, name, shape, max_bad
        self.array_path = folder / f"{name}-{self._key()}.npy"
        self._array: NDArray[np.uint8] | None = None

    def _key(self) -> str:
        digest = hashlib.blake2b(repr(self.shape).encode(), digest_size=10)
        for file in self.files:
            if file is None or not file.exists():
                digest.update(f"{file}|missing\n".encode())
            else:
                stat = file.stat()
                digest.update(f"{file.resolve()}|{stat.st_size}|{stat.st_mtime_ns}\n".encode())
        return digest.hexdigest()

    def build(self) -> None:
        """Read every file, unless the array stands already.

        Raises:
            InputError: More than ``max_bad`` files cannot be read; names one.
        """
        facts_path = self.array_path.with_suffix(".json")
        if not (self.array_path.exists() and facts_path.exists()):
            bad: dict[int, str] = {}
            with atomic_path(self.array_path) as temporary:
                shape = (len(self.files), *self.shape)
                array = np.lib.format.open_memmap(temporary, mode="w+", dtype=np.uint8, shape=shape)
                for index, file in enumerate(tqdm(self.files, desc=f"reading {self.name}", unit="file", disable=None)):
                    array[index] = NO_OBJECT_KNOWN if file is None else self._square(index, file, bad)
                array.flush()
                del array
            with atomic_path(facts_path) as temporary:
                temporary.write_text(json.dumps({"bad": bad}))
        self.bad: dict[int, str] = {int(i): text for i, text in json.loads(facts_path.read_text())["bad"].items()}
        if len(self.bad) > self.max_bad:
            raise InputError(next(iter(self.bad.values())))

    def _square(self, index: int, file: Path, bad: dict[int, str]) -> NDArray[np.uint8]:
        try:
            return self.read(file)
        except InputError as error:
            bad[index] = str(error)
            if len(bad) > self.max_bad:
                raise
            return np.zeros(self.shape, np.uint8)

    def __getitem__(self, index: int | NDArray[np.int64]) -> NDArray[np.uint8]:
        """Square(s) by index or array of indices; a copy."""
        if self._array is None:
            self._array = np.load(self.array_path, mmap_mode="r")
        return np.array(self._array[index])

    def __getstate__(self) -> dict[str, object]:
        """Workers open the array themselves; a mapped array would be copied into them."""
        return {**self.__dict__, "_array": None}


def image_cache(files: Sequence[Path], size: int, channels: int, folder: Path, max_bad: int = 0) -> SquareCache:
    """Images as squares (S, S, channels)."""

    def read(file: Path) -> NDArray[np.uint8]:
        return image_square(file, size, channels)

    return SquareCache(files, read, f"images-{size}x{channels}", (size, size, channels), folder, max_bad)


def mask_cache(
    files: Sequence[Path | None], images: Sequence[Path], size: int, encoding: MaskEncoding, folder: Path
) -> SquareCache:
    """Objects as squares (S, S) of 0 and 1, `NO_OBJECT_KNOWN` everywhere where there is no mask."""
    image_of = dict(zip(files, images, strict=True))

    def read(file: Path) -> NDArray[np.uint8]:
        return mask_square(file, image_of[file], size, encoding)

    return SquareCache(files, read, f"objects-{size}-{encoding}", (size, size), folder)


def image_square(file: Path, size: int, channels: int = 3) -> NDArray[np.uint8]:
    """An image file as a square (S, S, channels); one channel is its luminance.

    Raises:
        InputError: Not readable, or only a few pixels large.
    """
    image = read_image(file)
    if min(image.shape[:2]) < SMALLEST_PX:
        rows, columns = image.shape[:2]
        raise InputError(f"{file}: an image of {rows}x{columns} pixels; at least {SMALLEST_PX} on each side are needed")
    return square(channels_of(image, channels), size).astype(np.uint8)


def channels_of(image: NDArray[np.uint8], channels: int) -> NDArray[np.uint8]:
    """The RGB image (H, W, 3) as it is, or its luminance (H, W, 1)."""
    return image if channels == 3 else np.asarray(Image.fromarray(image).convert("L"))[..., None]


def mask_square(file: Path, image: Path, size: int, encoding: MaskEncoding) -> NDArray[np.uint8]:
    """A mask file as a square (S, S), 1 on the object; its image says that it belongs to it.

    Raises:
        InputError: Not readable, values of no one meaning, or of another shape than the image.
    """
    mask = read_mask(check_file(file, "mask"), encoding).foreground
    rows, columns = image_size(image)
    if abs(mask.shape[0] * columns - mask.shape[1] * rows) > 0.02 * mask.shape[0] * columns:
        raise InputError(
            f"{file}: mask of {mask.shape[0]}x{mask.shape[1]} pixels for an image of {rows}x{columns}"
            f" ({image}); it must show the same section"
        )
    return square(mask, size).astype(np.uint8)
