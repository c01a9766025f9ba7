"""Frames of TFRecord files as pictures and label maps, and their splits."""

from pathlib import Path

import numpy as np
from tqdm import tqdm

from common.errors import InputError
from common.files import write_image, write_labels
from common.layouts import Row, relative_cell
from common.makers.writing import write_steps
from common.object_records import RecordLayout, read_frames

Pair = tuple[Path, Path]


def extract(
    path: Path,
    layout: RecordLayout,
    folder: Path,
    names: tuple[str, str],
    max_frames: int | None = None,
    swap_channels: bool = False,
) -> list[Pair]:
    """Write the frames of a TFRecord file; those that stand are kept.

    Args:
        path: The file.
        layout: How it stores a frame.
        folder: Where to write.
        names: Names of picture and label map, with the place of the number.
        max_frames: Stop after so many.
        swap_channels: Red and blue change places, as in the published converter of CLEVR.

    Returns:
        Picture and label map of each frame, in order.

    Raises:
        InputError: Unreadable file, records of another layout, no frame.
    """
    files: list[Pair] = []
    for number, (image, labels) in enumerate(
        tqdm(read_frames(path, layout), desc=path.name, unit="frame", disable=None)
    ):
        if number == max_frames:
            break
        picture, target = (folder / name.format(number) for name in names)
        if not target.exists():
            write_image(picture, np.ascontiguousarray(image[..., ::-1]) if swap_channels else image)
            write_labels(target, labels)
        files.append((picture, target))
    if not files:
        raise InputError(f"{path}: holds no frame")
    return files


def record_splits(files: list[Pair], sequence: str, out: str, base_dir: Path, num_test: int) -> int:
    """Write the training split of all but the last frames, and the test split of these.

    Raises:
        InputError: No training frame would be left.
    """
    if not 0 <= num_test < len(files):
        raise InputError(f"--num_test {num_test}: the file has {len(files)} frames; give a smaller number")
    rows: list[Row] = [
        {
            "Sequence": f"{sequence}_{number:07d}",
            "Sequence_Index": "0",
            "Image": relative_cell(image, base_dir),
            "GtInstance": relative_cell(labels, base_dir),
        }
        for number, (image, labels) in enumerate(files)
    ]
    border = len(rows) - num_test
    return write_steps(out, {"train": rows[:border], "test": rows[border:]})
