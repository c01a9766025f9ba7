"""Training of the foreground stage from options, with the watch over slots that never light up."""

from dataclasses import replace
from pathlib import Path

import pytorch_lightning as pl
import torch
from torch import nn

from ast_seg.background_training import limited
from ast_seg.debug_batch import DebugBatch
from ast_seg.foreground_module import SlotLearner
from ast_seg.frame_data import FrameDataModule
from ast_seg.frames import Reading, working_size
from ast_seg.model.background import BackgroundModel
from ast_seg.options import LossOptions, ModelOptions, TripleOptions
from ast_seg.restore import load_slots, restore_background
from ast_seg.splits_of import triple_splits, validation_split
from common.errors import InputError
from common.messages import tell, warn
from common.options import RunOptions, TrainerFlags
from common.training import fit, seed_everything

MOST_RESTARTS = 5
INACTIVE = 0.01
"""Active slots per image below which no object was found."""


def train_foreground(
    model: ModelOptions, loss: LossOptions, data: TripleOptions, run: RunOptions, flags: TrainerFlags
) -> Path:
    """Train the slots; see ``common.training.fit`` for what the run directory holds.

    Returns:
        The run directory.

    Raises:
        InputError: Options or data that cannot be trained on.
    """
    assert run.out is not None
    check_loss(loss)
    scenario = model.background_model_training_scenario
    if loss.paper_version == 1 and scenario != "frozen_weights":
        raise InputError(
            "--paper_version 1: trains no background network; give --background_model_training_scenario frozen_weights"
        )
    splits = triple_splits(data, background_needed=scenario != "random_initialization")
    size = working_size([splits["train"], validation_split(splits)], data.image_height, data.image_width)
    seed_everything(loss.seed)
    learner = SlotLearner(model, loss, size, background_networks(model, size))
    if run.ckpt_path is not None and not run.resume:
        load_slots(learner, run.ckpt_path)
    datamodule = FrameDataModule(
        splits,
        Reading(
            *size,
            background=scenario != "random_initialization",
            foreground=loss.startup_aid == "mask_hint",
            mask_encoding=data.mask_encoding,
        ),
        data,
        batch_size=loss.batch_size,
        val_every=loss.val_every,
        seed=loss.seed,
    )
    fit(
        learner,
        datamodule,
        run=run,
        flags=limited(flags, loss.number_of_training_steps),
        options=(model, loss, data),
        callbacks=[SlotWatch(loss), DebugBatch(run.out)],
        facts={"method": "ast", "seed": loss.seed, "split_hash": datamodule.hashes()},
    )
    return run.out


def check_loss(loss: LossOptions) -> None:
    """Refuse numbers that mean nothing.

    Raises:
        InputError: Names the flag and the value.
    """
    for name in ("number_of_training_steps", "batch_size", "val_every"):
        if getattr(loss, name) < 1:
            raise InputError(f"--{name} {getattr(loss, name)}: give at least 1")
    for name in ("warmup", "startup_steps", "restart_if_inactive", "background_weights_freeze_duration"):
        if getattr(loss, name) < 0:
            raise InputError(f"--{name} {getattr(loss, name)}: give 0 or more")


def background_networks(model: ModelOptions, size: tuple[int, int]) -> BackgroundModel | None:
    """The background networks that train along, or None for frozen backgrounds.

    Raises:
        InputError: No checkpoint for the curriculum, or one for another image size.
    """
    scenario = model.background_model_training_scenario
    if scenario == "frozen_weights":
        return None
    if scenario == "random_initialization":
        return BackgroundModel(height=size[0], width=size[1], complexity=model.background_complexity)
    if model.background_model is None:
        raise InputError(
            "--background_model_training_scenario curriculum_training: needs the trained background networks; give "
            "--background_model RUN, or use frozen_weights"
        )
    found = restore_background(model.background_model).model
    if (found.height, found.width) != size:
        raise InputError(
            f"{model.background_model}: background networks for {found.height}x{found.width} pixels, the images have "
            f"{size[0]}x{size[1]}"
        )
    return found.train()


class SlotWatch(pl.Callback):
    """Says when no slot lights up, and starts again with other weights where it was told to.

    The published v1 code restarts such runs, which are common; see ``startup.py`` for the aids.
    """

    def __init__(self, loss: LossOptions) -> None:
        self.loss, self.restarts, self.warned, self.own_end = loss, 0, False, False

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Go on as long as a restart has put the end off."""
        assert isinstance(pl_module, SlotLearner)
        self.own_end = trainer.fit_loop.epoch_loop.max_steps == self.loss.number_of_training_steps
        self._extend(trainer, int(pl_module.start))

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: object, batch: object, batch_idx: int
    ) -> None:
        """Restart when it is time and nothing shows."""
        assert isinstance(pl_module, SlotLearner)
        if pl_module.update != (self.loss.restart_if_inactive or -1) or self.restarts == MOST_RESTARTS:
            return
        if float(pl_module.train_means.compute()["active_slots"]) >= INACTIVE:
            return
        self.restarts += 1
        tell(f"no slot is active after {pl_module.update} updates: restart {self.restarts} with other weights")
        seed_everything(self.loss.seed + self.restarts)
        for part in (pl_module.encoder, pl_module.renderer):
            fresh_weights(part, pl_module)
        for optimizer in trainer.optimizers:
            optimizer.state.clear()
        pl_module.start.fill_(trainer.global_step)
        self._extend(trainer, trainer.global_step)

    def _extend(self, trainer: pl.Trainer, start: int) -> None:
        """The updates count from the restart on."""
        if self.own_end:
            trainer.fit_loop.epoch_loop.max_steps = start + self.loss.number_of_training_steps

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Warn once when nothing shows after warm-up and aid."""
        assert isinstance(pl_module, SlotLearner)
        after = max(self.loss.warmup, self.loss.startup_steps if self.loss.startup_aid != "none" else 0)
        active = trainer.callback_metrics.get("val/active_slots")
        if self.warned or trainer.sanity_checking or pl_module.update <= after or active is None or active >= INACTIVE:
            return
        self.warned = True
        warn(
            f"no object found: no slot is active after {pl_module.update} updates; try --startup_aid component_hint, "
            "another --seed, a longer --warmup or a lower --initial_background_activation_logit"
        )

    def state_dict(self) -> dict[str, int | bool]:
        """Restarts and whether the warning was given."""
        return {"restarts": self.restarts, "warned": self.warned}

    def load_state_dict(self, state_dict: dict[str, int | bool]) -> None:
        """Go on counting."""
        self.restarts, self.warned = int(state_dict["restarts"]), bool(state_dict["warned"])


def fresh_weights(part: nn.Module, learner: SlotLearner) -> None:
    """Give a network the weights of a newly built one."""
    other = SlotLearner(learner.options, replace(learner.loss_options), learner.size)
    source = other.encoder if part is learner.encoder else other.renderer
    with torch.no_grad():
        for mine, theirs in zip(part.state_dict().values(), source.state_dict().values(), strict=True):
            mine.copy_(theirs)
