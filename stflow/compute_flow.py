"""Forward optical flow for a folder, a data split or a video, with the split that names it.

Flow k leads from frame k to frame k+1, so the last frame of a sequence has none. A second call goes on where the
first one stopped: flow files of the right size stay, damaged ones are made again.
"""

import os
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Literal

from common import cli
from common.errors import InputError
from common.files import IMAGE_SUFFIXES, check_writable, image_size, read_image, write_image
from common.flow_files import flow_size, write_flow
from common.splits import Split, read_split, relative_cell, write_split
from common.video import video_frames
from stflow.flow_estimation import DisPreset, FlowEstimator, dis_estimator, raft_estimator


@dataclass(kw_only=True)
class ComputeFlowOptions:
    """Forward optical flow for a folder, a data split or a video."""

    input: Path = field(metadata={"positional": True})
    """Folder of frames, folder of such folders, CSV data split, or video file."""
    base_dir: Path | None = None
    """Folder that paths in the split are relative to; default: the folder of frames, VIDEO_frames beside a video, the
    working folder for a split."""
    out: Path | None = None
    """Folder for the flow files; default: OpticalFlow_dis or OpticalFlow_raft in base_dir."""
    out_split: Path | None = None
    """Data split to write; default: a given split gets its Flow column, else NAME_test.csv in base_dir."""
    method: Literal["dis", "raft"] = "dis"
    """dis: fast, on the CPU; raft: better, needs weights and preferably a GPU."""
    preset: DisPreset = "medium"
    """Quality of dis; smooth refines medium's flow for longer, which suits segmentation."""
    weights: Path | None = None
    """State dict of torchvision's raft_large (C_T_SKHT_V2); default: torch's cache or a download."""
    iterations: int = 20
    """Refinement steps of raft."""
    device: str = "auto"
    """Device of raft; auto takes a GPU when there is one."""
    num_workers: int = 0
    """Processes for dis; 0 works in this one."""


@dataclass(frozen=True)
class _Pair:
    """Two consecutive frames and the file for their flow."""

    first: Path
    second: Path
    flow: Path


def run(options: ComputeFlowOptions) -> int:
    """Forward optical flow for a folder of frames, a data split or a video.

    Flow files of the right size stay, missing and damaged ones are made, the split gets its Flow column.
    """
    if options.num_workers < 0:
        raise InputError(f"--num_workers {options.num_workers}: give 0 or more")
    split, out_split = _find_frames(options)
    folder = options.out if options.out is not None else split.base_dir / f"OpticalFlow_{options.method}"
    check_writable(folder)
    check_writable(out_split.parent, "--out_split")
    pairs = _pairs(split, folder)
    _check_sizes(pairs.values())
    missing = [pair for pair in pairs.values() if not _is_valid(pair)]
    _estimate_all(missing, options)
    table = split.frame
    table["Flow"] = [
        relative_cell(pairs[row].flow, split.base_dir) if row in pairs else "" for row in range(len(split))
    ]
    write_split(out_split, table)
    print(f"{out_split}: {len(missing)} flow fields estimated, {len(pairs) - len(missing)} kept, in {folder}")
    return 0


def _find_frames(options: ComputeFlowOptions) -> tuple[Split, Path]:
    """The frames as a split, and the file to write it to."""
    source = options.input
    if source.suffix.lower() == ".csv":
        split = read_split(source, base_dir=options.base_dir if options.base_dir is not None else Path())
        return split, options.out_split if options.out_split is not None else source
    if source.is_dir():
        base_dir, sequences = options.base_dir if options.base_dir is not None else source, _folders(source)
    elif source.is_file():
        base_dir = options.base_dir if options.base_dir is not None else source.with_name(f"{source.stem}_frames")
        sequences = {source.stem: _extract(source, base_dir / "JPEGImages" / source.stem)}
    else:
        raise InputError(f"--input {source}: no such file or folder")
    rows = [
        {"Sequence": name, "Sequence_Index": index, "Image": relative_cell(path, base_dir), "Flow": ""}
        for name, frames in sequences.items()
        for index, path in enumerate(frames)
    ]
    name = source.resolve().stem
    out_split = options.out_split if options.out_split is not None else base_dir / f"{name}_test.csv"
    return Split.from_rows(rows, base_dir, out_split), out_split


