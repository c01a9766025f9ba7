"""From a file of your own to masks, overlays and a report: ``python common/segment.py INPUT --method METHOD``.

    python common/segment.py clip.mp4 --method stflow                  # trains on the clip itself
    python common/segment.py photos/ --method redo --ckpt runs/redo    # uses what has been trained
    python common/segment.py clip.mp4 --method ast -- --max_steps 900  # further options of the method's command

ast, stflow and wnet train on the input itself when no checkpoint is named; the others need one. The method's own
commands do the work, so the same command again goes on where it was stopped.

    masks/          a label map (indexed PNG) of every frame at its own size; masks.csv names them
    overlays/       a video of every clip, a picture of every photo
    report.html     pictures with switches, strips, and the training where there was one
    data/, predictions/ and, where it trained, the run: what the method's commands read and wrote
"""

import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np

from common import cli
from common.errors import InputError, RunFailed
from common.files import IMAGE_SUFFIXES, image_size, read_labels, write_labels
from common.inputs import input_split
from common.makers.video import VIDEO_SUFFIXES
from common.messages import tell
from common.metrics.frames import resize_nearest
from common.overlays import write_overlays
from common.panels import write_layers, write_strips
from common.report import build_report
from common.runs import predictions_of
from common.splits import STEPS, Split, read_split, relative_cell, write_split
from common.video import video_info

ROOT = Path(__file__).resolve().parents[1]
MIN_FRAMES = 4
NUM_SHOWN = 12
FPS = 24.0
PICTURES = ("Image", "GtMask", "GtInstance", "GtSemantic")
Method = Literal["ast", "dino", "maskdistill", "redo", "segmenter", "stflow", "wnet"]


@dataclass(frozen=True, kw_only=True)
class SegmentOptions:
    """What to segment, and by which method."""

    input: Path = field(metadata={"positional": True})
    """A video, a folder of pictures (sub-folders are clips), a picture, or a .csv split."""
    method: Method
    """ast, stflow and wnet train on the input itself when there is no --ckpt; the others need one."""
    ckpt: Path | None = None
    """Run directory or checkpoint, ours or published."""
    out: Path | None = None
    """Folder of the results; default: runs/segment/METHOD-INPUT."""
    base_dir: Path | None = None
    """Folder that the paths of a .csv split are relative to; default: its own."""
    clip: bool | None = None
    """Whether the pictures of a folder are the frames of one clip; default: for ast and stflow."""
    gpus: int | None = None
    """Number of GPUs: N > 0, 0 = CPU, -1 = all."""


@dataclass(frozen=True)
class Task:
    """One input, ready for a method.

    Attributes:
        split: The frames; ``own_test.csv`` beside ``own_train.csv`` and ``own_val.csv``, which name the same.
        out: Folder of the results.
        ckpt: What has been trained, if anything.
        gpus: As in the options; every network of the task runs there.
    """

    split: Split
    out: Path
    ckpt: Path | None
    gpus: int | None = None

    @property
    def machine(self) -> list[str]:
        """The flags for the machine."""
        return [] if self.gpus is None else ["--gpus", str(self.gpus)]

    @property
    def has_flow(self) -> bool:
        """Whether the split names optical flow."""
        return "Flow" in self.split.columns and bool(self.split.available("Flow").any())

    @property
    def base(self) -> list[str]:
        """The flag for the folder that the split's paths are relative to."""
        return ["--base_dir", str(self.split.base_dir)]

    @property
    def data(self) -> list[str]:
        """The flags that name the split to predict."""
        return ["--data_file", str(self.split.file), *self.base]

    @property
    def own(self) -> list[str]:
        """The flags that name the split for training and prediction."""
        return ["--data_file", str(self.split.file.with_name("own")), *self.base]

    @property
    def run(self) -> list[str]:
        """The flags of a training: run directory and machine."""
        return ["--out", str(self.out), "--resume", *self.machine]

    @property
    def predictions(self) -> list[str]:
        """The flags for the folder of the predictions."""
        return ["--out", str(self.out / "predictions")]


Commands = list[list[str]]


@dataclass(frozen=True)
class Recipe:
    """How a method meets data of one's own.

    Attributes:
        apply: The commands that predict the input with a checkpoint, into ``predictions/``.
        train: The commands that train on the input and predict it, into the output folder, where that makes sense.
        needs_clip: It needs several frames of one scene.
        source: Where a checkpoint comes from, for those that need one.
    """

    apply: Callable[[Task], Commands]
    train: Callable[[Task], Commands] | None = None
    needs_clip: bool = False
    source: str = ""


def _train_stflow(task: Task) -> Commands:
    flow = ["--flow", "given"] if task.has_flow else []
    recipe = ["--config", str(ROOT / "stflow/configs/davis_clip.yaml"), "--foreground", "exceptbiggest"]
    return [["stflow/run.py", *recipe, *flow, *task.own, *task.run]]


