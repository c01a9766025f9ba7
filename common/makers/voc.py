"""The layout of PASCAL VOC, with the lists of the copy itself."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from common.errors import InputError
from common.files import IMAGE_SUFFIXES
from common.layouts import Row, files_by_stem, relative_cell
from common.makers.writing import write_steps

CLASSES = (
    *("background", "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow"),
    *("diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor"),
)
LISTS = "ImageSets/Segmentation"


@dataclass(frozen=True)
class Options:
    """The layout of PASCAL VOC 2012."""

    input: str = field(metadata={"positional": True})
    """Folder that holds JPEGImages, SegmentationClass and ImageSets, or VOCdevkit above it."""
    out: str
    """Prefix of the files to write: NAME gives NAME_train.csv, NAME_val.csv and NAME_classes.csv."""
    base_dir: str = "."
    """Folder that the paths in the split are relative to."""
    train: str = "train"
    """List of the training images in ImageSets/Segmentation; trainaug without a list of its own: every image with an
    annotation in SegmentationClassAug that is not in val."""
    val: str = "val"
    """List of the validation images; empty for none."""
    test: str = ""
    """List of the test images; empty for none."""
    annotations: str = ""
    """Folder of the class maps; default SegmentationClass, and SegmentationClassAug for the training list trainaug."""


def make(options: Options) -> int:
    """Write the splits of a copy of PASCAL VOC, by its own lists."""
    root, base = voc_root(Path(options.input)), Path(options.base_dir)
    steps = {}
    for step, name in (("train", options.train), ("val", options.val), ("test", options.test)):
        if name:
            steps[step] = voc_rows(root, base, image_list(root, name, options.val), options.annotations or _maps(name))
    if not any(row["GtSemantic"] for rows in steps.values() for row in rows):
        raise InputError(f"{root}: no class map for any image of the lists; pass --annotations FOLDER")
    return write_steps(options.out, steps, dict(enumerate(CLASSES)))


def voc_root(folder: Path) -> Path:
    """The folder that holds ``JPEGImages``, given it or one or two levels above it.

    Raises:
        InputError: none there, or several years.
    """
    found = [folder] if (folder / "JPEGImages").is_dir() else []
    found = found or sorted(path.parent for level in ("*", "*/*") for path in folder.glob(f"{level}/JPEGImages"))
    if len(found) != 1:
        seen = f"{len(found)} folders with JPEGImages" if found else "no JPEGImages"
        raise InputError(f"{folder}: {seen} here or below; pass the folder VOCdevkit/VOC2012")
    return found[0]


def image_list(root: Path, name: str, val: str = "val") -> list[str]:
    """The image names of a list, e.g. ``train``; see ``Options.train`` for ``trainaug``.

    Raises:
        InputError: no such list.
    """
    file = root / LISTS / f"{name}.txt"
    if file.is_file():
        return list(dict.fromkeys(file.read_text(encoding="utf-8").split()))
    if name == "trainaug" and (root / "SegmentationClassAug").is_dir():
        apart = set(image_list(root, val)) if val else set()
        return [stem for stem in files_by_stem(root / "SegmentationClassAug", (".png",)) if stem not in apart]
    there = sorted(path.stem for path in (root / LISTS).glob("*.txt"))
    raise InputError(f"{file}: no such list; there are: {', '.join(there) or 'none'} (choose with --train and --val)")


def voc_rows(root: Path, base_dir: Path, names: Sequence[str], annotations: str = "SegmentationClass") -> list[Row]:
    """A row per image: ``Image``, ``GtSemantic`` and ``GtInstance``, empty where a map does not exist.

    Args:
        root: Folder that holds ``JPEGImages``.
        base_dir: Folder that the cells are relative to.
        names: Images.
        annotations: Folder of the class maps.

    Raises:
        InputError: an image of the list is not there, or the folder of class maps is not.
    """
    if not (root / annotations).is_dir():
        raise InputError(f"{root / annotations}: no such folder of class maps; pass --annotations")
    images = files_by_stem(root / "JPEGImages", IMAGE_SUFFIXES)
    rows = []
    for name in names:
        if name not in images:
            raise InputError(f"{root / 'JPEGImages' / name}.jpg: in the list, but not there; complete the copy")
        row = {"Sequence": name, "Sequence_Index": "0", "Image": relative_cell(images[name], base_dir)}
        for column, folder in (("GtSemantic", annotations), ("GtInstance", "SegmentationObject")):
            file = root / folder / f"{name}.png"
            row[column] = relative_cell(file, base_dir) if file.is_file() else ""
        rows.append(row)
    return rows


def _maps(name: str) -> str:
    return "SegmentationClassAug" if name == "trainaug" else "SegmentationClass"
