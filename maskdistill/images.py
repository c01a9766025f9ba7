"""The images of a run: VOC, COCO20k, a folder, a CSV data split; each with its id and its name in COCO files."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from common.errors import InputError
from common.files import IMAGE_SUFFIXES, check_file, image_size, read_image
from common.layouts import files_by_stem, natural_key
from common.splits import read_split
from maskdistill.coco import image_number
from maskdistill.options import MaskOptions
from maskdistill.voc import read_list

LIST_FOLDERS = ("ImageSets/Main", "ImageSets/Segmentation")
DERIVED_LISTS = {"val_seg": "ImageSets/Segmentation/val.txt", "instance": "ImageSets/Segmentation/trainval.txt"}


@dataclass(frozen=True)
class ImageTable:
    """Images in order."""

    ids: list[int]
    """The id of each image in every file of the run: its place, or COCO's number."""
    names: list[str]
    """Its ``file_name``."""
    files: list[Path]

    def __len__(self) -> int:
        return len(self.ids)


def image_table(options: MaskOptions) -> ImageTable:
    """The images that the options name.

    Raises:
        InputError: No data named, no such list, images that are not there.
    """
    kind = options.dataset or ("csv" if options.data_file else "VOCClass")
    if kind == "csv":
        return _of_split(options)
    if options.dataset_root is None:
        raise InputError("give --dataset_root (the folder of the data set), or --data_file with a CSV split")
    if not options.dataset_root.is_dir():
        raise InputError(f"--dataset_root {options.dataset_root}: no such folder")
    if kind == "folder":
        return _of_folder(options.dataset_root, options.image_list)
    return _of_coco20k(options) if kind == "COCO20k" else _of_voc(options)


def _of_split(options: MaskOptions) -> ImageTable:
    if options.data_file is None:
        raise InputError("--dataset csv needs --data_file, a split with an Image column")
    split = read_split(options.data_file, base_dir=options.base_dir)
    names = [str(cell) for cell in split.column("Image")]
    empty = next((row for row, name in enumerate(names) if not name), None)
    if empty is not None:
        raise InputError(f"{split.file}: line {empty + 2} has no Image")
    return _checked(names, [split.base_dir / name for name in names], split.file)


def _of_folder(root: Path, image_list: Path | None) -> ImageTable:
    if image_list is not None:
        names = _read_names(image_list)
        return _checked(names, [find_image(root, name) for name in names], image_list)
    found = [path for path in root.rglob("*") if path.suffix.lower() in IMAGE_SUFFIXES and path.name[0] != "."]
    if not found:
        raise InputError(f"--dataset_root {root}: no image in this folder (known: {', '.join(IMAGE_SUFFIXES)})")
    names = sorted((path.relative_to(root).as_posix() for path in found), key=natural_key)
    return _checked(names, [root / name for name in names], root)


def _of_voc(options: MaskOptions) -> ImageTable:
    assert options.dataset_root is not None
    sets = [options.set]
    if options.include_test:
        more = {2007: "test", 2012: "val_seg"}.get(options.year)
        if more is None or (options.year == 2012 and options.set != "trainaug_seg"):
            raise InputError(
                f"--include_test with --year {options.year} --set {options.set}: it adds test to 2007 and val_seg to"
                " trainaug_seg of 2012"
            )
        sets.append(more)
    root = voc_folder(options.dataset_root, options.year)
    lists = [_read_names(options.image_list)] if options.image_list else [_voc_list(root, name) for name in sets]
    stems = list(dict.fromkeys(stem for names in lists for stem in names))
    paths = [find_image(root / "JPEGImages", stem) for stem in stems]
    names = [path.name for path in paths]
    return _checked(names, paths, options.image_list or root)


def voc_folder(root: Path, year: int = 2012) -> Path:
    """The folder with ``JPEGImages``, given it, VOCdevkit or the folder that holds VOCdevkit."""
    for folder in (root / "VOCdevkit" / f"VOC{year}", root / f"VOC{year}", root):
        if (folder / "JPEGImages").is_dir():
            return folder
    raise InputError(f"--dataset_root {root}: no VOCdevkit/VOC{year}/JPEGImages below it")