def _apply_stflow(task: Task) -> Commands:
    commands, split = [], task.split.file
    if not task.has_flow:
        split = split.with_name("own_flow.csv")
        written = ["--out", str(task.out / "OpticalFlow"), "--out_split", str(split)]
        commands = [["stflow/compute_flow.py", str(task.split.file), *task.base, *written]]
    named = ["--data_file", str(split), *task.base, "--foreground", "exceptbiggest", *task.machine]
    return [*commands, ["stflow/predict.py", *named, "--model_dir", str(task.ckpt), *task.predictions]]


def _train_ast(task: Task) -> Commands:
    return [["ast/run.py", "--config", str(ROOT / "ast/configs/traffic.yaml"), *task.own, *task.run]]


def _apply_ast(task: Task) -> Commands:
    ckpt, data, commands = Path(str(task.ckpt)), task.data, []
    if (ckpt / "background").is_dir():  # a run of ast/run.py: its slots were trained on the backgrounds it predicts
        folder = task.out / "background_dataset"
        made = ["--saved_model_path", str(ckpt / "background"), "--results_dir_path", str(folder), *task.machine]
        commands = [["ast/background/generate_background_dataset.py", *task.own, *made]]
        data = ["--data_file", str(folder / "background_test.csv"), "--base_dir", str(folder)]
    named = ["--object_model_checkpoint_path", str(ckpt), "--results_dir_path", str(task.out / "predictions")]
    return [*commands, ["ast/MF_generate_image_samples.py", *data, *named, *task.machine]]


def _train_wnet(task: Task) -> Commands:
    recipe = ["--model", "wnet", "--config", str(ROOT / "transformer_seg/configs/own_wnet.yaml")]
    return [["transformer_seg/run.py", *recipe, *task.own, *task.run]]


def _apply_system(task: Task) -> Commands:
    return [["transformer_seg/predict.py", *task.data, *task.machine, "--model_dir", str(task.ckpt), *task.predictions]]


def _apply_dino(task: Task) -> Commands:
    return [
        [
            "transformer_seg/attention.py",
            *task.data,
            *task.machine,
            "--pretrained_weights",
            str(task.ckpt),
            *task.predictions,
        ]
    ]


def _apply_redo(task: Task) -> Commands:
    return [["redo/predict.py", *task.data, *task.machine, "--model_dir", str(task.ckpt), *task.predictions]]


def _apply_maskdistill(task: Task) -> Commands:
    named = ["--input", str(task.split.file), *task.base, *task.machine]
    return [["maskdistill/predict.py", *named, "--model_dir", str(task.ckpt), *task.predictions]]


RECIPES: Mapping[str, Recipe] = {
    "ast": Recipe(_apply_ast, _train_ast, needs_clip=True),
    "stflow": Recipe(_apply_stflow, _train_stflow, needs_clip=True),
    "wnet": Recipe(_apply_system, _train_wnet),
    "segmenter": Recipe(_apply_system, source="make train-transformer-seg MODEL=segmenter SPLIT=..., or published"),
    "dino": Recipe(_apply_dino, source="make train-transformer-seg MODEL=dino SPLIT=..., or published"),
    "redo": Recipe(_apply_redo, source="make train-redo SPLIT=..., or published"),
    "maskdistill": Recipe(_apply_maskdistill, source="make train-maskdistill SPLIT=..., or published"),
}


def segment(options: SegmentOptions, further: Sequence[str] = ()) -> Path:
    """Masks, overlays and a report of an input.

    Args:
        options: What, and by which method.
        further: Arguments for the command that trains, or predicts with a checkpoint.

    Returns:
        The report.

    Raises:
        InputError: An input that cannot be read or does not suit the method, a checkpoint missing.
        SystemExit: A command of the method ended with an error, which it has told.
    """
    recipe = RECIPES[options.method]
    make = recipe.apply if options.ckpt is not None else recipe.train
    if make is None:
        raise InputError(
            f"--method {options.method}: does not train on the input itself; give --ckpt ({recipe.source} weights)"
        )
    if options.ckpt is not None and not options.ckpt.exists():
        raise InputError(f"--ckpt {options.ckpt}: no such run directory or checkpoint")
    task = prepare(options, recipe.needs_clip)
    tell(
        f"{options.method}: {len(task.split)} frames of {options.input}, "
        + (f"weights of {options.ckpt}" if options.ckpt is not None else "trained on the input itself")
    )
    commands = make(task)
    commands[-1] += further
    for command in commands:
        execute(command)
    return show(task, video_info(options.input).fps if options.input.suffix.lower() in VIDEO_SUFFIXES else FPS)


