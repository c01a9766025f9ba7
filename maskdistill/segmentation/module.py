"""The semantic network in training: pseudo-labels in, scores against ground truth where there is any."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import pytorch_lightning as pl
import torch
from torch import Tensor, distributed, nn

from common.errors import InputError
from common.metrics.hungarian import score_clusters
from common.metrics.means import NamedMeans
from common.metrics.meters import ConfusionMatrix
from common.sampling import generator
from common.training import log_epoch, to_plain
from common.visualize import colourise_labels, image_grid
from maskdistill.ema import AveragedNetwork, LegacyAveragedNetwork
from maskdistill.losses import VOID, cross_entropy, ohem_cross_entropy, trimmed_cross_entropy
from maskdistill.model.deeplab import DeepLabV3, upsample
from maskdistill.schedule import poly_rate, step_rate
from maskdistill.segmentation.networks import SemanticNetwork, freeze_batch_norms, make_network, trainable
from maskdistill.segmentation.options import SegmentationOptions
from maskdistill.transforms import IMAGENET_MEAN, IMAGENET_STD


class Logits(NamedTuple):
    """What the network says of images."""

    low: Tensor
    """Logits at the network's own resolution (B, K, h, w), float32."""
    side_px: tuple[int, int]
    """Rows and columns of the network's input, which they stand for."""


class SegmentationModule(pl.LightningModule):
    """DeepLab-v3 or FCN on label maps.

    Args:
        options: Network and training; stored in the checkpoint as plain values.
        num_classes: Outputs K, background included.
        num_true_classes: Classes C of the ground truth that scores are computed with.
        image_px: Side of the network's input.
        seed: Seed of the dropout.
        network: Its network, when it exists already.
    """

    def __init__(
        self,
        options: SegmentationOptions,
        num_classes: int = 21,
        num_true_classes: int = 21,
        image_px: int = 512,
        seed: int = 123,
        network: SemanticNetwork | None = None,
    ) -> None:
        super().__init__()
        self.options, self.seed, self.image_px = options, seed, image_px
        facts = {"num_classes": num_classes, "num_true_classes": num_true_classes, "image_px": image_px, "seed": seed}
        self.save_hyperparameters({**to_plain(options), **facts, "kind": type(self).__name__})
        self.network: SemanticNetwork = network or make_network(options.model_kwargs, num_classes)
        self.prepare_network(num_classes)
        self.average: AveragedNetwork | None = None
        if options.use_ema:
            kind = LegacyAveragedNetwork if options.legacy_ema else AveragedNetwork
            self.average = kind(self.network, options.alpha_ema)
            self.averaged_network = self.average.network  # a sub-module, so that checkpoints hold it
        self.means = NamedMeans(["loss"], persistent=True)
        self.val_means = NamedMeans(["loss"])
        self.confusion = ConfusionMatrix(num_true_classes, max(num_classes, num_true_classes))
        self.num_epochs = options.epochs
        self._shown: tuple[Tensor, Tensor, Tensor] | None = None

    def prepare_network(self, num_classes: int) -> None:
        """Take the frozen stages out of training."""
        self.network.backbone.freeze(self.options.freeze_layers)
        if self.options.freeze_batchnorm == "all":
            freeze_batch_norms(self.network)

    def train(self, mode: bool = True) -> "SegmentationModule":
        """Switch the mode; frozen batch norms and an average stay in eval mode."""
        super().train(mode)
        if self.options.freeze_batchnorm == "all":
            freeze_batch_norms(self.network)
        if self.average is not None:
            self.averaged_network.eval()
        return self

    @property
    def evaluated(self) -> nn.Module:
        """The network that is validated and saved: the average where there is one."""
        return self.averaged_network if self.average is not None else self.network

    def forward(self, images: Tensor) -> Tensor:
        """Logits (B, K, H, W), float32, of images (B, 3, H, W)."""
        logits: Tensor = self.evaluated(images)
        return logits.float()

    def setup(self, stage: str) -> None:
        """On a GPU, keep the channels of a pixel together, which its convolutions like best."""
        if self.device.type == "cuda" or self.trainer.strategy.root_device.type == "cuda":
            self.network.to(memory_format=torch.channels_last)

    def on_train_epoch_start(self) -> None:
        """The learning rate of this epoch, constant in it (section 4.3)."""
        optimizer = self.optimizers()
        assert isinstance(optimizer, pl.core.optimizer.LightningOptimizer)
        for group in optimizer.param_groups:
            group["lr"] = self.rate(self.current_epoch)

    def rate(self, epoch: int) -> float:
        """The learning rate of an epoch, counted from 0."""
        lr, kwargs = self.options.optimizer_kwargs.lr, self.options.scheduler_kwargs
        if self.options.scheduler == "step":
            return step_rate(lr, epoch, lr_decay_epochs=kwargs.lr_decay_epochs, lr_decay_rate=kwargs.lr_decay_rate)
        return poly_rate(lr, epoch, self.num_epochs) if self.options.scheduler == "poly" else lr

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> Tensor:
        """Loss of a training batch."""
        if isinstance(self.network, DeepLabV3):
            self.network.dropout.keys = [
                generator(self.seed, "dropout", self.current_epoch, int(index)).initial_seed()
                for index in batch["index"]
            ]
        logits = self.network(batch["image"])
        loss = self.loss(logits, batch["semseg"])
        self.means.update({"loss": loss.detach().expand(len(logits))})
        return loss

    def loss(self, logits: Tensor, target: Tensor) -> Tensor:
        """The loss of the options; plain cross-entropy weighs every valid pixel of all processes alike."""
        if self.options.loss == "CE":
            return cross_entropy(logits, target) * self._share_of_pixels(target)
        kind = ohem_cross_entropy if self.options.loss == "ohem" else trimmed_cross_entropy
        return kind(logits, target, self.options.loss_kwargs.threshold)

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Let the average trail."""
        if self.average is not None:
            self.average.update(self.network)

    def validation_step(self, batch: dict[str, Any], batch_idx: int) -> None:
        """Loss and confusion of a validation batch at the network's input size."""
        logits = self(batch["image"])
        labels, target = logits.argmax(1), batch["semseg"].long()
        counted = batch["weight"] > 0
        target = torch.where(counted[:, None, None], target, VOID)
        if logits.shape[1] == self.hparams["num_true_classes"] and self.options.match == "none":
            rows = [cross_entropy(one[None], map_[None]) for one, map_ in zip(logits, target, strict=True)]
            self.val_means.update({"loss": torch.stack(rows)}, batch["weight"])
        self.confusion.update(labels, target)
        self._shown = (batch["image"], labels, target)

    def on_train_epoch_end(self) -> None:
        """Log the epoch's training loss."""
        values = {f"train/{name}": value.float() for name, value in self.means.compute().items()}
        log_epoch(self, {**values, "train/lr": torch.tensor(self.rate(self.current_epoch))}, shown=("train/loss",))
        self.means.reset()

    def on_validation_epoch_end(self) -> None:
        """Log the scores; ``val/miou`` chooses the best checkpoint."""
        counts = self.confusion.compute().cpu().numpy()
        values = {f"val/{name}": value.float() for name, value in self.val_means.compute().items()}
        self.confusion.reset()
        self.val_means.reset()
        if self.trainer.sanity_checking:
            return
        if counts.any():
            scores = miou(counts, self.options.match)
            values |= {"val/miou": torch.tensor(scores[0]), "val/pixel_accuracy": torch.tensor(scores[1])}
        if values:
            log_epoch(self, values, shown=("val/miou",))

    def predict_step(self, batch: dict[str, Any], batch_idx: int) -> Logits:
        """Logits of a batch at the network's own resolution."""
        images = batch["image"]
        network: Any = self.evaluated
        return Logits(network.logits_low(images).float(), (images.shape[-2], images.shape[-1]))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """SGD or Adam on what is not frozen; the rate is set at the start of each epoch."""
        kwargs, parameters = self.options.optimizer_kwargs, trainable(self.network)
        if not parameters:
            raise InputError(f"--freeze_layers {self.options.freeze_layers}: nothing is left to train")
        if self.options.optimizer == "adam":
            return torch.optim.Adam(parameters, lr=kwargs.lr, weight_decay=kwargs.weight_decay)
        return torch.optim.SGD(
            parameters,
            lr=kwargs.lr,
            momentum=kwargs.momentum,
            weight_decay=kwargs.weight_decay,
            nesterov=kwargs.nesterov,
        )

    def sample_pictures(self) -> dict[str, np.ndarray]:
        """Rows of image, prediction and ground truth of the last validation batch, for ``samples/``."""
        if self._shown is None:
            return {}
        images, labels, target = (part[:4].cpu().numpy() for part in self._shown)
        rows = []
        for image, found, true in zip(images, labels, target, strict=True):
            picture = image.transpose(1, 2, 0) * IMAGENET_STD + IMAGENET_MEAN
            rows += [np.rint(255 * picture.clip(0, 1)).astype(np.uint8)]
            rows += [colourise_labels(found), colourise_labels(true)]
        return {"labels": image_grid(rows, columns=3)}

    def _share_of_pixels(self, target: Tensor) -> Tensor | float:
        """This process's valid pixels over the mean of all processes': weighs the average of their gradients."""
        if not (distributed.is_available() and distributed.is_initialized()):
            return 1.0
        own = (target != VOID).sum().float()
        total = own.clone()
        distributed.all_reduce(total)
        return own * distributed.get_world_size() / total.clamp(min=1)


