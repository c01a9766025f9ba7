"""Training of the background stage from options: the schedule of a scene, the unsupervised choice of the networks."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytorch_lightning as pl
import torch
from tqdm import tqdm

from ast_seg.background_module import BackgroundLearner
from ast_seg.complexity import background_motion, frames_used, is_complex, training_steps
from ast_seg.debug_batch import DebugBatch
from ast_seg.frame_data import FrameDataModule
from ast_seg.frames import Reading, working_size
from ast_seg.model.background_sizes import encoder_blocks
from ast_seg.options import BackgroundOptions, FrameOptions
from ast_seg.restore import published_background, restore_background
from ast_seg.schedules import background_iterations
from ast_seg.splits_of import frame_splits, validation_split
from common.errors import InputError
from common.files import atomic_path
from common.messages import is_first_process, tell, warn
from common.options import RunOptions, TrainerFlags
from common.training import check_run, fit, seed_everything

IMPLAUSIBLE = 0.5
"""Mean share of foreground from which on a training is suspected to have found no background."""


def train_background(options: BackgroundOptions, data: FrameOptions, run: RunOptions, flags: TrainerFlags) -> Path:
    """Train the background networks; see ``common.training.fit`` for what the run directory holds.

    Besides, ``trained_model.pth`` there is the result as the published code stores it.

    Returns:
        The run directory.

    Raises:
        InputError: Options or data that cannot be trained on.
    """
    assert run.out is not None
    if options.n_iterations is not None and options.n_iterations < 1:
        raise InputError(f"--n_iterations {options.n_iterations}: give a number from 1 on")
    splits = frame_splits(data)
    size = working_size([splits["train"], validation_split(splits)], data.image_height, data.image_width)
    encoder_blocks(*size)
    datamodule = FrameDataModule(
        splits,
        Reading(*size, mask_encoding=data.mask_encoding),
        data,
        batch_size=options.batch_size,
        val_every=options.val_every,
        seed=options.seed,
    )
    automatic = options.unsupervised_mode or options.scene == "auto"
    if automatic and options.n_iterations is None and not flags.fast_dev_run:
        options = chosen_options(options, data, run, flags, datamodule, size)
    num_frames, num_updates = len(splits["train"]), options.n_iterations
    if num_updates is None:
        scene = "fixed" if options.scene == "auto" else options.scene
        num_updates = background_iterations(scene, num_frames, min(options.batch_size, num_frames))
    _fit(options, data, run, flags, datamodule, size, num_updates)
    return run.out


def chosen_options(
    options: BackgroundOptions,
    data: FrameOptions,
    run: RunOptions,
    flags: TrainerFlags,
    datamodule: FrameDataModule,
    size: Sequence[int],
) -> BackgroundOptions:
    """The networks and updates that a scene asks for, from a first training of the narrow networks in ``probe/``.

    The choice is kept in ``probe/decision.json`` and not made again.
    """
    assert run.out is not None
    file = run.out / "probe" / "decision.json"
    simple = replace(options, background_complexity=False)
    if not file.exists():
        check_run(run.out, run, {})
        first = replace(simple, n_iterations=options.n_simple)
        probe = replace(run, out=run.out / "probe", resume=True)
        tell(f"scene auto: {options.n_eval} updates of the narrow networks, then the choice")
        _fit(first, data, probe, replace(flags, max_steps=options.n_eval), datamodule, size, options.n_simple)
        if is_first_process():
            motion = _motion(run.out / "probe", datamodule, options)
            with atomic_path(file) as temporary:
                temporary.write_text(json.dumps({"motion": motion, "complex": is_complex(motion, options.tau_0)}))
    decision = json.loads(file.read_text())
    batch_size, num_frames = options.batch_size, len(datamodule.splits["train"])
    steps = training_steps(
        decision["complex"],
        num_frames,
        min(batch_size, num_frames),
        n_simple=options.n_simple,
        n_complex=options.n_complex,
        e_complex=options.e_complex,
    )
    kind = "moves: wide" if decision["complex"] else "is still: narrow"
    tell(f"scene auto: the background {kind} networks, {steps} updates (motion {decision['motion']:.3f})")
    return replace(options, background_complexity=decision["complex"], n_iterations=steps)


def _motion(run_dir: Path, datamodule: FrameDataModule, options: BackgroundOptions) -> float:
    """How much the backgrounds of the first frames differ from their median."""
    model = restore_background(run_dir).model
    frames = datamodule.frames["train"]
    frames.open()
    count = frames_used(len(frames), options.batch_size)
    size = min(options.batch_size, count)
    with torch.inference_mode():
        starts = tqdm(range(0, count, size), desc="backgrounds", unit="batch", disable=None)
        parts = [
            model(frames.__getitems__(range(start, min(start + size, count)))["image"].float())[:, :3]
            for start in starts
        ]
        return background_motion(torch.cat(parts), options.tau_1)


def _fit(
    options: BackgroundOptions,
    data: FrameOptions,
    run: RunOptions,
    flags: TrainerFlags,
    datamodule: FrameDataModule,
    size: Sequence[int],
    num_updates: int,
) -> None:
    assert run.out is not None
    seed_everything(options.seed)
    learner = BackgroundLearner(options, size, num_updates)
    if run.ckpt_path is not None and not run.resume:
        start = restore_background(run.ckpt_path).model
        if (start.height, start.width, start.complexity) != (*size, options.background_complexity):
            raise InputError(
                f"{run.ckpt_path}: networks for {start.height}x{start.width} with background_complexity"
                f" {start.complexity}, not {size[0]}x{size[1]} with {options.background_complexity}"
            )
        if start.from_start != learner.model.from_start:
            needed = "median" if start.from_start else "random"
            raise InputError(
                f"{run.ckpt_path}: networks trained with, and to be continued with, --background_start {needed}"
            )
        learner.model.load_state_dict(start.state_dict())
    trainer = fit(
        learner,
        datamodule,
        run=run,
        flags=limited(flags, num_updates),
        options=(options, data),
        callbacks=[StillWatch(), DebugBatch(run.out)],
        facts={"method": "ast background", "seed": options.seed, "split_hash": datamodule.hashes()},
    )
    if trainer.is_global_zero and not flags.fast_dev_run:
        save_published(learner, trainer, run.out / "trained_model.pth")


def limited(flags: TrainerFlags, num_updates: int) -> TrainerFlags:
    """The flags with the stage's number of updates, unless they set an end themselves."""
    if flags.max_steps != -1 or flags.max_epochs is not None:
        return flags
    return replace(flags, max_steps=num_updates)


def save_published(learner: BackgroundLearner, trainer: pl.Trainer, file: Path) -> None:
    """Write the networks as the published code stores them."""
    content = published_background(learner.model, trainer.optimizers[0].state_dict())
    with atomic_path(file) as temporary:
        torch.save(content, temporary)


class StillWatch(pl.Callback):
    """Warns at the end when most of the pixels are foreground: then no background was found."""

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Look at the last validation."""
        share = trainer.callback_metrics.get("val/foreground_share")
        if share is not None and share > IMPLAUSIBLE:
            warn(
                f"{share:.0%} of the pixels are foreground: the background was hardly learnt; train longer, add"
                " --input_offset 128 where the light changes, or use --background_complexity true where the scene does"
            )
