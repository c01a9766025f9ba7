"""The embedded data: shaded scenes of a disc and a rectangle, made beside a run when no data is named."""

from dataclasses import replace
from pathlib import Path
from typing import TypeVar

from common.messages import is_first_process, tell
from common.synthetic import SceneOptions
from common.synthetic import run as make_synthetic
from transformer_seg.options import ImageDataOptions

SMALLEST = 32  # rows and columns of a scene
Data = TypeVar("Data", bound=ImageDataOptions)


def with_embedded_scenes(data: Data, out: Path, size: int, counts: tuple[int, int, int]) -> Data:
    """The data options, with embedded scenes made beside the run when no data is named.

    Args:
        data: The options.
        out: Run directory; the scenes go to ``<out>/data``.
        size: Rows and columns of a scene, at least 32.
        counts: Training, validation and test scenes.
    """
    if data.data_file is not None:
        return data
    folder, size = out / "data", max(size, SMALLEST)
    if is_first_process():
        num, num_val, num_test = counts
        scenes = SceneOptions(
            out=folder,
            seed=0,
            num=num,
            num_val=num_val,
            num_test=num_test,
            style="shaded",
            height=size,
            width=size,
            void_px=0,
            image_format="png",
        )
        tell(f"no --data_file: embedded scenes of {size} x {size} pixels in {folder}")
        make_synthetic(scenes)
    return replace(data, data_file=folder / "scenes", base_dir=folder)


def split_to_score(data: ImageDataOptions, named: Path | None) -> Path:
    """The split that is scored: the one named, else the _test split where there is one, else the _val split."""
    if named is not None:
        return named
    file = Path(f"{data.data_file}_test.csv")
    return file if file.exists() else Path(f"{data.data_file}_val.csv")
