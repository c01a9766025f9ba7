"""The LightningModule of Segmenter: cross-entropy over labelled pixels, polynomial decay, windows in validation."""

import math
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from torch import Tensor, distributed, nn

from common.errors import InputError
from common.messages import warn
from common.metrics.confusion import class_accuracy, class_iou, mean_over_classes, pixel_accuracy
from common.metrics.means import NamedMeans
from common.metrics.meters import ConfusionMatrix
from common.sampling import generator
from common.training import log_epoch, to_plain
from common.visualize import colourise_labels, image_grid
from transformer_seg.backbones import MEAN_STD
from transformer_seg.images import VOID
from transformer_seg.segmenter.losses import upsampled_cross_entropy
from transformer_seg.segmenter.model import LinearDecoder, MaskTransformer, Segmenter
from transformer_seg.segmenter.options import SegmenterDataOptions, SegmenterOptions, stride_of
from transformer_seg.segmenter.schedule import PolynomialDecay
from transformer_seg.segmenter.sizes import encoder_sizes
from transformer_seg.segmenter.windows import View, Windows, class_labels
from transformer_seg.vit import VisionTransformer

EPS = 1e-5
VIEW_KEYS = ("image_size", "max_ratio", "crop_size", "window_size", "window_stride")


class SegmenterModule(pl.LightningModule):
    """Supervised segmentation.

    Args:
        options: Network, loss and optimiser; with ``num_classes``.
        data: How pictures are cut in training, which a prediction repeats.
        classes: Names by class.
        seed: Of dropout.
        network: A network that stands already; None makes one from the options.
        normalisation: Key of ``MEAN_STD``; None takes that of the backbone.
    """

    compiled_networks = ("model.encoder", "model.decoder")

    def __init__(
        self,
        options: SegmenterOptions,
        data: SegmenterDataOptions,
        classes: dict[int, str] | None = None,
        *,
        seed: int = 123,
        network: Segmenter | None = None,
        normalisation: str | None = None,
    ) -> None:
        super().__init__()
        assert options.num_classes is not None
        self.options, self.seed, self.num_classes = options, seed, options.num_classes
        self.normalisation = normalisation or encoder_sizes(options).normalisation
        self.classes = dict(classes or {})
        self.model = network or make_network(options, data.crop_size)
        window = data.window_size or data.crop_size
        self.windows = Windows(window, stride_of(window, data.window_stride))
        self.save_hyperparameters(
            {
                **to_plain(options),
                **{key: getattr(data, key) for key in VIEW_KEYS},
                "window_size": self.windows.size,
                "window_stride": self.windows.stride,
                "train_size": self.model.encoder.grid[0] * self.model.encoder.patch_size,
                "normalisation": self.normalisation,
                "classes": {str(index): name for index, name in self.classes.items()},
                "system": "segmenter",
            }
        )
        self.train_means = NamedMeans(["loss", "pixel_accuracy"], persistent=True)
        self.confusion = ConfusionMatrix(self.num_classes)
        self._shown: list[tuple[Tensor, Tensor, Tensor]] = []

    def forward(self, image: Tensor) -> Tensor:
        """Logits (B, K, H, W) of normalised images (B, 3, H, W)."""
        return self.model(image)

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> dict[str, Tensor] | None:
        """Loss of a batch of crops; a batch without any labelled pixel trains nothing."""
        drawn = generator(self.seed, "dropout", self.global_step, self.global_rank).initial_seed()
        torch.manual_seed(drawn)  # a resumed run drops the same values
        for group in self.trainer.optimizers[0].param_groups:
            group["lr"] = self.rate(self.global_step)
        labels = batch["label"]
        labelled = (labels != VOID).sum()
        share = self._mean_over_processes(labelled)
        if share == 0:
            warn(f"step {self.global_step}: no labelled pixel in the batch, left out")
            return None
        logits = self.model.token_logits(batch["image"])
        loss = upsampled_cross_entropy(logits, labels, self.model.encoder.patch_size)
        # the mean over all labelled pixels of all processes, whose gradients are averaged
        weighted = loss * (labelled / share)
        with torch.no_grad():
            P = self.model.encoder.patch_size
            truth = labels[..., P // 2 :: P, P // 2 :: P]
            hit = (logits.argmax(dim=1)[..., : truth.shape[-2], : truth.shape[-1]] == truth).sum()
            accuracy = hit / (truth != VOID).sum()
        count = len(labels)
        values = {"loss": weighted.detach().expand(count), "pixel_accuracy": accuracy.expand(count)}
        self.train_means.update(values, batch["weight"])
        return {"loss": weighted}

    def _mean_over_processes(self, value: Tensor) -> Tensor:
        total = value.float()
        if self.trainer.world_size > 1:
            total = total.clone()
            distributed.all_reduce(total)
        return total / self.trainer.world_size

    def validation_step(self, batch: dict[str, Any], batch_idx: int) -> None:
        """Count the labels of whole pictures, in windows, at the size of their class maps."""
        for image, truth, weight in zip(batch["image"], batch["label"], batch["weight"], strict=True):
            size = (truth.shape[0], truth.shape[1])
            found = class_labels(self.model, [View(image[None])], size, self.windows)
            if weight > 0:
                self.confusion.update(found, truth)
            if len(self._shown) < 4:
                self._shown.append((image.cpu(), found.cpu(), truth.cpu()))

    def predict_step(self, batch: dict[str, Any], batch_idx: int) -> list[Tensor]:
        """Labels (H, W) of each picture at its own size."""
        found = []
        for views, picture in zip(batch["image"], batch["picture"], strict=True):
            shown = [View(image[None], mirrored) for image, mirrored in views]
            size = (picture.shape[0], picture.shape[1])
            found.append(class_labels(self.model, shown, size, self.windows))
        return found

    def on_train_epoch_end(self) -> None:
        """Log the epoch's training means."""
        named = {f"train/{name}": value.float() for name, value in self.train_means.compute().items()}
        named["train/learning_rate"] = torch.tensor(self.rate(max(self.global_step - 1, 0)))
        log_epoch(self, named, shown=("train/loss",))
        self.train_means.reset()

    def on_validation_epoch_start(self) -> None:
        """Forget the pictures of the last validation."""
        self._shown = []

    def on_validation_epoch_end(self) -> None:
        """Log the pooled scores; ``val/loss``, which chooses the best checkpoint, is 1 - mIoU."""
        if self.trainer.sanity_checking:
            self.confusion.reset()
            return
        counts = self.confusion.compute().cpu().numpy()
        miou = mean_over_classes(class_iou(counts))
        values = {
            "loss": 1 - miou,
            "miou": miou,
            "mean_accuracy": mean_over_classes(class_accuracy(counts)),
            "pixel_accuracy": pixel_accuracy(counts),
        }
        named = {f"val/{name}": torch.tensor(value, dtype=torch.float32) for name, value in values.items()}
        log_epoch(self, named, shown=("val/miou",))
        self.confusion.reset()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """The optimiser of the options; its rate is set at every iteration."""
        options = self.options
        if options.optim == "AdamW":
            return torch.optim.AdamW(self.parameters(), lr=options.learning_rate, weight_decay=options.weight_decay)
        return torch.optim.SGD(
            self.parameters(),
            lr=options.learning_rate,
            momentum=options.momentum,
            weight_decay=options.weight_decay,
            nesterov=options.momentum > 0,
        )

    def rate(self, iteration: int) -> float:
        """Learning rate of an iteration, counted from 0."""
        options = self.options
        if options.schedule_epochs is not None:
            last = options.schedule_epochs * self.trainer.num_training_batches
        else:
            last = self.trainer.estimated_stepping_batches
            if math.isinf(last):
                raise InputError("the polynomial decay needs an end: give --epochs, --max_steps or --schedule_epochs")
        if options.warmup >= max(int(last), 1):
            raise InputError(
                f"--warmup {options.warmup}: the training has {int(last)} iterations; give a shorter warm-up or train"
                " longer"
            )
        decay = PolynomialDecay(
            base=options.learning_rate,
            iterations=max(int(last), 1),
            minimum=min(options.min_lr, options.learning_rate),
            power=options.poly_power,
            warmup=options.warmup,
        )
        return decay.at(iteration)

    def sample_pictures(self) -> dict[str, np.ndarray]:
        """Rows of picture, labels and truth of the first validation pictures, for ``samples/``."""
        rows = []
        for image, found, truth in self._shown:
            rows += [denormalised(image, self.normalisation), *(colourise_labels(x.numpy()) for x in (found, truth))]
        return {"labels": image_grid(rows, columns=3)} if rows else {}


def make_network(options: SegmenterOptions, image_size: int) -> Segmenter:
    """The network of the options, with fresh weights.

    Args:
        options: With ``num_classes``.
        image_size: Side in pixels that the position embedding is for.
    """
    assert options.num_classes is not None
    sizes = encoder_sizes(options)
    encoder = VisionTransformer(
        **sizes.arguments, image_size=image_size, eps=EPS, position_rule="bilinear", drop_path=options.drop_path
    )
    width = sizes.arguments["width"]
    decoder: nn.Module
    if options.decoder == "linear":
        decoder = LinearDecoder(width, options.num_classes)
    else:
        depth, dropout = options.decoder_depth, options.decoder_dropout
        decoder = MaskTransformer(width, options.num_classes, depth=depth, dropout=dropout)
    return Segmenter(encoder, decoder)


def denormalised(image: Tensor, normalisation: str) -> np.ndarray:
    """The picture uint8 (H, W, 3) of a network input (3, H, W)."""
    mean, std = (torch.tensor(values)[:, None, None] for values in MEAN_STD[normalisation])
    picture = (image * std + mean).clamp(0, 1) * 255
    return picture.round().byte().permute(1, 2, 0).numpy()
