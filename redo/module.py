"""The LightningModule of ReDO: cut, redraw, judge, with one Adam per network and steps taken by hand.

An iteration is that of `redo.iteration`. Lightning's ``global_step`` would count every optimiser's step; here it counts
iterations, so that logs, checkpoints and ``--save_every`` speak of the same thing as the options.

Ground truth enters nothing but the scores. The criterion ``val/loss`` that chooses a checkpoint without it is the worst
region's error of noise recovery: a region that is empty, or that could be painted over unseen, keeps its noise to
itself.

Every random draw is named by (seed, iteration, sample): a resumed run and a run on several processes draw the same
numbers as one that was never interrupted.
"""

from collections import deque
from typing import Any, get_args

import numpy as np
import pytorch_lightning as pl
import torch
from numpy.typing import NDArray
from torch import Tensor

from common.errors import RunFailed
from common.metrics.means import NamedMeans
from common.sampling import generator
from common.training import log_epoch, to_plain
from redo.evaluation import hard_regions, mean_scores, object_region, region_tables
from redo.initialisation import initialise
from redo.iteration import DiscriminatorTurn, Optimisers, PlayerTurn, make_optimisers, training_iteration
from redo.losses import redrawn
from redo.model import Networks
from redo.options import Matching, ModelOptions
from redo.preparation import network_images
from redo.sheet import draw_sheet
from redo.square_cache import NO_OBJECT_KNOWN

RUNNING = 200  # iterations that the running region sizes are a mean of, as long as the published advice looks back
EVALUATIONS = ("val", "train")  # what the loaders of a validation hold


