"""The LightningModule of the foreground stage: slots that explain what the background does not (AST-Seg).

Per update (arXiv 2205.13271): images -> feature maps -> pooled slots -> latents -> rendering over a background; the
loss is the squared L1 error of the reconstruction plus the squared entropy of the layers' weights. Ground truth enters
nothing but the scores.

Backgrounds are the stored ones until ``background_weights_freeze_duration`` in the curriculum, then those of networks
that train along. Every phase is a function of the number of the update, so a run can stop and go on anywhere; dropout
draws from a generator that seed, update and process name.
"""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any, NamedTuple

import numpy as np
import pytorch_lightning as pl
import torch
from torch import Tensor

from ast_seg.frames import VOID
from ast_seg.losses import (
    foreground_hint_loss,
    object_entropy_loss,
    pixel_entropy_loss,
    reconstruction_loss,
    soft_difference,
)
from ast_seg.model.background import BackgroundModel
from ast_seg.model.rendering import Rendering
from ast_seg.networks import build_encoder, build_renderer
from ast_seg.options import LossOptions, ModelOptions
from ast_seg.sample_grid import colour_labels, label_colours
from ast_seg.schedules import entropy_weight, foreground_rate, hint_weight
from ast_seg.scores import ACTIVE_FROM, image_scores
from ast_seg.startup import LEAST_CLEANED_SHARE, component_hint_loss, components
from common.metrics.means import NamedMeans
from common.sampling import generator
from common.training import log_epoch
from common.visualize import image_grid

SHOWN = 6
SCORES = ("mse", "miou", "msc", "msc_fg", "ari", "ari_fg")
OBJECT_ENTROPY = 3e-4


class SlotPrediction(NamedTuple):
    """What the model says of a batch."""

    rendering: Rendering
    latents: Tensor
    """(K, B, L)"""
    centre: Tensor
    """x, y of each slot (K, B, 2) in [-1, 1], the image's edges."""
    scale: Tensor
    """Image side over glimpse side along x and y (K, B, 2)."""


