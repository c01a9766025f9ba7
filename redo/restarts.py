"""The watch for collapse, and what happens then: the attempt is set aside and a new one begins with another seed.

A run collapses when one region takes the whole image. It does so early or not at all (some three of ten published runs,
at 3000 to 5000 iterations), until training for too long makes it unstable again. The watch therefore lasts: early
collapse restarts, late collapse stops the run, whose best checkpoints stand.

    restarts.csv     attempt, seed, iteration, train_region, val_region, action
    attempt_<k>/     what attempt k left
"""

import csv
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch

from common.errors import InputError, RunFailed
from common.files import atomic_path
from common.messages import is_main_process, warn
from common.sampling import generator
from redo.collapse import Collapse, collapse_decision
from redo.module import RUNNING, Redrawer
from redo.options import WatchOptions
from redo.preparation import network_images

COLUMNS = ("attempt", "seed", "iteration", "train_region", "val_region", "action")
LEFTOVERS = ("checkpoints", "samples", "metrics.csv", "provenance.json")
WARN_BELOW = 0.1  # without --autoRestart: the published advice
EARLY_EVERY = 50  # iterations between two looks at the running region sizes


def attempt_seed(seed: int, attempt: int) -> int:
    """Seed of an attempt: the run's own for the first, then one drawn from both numbers.

    Drawn, since runs are seeded 0, 1, 2 ... as a rule: with seed + attempt, a restart of one would repeat the next.
    """
    if attempt == 0:
        return seed
    return int(torch.randint(2**31, (), generator=generator(seed, "attempt", attempt)))


class GivenUp(RunFailed):
    """Every attempt has collapsed."""

    exit_code = 3


class Collapsed(RunFailed):
    """The run has collapsed early: start again."""

    def __init__(self, row: dict[str, Any], reason: str) -> None:
        super().__init__(reason)
        self.row = row


@dataclass(frozen=True)
class Restarts:
    """The attempts of a run directory."""

    folder: Path

    @property
    def file(self) -> Path:
        """``restarts.csv``."""
        return self.folder / "restarts.csv"

    def rows(self) -> list[dict[str, str]]:
        """What has been recorded."""
        if not self.file.exists():
            return []
        with self.file.open(newline="") as file:
            rows = list(csv.DictReader(file))
        if any(set(row) != set(COLUMNS) for row in rows):
            raise InputError(f"{self.file}: not the record of restarts of this project; remove it or change --out")
        return rows

    def count(self) -> int:
        """Attempts that collapsed."""
        return sum(row["action"] == "restart" for row in self.rows())

    def record(self, row: dict[str, Any]) -> None:
        """Add a line."""
        rows = [*self.rows(), row]
        with atomic_path(self.file) as temporary, temporary.open("w", newline="") as file:
            writer = csv.DictWriter(file, COLUMNS)
            writer.writeheader()
            writer.writerows(rows)

    def set_aside(self, row: dict[str, Any], clean: bool) -> None:
        """Move what the collapsed attempt left to ``attempt_<k>/``, or delete it; then record the restart.

        In this order: a process killed in between repeats the attempt, which ends the same.
        """
        target = self.folder / f"attempt_{row['attempt']}"
        shutil.rmtree(target, ignore_errors=True)
        found = [self.folder / name for name in LEFTOVERS] + sorted(self.folder.glob("state_*.pth"))
        for path in [path for path in found if path.exists()]:  # checkpoints first: nothing half moved is resumed
            if not clean:
                target.mkdir(parents=True, exist_ok=True)
                path.rename(target / path.name)
            elif path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink()
        self.record(row)


class CollapseWatch(pl.Callback):
    """Looks at the sizes of the regions after every evaluation and, in between, at their running mean in training.

    Args:
        options: Threshold and limits.
        restarts: Where a late collapse is recorded.
    """

    def __init__(self, options: WatchOptions, restarts: Restarts) -> None:
        self.options, self.restarts = options, restarts
        self._warned = False

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """The early look: no need to wait for the next evaluation."""
        module = _redrawer(pl_module)
        due = module.iteration % EARLY_EVERY == 0 and len(module.recent) == RUNNING
        early = module.iteration <= self.options.restartUntil
        if due and early and module.running_smallest_region() < self.options.autoRestart:
            self._act(trainer, module, self._validation_region(trainer, module))

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """The published look, at each evaluation; and whether a region is still drawn for nothing."""
        module = _redrawer(pl_module)
        if trainer.sanity_checking or not module.region_sizes or not module.recent:
            return
        val_region = min(module.region_sizes[self.options.collapse_stat])
        self._act(trainer, module, val_region)
        error = module.worst_noise_error
        looked = self.options.stuckAfter <= module.iteration <= self.options.restartUntil
        if error is not None and self.options.stuckError and looked and error > self.options.stuckError:
            raise Collapsed(
                _row(module, val_region, "restart"),
                f"stuck at iteration {module.iteration}: a region's noise is recovered with an error of {error:.2f}",
            )

    def _act(self, trainer: pl.Trainer, module: Redrawer, val_region: float) -> None:
        train_region = module.running_smallest_region()
        threshold = self.options.autoRestart or WARN_BELOW
        decision = collapse_decision(
            threshold, train_region, val_region, module.iteration, last_restart=self.options.restartUntil
        )
        if decision is Collapse.HEALTHY:
            self._warned = False
        elif not self.options.autoRestart:
            if not self._warned:
                warn(
                    f"iteration {module.iteration}: the smallest region covers {val_region:.3f} of the images, the run"
                    " has collapsed; --autoRestart .1 would start again"
                )
            self._warned = True
        elif decision is Collapse.RESTART:
            raise Collapsed(
                _row(module, val_region, "restart"),
                f"collapsed at iteration {module.iteration}: the smallest region covers {train_region:.3f} of the"
                f" training and {val_region:.3f} of the validation images",
            )
        else:
            warn(
                f"iteration {module.iteration}: late collapse, the smallest region covers {val_region:.3f} of the"
                " images; the run stops here, its best checkpoints stand. Train for fewer iterations (--nIteration)"
            )
            trainer.should_stop = True
            if is_main_process():
                self.restarts.record(_row(module, val_region, "stop"))

    def _validation_region(self, trainer: pl.Trainer, module: Redrawer) -> float:
        """Mean share of the smallest region of the validation images now; the mask network has no training mode."""
        data = trainer.datamodule.images["val"]  # type: ignore[attr-defined]
        sizes = torch.zeros(module.options.nMasks)
        with torch.no_grad():
            for start in range(0, len(data), 64):
                positions = list(range(start, min(start + 64, len(data))))
                images = network_images(data.__getitems__(positions)["image"].to(module.device))
                sizes += module(images).mean(dim=(2, 3)).sum(dim=0).cpu()
        return float((sizes / len(data)).min())


def _row(module: Redrawer, val_region: float, action: str) -> dict[str, Any]:
    return {
        "attempt": module.attempt,
        "seed": module.seed,
        "iteration": module.iteration,
        "train_region": module.running_smallest_region(),
        "val_region": val_region,
        "action": action,
    }


def _redrawer(module: pl.LightningModule) -> Redrawer:
    assert isinstance(module, Redrawer)
    return module
