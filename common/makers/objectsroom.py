"""ObjectsRoom from its TFRecord file, without TensorFlow: pictures, label maps and splits."""

from dataclasses import dataclass, field
from pathlib import Path

from common.makers.records import extract, record_splits
from common.object_records import objects_room


@dataclass(frozen=True)
class Options:
    """ObjectsRoom: the TFRecord file of one of its parts."""

    input: str = field(metadata={"positional": True})
    """TFRecord file, gzipped or not, e.g. objects_room_train.tfrecords."""
    out: str
    """Prefix of the files to write; pictures and label maps go to NAME_frames/."""
    base_dir: str = "."
    """Folder that the paths in the split are relative to."""
    part: str = "train"
    """What the file holds: train, six_objects, empty_room or identical_color."""
    num_test: int = 1000
    """Last frames that become the test split; all others are the training split."""
    max_frames: int | None = None
    """Read only so many frames."""


def make(options: Options) -> int:
    """Write pictures, label maps and splits; what an earlier run wrote is kept."""
    folder = Path(f"{options.out}_frames")
    names = ("input/objects_room_input_{:07d}.png", "GT_masks/objects_room_GT_mask_{:07d}.png")
    files = extract(Path(options.input), objects_room(options.part), folder, names, options.max_frames)
    return record_splits(files, "objects_room", options.out, Path(options.base_dir), options.num_test)
