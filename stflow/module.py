"""The LightningModule of stflow: predict segments, fit their motions, lower the coherence loss.

Per step (Meunier and Bouthemy, CVPR 2023, sections 3.1-3.3): the network gives probabilities p; the motion parameters
theta* of each segment are fitted to p without gradient; the loss is coherence(p, theta*, flow) plus the weighted
regularisers, averaged over the batch. Ground truth enters nothing but the scores.

Every random draw is named by (seed, epoch, sample) or (seed, step): a resumed run and a run on several processes draw
the same numbers as one that was never interrupted.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import pytorch_lightning as pl
import torch
from torch import Tensor

from common.metrics.jaccard import binary_jaccard
from common.metrics.means import NamedMeans
from common.sampling import generator
from common.training import log_epoch, to_plain
from common.visualize import colourise_labels, flow_to_colour, image_grid
from stflow.augment import random_global_motion, random_perturb_flow
from stflow.data import NO_GT, volume_requests
from stflow.foreground import foreground, num_labels_used
from stflow.losses import Losses, segmentation_losses
from stflow.model import UNet3D
from stflow.motion import motion_model
from stflow.options import Boundaries, ModelOptions, check_model_options
from stflow.theta import fit_theta


class Prediction(NamedTuple):
    """What the network says of windows."""

    proba: Tensor
    """Probabilities of the segments (B, L, T, I, J), float32."""
    features: Tensor | None
    """What the last convolution sees (B, features_start, T, I, J), where the module keeps it."""


class MotionSegmenter(pl.LightningModule):
    """Unsupervised space-time motion segmentation of optical flow.

    Args:
        options: Model and loss; all of it is stored in the checkpoint as plain values.
        img_size: Rows and columns the network works at.
        seed: Seed of augmentation and perturbation.
        boundaries: What happened to windows over a sequence's end in training; a prediction does the same.
    """

    def __init__(
        self,
        options: ModelOptions,
        img_size: Sequence[int] = (128, 224),
        seed: int = 123,
        boundaries: Boundaries = "Ignore",
    ) -> None:
        super().__init__()
        check_model_options(options)
        self.options, self.seed = options, seed
        self.save_hyperparameters(
            {**to_plain(options), "img_size": list(img_size), "seed": seed, "boundaries": boundaries}
        )
        self.requests = volume_requests(options.inputs, options.flows_volume)
        self.input_index = [self.requests.index(request) for request in options.inputs]
        self.loss_index = [self.requests.index(request) for request in options.flows_volume]
        self.target = options.inputs.index("Flow")
        self.motion = motion_model(options.param_model, options.legacy_grid)
        unet = options.unet
        self.model = UNet3D(
            num_classes=options.nAffineMasks,
            features_start=unet.features_start,
            num_layers=unet.num_layers,
            padding_mode=unet.padding_mode,
            inner_normalisation=unet.inner_normalisation,
            train_bn=unet.train_bn,
        )
        names = ["loss", "mask_usage", "jacc", "coherence_loss", "regularisation_loss"]
        names += [f"{name}_avg" for name in options.regularisation]
        self.train_means = NamedMeans(names, persistent=True)
        self.val_means, self.test_means = NamedMeans(names), NamedMeans(names)
        self.keep_features = False  # they are several times the size of the probabilities
        self._shown: tuple[Tensor, Tensor, Tensor] | None = None

    def forward(self, flow: Tensor) -> Tensor:
        """Probabilities (B, L, T, I, J) of the segments, float32, from flow (B, 2, T, I, J) in pixels."""
        return self.model(flow).float().softmax(dim=1)

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> dict[str, Tensor]:
        """Loss of a training batch."""
        flow = self._augmented(batch)
        inputs = self._perturbed(flow[:, :, self.input_index], batch, self.global_step)
        return self._step(flow, inputs, batch, self.train_means)

    def validation_step(self, batch: dict[str, Any], batch_idx: int) -> dict[str, Tensor]:
        """Loss and scores of a validation batch; neither augmented nor perturbed unless the options say so."""
        flow = self._augmented(batch) if self.options.val_augment else batch["flow"]
        inputs = flow[:, :, self.input_index]
        if self.options.legacy_val:
            inputs = self._perturbed(inputs, batch, batch_idx)
        return self._step(flow, inputs, batch, self.val_means)

    def test_step(self, batch: dict[str, Any], batch_idx: int) -> dict[str, Tensor]:
        """Loss and scores of a test batch."""
        return self._step(batch["flow"], batch["flow"][:, :, self.input_index], batch, self.test_means)

    def predict_step(self, batch: dict[str, Any], batch_idx: int) -> Prediction:
        """Probabilities of a batch, and its features where they are kept."""
        inputs = batch["flow"][:, :, self.input_index]
        if not self.keep_features:
            return Prediction(self(inputs), None)
        logits, features = self.model.features(inputs)
        return Prediction(logits.float().softmax(dim=1), features)

    def on_train_epoch_end(self) -> None:
        """Log the epoch's training means."""
        self._log_means("train", self.train_means)

    def on_validation_epoch_end(self) -> None:
        """Log the validation means; ``val/loss`` chooses the best checkpoint."""
        self._log_means("val", self.val_means)

    def on_test_epoch_end(self) -> None:
        """Log the test means."""
        self._log_means("test", self.test_means)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """The optimiser of the options, with a constant learning rate."""
        optim = self.options.optim
        return getattr(torch.optim, optim.name)(self.parameters(), lr=optim.lr, weight_decay=optim.weight_decay)

    def losses(self, pred: Tensor, flow: Tensor) -> Losses:
        """Losses of a batch for motions fitted to ``pred`` (B, L, T, I, J), which alone carries gradient.

        Args:
            pred: Probabilities.
            flow: Observed flow (B, 2, T, I, J) in pixels.
        """
        options = self.options
        kinds = {"coherence_loss": options.coherence_loss, "v_distance": options.v_distance}
        theta = fit_theta(
            pred.detach(),
            flow,
            self.motion,
            **kinds,
            solver=options.theta_solver,
            iterations=options.theta_iterations,
        )
        return segmentation_losses(pred, flow, theta, self.motion, **kinds, regularisation=options.regularisation)

    def sample_pictures(self) -> dict[str, np.ndarray]:
        """Rows of flow, segments and ground truth of the last validation batch, for ``samples/``."""
        if self._shown is None:
            return {}
        flow, segments, gt = (part[:4].float().cpu().numpy() for part in self._shown)
        rows = []
        for one_flow, labels, mask in zip(flow, segments, gt, strict=True):
            rows += [flow_to_colour(one_flow), colourise_labels(labels.astype(np.int64))]
            rows += [colourise_labels((mask == 1).astype(np.int64))]
        return {"segments": image_grid(rows, columns=3)}

    def _step(self, flow: Tensor, inputs: Tensor, batch: dict[str, Any], means: NamedMeans) -> dict[str, Tensor]:
        pred = self(inputs)
        losses = self.losses(pred, flow[:, :, self.loss_index])
        logged = {
            "loss": losses.total,
            "coherence_loss": losses.coherence,
            "regularisation_loss": losses.regularisation,
            **{f"{name}_avg": term for name, term in losses.terms.items()},
        }
        labels = pred[:, :, self.target].detach().argmax(dim=1)  # (B,I,J)
        usage = num_labels_used(labels).to(torch.float64)
        jacc = self._jaccard(labels, batch["gt"])
        means.update({**logged, "mask_usage": usage, "jacc": jacc}, batch["weight"])
        self._shown = (flow[:, :, self.requests.index("Flow")], labels, batch["gt"])
        rows = torch.stack([batch["index"].double(), losses.total.detach().double(), usage, jacc], dim=1)
        return {"loss": losses.total.mean(), "rows": torch.where(batch["weight"][:, None] > 0, rows, -1.0)}

    def _augmented(self, batch: dict[str, Any]) -> Tensor:
        """Flow with a random global motion per sample; input and target of the loss alike."""
        flow = batch["flow"]
        for name in self.options.flow_augmentation or []:
            draws = [generator(self.seed, name, self.current_epoch, int(index)) for index in batch["index"]]
            flow = random_global_motion(flow, name, draws)
        return flow

    def _perturbed(self, inputs: Tensor, batch: dict[str, Any], step: int) -> Tensor:
        """The network's input with one field replaced by noise, now and then; the loss never sees it."""
        for name in self.options.experimental_flag or []:
            shared = generator(self.seed, name, self.current_epoch, step)
            draws = [generator(self.seed, name, step, int(index)) for index in batch["index"]]
            inputs = random_perturb_flow(inputs, name, shared, draws)
        return inputs

    def _jaccard(self, labels: Tensor, gt: Tensor) -> Tensor:
        """IoU per sample (B,) of the chosen foreground; NaN where a frame has no ground truth."""
        known = (gt != NO_GT).flatten(1).all(dim=1)
        mask = foreground(labels, gt == 1, self.options.nAffineMasks, self.options.binary_method)
        return torch.where(known, binary_jaccard(mask, gt == 1).double(), torch.nan)

    def _log_means(self, step: str, means: NamedMeans) -> None:
        if self.trainer.sanity_checking:
            means.reset()
            return
        values = means.compute()
        named = {f"{step}/{name}": value.float() for name, value in values.items()}
        log_epoch(self, named, shown=(f"{step}/loss", f"{step}/jacc"))
        means.reset()