def _voc_list(root: Path, name: str) -> list[str]:
    """The images of a list; those that the original copied into the data set are derived where it has none."""
    for folder in LIST_FOLDERS:
        if (root / folder / f"{name}.txt").is_file():
            return _read_names(root / folder / f"{name}.txt")
    if name in DERIVED_LISTS and (root / DERIVED_LISTS[name]).is_file():
        return _read_names(root / DERIVED_LISTS[name])
    if name == "train_all":
        return list(files_by_stem(root / "JPEGImages", IMAGE_SUFFIXES))
    if name == "trainaug_seg" and (root / "SegmentationClassAug").is_dir():
        val = root / DERIVED_LISTS["val_seg"]
        apart = set(_read_names(val)) if val.is_file() else set()
        return [stem for stem in files_by_stem(root / "SegmentationClassAug", (".png",)) if stem not in apart]
    there = sorted({path.stem for folder in LIST_FOLDERS for path in (root / folder).glob("*.txt")})
    raise InputError(
        f"--set {name}: no such list in {' or '.join(LIST_FOLDERS)} of {root}; there are {', '.join(there) or 'none'};"
        " name a file with --list"
    )


def _of_coco20k(options: MaskOptions) -> ImageTable:
    root, image_list = options.dataset_root, options.image_list
    assert root is not None
    if image_list is None:
        raise InputError("--dataset COCO20k needs --list, the file of its 19817 lines train2014/COCO_train2014_*.jpg")
    folder = root / "MS-COCO2014" if (root / "MS-COCO2014").is_dir() else root
    names = [line.strip() for line in check_file(image_list, "image list").read_text().splitlines() if line.strip()]
    files = [find_image(folder, name) for name in names]
    table = _checked([Path(name).name for name in names], files, image_list)
    return ImageTable([image_number(name) for name in names], table.names, table.files)


def _read_names(file: Path) -> list[str]:
    names = read_list(check_file(file, "image list").read_text(encoding="utf-8", errors="replace").splitlines())
    if not names:
        raise InputError(f"{file}: the image list is empty")
    return names


def find_image(root: Path, name: str) -> Path:
    """The file of an image: its name below the folder or below ``JPEGImages``, with the suffix it has there.

    Gives the first place looked at when there is none.
    """
    stem = re.sub(r"\.(jpe?g|png|bmp|gif|ppm|pgm|tiff?|webp)$", "", name, flags=re.IGNORECASE)
    for folder in (root, root / "JPEGImages"):
        for candidate in (name, *(stem + suffix for suffix in IMAGE_SUFFIXES)):
            if (folder / candidate).is_file():
                return folder / candidate
    if "/" in name:
        return find_image(root, name.rsplit("/", 1)[1])
    return root / name


def _checked(names: Sequence[str], files: Sequence[Path], source: Path) -> ImageTable:
    """Running ids for images that are all there and named once."""
    missing = [name for name, file in zip(names, files, strict=True) if not file.is_file()]
    if missing:
        shown = ", ".join(missing[:5])
        raise InputError(f"{source}: {len(missing)} of {len(names)} images are not there (first: {shown})")
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise InputError(f"{source}: {twice} is listed twice; list each image once")
    return ImageTable(list(range(len(names))), list(names), list(files))


def read_sized(path: Path, size: tuple[int, int]) -> NDArray[np.uint8]:
    """The RGB image (H, W, 3) of an entry of a COCO file, as stored or turned by its EXIF, whichever has its size.

    Raises:
        InputError: The image has another size than the file says.
    """
    for upright in (False, True):
        if image_size(path, upright) == tuple(size):
            return read_image(path, upright)
    found = image_size(path, False)
    raise InputError(f"{path}: image of size {found}, its entry says {tuple(size)}; name the right --image_dir")


def label_name(file_name: str, stems_unique: bool) -> str:
    """The name of an image's label map: its stem, with its folders where stems alone would collide."""
    path = Path(file_name)
    return (path.name if stems_unique else path.as_posix()).rsplit(".", 1)[0] + ".png"
