"""Where images and label maps come from: a data split, the VOC folders, the label maps of an earlier stage."""

from collections.abc import Sequence
from pathlib import Path

from common.errors import InputError
from common.files import check_file
from common.splits import Split, read_classes, read_split, relative_cell
from maskdistill.segmentation.options import SegmentationDataOptions
from maskdistill.voc import CLASSES, read_list

VOC_NAMES = ("background", *CLASSES)


def step_split(options: SegmentationDataOptions, step: str) -> Split:
    """The images of ``train`` or ``val``, with GtSemantic where there is any.

    Raises:
        InputError: No data named, or files that are missing.
    """
    if (options.data_file is None) == (options.dataset_root is None):
        raise InputError("give either --data_file (a CSV data split) or --dataset_root (the folder of VOC)")
    if options.data_file is not None:
        return read_split(options.data_file, step, options.base_dir)
    assert options.dataset_root is not None
    chosen = options.train_db_kwargs if step == "train" else options.val_db_kwargs
    return voc_split(options.dataset_root, chosen.split)


def voc_split(root: Path, name: str) -> Split:
    """A list of PASCAL VOC from the folders that hold it: MaskContrast's ``VOCSegmentation`` or ``VOCdevkit``.

    ``trainaug`` has its labels in SegmentationClassAug; without a list it is all of them but ``val``.

    Raises:
        InputError: No such folder or list, images or label maps that are not there.
    """
    for folder, images, lists in (
        (root / "VOCSegmentation", "images", "sets"),
        (root, "images", "sets"),
        (root / "VOCdevkit" / "VOC2012", "JPEGImages", "ImageSets/Segmentation"),
        (root / "VOC2012", "JPEGImages", "ImageSets/Segmentation"),
        (root, "JPEGImages", "ImageSets/Segmentation"),
    ):
        if (folder / images).is_dir() and (folder / lists).is_dir():
            break
    else:
        raise InputError(f"--dataset_root {root}: neither VOCSegmentation (images, sets) nor VOCdevkit below it")
    labels = "SegmentationClassAug" if name == "trainaug" else "SegmentationClass"
    names = _names(folder, lists, name)
    rows = []
    for stem in names:
        image = next((file for end in (".jpg", ".png") if (file := folder / images / f"{stem}{end}").is_file()), None)
        label = folder / labels / f"{stem}.png"
        if image is not None:
            cells = {"Image": relative_cell(image, root), "GtSemantic": relative_cell(label, root)}
            rows.append({"Sequence": stem, "Sequence_Index": "0", **cells})
    if len(rows) < len(names):
        there = {row["Sequence"] for row in rows}
        missing = [stem for stem in names if stem not in there]
        raise InputError(
            f"{folder / lists / name}.txt: {len(missing)} of {len(names)} images are not in {folder / images} (first:"
            f" {', '.join(missing[:5])})"
        )
    return Split.from_rows(rows, root, root / f"voc_{name}.csv")


def _names(folder: Path, lists: str, name: str) -> Sequence[str]:
    file = folder / lists / f"{name}.txt"
    if name == "trainaug" and not file.is_file() and (folder / "SegmentationClassAug").is_dir():
        val = folder / lists / "val.txt"
        left_out = set(read_list(val.read_text().splitlines())) if val.is_file() else set()
        return sorted({path.stem for path in (folder / "SegmentationClassAug").glob("*.png")} - left_out)
    names = read_list(check_file(file, "image list").read_text(encoding="utf-8", errors="replace").splitlines())
    if not names:
        raise InputError(f"{file}: the image list is empty")
    return names


def class_names(options: SegmentationDataOptions) -> dict[int, str]:
    """Class names by index: those beside the split, else VOC's."""
    if options.data_file is not None:
        try:
            return read_classes(options.data_file)
        except InputError as error:
            if "no class names" not in str(error):
                raise
    return dict(enumerate(VOC_NAMES))


def label_files(options: SegmentationDataOptions, split: Split) -> list[Path]:
    """The label map to train on of each image: from --distill_dir, or the ground truth.

    Raises:
        InputError: Not named, or missing ones.
    """
    images = [split.path(row, "Image") for row in range(len(split))]
    if options.train_db_name == "VOCSegmentation":
        return [split.path(row, "GtSemantic") for row in range(len(split))]
    if options.distill_dir is None:
        raise InputError(
            "--train_db_name VOCSegmentationDistill: name the label maps with --distill_dir (a folder or a prediction"
            " split), or train on the ground truth with --train_db_name VOCSegmentation"
        )
    if options.distill_dir.suffix == ".csv":
        files = _of_predictions(options.distill_dir, options.base_dir, images)
    elif options.distill_dir.is_dir():
        files = [options.distill_dir / name for name in label_names(split)]
    else:
        raise InputError(f"--distill_dir {options.distill_dir}: no such folder or prediction split")
    missing = [file for file in files if not file.is_file()]
    if missing:
        raise InputError(
            f"--distill_dir {options.distill_dir}: {len(missing)} of {len(files)} label maps are not there (first:"
            f" {', '.join(file.name for file in missing[:5])}); --crf_train writes those of the training images to"
            " predictions_train"
        )
    return files


def _of_predictions(file: Path, base_dir: Path, images: Sequence[Path]) -> list[Path]:
    """The Pred of each image in a prediction split, whose paths are relative to --base_dir or to its own folder."""
    folder = base_dir if (base_dir / _first_cell(file)).exists() else file.parent
    split = read_split(file, base_dir=folder)
    rows = range(len(split))
    known = {split.path(row, "Image").resolve(): row for row in rows if split.available("Image")[row]}
    found = [known.get(image.resolve()) for image in images]
    return [
        split.path(row, "Pred") if row is not None else file.parent / f"{image.stem}.png (no row)"
        for row, image in zip(found, images, strict=True)
    ]


def _first_cell(file: Path) -> str:
    return str(read_split(file).column("Image")[0])


def label_names(split: Split) -> list[str]:
    """File names of the images' label maps: stems, with their folders where two images of the split share a stem."""
    cells = [Path(cell) for cell in split.column("Image")]
    if len({cell.stem for cell in cells}) == len(cells):
        return [f"{cell.stem}.png" for cell in cells]
    parts = [[part for part in cell.with_suffix("").parts if part not in ("/", "..")] for cell in cells]
    return ["/".join(kept) + ".png" for kept in parts]
