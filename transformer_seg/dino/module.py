"""The LightningModule of DINO: a student that matches, across crops, a teacher that is its own running average.

The step itself is `distillation_iteration`, in the order of the published loop; here stand what surrounds it: rates by
iteration, the centre's average over processes, what is logged, checkpoints and pictures (Caron et al., ICCV 2021).

Symbols: B images, V crops, K dimensions of the output, A heads, h w token grid.
"""

import copy
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from torch import Tensor, distributed

from common.metrics.means import NamedMeans
from common.sampling import generator
from common.training import log_epoch, to_plain
from common.visualize import image_grid
from transformer_seg.dino.arch import Architecture, width_of
from transformer_seg.dino.attention_pictures import enlarged, shown
from transformer_seg.dino.distillation import Rates, Settings, distillation_iteration
from transformer_seg.dino.drop_path import keyed_draws, replace_drop_path
from transformer_seg.dino.losses import GLOBAL_CROPS, distillation_loss, entropy, teacher_probabilities
from transformer_seg.dino.model import DinoHead, DinoNetwork
from transformer_seg.dino.optimisation import Lars, parameter_groups
from transformer_seg.dino.options import DinoOptions, warmup_epochs
from transformer_seg.dino.pictures import colour_map
from transformer_seg.dino.schedules import cosine_table, teacher_temperatures

REFERENCE_BATCH = 256  # that the learning rate is given for
SHOWN = 4  # images in a sample picture


