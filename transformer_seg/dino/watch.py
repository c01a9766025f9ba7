"""Warnings of the two ways in which self-distillation collapses.

Either the teacher says the same of all dimensions: the loss stands at ln K. Or it says one and the same dimension of
every image: the loss goes to zero, and nothing is learnt (arXiv 2104.14294, section 5.3).
"""

import math

import pytorch_lightning as pl
from pytorch_lightning.callbacks import Checkpoint
from torch import Tensor

from common.messages import warn

UNIFORM = 0.998  # of ln K
SINGLE = 0.02  # of ln K
SINGLE_COMPONENTS = 1.5


def collapse(loss: float, components: float, out_dim: int) -> str | None:
    """Which collapse the means of an epoch show: ``uniform``, ``single`` or none.

    Args:
        loss: Distillation loss.
        components: How many dimensions the teacher uses over the images of a batch: e to the entropy of its mean.
        out_dim: K.
    """
    if loss > UNIFORM * math.log(out_dim):
        return "uniform"
    if loss < SINGLE * math.log(out_dim) and components < SINGLE_COMPONENTS:
        return "single"
    return None


class DistillationWatch(Checkpoint):
    """Looks at every epoch, and warns of each collapse once, in the first epoch that shows it.

    It saves nothing: Lightning runs callbacks of this kind after the module's own hook, which logs the epoch. While the
    rate still warms up, a loss at ln K is how every run begins, and not warned of.

    Args:
        out_dim: K.
        warmup_epochs: Of the rate.
    """

    def __init__(self, out_dim: int, warmup_epochs: int) -> None:
        self.out_dim, self.warmup_epochs = out_dim, warmup_epochs
        self.said: list[str] = []

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Look."""
        values: dict[str, Tensor] = trainer.callback_metrics
        if "train/loss" not in values:
            return
        loss, components = float(values["train/loss"]), float(values["train/components"])
        found = collapse(loss, components, self.out_dim)
        if found is None or found in self.said:
            return
        if found == "uniform" and trainer.current_epoch < self.warmup_epochs:
            return
        self.said.append(found)
        if found == "uniform":
            warn(
                f"collapse: train/loss {loss:.3f} stands at ln {self.out_dim} = {math.log(self.out_dim):.3f}, the"
                " teacher is the same for all; lower --warmup_teacher_temp (0.02), or raise --learning_rate or"
                " --batch_size"
            )
        else:
            warn(
                f"collapse: train/loss {loss:.3f} is near 0 and the teacher gives every image the same one of"
                f" {self.out_dim} dimensions; raise --teacher_temp (0.04), or lower --learning_rate"
            )

    def state_dict(self) -> dict[str, list[str]]:
        """What was said already."""
        return {"said": list(self.said)}

    def load_state_dict(self, state_dict: dict[str, list[str]]) -> None:
        """Do not say it again."""
        self.said = list(state_dict["said"])
