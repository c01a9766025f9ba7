"""The layout of the Semantic Boundaries Dataset: VOC's classes on 11,355 images, in Matlab files."""

from dataclasses import dataclass, field
from pathlib import Path

from tqdm import tqdm

from common.errors import InputError
from common.files import write_labels
from common.layouts import Row
from common.makers.matlab import sbd_labels
from common.makers.voc import CLASSES
from common.makers.writing import write_steps
from common.splits import relative_cell

MAPS = (("GtSemantic", "cls", "GTcls"), ("GtInstance", "inst", "GTinst"))


@dataclass(frozen=True)
class Options:
    """The layout of the Semantic Boundaries Dataset; its maps are written as PNG files."""

    input: str = field(metadata={"positional": True})
    """Folder that holds img, cls, inst, train.txt and val.txt (benchmark_RELEASE/dataset), or one above it."""
    out: str
    """Prefix of the files to write: NAME_train.csv, NAME_val.csv; the maps go to NAME_labels/."""
    base_dir: str = "."
    """Folder that the paths in the split are relative to."""
    exclude: str = ""
    """A list (.txt) of images to leave out, such as VOC's own val.txt, so that nothing is trained on that is scored."""


def make(options: Options) -> int:
    """Write the maps of a copy of SBD as PNG files (those of an earlier run are kept) and its splits."""
    root = _root(Path(options.input))
    excluded = set()
    if options.exclude:
        if not Path(options.exclude).is_file():
            raise InputError(f"--exclude {options.exclude}: no such list")
        excluded = set(Path(options.exclude).read_text(encoding="utf-8").split())
    steps = {}
    for step in ("train", "val"):
        names = [name for name in _names(root / f"{step}.txt") if name not in excluded]
        bar = tqdm(names, desc=step, unit="image", disable=None)
        steps[step] = [_row(root, name, Path(options.base_dir), Path(f"{options.out}_labels")) for name in bar]
    return write_steps(options.out, steps, dict(enumerate(CLASSES)))


def _root(folder: Path) -> Path:
    for root in (folder, folder / "dataset", folder / "benchmark_RELEASE" / "dataset"):
        if (root / "img").is_dir() and (root / "cls").is_dir():
            return root
    raise InputError(f"{folder}: holds no img and cls; pass the folder benchmark_RELEASE/dataset")


def _names(file: Path) -> list[str]:
    if not file.is_file():
        raise InputError(f"{file}: no such list; complete the copy of SBD")
    return list(dict.fromkeys(file.read_text(encoding="utf-8").split()))


def _row(root: Path, name: str, base_dir: Path, labels: Path) -> Row:
    image = root / "img" / f"{name}.jpg"
    if not image.is_file():
        raise InputError(f"{image}: in the list, but not there; complete the copy")
    row = {"Sequence": name, "Sequence_Index": "0", "Image": relative_cell(image, base_dir)}
    for column, folder, variable in MAPS:
        source, file = root / folder / f"{name}.mat", labels / folder / f"{name}.png"
        row[column] = ""
        if source.is_file():
            if not file.exists():
                write_labels(file, sbd_labels(source, variable))
            row[column] = relative_cell(file, base_dir)
    return row