def prepare(options: SegmentOptions, needs_clip: bool) -> Task:
    """The input as a split below ``data/`` of the output folder, for training and for prediction.

    Raises:
        InputError: An input that cannot be read, or too few frames for a method that needs a clip.
    """
    too_few = (
        f"{options.input}: --method {options.method} needs the frames of a clip, {MIN_FRAMES} at least; "
        "give a video or a folder of frames, or --method wnet"
    )
    if needs_clip and options.input.suffix.lower() in IMAGE_SUFFIXES:
        raise InputError(too_few)
    out = options.out or Path("runs/segment") / f"{options.method}-{options.input.resolve().stem}"
    clip = needs_clip if options.clip is None else options.clip
    found = input_split(options.input, out, options.base_dir, clip=clip)
    if needs_clip and max(map(len, found.sequences().values())) < MIN_FRAMES:
        raise InputError(too_few)
    prefix = out / "data" / "own"
    for step in STEPS:
        write_split(f"{prefix}_{step}.csv", found.frame)
    return Task(read_split(f"{prefix}_test.csv", base_dir=found.base_dir), out, options.ckpt, options.gpus)


def execute(command: Sequence[str]) -> None:
    """Run one of the methods' commands in a process of its own.

    Raises:
        SystemExit: It ended with another code than 0, which becomes ours; its own line has said why.
    """
    script, *arguments = command
    ended = subprocess.run([sys.executable, str(ROOT / script), *arguments], check=False).returncode
    if ended != cli.DONE:
        raise SystemExit(ended if ended > 0 else RunFailed.exit_code)


def show(task: Task, fps: float) -> Path:
    """Write the masks at the frames' own size, overlays, and the report with pictures.

    Returns:
        The report.
    """
    split = own_size(task, predicted(task))
    known = split.available("Image") & split.available("Pred")
    rows = np.flatnonzero(known)
    chosen = [int(row) for row in rows[np.unique(np.linspace(0, len(rows) - 1, NUM_SHOWN).round().astype(int))]]
    for row in chosen:
        write_layers(split, row, task.out / "layers")
    write_strips(split, chosen, known, task.out / "strips")
    write_overlays(split, task.out / "overlays", fps=fps)
    return build_report(task.out)


def own_size(task: Task, found: Split) -> Split:
    """The label maps of a prediction at the size of the frames given, as ``masks.csv``; a method may work smaller."""
    by_key = {key: row for row, key in enumerate(_keys(found)) if found.available("Pred")[row]}
    given = task.split
    table = given.frame[["Sequence", "Sequence_Index"]]
    for column in (name for name in PICTURES if name in given.columns):
        named = given.available(column)
        table[column] = [
            relative_cell(given.path(row, column), task.out) if named[row] else "" for row in range(len(given))
        ]
    cells = []
    for row, key in enumerate(_keys(given)):
        name = f"masks/{key[0]}/{key[1]:05d}.png"
        cells.append(name if key in by_key else "")
        if key in by_key:
            labels = read_labels(found.path(by_key[key], "Pred"))
            write_labels(task.out / name, resize_nearest(labels, image_size(given.path(row, "Image"))))
    table["Pred"] = cells
    write_split(task.out / "masks.csv", table)
    return read_split(task.out / "masks.csv", base_dir=task.out)


def _keys(split: Split) -> list[tuple[str, int]]:
    return [(str(name), int(index)) for name, index in zip(split.column("Sequence"), split.index, strict=True)]


def predicted(task: Task) -> Split:
    """The prediction split of a task; its paths are relative to the input's folder, or to its own."""
    file = predictions_of(task.out, task.split.base_dir).file
    for folder in (task.split.base_dir, file.parent):
        split = read_split(file, base_dir=folder)
        first = int(np.argmax(split.available("Pred")))
        if split.path(first, "Pred").exists() and split.path(first, "Image").exists():
            return split
    raise RunFailed(f"{file}: its pictures are neither below {task.split.base_dir} nor below {file.parent}")


def run(options: SegmentOptions, further: Sequence[str]) -> int:
    """Segment a video, a folder of pictures, a picture or a split; what follows -- goes to the method's command."""
    report = segment(options, further)
    tell(f"masks: {report.parent / 'masks'}\noverlays: {report.parent / 'overlays'}\nreport: {report}")
    return cli.DONE


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    place = arguments.index("--") if "--" in arguments else len(arguments)
    mine, further = arguments[:place], arguments[place + 1 :]

    def parsed() -> int:
        (options,) = cli.parse((SegmentOptions,), mine, prog="segment.py", description=run.__doc__)
        return run(options, further)

    return cli.guarded(parsed)


if __name__ == "__main__":
    raise SystemExit(main())
