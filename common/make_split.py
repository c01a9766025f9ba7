"""Make CSV data splits: ``python common/make_split.py folder|video|davis INPUT --out NAME``."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tqdm import tqdm

from common import cli
from common.errors import InputError
from common.files import write_image
from common.layouts import Row, davis_lists, davis_rows, folder_rows, parse_shares, partition, video_rows
from common.splits import STEPS, write_split
from common.video import video_frames, video_info

VIDEO_SUFFIXES = (".mp4", ".avi", ".mov", ".mkv", ".webm", ".m4v", ".mpg", ".mpeg", ".wmv")


@dataclass(frozen=True)
class FolderOptions:
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


@dataclass(frozen=True)
class VideoOptions:
    """A video file, or a folder of them; the frames are extracted."""

    input: str = field(metadata={"positional": True})
    """Video file or folder of video files; each is one sequence."""
    out: str
    """Prefix of the files to write; the frames go to NAME_frames/<video>/00000.jpg."""
    base_dir: str = "."
    """Folder that the paths in the split are relative to."""
    split: str = "1/0/0"
    """Shares of train/val/test; whole videos are dealt out."""
    seed: int = 0
    """Seed of the shuffle of the videos."""
    image_format: str = "jpg"
    """Format of the frames: jpg or png."""
    with_flow: str = ""
    """Folder with one sub-folder of flow files per video."""


@dataclass(frozen=True)
class DavisOptions:
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


def make_folder(options: FolderOptions) -> int:
    """Write the splits of a folder of images."""
    shares = parse_shares(options.split)
    masks, flow = (Path(text) if text else None for text in (options.masks, options.with_flow))
    rows = folder_rows(Path(options.input), Path(options.base_dir), masks, flow, options.clip)
    return _write(options.out, partition(rows, shares, options.seed))


def make_video(options: VideoOptions) -> int:
    """Extract the frames of videos (what an earlier run wrote is kept) and write their splits."""
    shares = parse_shares(options.split)
    if options.image_format not in ("jpg", "png"):
        raise InputError(f"--image_format {options.image_format}: choose jpg or png")
    source = Path(options.input)
    videos = [source]
    if source.is_dir():
        videos = sorted(entry for entry in source.iterdir() if entry.suffix.lower() in VIDEO_SUFFIXES)
    if not videos:
        raise InputError(f"{source}: no video in this folder; known are {', '.join(VIDEO_SUFFIXES)}")
    names = [video.stem for video in videos]
    if len(set(names)) < len(names):
        raise InputError(f"{source}: two videos differ in their suffix only; rename one")
    folders = [Path(f"{options.out}_frames") / name for name in names]
    # the parts must come out before hours of extraction
    partition([{"Sequence": name} for name in names], shares, options.seed)
    for video, folder in zip(videos, folders, strict=True):
        extract_frames(video, folder, f".{options.image_format}")
    flow = Path(options.with_flow) if options.with_flow else None
    return _write(options.out, partition(video_rows(folders, Path(options.base_dir), flow), shares, options.seed))


def extract_frames(video: Path, folder: Path, suffix: str = ".jpg") -> int:
    """Write the frames of a video as ``folder/00000.jpg`` ...; frames already there are not written again.

    Returns:
        Number of frames.

    Raises:
        InputError: Not a video, or the folder holds frames that are not this video's.
    """
    num_frames = 0
    for frame in tqdm(video_frames(video), total=video_info(video).num_frames, desc=video.name, unit="frame"):
        path = folder / f"{num_frames:05d}{suffix}"
        if not path.exists():
            write_image(path, frame)
        num_frames += 1
    if num_frames == 0:
        raise InputError(f"{video}: no frame can be decoded; convert it to .mp4 (H.264)")
    expected = {f"{number:05d}{suffix}" for number in range(num_frames)}
    others = sorted({entry.name for entry in folder.iterdir() if entry.name[0] != "."} - expected)
    if others:
        raise InputError(f"{folder / others[0]}: not a frame of {video.name}; empty the folder and run again")
    return num_frames


def make_davis(options: DavisOptions) -> int:
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
    return _write(options.out, steps)


def _write(out: str, steps: dict[str, list[Row]]) -> int:
    """Write the steps that have rows and say what is in them."""
    for step in STEPS:
        if not steps.get(step) and Path(f"{out}_{step}.csv").exists():
            # left beside the new files it would leak between train and val
            raise InputError(f"{out}_{step}.csv: from an earlier run, gets no rows now; remove it or change --out")
    for step, rows in steps.items():
        if rows:
            split = write_split(f"{out}_{step}.csv", rows)
            filled = ", ".join(f"{int(split.available(name).sum())} {name}" for name in split.columns[2:])
            print(f"{split.file}: {len(split)} rows, {len(split.sequences())} sequences ({filled})")
    return 0


COMMANDS: dict[str, tuple[Callable[..., int], type]] = {
    "folder": (make_folder, FolderOptions),
    "video": (make_video, VideoOptions),
    "davis": (make_davis, DavisOptions),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point."""
    return cli.subcommands(COMMANDS, argv, prog="make_split.py", description="Make CSV data splits.")


if __name__ == "__main__":
    raise SystemExit(main())