class Redrawer(pl.LightningModule):
    """Unsupervised object segmentation by redrawing.

    Args:
        options: Networks, losses, optimisers; stored in the checkpoint as plain values.
        seed: Of initial weights and noise; an attempt after a collapse has one of its own.
        attempt: Number of restarts before this one.
        num_shown: Images on the sheet.
    """

    compiled_networks = ("networks.mask", "networks.generators", "networks.discriminator", "networks.noise")

    def __init__(self, options: ModelOptions, seed: int = 123, attempt: int = 0, num_shown: int = 5) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.options, self.seed, self.attempt, self.num_shown = options, seed, attempt, num_shown
        self.save_hyperparameters({**to_plain(options), "seed": seed, "attempt": attempt})
        self.networks = Networks(options.sizes(), recover_noise=options.wrecZ > 0)
        initialise(self.networks, options.initOrthoGain, options.init_sn, generator(seed, "init"))
        self.iteration = 0
        self.object_region: int | None = None  # of the validation data, for predictions
        self.recent: deque[list[float]] = deque(maxlen=RUNNING)  # mean mask of each region, one entry per iteration
        names = ["loss", "adversarial_loss", "noise_error", "discriminator_loss", "real_score", "fake_score"]
        self.train_means = NamedMeans(names, persistent=True)
        regions = range(options.nMasks)
        sizes = [f"region_size_{k}" for k in regions]
        self.val_means = NamedMeans([*sizes, *(f"noise_error_{k}" for k in regions), "uncertainty"])
        self.region_sizes: dict[str, list[float]] = {}  # of the latest evaluation, by what was evaluated
        self.worst_noise_error: float | None = None  # likewise; None without Z
        self._tables: dict[str, list[tuple[Tensor, Tensor]]] = {}
        self._last_batch: dict[str, Tensor] = {}
        self._shown: dict[str, Tensor] | None = None

    def forward(self, images: Tensor) -> Tensor:
        """Masks (B, n, S, S), float32, of images (B, nx, S, S) in [-1, 1]."""
        return self.networks.mask(images)

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> dict[str, Tensor]:
        """One iteration: M, X and Z against D, then D against M and X."""
        options = self.options
        images, real = network_images(batch["image"]), network_images(batch["real"])
        due = {"players": options.gStepFreq, "discriminator": options.dStepFreq}
        turns = [name for name, frequency in due.items() if self.iteration % frequency == 0]
        names = iter(turns)
        played, judged = training_iteration(
            self.networks,
            self._stepping_optimisers(turns[-1] if turns else "players"),
            images,
            real,
            self._noise(len(images)),
            iteration=self.iteration,
            wrecZ=options.wrecZ,
            gStepFreq=options.gStepFreq,
            dStepFreq=options.dStepFreq,
            backward=lambda loss: self._checked_backward(loss, next(names)),
        )
        self.iteration += 1
        if played is not None:
            sizes = self.all_gather(played.masks.mean(dim=(0, 2, 3)))
            assert isinstance(sizes, Tensor)
            self.recent.append(sizes.view(-1, options.nMasks).mean(dim=0).tolist())
        return {"loss": self._note(played, judged, len(images))}

    def _stepping_optimisers(self, last: str) -> Optimisers:
        """The optimisers, of which the last one to step moves ``global_step`` on."""
        adams = self.optimizers()
        assert isinstance(adams, list)
        players = [0, 1, 3][: len(adams) - 1]
        counted = 2 if last == "discriminator" else players[-1]
        steps: list[Any] = [_Step(self, adam, counts=position == counted) for position, adam in enumerate(adams)]
        return Optimisers(steps[0], steps[1], steps[2], noise=steps[3] if len(steps) > 3 else None)

    def _noise(self, count: int) -> Tensor:
        """This process's share of the iteration's noise, (count, n, nz, 1, 1)."""
        world = self.trainer.world_size
        shape = (count * world, self.options.nMasks, self.options.nz, 1, 1)
        noise = torch.randn(shape, generator=generator(self.seed, "noise", self.iteration))
        return noise[self.trainer.global_rank :: world].to(self.device)

    def _checked_backward(self, loss: Tensor, turn: str) -> None:
        """Differentiate, but never a loss that is no number: nothing may step on it."""
        if not torch.isfinite(loss):
            whose = "discriminator" if turn == "discriminator" else "mask network, generators and noise encoder"
            raise RunFailed(
                f"iteration {self.iteration}: the loss of {whose} is {loss.item()}; lower the learning rates, or look"
                " at the images. checkpoints/ holds the state before it"
            )
        self.manual_backward(loss)

    def _note(self, played: PlayerTurn | None, judged: DiscriminatorTurn | None, count: int) -> Tensor:
        """Add the iteration to the epoch's means; gives the sum of its losses."""
        total, values = torch.zeros((), device=self.device), {}
        if played is not None:
            values = {"loss": played.loss.detach(), "adversarial_loss": played.adversarial}
            if played.noise_error is not None:
                values["noise_error"] = played.noise_error
            total = total + played.loss.detach()
        if judged is not None:
            values["discriminator_loss"] = judged.loss.detach()
            values["real_score"] = judged.real_scores.float().mean()
            values["fake_score"] = judged.fake_scores.float().mean()
            total = total + judged.loss.detach()
        self.train_means.update({name: value.expand(count) for name, value in values.items()})
        return total

    def on_train_epoch_end(self) -> None:
        """Log the means of the iterations since the last evaluation."""
        values = {f"train/{name}": value.float() for name, value in self.train_means.compute().items()}
        values["train/smallest_region"] = torch.tensor(self.running_smallest_region())
        values["train/iteration"] = torch.tensor(float(self.iteration))
        values["train/attempt"] = torch.tensor(float(self.attempt))
        log_epoch(self, values, shown=("train/noise_error",))
        self.train_means.reset()

    def running_smallest_region(self) -> float:
        """Mean share of the smallest region over the latest iterations; NaN before the first."""
        return float(np.mean(self.recent, axis=0).min()) if self.recent else float("nan")

    def validation_step(self, batch: dict[str, Any], batch_idx: int, dataloader_idx: int = 0) -> None:
        """Regions of a batch against its objects, and what Z says of their redrawing."""
        step = EVALUATIONS[dataloader_idx]
        images = network_images(batch["image"])
        masks = self(images)
        self._count(step, masks, batch)
        if step != "val":
            return
        n = self.options.nMasks
        values = {f"region_size_{k}": masks[:, k].mean(dim=(1, 2)) for k in range(n)}
        values["uncertainty"] = 1 - masks.amax(dim=1).mean(dim=(1, 2))
        noise = self._named_noise("val", batch["index"])
        drawings = self.networks.generators(masks, noise)
        if self.networks.noise is not None:
            errors = (self.networks.noise(redrawn(drawings)) - noise).square().mean(dim=(2, 3, 4))  # (B,n)
            values |= {f"noise_error_{k}": errors[:, k] for k in range(n)}
        self.val_means.update(values, batch["weight"])
        if batch_idx == 0:
            self._shown = {key: batch[key][: self.num_shown] for key in ("image", "object", "index")}

    def _count(self, step: str, masks: Tensor, batch: dict[str, Any]) -> None:
        """Keep the pixel counts of annotated images and the region sizes of the batch."""
        counted = batch["weight"] > 0
        known = counted & (batch["object"] != NO_OBJECT_KNOWN).flatten(1).all(dim=1)
        tables = region_tables(hard_regions(masks), batch["object"] == 1, self.options.nMasks)
        table = torch.from_numpy(tables).to(self.device)
        self._tables.setdefault(step, []).append((table, known))
        self._last_batch[step] = masks[counted].mean(dim=(0, 2, 3)) if counted.any() else masks.mean(dim=(0, 2, 3))

    def _named_noise(self, name: str, index: Tensor) -> Tensor:
        """The same noise for the same image, whatever its batch (B, n, nz, 1, 1)."""
        shape = (self.options.nMasks, self.options.nz, 1, 1)
        drawn = [torch.randn(shape, generator=generator(self.seed, name, int(i))) for i in index]
        return torch.stack(drawn).to(self.device)

    def on_validation_epoch_end(self) -> None:
        """Log scores and the criterion."""
        if self.trainer.sanity_checking:
            self._forget()
            return
        n = self.options.nMasks
        means = {name: float(value) for name, value in self.val_means.compute().items()}
        sizes = [means[f"region_size_{k}"] for k in range(n)]
        last = self.all_gather(self._last_batch["val"])
        assert isinstance(last, Tensor)
        self.region_sizes = {"all": sizes, "last_batch": last.view(-1, n).mean(dim=0).tolist()}
        errors = [means.pop(f"noise_error_{k}", float("nan")) for k in range(n)]
        values = {"smallest_region": min(sizes), "uncertainty": means["uncertainty"]}
        if self.networks.noise is not None:
            self.worst_noise_error = max(errors)
            values |= {"noise_error": float(np.mean(errors)), "worst_noise_error": max(errors), "loss": max(errors)}
        else:
            values["loss"] = 1 - n * min(sizes)  # without Z: how far the regions are from equal sizes
        logged = {f"val/{name}": value for name, value in values.items()}
        for step in self._tables:
            logged |= self._scores(step)
        log_epoch(self, {k: torch.tensor(v) for k, v in logged.items()}, shown=("val/loss", "val/iou_per_image"))
        self._forget()

    def _scores(self, step: str) -> dict[str, float]:
        """Scores under both protocols; none without ground truth."""
        tables = self._gathered(step)
        if not len(tables):
            return {}
        if step == "val":
            self.object_region = object_region(tables)
        found: dict[str, float] = {}
        for matching in get_args(Matching):
            accuracy, iou = mean_scores(tables, matching)
            found |= {f"{step}/accuracy_{matching}": accuracy, f"{step}/iou_{matching}": iou}
        return found

    def _gathered(self, step: str) -> NDArray[np.int64]:
        """The tables of all annotated images of all processes, (N, n, 2)."""
        tables = torch.cat([table for table, _ in self._tables[step]])
        known = torch.cat([known for _, known in self._tables[step]])
        if self.trainer.world_size > 1:
            tables, known = (self._of_all_processes(part) for part in (tables, known))
        return tables[known].cpu().numpy()

    def _of_all_processes(self, values: Tensor) -> Tensor:
        gathered = self.all_gather(values)
        assert isinstance(gathered, Tensor)
        return gathered.flatten(0, 1)

    def _forget(self) -> None:
        self.val_means.reset()
        self._tables, self._last_batch = {}, {}

    def predict_step(self, batch: dict[str, Any], batch_idx: int) -> Tensor:
        """Masks (B, n, S, S) of a batch."""
        return self(network_images(batch["image"]))

    def configure_optimizers(self) -> list[torch.optim.Optimizer]:
        """Adam without momentum for M, X, D and, if it is there, Z."""
        options = self.options
        adams = make_optimisers(
            self.networks,
            lrM=options.lrM,
            lrG=options.lrG,
            lrD=options.lrD,
            lrZ=options.lrZ,
            wdecay=options.wdecay,
        )
        return [a for a in (adams.mask, adams.generators, adams.discriminator, adams.noise) if a is not None]

    def raw_optimisers(self) -> Optimisers:
        """The optimisers as PyTorch knows them."""
        adams = list(self.trainer.optimizers)
        return Optimisers(adams[0], adams[1], adams[2], noise=adams[3] if len(adams) > 3 else None)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep what no weight holds."""
        checkpoint["redo"] = {
            "iteration": self.iteration,
            "recent": [list(sizes) for sizes in self.recent],
            "object_region": self.object_region,
        }

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Take it up again."""
        kept = checkpoint["redo"]
        self.iteration, self.object_region = kept["iteration"], kept["object_region"]
        self.recent.extend(kept["recent"])

    def sample_pictures(self) -> dict[str, NDArray[np.uint8]]:
        """The sheet of the first validation images: masks, and each region redrawn."""
        if self._shown is None:
            return {}
        images = network_images(self._shown["image"])
        objects = (self._shown["object"] == 1)[:, None].float()
        noise = self._named_noise("sheet", self._shown["index"])
        shared = self._named_noise("shared", torch.arange(len(images)))
        return {"redrawn": draw_sheet(self.networks, images, objects, noise, shared)}


class _Step:
    """An optimiser's step that does or does not count as a step of the Trainer."""

    def __init__(self, module: Redrawer, optimiser: Any, counts: bool) -> None:
        self.module, self.optimiser, self.counts = module, optimiser, counts

    def step(self) -> None:
        if self.counts:
            self.optimiser.step()
        else:
            self.module.trainer.strategy.optimizer_step(self.optimiser.optimizer, _nothing)


def _nothing() -> None:
    """The closure of a step whose gradients stand already."""