class Distillation(pl.LightningModule):
    """DINO training.

    Args:
        options: Network, loss and schedules; all of it is stored in the checkpoint as plain values.
        image_size: Side in pixels of the large crops.
        batch_size: Images per step over all processes.
        seed: Seed of the stochastic depth.
    """

    compiled_networks = ("student.backbone", "teacher.backbone")

    center: Tensor

    def __init__(self, options: DinoOptions, image_size: int = 224, batch_size: int = 64, seed: int = 0) -> None:
        super().__init__()
        self.automatic_optimization = False  # the rates, the clipping and the teacher have their places in the step
        self.options, self.batch_size, self.seed = options, batch_size, seed
        self.save_hyperparameters({**to_plain(options), "method": "dino", "image_size": image_size, "seed": seed})
        backbone = Architecture.of(self.hparams).build(options.drop_path_rate)
        head = DinoHead(
            width_of(backbone),
            options.out_dim,
            use_bn=options.use_bn_in_head,
            norm_last_layer=options.norm_last_layer,
            hidden=options.head_hidden,
            bottleneck=options.head_bottleneck,
        )
        self.student = DinoNetwork(backbone, head)
        self.drop_paths = replace_drop_path(self.student)
        self.teacher = copy.deepcopy(self.student).requires_grad_(False)
        self.register_buffer("center", torch.zeros(1, options.out_dim))
        names = ["loss", "divergence", "teacher_entropy", "components"]
        self.train_means = NamedMeans([*names, "lr", "weight_decay", "momentum", "teacher_temp"], persistent=True)
        self.val_means = NamedMeans(names)
        self.tables: dict[str, np.ndarray] = {}
        self._shown: tuple[Tensor, Tensor] | None = None

    def start_teacher(self) -> None:
        """Make the teacher the student's copy, after new weights were put into the student."""
        self.teacher.load_state_dict(self.student.state_dict())

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """The optimiser of the options; its rates are set in every step."""
        groups = parameter_groups(self.student)
        if self.options.optimizer == "adamw":
            return torch.optim.AdamW(groups)
        if self.options.optimizer == "sgd":
            return torch.optim.SGD(groups, lr=0.0, momentum=0.9)
        return Lars(groups)

    def on_train_start(self) -> None:
        """Lay out the schedules, now that the number of iterations is known."""
        options, iterations = self.options, int(self.trainer.num_training_batches)
        scale = self.batch_size / REFERENCE_BATCH
        epochs, warm = options.epochs, warmup_epochs(options)
        self.tables = {
            "lr": cosine_table(options.learning_rate * scale, options.min_lr, epochs, iterations, warmup_epochs=warm),
            "weight_decay": cosine_table(options.weight_decay, options.weight_decay_end, epochs, iterations),
            "momentum": cosine_table(options.momentum_teacher, 1.0, epochs, iterations),
        }
        self._lay_temperatures()

    def on_validation_start(self) -> None:
        """The temperature is needed here too, also where nothing was trained yet."""
        self._lay_temperatures()

    def _lay_temperatures(self) -> None:
        options = self.options
        self.tables["teacher_temp"] = teacher_temperatures(
            options.warmup_teacher_temp, options.teacher_temp, options.warmup_teacher_temp_epochs, options.epochs
        )

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> dict[str, Tensor]:
        """One iteration; the weights are other ones afterwards."""
        values = {name: float(self.tables[name][self.global_step]) for name in ("lr", "weight_decay", "momentum")}
        values["teacher_temp"] = self._temperature()
        rates = Rates(values["lr"], values["weight_decay"], values["momentum"], values["teacher_temp"])
        options, crops = self.options, batch["crops"]
        draw = generator(self.seed, "drop path", self.global_step)
        with keyed_draws(self.drop_paths, draw, len(crops[0]), self.global_rank, self.trainer.world_size):
            outcome = distillation_iteration(
                self.student,
                self.teacher,
                self.optimizers(),  # type: ignore[arg-type]  # Lightning's wrapper counts the steps
                crops,
                self.center,
                rates,
                Settings(options.clip_grad, options.student_temp, options.center_momentum),
                freeze_last_layer=self.current_epoch < options.freeze_last_layer,
                backward=self.manual_backward,
                mean_over_processes=mean_over_processes,
            )
        found = self._watched(outcome.loss, outcome.teacher, values["teacher_temp"])
        self.center.copy_(outcome.center)
        found |= {name: torch.tensor(value) for name, value in values.items()}
        self.train_means.update({name: value.expand(len(crops[0])) for name, value in found.items()})
        return {"loss": outcome.loss}

    def validation_step(self, batch: dict[str, Any], batch_idx: int) -> None:
        """Loss of held-out pictures under always the same crops."""
        crops = batch["crops"]
        teacher, temperature = self.teacher(crops[:GLOBAL_CROPS]), self._temperature()
        loss = distillation_loss(
            self.student(crops),
            teacher,
            self.center,
            teacher_temperature=temperature,
            student_temperature=self.options.student_temp,
        )
        found = self._watched(loss, teacher, temperature)
        self.val_means.update({name: value.expand(len(crops[0])) for name, value in found.items()}, batch["weight"])
        if self._shown is None:
            self._shown = (batch["image"][:SHOWN], self.teacher.backbone.class_attention(batch["image"][:SHOWN]))

    def _watched(self, loss: Tensor, teacher: Tensor, temperature: float) -> dict[str, Tensor]:
        """The loss, and what tells a collapse; scalars."""
        targets = teacher_probabilities(teacher, self.center, temperature)
        spread = entropy(targets)
        used = entropy(mean_over_processes(targets.mean(dim=0))).exp()
        return {"loss": loss.float(), "divergence": loss - spread, "teacher_entropy": spread, "components": used}

    def _temperature(self) -> float:
        table = self.tables["teacher_temp"]
        return float(table[min(self.current_epoch, len(table) - 1)])

    def on_train_epoch_end(self) -> None:
        """Log the epoch's training means."""
        self._log_means("train", self.train_means)

    def on_validation_epoch_start(self) -> None:
        """Show pictures of this validation."""
        self._shown = None

    def on_validation_epoch_end(self) -> None:
        """Log the validation means."""
        self._log_means("val", self.val_means)

    def _log_means(self, step: str, means: NamedMeans) -> None:
        if not self.trainer.sanity_checking:
            named = {f"{step}/{name}": value.float() for name, value in means.compute().items()}
            log_epoch(self, named, shown=(f"{step}/loss",))
        means.reset()

    def sample_pictures(self) -> dict[str, np.ndarray]:
        """Pictures with the teacher's attention: mean over heads, then every head, for ``samples/``."""
        if self._shown is None:
            return {}
        images, attention = (part.float().cpu() for part in self._shown)
        cells, captions, patch = [], [], self.teacher.backbone.patch_size
        for image, heads in zip(images, attention, strict=True):
            maps = torch.cat([heads.mean(dim=0, keepdim=True), heads])
            cells += [shown(image), *(colour_map(enlarged(one, patch), "viridis") for one in maps)]
            captions += ["input", "mean", *(f"head {head}" for head in range(len(heads)))]
        return {"attention": image_grid(cells, columns=len(cells) // len(images), captions=captions)}


def mean_over_processes(mean: Tensor) -> Tensor:
    """The average of a tensor over all processes."""
    if distributed.is_available() and distributed.is_initialized():
        mean = mean.clone()
        distributed.all_reduce(mean)
        return mean / distributed.get_world_size()
    return mean
