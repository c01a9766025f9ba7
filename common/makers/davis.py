"""The layout of DAVIS-2016 and DAVIS-2017."""

from dataclasses import dataclass, field
from pathlib import Path

from common.errors import InputError
from common.layouts import davis_lists, davis_rows
from common.makers.writing import write_steps


@dataclass(frozen=True)
class Options:
    """The layout of DAVIS-2016 and DAVIS-2017."""

    input: str = field(metadata={"positional": True})
    """Folder that holds JPEGImages, Annotations and ImageSets."""
    out: str
    """Prefix of the files to write: NAME gives NAME_train.csv and NAME_val.csv."""
    base_dir: str = "."
    """Folder that the paths in the split are relative to."""
    resolution: str = "480p"
    """Sub-folder of images and annotations: 480p, 1080p or Full-Resolution."""
    annotations: str = "Annotations"
    """Folder of the masks: Annotations, Annotations_unsupervised of DAVIS-2017, or empty for none."""
    image_set: str = ""
    """Sub-folder of ImageSets with train.txt and val.txt; default the resolution, then 2016, then 2017."""
    flow_dir: str = ""
    """Folder with one sub-folder of flow files per clip; default OpticalFlow/<resolution>."""
    sequences: list[str] = field(default_factory=list)
    """Only these clips."""
    val_sequences: list[str] = field(default_factory=list)
    """These clips are val and all others train, whatever ImageSets says."""


def make(options: Options) -> int:
    """Write the splits of a copy of DAVIS: its own lists, or the clips that are named."""
    root, chosen = Path(options.input), options.sequences
    if not (root / "JPEGImages" / options.resolution).is_dir():
        raise InputError(f"{root}: holds no JPEGImages/{options.resolution}; pass the DAVIS folder (and --resolution)")
    if options.val_sequences:
        clips = (root / "JPEGImages" / options.resolution).iterdir()
        names = chosen or sorted(entry.name for entry in clips if entry.is_dir())
        lists = {"train": [n for n in names if n not in options.val_sequences], "val": list(options.val_sequences)}
    else:
        lists = davis_lists(root, options.resolution, options.image_set)
        if chosen:
            unlisted = sorted(set(chosen) - {name for names in lists.values() for name in names})
            if unlisted:
                raise InputError(
                    f"--sequences {unlisted[0]}: not in ImageSets; pass --val_sequences to say what is val"
                )
            lists = {step: [name for name in names if name in chosen] for step, names in lists.items()}
    flow = Path(options.flow_dir) if options.flow_dir else None
    steps = {}
    for step, names in lists.items():
        if names:
            steps[step] = davis_rows(root, Path(options.base_dir), names, options.resolution, options.annotations, flow)
    return write_steps(options.out, steps)
