"""``state_<iteration>.pth`` in the original's layout at every evaluation, and continuing from one."""

from dataclasses import fields
from pathlib import Path
from typing import Any

import pytorch_lightning as pl

from common.errors import InputError
from common.training import to_plain
from redo.adam_states import import_adam
from redo.containers import NETWORKS, OPTIMISERS, import_containers, read_container, write_container
from redo.model import NetworkOptions
from redo.module import Redrawer
from redo.options import WatchOptions
from redo.restore import LETTERS, fill


class OriginalStates(pl.Callback):
    """Writes the containers; with ``--clean`` only the newest stays."""

    def __init__(self, folder: Path, options: WatchOptions) -> None:
        self.folder, self.options = folder, options

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Write networks, optimisers and options, from the first process."""
        assert isinstance(pl_module, Redrawer)
        if not trainer.is_global_zero:
            return
        sizes = {item.name for item in fields(NetworkOptions)}
        options = {name: value for name, value in to_plain(pl_module.options).items() if name not in sizes}
        options |= {**to_plain(self.options), "iteration": pl_module.iteration, "manualSeed": pl_module.seed}
        file = state_file(self.folder, pl_module.iteration)
        write_container(file, pl_module.networks, pl_module.raw_optimisers(), options)
        if self.options.clean:
            for other in self.folder.glob("state_*.pth"):
                if other != file:
                    other.unlink()


class TakeUpState(pl.Callback):
    """Gives the optimisers of a run the states of a container."""

    def __init__(self, states: dict[str, dict[str, Any]]) -> None:
        self.states = states

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Load them, before the first step."""
        assert isinstance(pl_module, Redrawer)
        if trainer.global_step:
            return  # resumed from a later checkpoint
        adams = pl_module.raw_optimisers()
        by_letter = {"M": adams.mask, "X": adams.generators, "D": adams.discriminator, "Z": adams.noise}
        for letter, adam in by_letter.items():
            if adam is not None:
                rates = {key: value for key, value in adam.param_groups[0].items() if key != "params"}
                adam.load_state_dict(self.states[letter])
                adam.param_groups[0].update(rates)  # the options count, not what the container was trained with


def state_file(folder: Path, iteration: int) -> Path:
    """Where the container of an iteration is."""
    return folder / f"state_{iteration:05d}.pth"


def take_up_state(module: Redrawer, folder: Path, iteration: int) -> TakeUpState:
    """Put the weights of a container into the module, and its Adam states into the run that is to come.

    Raises:
        InputError: No such file, networks of other sizes, or a container without optimiser states.
    """
    file = state_file(folder, iteration)
    if not file.exists():
        raise InputError(f"--iteration {iteration}: {file} is not there; name an iteration whose state was kept")
    content = read_container(file)
    named = {letter: getattr(module.networks, name) for name, letter in LETTERS.items()}
    wanted = {letter: network for letter, network in named.items() if network is not None}
    missing = [key for letter in wanted for key in (NETWORKS[letter], OPTIMISERS[letter]) if key not in content]
    if missing:
        raise InputError(f"{file}: holds no {missing[0]}; to start from the weights alone use --ckpt_path")
    published = import_containers([file])
    for letter, network in wanted.items():
        fill(network, published.networks[letter].state_dict(), f"{file}: {NETWORKS[letter]}")
    module.iteration = iteration
    states = {letter: import_adam(network, content[OPTIMISERS[letter]], file) for letter, network in wanted.items()}
    return TakeUpState(states)
