"""Video files, whose frames are extracted."""

from dataclasses import dataclass, field
from pathlib import Path

from tqdm import tqdm

from common.errors import InputError
from common.files import write_image
from common.layouts import Row, parse_shares, partition, video_rows
from common.makers.writing import write_steps
from common.video import video_frames, video_info

VIDEO_SUFFIXES = (".mp4", ".avi", ".mov", ".mkv", ".webm", ".m4v", ".mpg", ".mpeg", ".wmv")


@dataclass(frozen=True)
class Options:
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
    val_tail: float = 0.0
    """Share of each video's last frames that is val, the frames before are train; instead of --split."""
    image_format: str = "jpg"
    """Format of the frames: jpg or png."""
    with_flow: str = ""
    """Folder with one sub-folder of flow files per video."""


def make(options: Options) -> int:
    """Extract the frames of videos (what an earlier run wrote is kept) and write their splits."""
    shares = parse_shares(options.split)
    if options.image_format not in ("jpg", "png"):
        raise InputError(f"--image_format {options.image_format}: choose jpg or png")
    if not 0 <= options.val_tail < 1:
        raise InputError(f"--val_tail {options.val_tail}: give a share from 0 to below 1, such as 0.1")
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
    if not options.val_tail:
        partition([{"Sequence": name} for name in names], shares, options.seed)
    for video, folder in zip(videos, folders, strict=True):
        extract_frames(video, folder, f".{options.image_format}")
    flow = Path(options.with_flow) if options.with_flow else None
    rows = video_rows(folders, Path(options.base_dir), flow)
    steps = tails(rows, options.val_tail) if options.val_tail else partition(rows, shares, options.seed)
    return write_steps(options.out, steps)


def tails(rows: list[Row], share: float) -> dict[str, list[Row]]:
    """The last frames of each video as val, at least one; frames drawn at random would leak into train."""
    names = [row["Sequence"] for row in rows]
    steps: dict[str, list[Row]] = {"train": [], "val": []}
    for name in dict.fromkeys(names):
        frames = [row for row in rows if row["Sequence"] == name]
        first = len(frames) - max(1, round(share * len(frames)))
        steps["train"] += frames[:first]
        steps["val"] += frames[first:]
    return steps


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
