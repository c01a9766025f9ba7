"""A folder of images, in sub-folders if they are clips."""

from dataclasses import dataclass, field
from pathlib import Path

from common.layouts import folder_rows, parse_shares, partition
from common.makers.writing import write_steps


@dataclass(frozen=True)
class Options:
    """A folder of images, in sub-folders if they are clips."""

    input: str = field(metadata={"positional": True})
    """Folder of images; each sub-folder is a clip, each image directly in it stands alone."""
    out: str
    """Prefix of the files to write: NAME gives NAME_train.csv, NAME_val.csv, NAME_test.csv."""
    base_dir: str = "."
    """Folder that the paths in the split are relative to."""
    split: str = "0.8/0.1/0.1"
    """Shares of train/val/test; whole sequences are dealt out."""
    seed: int = 0
    """Seed of the shuffle of the sequences."""
    masks: str = ""
    """Folder of masks with the structure of the input; a mask has the stem of its image."""
    with_flow: str = ""
    """Folder of flow files with the structure of the input; a file has the stem of its first frame."""
    clip: bool = False
    """The images directly in the folder are the frames of one clip."""


def make(options: Options) -> int:
    """Write the splits of a folder of images."""
    shares = parse_shares(options.split)
    masks, flow = (Path(text) if text else None for text in (options.masks, options.with_flow))
    rows = folder_rows(Path(options.input), Path(options.base_dir), masks, flow, options.clip)
    return write_steps(options.out, partition(rows, shares, options.seed))
