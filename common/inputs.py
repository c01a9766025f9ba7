"""What a user may name as input: a split, a picture, a folder of pictures, a video."""

from pathlib import Path

from common.errors import InputError
from common.files import IMAGE_SUFFIXES
from common.layouts import Row, folder_rows, video_rows
from common.makers.video import VIDEO_SUFFIXES, extract_frames
from common.splits import Split, read_split, relative_cell, write_split


def predictions_folder(model: Path, named: Path | None) -> Path:
    """Where predictions go when nothing is said: beside a checkpoint, in a folder of their own for each input.

    Args:
        model: Run directory, or a checkpoint in it.
        named: What is predicted.

    Returns:
        ``predictions`` of a split; ``predictions_NAME`` of a picture, a folder or a video.
    """
    run = model if model.is_dir() else model.parent
    if named is None or named.suffix.lower() == ".csv":
        return run / "predictions"
    name = named.resolve()
    return run / f"predictions_{name.name if named.is_dir() else name.stem}"


def input_split(path: Path, out: Path, base_dir: Path | None = None, clip: bool = False) -> Split:
    """A data split of whatever a path names.

    Args:
        path: A ``.csv`` split; a picture; a folder of pictures (sub-folders are clips); a video, whose frames are
            extracted.
        out: Folder of the command's output; the split and the frames of a video go to ``<out>/data``.
        base_dir: Folder that the paths of a ``.csv`` split are relative to; default its own folder.
        clip: The pictures directly in a folder are the frames of one clip, not pictures that stand alone.

    Returns:
        The split with ``Image``; its ``base_dir`` is that folder, and ``<out>/data`` for everything but a ``.csv``.

    Raises:
        InputError: nothing there, or nothing that can be read.
    """
    if path.suffix.lower() == ".csv":
        return read_split(path, base_dir=base_dir or path.parent)
    folder = out / "data"
    if path.is_dir():
        rows = [_moved(row, path, folder) for row in folder_rows(path, path, clip=clip)]
    elif not path.exists():
        raise InputError(f"{path}: no such picture, folder, video or split")
    elif path.suffix.lower() in VIDEO_SUFFIXES:
        extract_frames(path, folder / "frames" / path.stem)
        rows = video_rows([folder / "frames" / path.stem], folder)
    elif path.suffix.lower() in IMAGE_SUFFIXES:
        rows = [{"Sequence": path.stem, "Sequence_Index": "0", "Image": relative_cell(path, folder)}]
    else:
        known = ", ".join((*IMAGE_SUFFIXES, *VIDEO_SUFFIXES))
        raise InputError(f"{path}: neither a picture nor a video by its name; known are {known}, or a .csv split")
    written = write_split(folder / f"{path.resolve().stem}.csv", rows)
    return read_split(written.file, base_dir=folder)


def _moved(row: Row, old: Path, new: Path) -> Row:
    """A row whose picture is named from another folder."""
    return {**row, "Image": relative_cell(old / row["Image"], new)}
