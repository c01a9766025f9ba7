"""The toy data of ReDO: an even and an odd digit of different colours per picture, composed from MNIST."""

import gzip
import struct
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from common.errors import InputError
from common.files import write_image, write_labels
from common.layouts import Row
from common.makers.digit_pictures import compose_digits, draw_digits
from common.makers.single_objects import object_row
from common.makers.writing import write_steps
from common.splits import relative_cell

FILES = {"train": "train", "val": "t10k", "test": "t10k"}
CLASSES = {0: "background", 1: "even digit", 2: "odd digit"}
Glyphs = tuple[NDArray[np.uint8], NDArray[np.uint8]]


@dataclass(frozen=True)
class Options:
    """Coloured two-digit pictures of 128 x 128 with three exact regions."""

    input: str = field(metadata={"positional": True})
    """Folder of MNIST's four idx files (also .gz, also in MNIST/raw below it); sklearn: its small digits, enlarged."""
    out: str
    """Prefix of the files to write; pictures and labels go to NAME_pictures."""
    base_dir: str = "."
    """Folder that the paths in the split are relative to."""
    num: int = 10000
    """Training pictures."""
    num_val: int = 1000
    """Validation pictures, of the first half of the test digits."""
    num_test: int = 1000
    """Test pictures, of the second half."""
    seed: int = 0
    """Seed of digits, colours, places and order."""


def make(options: Options) -> int:
    """Compose the pictures (those of an earlier run with the same seed are kept) and write their splits."""
    glyphs = _sklearn_digits() if options.input == "sklearn" else _mnist(Path(options.input))
    folder, base = Path(f"{options.out}_pictures") / f"seed{options.seed}", Path(options.base_dir)
    counts = {"train": options.num, "val": options.num_val, "test": options.num_test}
    steps: dict[str, list[Row]] = {}
    for position, (step, count) in enumerate(counts.items()):
        pictures, values = glyphs[step]
        even, odd = pictures[values % 2 == 0], pictures[values % 2 == 1]
        steps[step] = []
        for index in tqdm(range(count), desc=step, unit="picture", disable=None):
            name = f"{step}_{index:06d}"
            image, labels = folder / f"{name}.png", folder / f"{name}_labels.png"
            if not labels.exists():
                _compose(np.random.default_rng([options.seed, position, index]), even, odd, image, labels)
            row = object_row(name, image, None, base)
            steps[step].append({**row, "GtSemantic": relative_cell(labels, base)})
    return write_steps(options.out, steps, CLASSES)


def _compose(
    rng: np.random.Generator, even: NDArray[np.uint8], odd: NDArray[np.uint8], image: Path, labels: Path
) -> None:
    pair = (even[rng.integers(len(even))], odd[rng.integers(len(odd))])
    picture, masks = compose_digits(*pair, draw_digits(rng))
    write_image(image, np.rint((np.moveaxis(picture, 0, -1) + 1) * 127.5).astype(np.uint8))
    write_labels(labels, np.where(masks[2], 0, np.where(masks[0], 1, 2)))


def _mnist(root: Path) -> dict[str, Glyphs]:
    found = {
        part: (_idx(root, f"{part}-images-idx3-ubyte"), _idx(root, f"{part}-labels-idx1-ubyte"))
        for part in ("train", "t10k")
    }
    return _halved(found["train"], found["t10k"])


def _sklearn_digits() -> dict[str, Glyphs]:
    """The 8 x 8 digits that come with scikit-learn, enlarged to 28 x 28; the last quarter is for val and test."""
    import cv2
    from sklearn.datasets import load_digits

    digits = load_digits()
    small = (digits.images * (255 / 16)).astype(np.float32)
    large = np.stack([cv2.resize(digit, (28, 28), interpolation=cv2.INTER_CUBIC) for digit in small])
    pictures, values = np.clip(large, 0, 255).astype(np.uint8), digits.target.astype(np.uint8)
    border = len(pictures) * 3 // 4
    return _halved((pictures[:border], values[:border]), (pictures[border:], values[border:]))


def _halved(train: Glyphs, test: Glyphs) -> dict[str, Glyphs]:
    half = len(test[0]) // 2
    return {"train": train, "val": (test[0][:half], test[1][:half]), "test": (test[0][half:], test[1][half:])}


def _idx(root: Path, name: str) -> NDArray[np.uint8]:
    """An idx file, plain or compressed, in the folder or in MNIST/raw below it."""
    places = [folder / f"{name}{ending}" for folder in (root, root / "MNIST" / "raw") for ending in ("", ".gz")]
    path = next((place for place in places if place.is_file()), None)
    if path is None:
        raise InputError(f"{places[0]}: not there, nor as .gz or in MNIST/raw; put MNIST's four idx files there")
    try:
        content = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
        axes = content[3]
        shape = struct.unpack(f">{axes}I", content[4 : 4 + 4 * axes])
        return np.frombuffer(content, np.uint8, offset=4 + 4 * axes).reshape(shape)
    except (OSError, ValueError, IndexError, struct.error, EOFError) as error:
        raise InputError(f"{path}: not a readable idx file ({error}); download it again") from error
