"""Several short starts of WNet from different weights; the one with the lowest cut is trained on.

Training seldom leaves the arrangement of segments that it comes upon first. How good that is the cut shows after a few
iterations, without any label.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from torch.utils.data import default_collate
from tqdm import tqdm

from common.files import atomic_path
from common.messages import tell
from common.sampling import generator
from transformer_seg.images import SplitImages
from transformer_seg.wnet.alternation import alternating_iteration
from transformer_seg.wnet.module import WnetModule, make_network
from transformer_seg.wnet.revival import revive_together

COUNTED = 0.25  # share of the iterations, the last ones, whose mean cut is compared


class Starts(pl.Callback):
    """Short starts before the first iteration, once in a run; a resumed run has its weights already.

    Several processes share the pictures of a batch, as in the training, and the first one's choice is all the others'.

    Args:
        images: Training pictures.
        count: Starts; the first one is from the module's own weights.
        iterations: Of each, at the module's base learning rate.
        batch_size: Pictures per iteration and process.
        seed: Of weights and pictures.
        revive_every: As in the training; see ``revival``.
        record: JSON file of the cuts.
    """

    def __init__(
        self,
        images: SplitImages,
        count: int,
        iterations: int,
        *,
        batch_size: int,
        seed: int,
        revive_every: int,
        record: Path,
    ) -> None:
        self.images, self.count, self.iterations = images, count, iterations
        self.batch_size, self.seed, self.revive_every, self.record = batch_size, seed, revive_every, record
        self.cuts: list[float] = []

    @property
    def kept(self) -> int:
        """The start whose weights are trained on."""
        return int(np.argmin(self.cuts))

    def state_dict(self) -> dict[str, Any]:
        """The cuts, in the checkpoint."""
        return {"cuts": self.cuts, "kept": self.kept if self.cuts else None}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Nothing is left to do in a resumed run."""
        self.cuts = list(state_dict["cuts"])

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Try the starts, and put the weights of the best one into the module."""
        assert isinstance(pl_module, WnetModule)
        if self.cuts or trainer.fast_dev_run:  # type: ignore[attr-defined]
            return
        devices = [pl_module.device] if pl_module.device.type == "cuda" else []
        states = []
        with torch.random.fork_rng(devices=devices):  # the training's own draws stay as they are without starts
            bar = tqdm(total=self.count * self.iterations, desc="starts", unit="iteration", disable=None)
            for number in range(self.count):
                if number:
                    torch.manual_seed(generator(self.seed, "start", number).initial_seed())
                    pl_module.model.load_state_dict(make_network(pl_module.options).state_dict())
                self.cuts.append(self._try(trainer, pl_module, bar))
                states.append({key: value.cpu().clone() for key, value in pl_module.model.state_dict().items()})
            bar.close()
        self.cuts = trainer.strategy.broadcast(self.cuts)
        pl_module.model.load_state_dict(trainer.strategy.broadcast(states[self.kept]))
        found = ", ".join(f"{cut:.3f}" for cut in self.cuts)
        tell(f"cuts of {self.count} starts after {self.iterations} iterations: {found}; start {self.kept} goes on")
        if trainer.is_global_zero:
            with atomic_path(self.record) as temporary:
                temporary.write_text(json.dumps({**self.state_dict(), "iterations": self.iterations}) + "\n")

    def _try(self, trainer: pl.Trainer, module: WnetModule, bar: "tqdm[Any]") -> float:
        """Train the module's network from where it is; returns the mean cut of the last iterations."""
        optimiser, cuts = module.configure_optimizers(), []
        if trainer.world_size > 1:  # nothing else averages them: Lightning knows neither this optimiser nor its steps
            optimiser.register_step_pre_hook(lambda *_: _average_gradients(trainer, module))
        for iteration in range(self.iterations):
            image = self._batch(iteration, trainer.global_rank, trainer.world_size).to(module.device)
            image = trainer.precision_plugin.convert_input(image)
            with trainer.precision_plugin.train_step_context():
                losses = alternating_iteration(module.model.train(), optimiser, image, module.kernel)
            cuts.append(float(trainer.strategy.reduce(losses.ncut, reduce_op="mean")))
            if self.revive_every and (iteration + 1) % self.revive_every == 0:
                revive_together(trainer, module.model, image, module.kernel)
            bar.update()
        return float(np.mean(cuts[-max(1, round(COUNTED * len(cuts))) :]))

    def _batch(self, iteration: int, rank: int, world_size: int) -> torch.Tensor:
        """Pictures (b, 3, H, W) of a process in an iteration, the same in every start and as many in each process."""
        size = max(1, min(self.batch_size, len(self.images) // world_size)) * world_size
        per_epoch = max(1, len(self.images) // size)
        epoch, place = divmod(iteration, per_epoch)
        order = torch.randperm(len(self.images), generator=generator(self.seed, "start order", epoch)).tolist()
        chosen = [order[index % len(order)] for index in range(place * size + rank, (place + 1) * size, world_size)]
        image: torch.Tensor = default_collate([self.images[index, epoch]["image"] for index in chosen])
        return image


def _average_gradients(trainer: pl.Trainer, module: WnetModule) -> None:
    """Give every process the mean gradients of all."""
    for parameter in module.parameters():
        if parameter.grad is not None:
            parameter.grad = trainer.strategy.reduce(parameter.grad, reduce_op="mean")