def _folders(source: Path) -> dict[str, list[Path]]:
    """Frames by sequence: of the folder itself if it holds images, else of its subfolders that do."""
    for folders in ([source], sorted(path for path in source.iterdir() if path.is_dir())):
        frames = {folder.resolve().name: _images(folder) for folder in folders}
        found = {name: paths for name, paths in frames.items() if paths}
        if found:
            return found
    raise InputError(f"--input {source}: no images ({', '.join(IMAGE_SUFFIXES)}) in it or its subfolders")


def _images(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.suffix.lower() in IMAGE_SUFFIXES)


def _extract(video: Path, folder: Path) -> list[Path]:
    """The video's frames as JPEG files; those that are there stay."""
    paths = []
    for index, frame in enumerate(video_frames(video)):
        paths.append(folder / f"{index:05d}.jpg")
        if not paths[-1].exists():
            write_image(paths[-1], frame)
    return paths


def _plain(path: Path, base_dir: Path) -> Path:
    """The path of a cell also while ``base_dir`` is still to be made, when ``..`` cannot lead out of it."""
    return (
        path if base_dir.is_dir() else Path(os.path.normpath(os.path.realpath(base_dir) / path.relative_to(base_dir)))
    )


def _pairs(split: Split, folder: Path) -> dict[int, _Pair]:
    """Pairs of frames whose indices follow each other, by the row of the first."""
    index = split.index
    pairs = {}
    for name, rows in split.sequences().items():
        for row, after in pairwise(rows):
            if index[after] == index[row] + 1:
                first, second = (_plain(split.path(int(r), "Image"), split.base_dir) for r in (row, after))
                pairs[int(row)] = _Pair(first, second, folder / name / f"{first.stem}.flo")
    if not pairs:
        raise InputError(f"{split.file}: no two consecutive frames; optical flow needs a sequence of at least 2")
    if len({pair.flow for pair in pairs.values()}) < len(pairs):
        raise InputError(f"{split.file}: two frames of one sequence have the same file name; rename them")
    return pairs


def _check_sizes(pairs: Iterable[_Pair]) -> None:
    """Look at all frames before the first flow is written.

    Raises:
        InputError: a frame that cannot be read, or of another size than the frame before it.
    """
    sizes: dict[Path, tuple[int, int]] = {}
    for pair in pairs:
        for path in (pair.first, pair.second):
            if path not in sizes:
                sizes[path] = image_size(path)
        first, second = sizes[pair.first], sizes[pair.second]
        if first != second:
            shown = f"{first[0]}x{first[1]} and {second[0]}x{second[1]}"
            raise InputError(f"{pair.second}: consecutive frames are {shown}; resize them to one size")


def _is_valid(pair: _Pair) -> bool:
    """Whether the flow file is there, whole and of the frame's size."""
    size = image_size(pair.first)
    if not pair.flow.exists():
        return False
    try:
        return flow_size(pair.flow) == size
    except InputError:  # damaged: made again
        return False


def _estimate_all(pairs: list[_Pair], options: ComputeFlowOptions) -> None:
    """Estimate and write the flow of every pair, under a progress bar."""
    from tqdm import tqdm

    if not pairs:
        return
    done: Iterator[None]
    if options.method == "raft":
        done = _in_turn(raft_estimator(options.weights, options.iterations, options.device), pairs)
    elif options.num_workers == 0:
        done = _in_turn(dis_estimator(options.preset), pairs)
    else:
        done = _in_pool(pairs, options)
    for _ in tqdm(done, total=len(pairs), desc=f"flow ({options.method})", unit="pair"):
        pass


def _in_turn(estimator: FlowEstimator, pairs: list[_Pair]) -> Iterator[None]:
    for pair in pairs:
        _estimate(estimator, pair)
        yield


def _in_pool(pairs: list[_Pair], options: ComputeFlowOptions) -> Iterator[None]:
    import multiprocessing

    # started afresh: a process forked after OpenCV or torch made threads can hang
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(options.num_workers, mp_context=context) as pool:
        yield from pool.map(partial(_estimate_dis, options.preset), pairs, chunksize=4)


def _estimate_dis(preset: DisPreset, pair: _Pair) -> None:
    import cv2

    cv2.setNumThreads(1)  # the processes are the parallelism
    _estimate(dis_estimator(preset), pair)


def _estimate(estimator: FlowEstimator, pair: _Pair) -> None:
    write_flow(pair.flow, estimator(read_image(pair.first), read_image(pair.second)))


def main(argv: list[str] | None = None) -> int:
    """Entry point."""
    return cli.command(run, ComputeFlowOptions, argv=argv, prog="compute_flow.py")


if __name__ == "__main__":
    raise SystemExit(main())