class LinearProbeModule(SegmentationModule):
    """A 1x1 classifier on a frozen DeepLab-v3 in eval mode, trained with labels (section 4.2)."""

    def prepare_network(self, num_classes: int) -> None:
        """Freeze all but a fresh classifier."""
        network = self.network
        if not isinstance(network, DeepLabV3):
            raise InputError(f"--pretrained: holds a {type(network).__name__}; a linear probe needs a DeepLab-v3")
        network.probe(num_classes)
        network.eval()  # from the first batch on: the statistics of its batch norms are not the probe's to change

    def train(self, mode: bool = True) -> "LinearProbeModule":
        """Switch the mode; the network stays in eval mode."""
        super().train(mode)
        self.network.eval()
        return self

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> Tensor:
        """Loss of a training batch; the frozen part keeps no graph, and the classifier acts before the upsampling."""
        network = self.network
        assert isinstance(network, DeepLabV3)
        with torch.no_grad():
            features = network.features(batch["image"])
        logits = upsample(network.classifier(features), batch["image"].shape[-2:])
        loss = self.loss(logits, batch["semseg"])
        self.means.update({"loss": loss.detach().expand(len(logits))})
        return loss


MODULES: Mapping[str, type[SegmentationModule]] = {
    kind.__name__: kind for kind in (SegmentationModule, LinearProbeModule)
}


def miou(counts: np.ndarray, match: str) -> tuple[float, float]:
    """Mean IoU, absent classes counting 0, and pixel accuracy of a table (K, C) of predicted by true labels."""
    scores = score_clusters(
        counts, "none" if match == "none" else "hungarian", unmatched="missed", fixed_background=True, absent="zero"
    )
    return scores.miou, scores.pixel_accuracy
