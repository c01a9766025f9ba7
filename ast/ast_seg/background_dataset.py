"""Step 2: backgrounds, predicted errors, masks and aligned copies of every frame, in order, in the published layout.

What stands already is not made again. ``background_train.csv`` and ``background_test.csv`` beside the folders name the
files of each frame and its source, ready for step 3 and for scores.
"""

from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from pathlib import Path
from shutil import copyfile
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from ast_seg.background_files import file_paths, write_frame
from ast_seg.background_masks import foreground_masks, to_bytes
from ast_seg.background_module import BackgroundLearner
from ast_seg.frames import FrameFiles, Reading
from ast_seg.options import BackgroundDatasetOptions, Cleaning, FrameOptions, Rounding
from ast_seg.restore import file_hash, restore_background
from ast_seg.splits_of import frame_splits
from common.errors import InputError
from common.files import atomic_path, check_writable
from common.messages import is_first_process, tell, warn
from common.options import TrainerFlags
from common.prediction import ItemWriter, claim, predict_items
from common.splits import Split, relative_cell, write_split

PARTS = ("train", "test")
WRITERS = 4
IMPLAUSIBLE = 0.5


def generate(options: BackgroundDatasetOptions, data: FrameOptions, flags: TrainerFlags) -> Path:
    """Write the background data set of the images that the options name.

    Returns:
        Prefix of the splits written: NAME for NAME_train.csv and NAME_test.csv.

    Raises:
        InputError: Images, checkpoint or folder that cannot be used.
    """
    learner = restore_background(options.saved_model_path)
    out = options.results_dir_path or _beside(options.saved_model_path)
    check_writable(out, "--results_dir_path")
    splits = frame_splits(data)
    parts = {part: splits.get(part, splits["train"]) for part in PARTS}
    model = learner.model
    for given, own in (("image_height", model.height), ("image_width", model.width)):
        asked = getattr(data, given)
        if asked is not None and asked != own:
            raise InputError(f"--{given} {asked}: {options.saved_model_path} works at {own} pixels; leave the flag out")
    if is_first_process():
        claim(out, _source(options, learner, parts), "remove them, or give another --results_dir_path")
    for part, split in parts.items():
        if is_first_process():
            _tidy(out, part)
        if part == "test" and _same(split, parts["train"]):
            if is_first_process():
                copy_part(len(split), out)
            continue
        frames = FrameFiles(split, Reading(model.height, model.width, mask_encoding=data.mask_encoding))
        _write_part(frames, part, out, options, learner, flags, data.num_workers)
    prefix = out / "background"
    if is_first_process():
        for part, split in parts.items():
            rows = part_rows(split, part, out)
            written = write_split(f"{prefix}_{part}.csv", rows)
            tell(f"{written.file}: {len(rows)} frames")
    return prefix


def _beside(path: Path) -> Path:
    """``background_dataset`` in the run directory of a checkpoint."""
    if path.is_dir():
        return path / "background_dataset"
    folder = path.parent.parent if path.parent.name == "checkpoints" else path.parent
    return folder / "background_dataset"


def _source(options: BackgroundDatasetOptions, learner: BackgroundLearner, parts: dict[str, Split]) -> dict[str, Any]:
    """What the files depend on."""
    trained = learner.options
    return {
        "checkpoint": file_hash(options.saved_model_path),
        **{f"{part} split": split.hash() for part, split in parts.items()},
        "rounding": options.rounding,
        "alpha_1": trained.alpha_1 if options.alpha_1 is None else options.alpha_1,
        "alpha_2": trained.alpha_2 if options.alpha_2 is None else options.alpha_2,
        "cleaning": options.cleaning,
    }


def _write_part(
    frames: FrameFiles,
    part: str,
    out: Path,
    options: BackgroundDatasetOptions,
    learner: BackgroundLearner,
    flags: TrainerFlags,
    num_workers: int,
) -> None:
    pending = [row for row in range(len(frames)) if not _stands(out, part, row)]
    alphas = {name: getattr(options, name) for name in ("alpha_1", "alpha_2")}
    chosen = {name: getattr(learner.options, name) if value is None else value for name, value in alphas.items()}
    writer = BackgroundWriter(out, part, options.rounding, options.cleaning, **chosen)
    with writer:
        predict_items(
            learner,
            frames,
            pending,
            writer,
            flags=flags,
            gpus=options.gpus,
            batch_size=options.batch_size,
            num_workers=num_workers,
        )
    if writer.num_frames and writer.foreground / writer.num_frames > IMPLAUSIBLE:
        warn(
            f"{part}: {writer.foreground / writer.num_frames:.0%} of the pixels are foreground: the background was"
            " hardly learnt; train longer, add --input_offset 128 where the light changes, or take wide networks where"
            " the scene does"
        )


