"""From what the options name to CSV splits: a split's steps, or folders paired by rank as in the published code."""

from pathlib import Path

import numpy as np

from ast_seg.options import FrameOptions, TripleOptions
from ast_seg.reading import image_paths, paired_by_rank, stage_folder
from common.errors import InputError
from common.splits import Split, read_split

NUM_VALIDATION = 64
"""Training images that a run without a validation split watches itself on."""


def frame_splits(options: FrameOptions) -> dict[str, Split]:
    """The splits ``train``, ``val`` and ``test`` of the background stage, as far as they are named.

    Raises:
        InputError: Nothing named, a missing file or folder, folders that cannot be paired.
    """
    if options.data_file is not None:
        return _steps_of(options.data_file, options.base_dir)
    if options.train_dataset_path is None:
        raise InputError("name the images: --data_file NAME (a data split) or --train_dataset_path FOLDER")
    parts = {
        "train": (options.train_dataset_path, options.GT_train_dataset_path),
        "test": (options.test_dataset_path, options.GT_test_dataset_path),
    }
    return {
        step: folder_split(images, {"GtInstance": targets}, step, recursive=True)
        for step, (images, targets) in parts.items()
        if images is not None
    }


def triple_splits(options: TripleOptions, background_needed: bool) -> dict[str, Split]:
    """The splits ``train``, ``val`` and ``test`` of the foreground stage, as far as they are named.

    Args:
        options: What the user named.
        background_needed: Whether the training reads stored backgrounds.

    Raises:
        InputError: Nothing named, a missing file or folder, folders that cannot be paired, no backgrounds.
    """
    if options.data_file is not None:
        splits = _steps_of(options.data_file, options.base_dir)
    elif options.train_dataset_input_path is None:
        raise InputError("name the images: --data_file NAME (a data split) or --train_dataset_input_path FOLDER")
    else:
        parts = {
            "train": (
                options.train_dataset_input_path,
                options.train_dataset_background_path,
                options.train_dataset_GT_mask_path,
            ),
            "test": (
                options.test_dataset_input_path,
                options.test_dataset_background_path,
                options.test_dataset_GT_mask_path,
            ),
        }
        splits = {
            step: folder_split(images, {"Background": backgrounds, "GtInstance": targets}, step)
            for step, (images, backgrounds, targets) in parts.items()
            if images is not None
        }
    for split in splits.values():
        if background_needed and not ("Background" in split.columns and split.available("Background").all()):
            raise InputError(
                f"{split.file}: has no background for every image; make them first (generate_background_dataset.py), or"
                " use --background_model_training_scenario random_initialization"
            )
    return splits


def folder_split(images: Path, others: dict[str, Path | None], step: str, recursive: bool = False) -> Split:
    """The split of a folder of images and of the folders that belong to it, paired by rank.

    The images of one folder are one sequence. Numbers in the names are compared where all files have one, so that a
    stray or missing file is found and does not shift the rest.

    Raises:
        InputError: No folder or no image, another number of files, numbers that do not agree.
    """
    named = {"Image": images, **{column: folder for column, folder in others.items() if folder is not None}}
    folders = {column: stage_folder(folder) for column, folder in named.items()}
    lists = [image_paths(folder, recursive and column == "Image") for column, folder in folders.items()]
    rows = []
    places: dict[str, int] = {}
    for files in paired_by_rank(*lists):
        _same_number(files)
        clip = files[0].parent.relative_to(folders["Image"]).as_posix()
        name = images.name if clip == "." else clip.replace("/", "_")
        places[name] = places.get(name, -1) + 1
        cells = {column: file.absolute().as_posix() for column, file in zip(folders, files, strict=True)}
        rows.append({"Sequence": name, "Sequence_Index": str(places[name]), **cells})
    return Split.from_rows(rows, "/", file=f"{images.name}_{step}.csv")


def _same_number(files: tuple[Path, ...]) -> None:
    """Whether the numbers that end the names agree, as far as there are any of six digits (the published writer's)."""
    numbers = {path: path.stem[-6:] for path in files if path.stem[-6:].isdecimal() and len(path.stem) > 6}
    if len(numbers) == len(files) and len(set(numbers.values())) > 1:
        raise InputError(
            f"{files[0]} would be paired with {files[1]}, whose number differs; one of the folders lacks a file"
        )


def _steps_of(data_file: Path, base_dir: Path) -> dict[str, Split]:
    """The steps of a split that exist; ``train`` must."""
    if data_file.suffix.lower() == ".csv":
        return {"train": read_split(data_file, base_dir=base_dir)}
    found = {"train": read_split(data_file, "train", base_dir)}
    for step in ("val", "test"):
        if Path(f"{data_file}_{step}.csv").is_file():
            found[step] = read_split(data_file, step, base_dir)
    return found


def validation_split(splits: dict[str, Split]) -> Split:
    """The ``val`` split, or an even choice of the training images: both stages learn the very images they segment."""
    if "val" in splits:
        return splits["val"]
    train = splits["train"]
    count = min(len(train), NUM_VALIDATION)
    return train.take(np.unique(np.linspace(0, len(train) - 1, count).round().astype(int)))
