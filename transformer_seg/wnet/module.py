"""The LightningModule of WNet: a step on the cut, then a step on the reconstruction (algorithm 1 of the paper).

Ground truth enters nothing but the validation score. An iteration counts as one step of the Trainer, whatever the
number of optimiser steps in it.
"""

import math
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from pytorch_lightning.core.optimizer import LightningOptimizer
from torch import Tensor, nn
from torch.nn import functional as F

from common.errors import InputError
from common.metrics.confusion import class_iou, contingency
from common.metrics.hungarian import match_one_to_one, relabel
from common.metrics.means import NamedMeans
from common.training import log_epoch, to_plain
from common.visualize import colourise_labels, image_grid
from transformer_seg.images import VOID
from transformer_seg.wnet.lite import LiteWNet
from transformer_seg.wnet.lite_losses import joint_loss
from transformer_seg.wnet.losses import NcutKernel, soft_ncut
from transformer_seg.wnet.model import WNet
from transformer_seg.wnet.options import WnetOptions
from transformer_seg.wnet.shared_norm import share_statistics


class WnetModule(pl.LightningModule):
    """Unsupervised segmentation by an autoencoder with a normalised cut.

    Args:
        options: Network, losses and optimiser; all of it is stored in the checkpoint as plain values.
        image_size: Side in pixels of the training pictures.
        network: A network that stands already; None makes one from the options.
    """

    def __init__(self, options: WnetOptions, image_size: int = 224, network: WNet | LiteWNet | None = None) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.options = options
        self.save_hyperparameters({**to_plain(options), "image_size": image_size, "system": "wnet"})
        self.model = network or make_network(options)
        kernel = options.kernel
        self.kernel = NcutKernel(kernel.radius, kernel.sigma_intensity, kernel.sigma_space)
        names = ["loss", "ncut", "reconstruction", "segments", "miou"]
        self.train_means = NamedMeans(names[:4], persistent=True)
        self.val_means = NamedMeans(names)
        self._shown: tuple[Tensor, ...] | None = None

    def forward(self, image: Tensor) -> Tensor:
        """Probabilities (B, K, H, W) of the segments, float32, of images (B, 3, H, W) in [0, 1]."""
        return self.model.segment(image).float().softmax(dim=1)

    def setup(self, stage: str) -> None:
        """Several processes share the statistics of their batches."""
        if stage == "fit" and self.trainer.world_size > 1:
            share_statistics(self.model)
        if stage == "fit" and self.trainer.precision == "16-mixed":
            raise InputError("--precision 16-mixed: WNet's two steps share one gradient scale badly; use bf16-mixed")

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> dict[str, Tensor]:
        """One iteration."""
        optimiser = self.optimizers()
        assert isinstance(optimiser, LightningOptimizer)
        for group in optimiser.param_groups:
            group["lr"] = self.rate(self.global_step)
        image = batch["image"]
        if self.options.joint or self.options.ncut == "class_mean":
            values = self._joint_step(optimiser, image)
        else:
            values = self._alternating_steps(optimiser, image)
        self.train_means.update(values, batch["weight"])
        return {"loss": values["loss"].mean()}

    def _alternating_steps(self, optimiser: LightningOptimizer, image: Tensor) -> dict[str, Tensor]:
        """Step on the cut, which moves the encoder alone, then on the reconstruction of a fresh forward pass."""
        optimiser.zero_grad(set_to_none=True)
        probabilities = self(image)
        ncut = soft_ncut(image, probabilities, self.kernel)  # (B,)
        loss = ncut.mean()
        decoder = list(decoder_of(self.model).parameters())
        if self.trainer.world_size > 1:  # every parameter must take part, or the processes wait for each other
            loss = loss + 0 * sum(parameter.sum() for parameter in decoder)
        self.manual_backward(loss)
        for parameter in decoder:
            parameter.grad = None  # with zeros, momentum would move it
        optimiser.optimizer.step()  # not counted: the iteration's second step is

        optimiser.zero_grad(set_to_none=True)
        _, reconstruction = self.model(image)
        error = F.mse_loss(reconstruction.float(), image, reduction="none").mean(dim=(1, 2, 3))
        self.manual_backward(error.mean())
        optimiser.step()
        return self._values(ncut, error, probabilities, ncut + error)

    def _joint_step(self, optimiser: LightningOptimizer, image: Tensor) -> dict[str, Tensor]:
        optimiser.zero_grad(set_to_none=True)
        logits, reconstruction = self.model(image)
        loss, values = self._joint(image, logits.float(), reconstruction.float())
        self.manual_backward(loss)
        optimiser.step()
        return values

    def _joint(self, image: Tensor, logits: Tensor, reconstruction: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        probabilities = logits.softmax(dim=1)
        error = F.mse_loss(reconstruction, image, reduction="none").mean(dim=(1, 2, 3))
        if self.options.ncut == "class_mean":  # its ratios are of sums over the batch
            loss = joint_loss(image, logits, reconstruction)
            with torch.no_grad():
                ncut = soft_ncut(image, probabilities, self.kernel)
            return loss, self._values(ncut, error, probabilities, loss.detach().expand(len(image)))
        ncut = soft_ncut(image, probabilities, self.kernel)
        total = self.options.ncut_weight * ncut + error
        return total.mean(), self._values(ncut, error, probabilities, total)

    def _values(self, ncut: Tensor, error: Tensor, probabilities: Tensor, loss: Tensor) -> dict[str, Tensor]:
        """What is logged, per picture (B,)."""
        used = F.one_hot(probabilities.argmax(dim=1), probabilities.shape[1]).flatten(1, 2).any(dim=1).sum(dim=1)
        values = {"loss": loss, "ncut": ncut, "reconstruction": error, "segments": used.double()}
        return {name: value.detach() for name, value in values.items()}

    def validation_step(self, batch: dict[str, Any], batch_idx: int) -> None:
        """Losses and matched mIoU of a validation batch."""
        image = batch["image"]
        logits, reconstruction = self.model(image)
        if self.options.joint or self.options.ncut == "class_mean":
            values = self._joint(image, logits.float(), reconstruction.float())[1]
        else:
            probabilities = logits.float().softmax(dim=1)
            error = F.mse_loss(reconstruction.float(), image, reduction="none").mean(dim=(1, 2, 3))
            ncut = soft_ncut(image, probabilities, self.kernel)
            values = self._values(ncut, error, probabilities, ncut + error)
        labels = logits.argmax(dim=1)
        self.val_means.update({**values, "miou": matched_scores(labels, batch["label"])}, batch["weight"])
        self._shown = (image, labels, reconstruction, batch["label"])

    def predict_step(self, batch: dict[str, Any], batch_idx: int) -> list[Tensor]:
        """Probabilities (K, H, W) of each picture, at the size of the picture itself."""
        found = []
        for image, picture in zip(batch["image"], batch["picture"], strict=True):
            proba = self(image[None])
            size = picture.shape[:2]
            if proba.shape[-2:] != size:
                proba = F.interpolate(proba, size=size, mode="bilinear", align_corners=False)
            found.append(proba[0].float())
        return found

    def on_train_epoch_end(self) -> None:
        """Log the epoch's training means."""
        self._log_means("train", self.train_means)

    def on_validation_epoch_end(self) -> None:
        """Log the validation means; ``val/loss`` chooses the best checkpoint."""
        self._log_means("val", self.val_means)

    def _log_means(self, step: str, means: NamedMeans) -> None:
        if self.trainer.sanity_checking:
            means.reset()
            return
        named = {f"{step}/{name}": value.float() for name, value in means.compute().items()}
        if step == "train":
            named["train/learning_rate"] = torch.tensor(self.rate(max(self.global_step - 1, 0)))
        log_epoch(self, named, shown=(f"{step}/ncut", f"{step}/reconstruction", f"{step}/miou"))
        means.reset()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """The optimiser of the options; its rate is set at every iteration."""
        options = self.options
        if options.optim == "Adam":
            return torch.optim.Adam(self.parameters(), lr=options.learning_rate, weight_decay=options.weight_decay)
        return torch.optim.SGD(
            self.parameters(),
            lr=options.learning_rate,
            momentum=options.momentum,
            weight_decay=options.weight_decay,
        )

    def rate(self, iteration: int) -> float:
        """Learning rate of an iteration, counted from 0."""
        options = self.options
        if options.schedule == "steps":
            return options.learning_rate * 0.1 ** (iteration // options.decay_every)
        if options.schedule == "constant":
            return options.learning_rate
        last = self._last_iteration()
        return options.learning_rate * 0.5 * (1 + math.cos(math.pi * min(iteration / last, 1.0)))

    def _last_iteration(self) -> int:
        if self.options.schedule_epochs is not None:
            assert self.trainer.num_training_batches is not None
            return max(int(self.options.schedule_epochs * self.trainer.num_training_batches), 1)
        total = self.trainer.estimated_stepping_batches
        if math.isinf(total):
            raise InputError("--schedule cosine needs an end: give --max_epochs, --max_steps or --schedule_epochs")
        return max(int(total), 1)

    def sample_pictures(self) -> dict[str, np.ndarray]:
        """Rows of picture, segments, reconstruction and truth of the last validation batch, for ``samples/``."""
        if self._shown is None:
            return {}
        image, labels, reconstruction, truth = (part[:4].float().cpu() for part in self._shown)
        rows = []
        for one, segments, again, gt in zip(image, labels, reconstruction, truth, strict=True):
            rows += [to_picture(one), colourise_labels(segments.long().numpy()), to_picture(again)]
            rows += [colourise_labels(gt.long().numpy())]
        return {"segments": image_grid(rows, columns=4)}


def make_network(options: WnetOptions) -> WNet | LiteWNet:
    """The network of the options, with fresh weights."""
    if options.variant == "lite":
        return LiteWNet(num_segments=options.num_classes)
    return WNet(num_segments=options.num_classes, width=options.width, order=options.order, dropout=options.dropout)


def decoder_of(network: WNet | LiteWNet) -> nn.Module:
    """The half that goes back from segments to the picture."""
    return network.decoder if isinstance(network, LiteWNet) else network.UDec


def matched_scores(labels: Tensor, truth: Tensor) -> Tensor:
    """Mean IoU per picture (B,) after a Hungarian matching; further segments are background. NaN without labels.

    Args:
        labels: Segments (B, H, W).
        truth: Classes (B, H, W), 255 for void.
    """
    scores = []
    for found, wanted in zip(labels.cpu().numpy(), truth.cpu().numpy(), strict=True):
        scores.append(matched_score(found, wanted))
    return torch.tensor(scores, dtype=torch.float64, device=labels.device)


def matched_score(found: np.ndarray, wanted: np.ndarray) -> float:
    """`matched_scores` of one picture (H, W)."""
    valid = wanted != VOID
    if not valid.any():
        return math.nan
    dense = np.unique(wanted[valid], return_inverse=True)[1]  # the lowest class, background where there is one, is 0
    counts = contingency(found[valid], dense, ignore_index=None)
    classes = match_one_to_one(counts)
    return float(np.nanmean(class_iou(relabel(counts, classes, unmatched="background"))))


def to_picture(image: Tensor) -> np.ndarray:
    """uint8 (H, W, 3) of an image (3, H, W) in [0, 1]; values beyond are cut off."""
    return (image.clamp(0, 1) * 255).round().byte().permute(1, 2, 0).numpy()
