"""The LightningModule of the background stage (AE-NE): an auto-encoder trained with a robust loss on the raw frames.

Source: arXiv 2112.08001. Ground truth enters nothing but the scores.
"""

from collections.abc import Sequence
from dataclasses import asdict, fields
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from torch import Tensor

from ast_seg.background_masks import foreground_masks
from ast_seg.frames import VOID
from ast_seg.losses import background_loss
from ast_seg.median_start import median_start
from ast_seg.model.background import BackgroundModel
from ast_seg.options import BackgroundOptions
from ast_seg.schedules import background_rate, ramp
from common.metrics.means import NamedMeans
from common.training import log_epoch
from common.visualize import colourise_labels, image_grid

SHOWN = 6


class BackgroundLearner(pl.LightningModule):
    """Learns the background of a set of frames.

    Args:
        options: Model, loss and schedule; stored in the checkpoint as plain values.
        size: Rows and columns of the frames.
        num_updates: Updates of the whole training, which set the learning rate.
    """

    def __init__(self, options: BackgroundOptions, size: Sequence[int], num_updates: int) -> None:
        super().__init__()
        self.options, self.num_updates = options, num_updates
        self.save_hyperparameters({**asdict(options), "size": list(size), "num_updates": num_updates})
        self.model = BackgroundModel(
            height=size[0],
            width=size[1],
            complexity=options.background_complexity,
            input_offset=options.input_offset,
            from_start=options.background_start == "median",
        )
        names = ["loss"]
        self.train_means = NamedMeans(names, persistent=True)
        self.val_means = NamedMeans([*names, "masked_error", "mask_error", "foreground_share", "f_measure"])
        self._shown: dict[str, Tensor] = {}

    def forward(self, images: Tensor) -> Tensor:
        """Background and predicted error (B, 4, H, W) of images (B, 3, H, W), both in 0..255."""
        return self.model(images)

    def setup(self, stage: str) -> None:
        """Start at the median image, where that is asked for; what is resumed or given comes with its own."""
        start = self.model.generator.start
        if stage == "fit" and start is not None and not start.any():
            frames = self.trainer.datamodule.frames["train"]  # type: ignore[attr-defined]
            self.model.generator.start_at(median_start(frames.stack("image")))

    def beta(self) -> float:
        """How robust the loss is at this update."""
        return self.options.beta * ramp(self.global_step, self.options.beta_warmup)

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> Tensor:
        """Loss of a batch."""
        images = batch["image"].float()
        options = self.options
        loss = background_loss(self(images), images, beta=self.beta(), r=options.r, tau_1=options.tau_1)
        self.train_means.update({"loss": loss.expand(len(images))})
        return loss

    def validation_step(self, batch: dict[str, Any], batch_idx: int) -> None:
        """Loss, and how the masks agree with the label maps where there are any."""
        images, options = batch["image"].float(), self.options
        prediction = self(images)
        losses = [
            background_loss(one[None], image[None], beta=options.beta, r=options.r, tau_1=options.tau_1)
            for one, image in zip(prediction, images, strict=True)
        ]
        found = foreground_masks(images, prediction, alpha_1=options.alpha_1, alpha_2=options.alpha_2)
        masks = torch.from_numpy(found.masks).to(images.device) > 0
        values = {"loss": torch.stack(losses), "foreground_share": masks.float().mean((1, 2))}
        if "target" in batch:
            values |= scores(images, prediction, masks, batch["target"])
        self.val_means.update(values, batch["weight"])
        if batch_idx == 0:
            self._shown = {"image": images, "prediction": prediction, "masks": masks, **_targets(batch)}

    def predict_step(self, batch: dict[str, Any], batch_idx: int) -> Tensor:
        """Background and predicted error of a batch."""
        return self(batch["image"].float())

    def on_train_epoch_end(self) -> None:
        """Log the training loss."""
        self._log_means("train", self.train_means)

    def on_validation_epoch_end(self) -> None:
        """Log the validation means; ``val/loss`` chooses the best checkpoint."""
        self._log_means("val", self.val_means)

    def configure_optimizers(self) -> Any:
        """AdamW, a tenth of the rate in the last fifth."""
        options = self.options
        optimizer = torch.optim.AdamW(
            self.parameters(), lr=options.learning_rate, betas=(0.9, 0.999), eps=1e-8, weight_decay=options.weight_decay
        )
        schedule = torch.optim.lr_scheduler.LambdaLR(
            optimizer, lambda update: background_rate(update, self.num_updates, 1.0)
        )
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def sample_pictures(self) -> dict[str, np.ndarray]:
        """Input, background, predicted error, mask and true labels of the last validation."""
        if not self._shown:
            return {}
        shown = {name: tensor[:SHOWN].float().cpu() for name, tensor in self._shown.items()}
        pictures = [
            *_rgb(shown["image"]),
            *_rgb(shown["prediction"][:, :3]),
            *_grey(shown["prediction"][:, 3]),
            *_grey(255 * shown["masks"]),
        ]
        if "target" in shown:
            pictures += [colourise_labels(labels) for labels in shown["target"].numpy().astype(np.int64)]
        return {"background": image_grid(pictures, columns=len(shown["image"]))}

    def _log_means(self, step: str, means: NamedMeans) -> None:
        if not self.trainer.sanity_checking:
            named = {f"{step}/{name}": value.float() for name, value in means.compute().items()}
            log_epoch(self, named, shown=(f"{step}/loss", "val/f_measure"))
        means.reset()


def scores(images: Tensor, prediction: Tensor, masks: Tensor, targets: Tensor) -> dict[str, Tensor]:
    """Per image (B,): the original's two errors, and the F-measure of the mask; NaN where there is no label map.

    Args:
        images: (B, 3, H, W) in 0..255.
        prediction: (B, 4, H, W) in 0..255.
        masks: bool (B, H, W).
        targets: Labels (B, H, W), 0 background, 255 void.
    """
    valid, true = targets != VOID, (targets > 0) & (targets != VOID)
    known = valid.flatten(1).any(1)
    squared = ((images - prediction[:, :3]) / 255).square().mean(1)
    counts = [(part & valid).flatten(1).sum(1).double() for part in (masks & true, masks, true)]
    f_measure = torch.where(counts[1] + counts[2] > 0, 2 * counts[0] / (counts[1] + counts[2]), 1.0)
    found = {
        "masked_error": (squared * (targets == 0)).mean((1, 2)).double(),
        "mask_error": ((masks != true) & valid).double().mean((1, 2)),
        "f_measure": f_measure,
    }
    return {name: torch.where(known, value, torch.nan) for name, value in found.items()}


def background_options(values: dict[str, Any]) -> BackgroundOptions:
    """The options among a checkpoint's hyper-parameters."""
    return BackgroundOptions(
        **{item.name: values[item.name] for item in fields(BackgroundOptions) if item.name in values}
    )


def _targets(batch: dict[str, Any]) -> dict[str, Tensor]:
    return {"target": batch["target"]} if "target" in batch else {}


def _rgb(images: Tensor) -> list[np.ndarray]:
    return list(images.round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1).numpy())


def _grey(images: Tensor) -> list[np.ndarray]:
    return list(images.round().clamp(0, 255).to(torch.uint8).numpy())