class SlotLearner(pl.LightningModule):
    """Multi-object segmentation without labels.

    Args:
        model: Networks.
        loss: Loss and schedule.
        size: Rows and columns of the images.
        background: The background networks; needed unless backgrounds stay frozen.
    """

    compiled_networks = ("encoder.feature_maps", "encoder.transformer", "renderer", "background")

    start: Tensor

    def __init__(
        self, model: ModelOptions, loss: LossOptions, size: Sequence[int], background: BackgroundModel | None = None
    ) -> None:
        super().__init__()
        self.options, self.loss_options, self.size = model, loss, (int(size[0]), int(size[1]))
        plain = {name: str(value) if name == "background_model" else value for name, value in asdict(model).items()}
        live = {
            "live_complexity": background is not None and background.complexity,
            "live_input_offset": background.input_offset if background is not None else 0.0,
            "live_from_start": background is not None and background.from_start,
        }
        self.save_hyperparameters({**plain, **asdict(loss), "size": list(self.size), **live})
        self.encoder = build_encoder(model, self.size)
        self.renderer = build_renderer(model, self.size, loss.paper_version)
        self.background = background
        self.register_buffer("start", torch.tensor(0))  # first update since the last restart
        names = ["loss", "reconstruction_loss", "entropy_loss", "active_slots"]
        self.train_means = NamedMeans(names, persistent=True)
        self.val_means = NamedMeans([*names, *SCORES])
        self._shown: tuple[Rendering, dict[str, Tensor]] | None = None

    @property
    def update(self) -> int:
        """Index of the update, 0-based, since the last restart."""
        return self.global_step - int(self.start)

    @property
    def background_is_live(self) -> bool:
        """Whether backgrounds come from networks that train along."""
        scenario = self.options.background_model_training_scenario
        if scenario == "curriculum_training":
            return not self.training or self.update >= self.loss_options.background_weights_freeze_duration
        return scenario == "random_initialization"

    def forward(self, images: Tensor, stored: Tensor | None = None) -> SlotPrediction:
        """Segment a batch.

        Args:
            images: (B, 3, H, W) in [0, 1].
            stored: Backgrounds (B, 3, H, W) in [0, 1]; None: the model's own networks draw them.
        """
        latents = self.encoder(images)
        background = self.live_background(images) if stored is None else stored
        return SlotPrediction(self.renderer(latents, background), latents, *self.renderer.place(latents))

    def live_background(self, images: Tensor) -> Tensor:
        """Backgrounds (B, 3, H, W) in [0, 1] by the model's own networks."""
        assert self.background is not None
        return self.background(255 * images)[:, :3] / 255

    def on_train_batch_start(self, batch: dict[str, Any], batch_idx: int) -> None:
        """Draw dropout from what names the update; forget the moments when the background joins (published)."""
        draw = generator(self.loss_options.seed, "dropout", self.global_step, self.global_rank)
        torch.manual_seed(draw.initial_seed())
        curriculum = self.options.background_model_training_scenario == "curriculum_training"
        if curriculum and self.update == self.loss_options.background_weights_freeze_duration:
            for optimizer in self.trainer.optimizers:
                optimizer.state.clear()

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> Tensor:
        """Loss of a batch."""
        images = batch["image"].float() / 255
        logits, pooled = self.encoder.attended(images)
        latents = self.encoder.refined(pooled)
        stored = batch["background"].float() / 255 if "background" in batch else None
        background = self.live_background(images) if self.background_is_live or stored is None else stored
        rendering = self.renderer(latents, background)
        terms = self.losses(rendering, images)
        loss = terms["loss"] + self.aid(rendering, logits, latents, images, background, batch.get("foreground"))
        if self.background is not None and not self.background_is_live and self.trainer.world_size > 1:
            # processes exchange gradients of all parameters, those that wait for their turn included
            loss = loss + 0.0 * sum(parameter.sum() for parameter in self.background.parameters())
        with torch.no_grad():
            active = (rendering.peaks >= ACTIVE_FROM).sum(0)
        count = torch.ones(len(images), device=images.device)
        self.train_means.update({name: value * count for name, value in terms.items()} | {"active_slots": active})
        return loss

    def losses(self, rendering: Rendering, images: Tensor, full: bool = False) -> dict[str, Tensor]:
        """The scalars ``loss``, ``reconstruction_loss`` and ``entropy_loss`` (unweighted).

        Args:
            rendering: The batch.
            images: (B, 3, H, W) in [0, 1].
            full: Weigh the entropies fully, whatever the update.
        """
        options, version1 = self.loss_options, self.loss_options.paper_version == 1
        threshold = 0.0
        if version1:
            threshold = 0.10 if options.real_world_video else 0.02 if options.fixed_background else 0.21
        reconstruction = reconstruction_loss(rendering.reconstruction, images, threshold)
        entropy = pixel_entropy_loss(rendering.entropy)
        full_step = options.pixel_entropy_loss_full_activation_step
        update = full_step if full else self.update
        loss = reconstruction + entropy_weight(update, full_step, options.pixel_entropy_loss_weight) * entropy
        if version1:
            until = 10_000 if options.real_world_video else 5_000
            update = until if full else self.update
            loss = loss + entropy_weight(update, until, OBJECT_ENTROPY) * object_entropy_loss(rendering.weights)
        return {"loss": loss, "reconstruction_loss": reconstruction, "entropy_loss": entropy}

    def aid(
        self,
        rendering: Rendering,
        logits: Tensor,
        latents: Tensor,
        images: Tensor,
        background: Tensor,
        masks: Tensor | None,
    ) -> Tensor:
        """The start-up aid at this update; 0 once it has gone."""
        options = self.loss_options
        weight = hint_weight(self.update, options.startup_steps, options.startup_lambda)
        if options.startup_aid == "none" or weight == 0:
            return images.new_zeros(())
        most, places = self.options.max_set_size, latents[..., :2]
        if options.startup_aid == "mask_hint":
            assert masks is not None
            pieces = components(masks.float() / 255, most, least_share=LEAST_CLEANED_SHARE)
            scales = self.renderer.place(latents)[1]
            return weight * component_hint_loss(rendering.log_weights, logits, places, pieces, scales)
        difference = soft_difference(images, background.detach())
        if options.startup_aid == "foreground_hint":
            return weight * foreground_hint_loss(rendering.log_weights, difference)
        pieces = components(difference, most)
        return weight * component_hint_loss(rendering.log_weights, logits, places, pieces)

    def validation_step(self, batch: dict[str, Any], batch_idx: int) -> None:
        """Loss, and the published scores of each image where there are label maps."""
        images = batch["image"].float() / 255
        stored = batch["background"].float() / 255 if "background" in batch else None
        rendering = self(images, None if self.uses_live() else stored).rendering
        count = torch.ones(len(images), device=images.device)
        values = {name: value * count for name, value in self.losses(rendering, images, full=True).items()}
        values["active_slots"] = (rendering.peaks >= ACTIVE_FROM).sum(0)
        if "target" in batch:
            values |= named_scores(rendering, images, batch["target"])
        self.val_means.update(values, batch["weight"])
        if batch_idx == 0:
            kept: dict[str, Tensor] = {name: batch[name] for name in ("image", "target") if name in batch}
            self._shown = rendering, kept

    def predict_step(self, batch: dict[str, Any], batch_idx: int) -> SlotPrediction:
        """Segmentation of a batch, on its stored backgrounds where it has any."""
        images = batch["image"].float() / 255
        stored = batch["background"].float() / 255 if "background" in batch else None
        prediction: SlotPrediction = self(images, stored)
        return prediction

    def uses_live(self) -> bool:
        """Whether evaluation draws backgrounds by networks; until the curriculum's switch they are those of step 1."""
        return self.options.background_model_training_scenario != "frozen_weights"

    def on_train_epoch_end(self) -> None:
        """Log the training means."""
        self._log_means("train", self.train_means)

    def on_validation_epoch_end(self) -> None:
        """Log the validation means; ``val/loss`` chooses the best checkpoint."""
        self._log_means("val", self.val_means)

    def configure_optimizers(self) -> Any:
        """Adam over renderer, encoder, background generator and encoder, in the published order."""
        options = self.loss_options
        parts = [self.renderer, self.encoder]
        if self.background is not None:
            parts += [self.background.generator, self.background.encoder]
        optimizer = torch.optim.Adam(
            [{"params": list(part.parameters())} for part in parts],
            lr=options.learning_rate,
            betas=(0.9, 0.98),
            eps=1e-9,
            weight_decay=options.object_detection_weight_decay,
            # a tenth of a small model's update on a CPU goes into calls for single tensors; with mixed precision,
            # Lightning clips no gradients of a fused optimiser
            fused=self.device.type == "cpu" and self.trainer.precision == "32-true",
        )
        steps, warmup = options.number_of_training_steps, options.warmup
        schedule = torch.optim.lr_scheduler.LambdaLR(
            optimizer, lambda update: foreground_rate(update - int(self.start), steps, 1.0, warmup)
        )
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def sample_pictures(self) -> dict[str, np.ndarray]:
        """Rows of the last validation: input, background, error, reconstruction, masks, truth, the slots' layers."""
        if self._shown is None:
            return {}
        rendering, batch = self._shown
        images = batch["image"][:SHOWN].float() / 255
        count = len(images)
        colours = label_colours(self.options.max_set_size)
        reconstruction = rendering.reconstruction[:count].clamp(0, 1).to(images)
        rows = [
            images,
            rendering.background[:count],
            (images - reconstruction).abs().sum(1, keepdim=True).expand_as(images),
        ]
        rows += [reconstruction, colour_labels(rendering.labels[:count].cpu(), colours)]
        if "target" in batch:
            target = batch["target"][:SHOWN].cpu().long()
            rows.append(colour_labels(torch.where(target == VOID, 0, target), colours))
        rows += list(rendering.layers()[1:, :count])
        pictures = [_bytes(picture) for row in rows for picture in row]
        return {"slots": image_grid(pictures, columns=count)}

    def _log_means(self, step: str, means: NamedMeans) -> None:
        if not self.trainer.sanity_checking:
            named = {f"{step}/{name}": value.float() for name, value in means.compute().items()}
            log_epoch(self, named, shown=(f"{step}/loss", "val/msc_fg", "val/active_slots"))
        means.reset()


def named_scores(rendering: Rendering, images: Tensor, targets: Tensor) -> dict[str, Tensor]:
    """The published scores per image (B,); NaN where an image has no label map, or no object for ``*_fg``."""
    found = image_scores(images, rendering.reconstruction, rendering.weights, targets.long())
    known = (targets != VOID).flatten(1).any(1).cpu()
    has_objects = torch.from_numpy(found.has_foreground)
    values = {}
    for name in SCORES:
        counted = known & has_objects if name.endswith("_fg") else known
        counted = torch.ones_like(known) if name == "mse" else counted
        values[name] = torch.where(counted, torch.from_numpy(np.asarray(getattr(found, name))), torch.nan)
    return {name: value.to(images.device) for name, value in values.items()}


def _bytes(picture: Tensor) -> np.ndarray:
    return (255 * picture.detach().float().cpu().clamp(0, 1)).round().to(torch.uint8).permute(1, 2, 0).numpy()