def _tidy(out: Path, part: str) -> None:
    """Remove what a killed run left half written."""
    for folder in {path.parent for path in file_paths(out, part, 1).values()}:
        for leftover in folder.glob(".*.tmp.png"):
            leftover.unlink(missing_ok=True)


def _same(one: Split, other: Split) -> bool:
    """Whether two parts are the same files, as they are when no test images were named."""
    return one.base_dir == other.base_dir and one.hash() == other.hash()


def copy_part(count: int, out: Path) -> None:
    """Give the test part the files of the training part, as far as it has none yet."""
    for number in tqdm(range(1, count + 1), desc="copying", unit="frame", disable=None):
        sources, copies = (file_paths(out, part, number) for part in PARTS)
        for content, path in copies.items():
            if not path.is_file():
                with atomic_path(path) as temporary:
                    copyfile(sources[content], temporary)


def _stands(out: Path, part: str, row: int) -> bool:
    """Whether all files of a frame are there; each was renamed into its place when it was whole."""
    return all(path.is_file() for path in file_paths(out, part, row + 1).values())


class BackgroundWriter(ItemWriter):
    """Writes the five files of each frame, in threads, while the networks draw the next batch.

    Args:
        out: The results folder.
        part: ``train`` or ``test``.
        rounding: How values become bytes.
        cleaning: See ``background_masks.clean``.
        alpha_1: See ``foreground_masks``.
        alpha_2: See there.
    """

    def __init__(
        self, out: Path, part: str, rounding: Rounding, cleaning: Cleaning, *, alpha_1: float, alpha_2: float
    ) -> None:
        super().__init__()
        self.out, self.part, self.rounding = out, part, rounding
        self.masks = partial(foreground_masks, alpha_1=alpha_1, alpha_2=alpha_2, cleaning=cleaning)
        self.foreground, self.num_frames = 0.0, 0

    def __enter__(self) -> "BackgroundWriter":
        self._pool = ThreadPoolExecutor(WRITERS)
        self._jobs: list[Future[float]] = []
        return self

    def __exit__(self, *error: object) -> None:
        self._pool.shutdown()
        if error[0] is None:
            self._finish([])

    def _finish(self, following: list[Future[float]]) -> None:
        """Wait for the batch before, whose errors show here."""
        jobs, self._jobs = self._jobs, following
        for job in jobs:
            self.foreground += job.result()
            self.num_frames += 1

    def write(self, batch: Any, prediction: Any) -> None:
        """Write the frames of a batch."""
        images, prediction = batch["image"].cpu(), prediction.float().cpu()
        targets = batch["target"].cpu().numpy() if "target" in batch else [None] * len(images)
        jobs = [
            self._pool.submit(self._write, number + 1, images[item], prediction[item], targets[item])
            for item, (number, weight) in enumerate(zip(batch["index"].tolist(), batch["weight"].tolist(), strict=True))
            if weight > 0
        ]
        self._finish(jobs)

    def _write(self, number: int, image: Tensor, prediction: Tensor, target: NDArray[np.integer] | None) -> float:
        """Write a frame, (3, H, W) and (4, H, W) in 0..255; its share of foreground."""
        with torch.inference_mode():  # a setting of each thread
            mask = self.masks(image[None].float(), prediction[None]).masks[0]
            drawn = to_bytes(prediction, self.rounding).transpose(1, 2, 0)
        write_frame(self.out, self.part, number, image.permute(1, 2, 0).numpy(), drawn, mask, target)
        return float((mask > 0).mean())


def part_rows(split: Split, part: str, out: Path) -> list[dict[str, str]]:
    """The rows of a part's split: the files of each frame, its sequence and its source."""
    with_targets = any(name in split.columns for name in ("GtInstance", "GtMask"))
    sequences, sources = split.column("Sequence"), [split.path(row, "Image") for row in range(len(split))]
    rows = []
    for row in range(len(split)):
        paths = file_paths(out, part, row + 1)
        cells = {"Image": paths["input"], "Background": paths["rgba"], "BackgroundMask": paths["mask"]}
        if with_targets:
            cells["GtInstance"] = paths["target"]
        for name in ("GtMask",):
            if name in split.columns and split.available(name)[row]:
                cells[name] = split.path(row, name)
        rows.append(
            {
                "Sequence": str(sequences[row]),
                "Sequence_Index": str(split.index[row]),
                **{name: relative_cell(path, out) for name, path in cells.items()},
                "Source": relative_cell(sources[row], out),
            }
        )
    return rows
