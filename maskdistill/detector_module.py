"""The LightningModule of Mask R-CNN: losses, schedule, validation by loss and mask AP50."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from torch import Tensor, distributed, nn
from torch.nn.modules.batchnorm import _BatchNorm

from common.errors import InputError
from common.metrics.means import NamedMeans
from common.sampling import generator
from common.training import log_epoch, to_plain
from common.visualize import contours, image_grid, overlay
from maskdistill import rle
from maskdistill.coco_files import Entry
from maskdistill.detection_data import detections_to_entries
from maskdistill.instance_evaluation import evaluate_instances
from maskdistill.model.detector import Detector, c4_detector, fpn_detector
from maskdistill.options import DetectorOptions, SolverOptions

LOSSES = ("loss", "objectness", "rpn_box", "class", "box", "mask")
WARMUP_FACTOR = 1e-3
SHOWN_IMAGES, SHOWN_SCORE = 8, 0.5


def build_detector(options: DetectorOptions, num_classes: int) -> Detector:
    """The network of the options."""
    shared: dict[str, Any] = {
        "freeze_at": options.freeze_at,
        "anchor_px": options.anchor_px,
        "pre_nms": options.rpn_pre_nms,
        "post_nms": options.rpn_post_nms,
        "rois_per_image": options.rois_per_image,
        "score_threshold": options.score_threshold,
        "nms_threshold": options.nms_threshold,
        "max_detections": options.max_detections,
        "smooth_l1_beta": options.smooth_l1_beta,
    }
    if options.architecture == "c4":
        return c4_detector(num_classes, extra_norm=options.extra_norm, **shared)
    return fpn_detector(num_classes, trunk=options.trunk, norm=options.norm, width=options.width, **shared)


class MaskRCNNModule(pl.LightningModule):
    """Class-aware instance segmentation.

    Args:
        options: Network.
        solver: Optimiser.
        categories: Entries of the category list, by rising id.
        seed: Of the sampling of regions.
    """

    compiled_networks = ("model.backbone",)

    def __init__(
        self, options: DetectorOptions, solver: SolverOptions, categories: Sequence[Entry], seed: int = 123
    ) -> None:
        super().__init__()
        self.options, self.solver, self.seed = options, solver, seed
        self.categories = [int(entry["id"]) for entry in categories]
        self.save_hyperparameters(
            {"model": to_plain(options), "solver": to_plain(solver), "categories": list(categories), "seed": seed}
        )
        self.model = build_detector(options, len(self.categories))
        self.train_means, self.val_means = NamedMeans(LOSSES, persistent=True), NamedMeans(LOSSES)
        self._found: list[Entry] = []
        self._shown: list[np.ndarray] = []

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> Tensor:
        """Loss of a batch."""
        losses = self._losses(batch["image"], batch["target"], batch["index"], self.current_epoch, self._shared)
        self.train_means.update(losses, batch["weight"].new_full((), len(batch["image"])))
        return losses["loss"]

    def validation_step(self, batch: dict[str, Any], batch_idx: int) -> None:
        """Loss of each image, and its detections."""
        data = self.trainer.datamodule.val  # type: ignore[attr-defined]
        for place in (batch["weight"] > 0).nonzero()[:, 0].tolist():
            index, image = batch["index"][place : place + 1], batch["image"][place]
            losses = self._losses([image], [batch["target"][place]], index, -1)
            self.val_means.update(losses, batch["weight"][place])
            found = self.model.detect([image])[0]
            entries = detections_to_entries(found, data.images[int(index)], image.shape[1:], self.categories)
            self._found += entries
            if len(self._shown) < SHOWN_IMAGES:
                self._shown.append(draw_detections(image.permute(1, 2, 0).cpu().numpy(), entries, self.categories))

    def predict_step(self, batch: dict[str, Any], batch_idx: int) -> list[dict[str, Tensor]]:
        """Detections of a batch, in the pixels that are worked at.

        Images of one size go through together, filled up to the size of the batch by repeats: an image's detections
        must not depend on how many others, or how large ones, the sharing out put beside it.
        """
        images = batch["image"]
        places: dict[torch.Size, list[int]] = {}
        for place, image in enumerate(images):
            places.setdefault(image.shape, []).append(place)
        found: dict[int, dict[str, Tensor]] = {}
        for group in places.values():
            filled = [*group, *[group[-1]] * (len(images) - len(group))]
            found.update(zip(group, self.model.detect([images[place] for place in filled]), strict=False))
        return [found[place] for place in range(len(images))]

    def on_train_epoch_end(self) -> None:
        """Log the epoch's losses; measure batch norms' statistics anew when training ends."""
        self._log("train", self.train_means)
        last_epoch = self.trainer.current_epoch + 1 == self.trainer.max_epochs
        if last_epoch or 0 <= self.trainer.max_steps <= self.trainer.global_step:
            self._precise_batch_norm()

    def on_validation_epoch_end(self) -> None:
        """Log validation losses and mask AP50 of the detections of all processes."""
        found, self._found = gathered(self._found), []
        if self.trainer.sanity_checking:
            self.val_means.reset()
            return
        content = self.trainer.datamodule.val_content  # type: ignore[attr-defined]
        ap50 = torch.tensor(max(evaluate_instances(content.as_dict(), found).ap50, 0.0) if found else 0.0)
        self._log("val", self.val_means, {"val/ap50": ap50})

    def sample_pictures(self) -> dict[str, np.ndarray]:
        """Detections on the first validation images, for ``samples/``."""
        shown, self._shown = self._shown, []
        return {"detections": image_grid(shown, columns=4)} if shown else {}

    def configure_optimizers(self) -> Any:
        """SGD whose normalisations are not decayed; warm-up and steps at the rate of the actual batch."""
        norms = {
            id(parameter)
            for layer in self.model.modules()
            if isinstance(layer, (_BatchNorm, nn.GroupNorm))
            for parameter in layer.parameters()
        }
        trained = [parameter for parameter in self.model.parameters() if parameter.requires_grad]
        groups: list[dict[str, Any]] = [
            {"params": [parameter for parameter in trained if id(parameter) not in norms]},
            {"params": [parameter for parameter in trained if id(parameter) in norms], "weight_decay": 0.0},
        ]
        solver, scale = self.solver, self.batch_scale()
        optimizer = torch.optim.SGD(
            [group for group in groups if group["params"]],
            lr=solver.lr * scale,
            momentum=solver.momentum,
            weight_decay=solver.weight_decay,
        )
        milestones = [step / scale for step in solver.steps]

        def factor(step: int) -> float:
            warm = min(step / solver.warmup_iters, 1.0) if solver.warmup_iters else 1.0
            return (WARMUP_FACTOR * (1 - warm) + warm) * 0.1 ** sum(step >= milestone for milestone in milestones)

        schedule = {"scheduler": torch.optim.lr_scheduler.LambdaLR(optimizer, factor), "interval": "step"}
        return {"optimizer": optimizer, "lr_scheduler": schedule}

    def batch_scale(self) -> float:
        """Images per optimiser step over the number that the recipe was made for."""
        if not self.solver.reference_batch:
            return 1.0
        trainer = self.trainer
        per_process = trainer.datamodule.options.batch_size  # type: ignore[attr-defined]
        return per_process * trainer.world_size * trainer.accumulate_grad_batches / self.solver.reference_batch

    def _losses(
        self, images: list[Tensor], targets: list[Any], index: Tensor, epoch: int, share: Any = lambda counts: counts
    ) -> dict[str, Tensor]:
        draws = [generator(self.seed, "regions", epoch, row) for row in index.tolist()]
        losses = self.model.losses(images, targets, draws, share)
        return {"loss": torch.stack(list(losses.values())).sum(), **losses}

    def _shared(self, counts: Tensor) -> Tensor:
        """The mean over the processes, so that their mean gradient is that of one large batch."""
        if self.trainer.world_size > 1:
            counts = counts.clone()
            distributed.all_reduce(counts)
            counts /= self.trainer.world_size
        return counts

    def _log(self, step: str, means: NamedMeans, more: dict[str, Tensor] | None = None) -> None:
        values = {f"{step}/{name}": value.float() for name, value in means.compute().items()}
        log_epoch(self, {**values, **(more or {})}, shown=(f"{step}/loss", "val/ap50"))
        means.reset()

    def _precise_batch_norm(self) -> None:
        """Means and variances over many batches with the final weights, in place of the running ones."""
        layers = [m for m in self.model.modules() if isinstance(m, _BatchNorm) and m.training and m.track_running_stats]
        if not layers or not self.solver.precise_bn:
            return
        loader = self.trainer.train_dataloader
        assert loader is not None
        before = [layer.momentum for layer in layers]
        for layer in layers:
            layer.reset_running_stats()
            layer.momentum = None  # a plain mean over the batches
        with torch.no_grad():
            for number, batch in enumerate(loader):
                if number == self.solver.precise_bn:
                    break
                batch = self.transfer_batch_to_device(batch, self.device, 0)
                self._losses(batch["image"], batch["target"], batch["index"], self.current_epoch)
        for layer, momentum in zip(layers, before, strict=True):
            layer.momentum = momentum


def gathered(entries: list[Entry]) -> list[Entry]:
    """The entries of all processes, in the order of the images' ids."""
    if not (distributed.is_available() and distributed.is_initialized()):
        return entries
    parts: list[Any] = [None] * distributed.get_world_size()
    distributed.all_gather_object(parts, entries)
    joined = [entry for part in parts for entry in part]
    return sorted(joined, key=lambda entry: (str(entry["image_id"]), -entry["score"]))


def draw_detections(image: np.ndarray, entries: Sequence[Entry], categories: Sequence[int]) -> np.ndarray:
    """An image (H, W, 3) under its confident detections, each in the colour of its class with its outline."""
    if not entries:
        return image
    labels = np.zeros(tuple(entries[0]["segmentation"]["size"]), dtype=np.uint8)
    outline = np.zeros(labels.shape, dtype=bool)
    for entry in sorted(entries, key=lambda entry: entry["score"]):
        if entry["score"] >= SHOWN_SCORE:
            mask = rle.decode(entry["segmentation"], labels.shape)
            labels[mask] = 1 + categories.index(entry["category_id"])
            outline |= contours(mask.astype(np.uint8))
    if labels.shape != image.shape[:2]:
        import cv2

        size = image.shape[1::-1]
        labels = cv2.resize(labels, size, interpolation=cv2.INTER_NEAREST)
        outline = cv2.resize(outline.astype(np.uint8), size, interpolation=cv2.INTER_NEAREST) > 0
    picture = overlay(image, labels)
    picture[outline] = 255
    return picture


def check_detector(options: DetectorOptions, resuming: bool = False) -> None:
    """Refuse combinations that cannot work, each in one line.

    Raises:
        InputError: names the flag, the value and the remedy.
    """
    if options.architecture == "fpn" and len(options.anchor_px) != 5:
        raise InputError(f"--anchor_px {options.anchor_px}: fpn has five levels, give five sizes")
    if options.architecture == "c4" and options.trunk != "resnet50":
        raise InputError("--trunk resnet18: c4 has a ResNet-50; give --architecture fpn")
    if options.architecture == "c4" and options.norm != "batch":
        raise InputError(f"--norm {options.norm}: c4 has batch norms; give --architecture fpn")
    if options.freeze_at and options.init is None and not resuming:
        raise InputError(
            f"--freeze_at {options.freeze_at}: would freeze random weights; give --init (a ResNet-50), or --freeze_at 0"
        )
    if options.norm == "frozen" and options.init is None:
        raise InputError("--norm frozen: needs --init, whose statistics it keeps; give --norm group without")
    if options.init is not None and (options.norm == "group" or options.trunk != "resnet50"):
        raise InputError(f"--init {options.init}: is for a ResNet-50 with batch norms; drop --norm group, --trunk")
    for name in ("rpn_pre_nms", "rpn_post_nms"):
        if len(getattr(options, name)) != 2:
            raise InputError(f"--{name} {getattr(options, name)}: give two numbers, for training and prediction")
    smallest = [*options.min_size_train, options.min_size_test, options.max_size]
    if not options.min_size_train or min(smallest) < 32:
        raise InputError(f"--min_size_train {options.min_size_train}: sides are at least 32 px")
    if options.width % 8 or options.width < 8:
        raise InputError(f"--width {options.width}: give a multiple of 8")
