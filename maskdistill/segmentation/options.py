"""The options of stages E and F: one dataclass per idea, torch-free, so that ``--help`` is quick.

Keys and values are those of the original experiment files (``--config_exp``), and the defaults are its recipe
``multi_obj/deeplab``; the linear probe's are in ``PROBE_DEFAULTS``. What the original does not have is marked (+).
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

ALIASES = {"--crf-postprocess": "--crf_postprocess", "--crf-train": "--crf_train"}

Pretraining = Literal["moco", "dino", "imagenet_supervised", "random"]
Transforms = Literal["fblib_pascal", "vanilla_pascal", "none"]
Match = Literal["none", "val"]


@dataclass(frozen=True, kw_only=True)
class ModelKwargs:
    """Network."""

    pretraining: Pretraining = "moco"
    """Where the trunk's weights come from: moco (v1 to v3), dino (+), imagenet_supervised (torchvision), or random."""
    pretraining_path: Path | None = None
    """Their file."""
    use_fcn: bool = False
    """An FCN of output stride 16 instead of DeepLab-v3 of output stride 8."""
    trunk: Literal["resnet50", "resnet18", "small"] = "resnet50"
    """(+) Residual network; resnet18, and small with a quarter of its channels, start from random weights."""


@dataclass(frozen=True, kw_only=True)
class LossKwargs:
    """Loss."""

    threshold: float = 0.2
    """ohem: share of all pixels, the hardest ones, that are kept; trimmed: share of the valid ones that is dropped."""


@dataclass(frozen=True, kw_only=True)
class SchedulerKwargs:
    """Learning rate."""

    lr_decay_rate: float = 0.1
    """step: factor."""
    lr_decay_epochs: list[int] = field(default_factory=lambda: [40])
    """step: the rate falls in the epoch AFTER each of these, counted from 0."""


@dataclass(frozen=True, kw_only=True)
class OptimizerKwargs:
    """Optimiser."""

    lr: float = 0.002
    """Learning rate."""
    weight_decay: float = 1e-4
    """Weight decay, on all trained parameters."""
    momentum: float = 0.9
    """sgd: momentum."""
    nesterov: bool = False
    """sgd: Nesterov's."""


@dataclass(frozen=True, kw_only=True)
class SegmentationOptions:
    """Network and training."""

    model_kwargs: ModelKwargs = field(default_factory=ModelKwargs)
    pretrained: Path | None = None
    """Whole network to start from: a run directory, a checkpoint, or a published file; needed for a linear probe."""
    loss: Literal["ohem", "CE", "trimmed"] = "ohem"
    """ohem: hardest pixels, as published; CE: all, the safer choice with noisy labels; trimmed (+): all but them."""
    loss_kwargs: LossKwargs = field(default_factory=LossKwargs)
    epochs: int = 45
    """Passes over the training images; --max_epochs and --max_steps go before it."""
    scheduler: Literal["step", "poly", "constant"] = "step"
    """Learning rate per epoch: in steps, lr (1 - epoch / epochs)^0.9, or (+) constant."""
    scheduler_kwargs: SchedulerKwargs = field(default_factory=SchedulerKwargs)
    optimizer: Literal["sgd", "adam"] = "sgd"
    """Optimiser."""
    optimizer_kwargs: OptimizerKwargs = field(default_factory=OptimizerKwargs)
    freeze_batchnorm: Literal["none", "all"] = "none"
    """all: batch norms keep their statistics and weights."""
    freeze_layers: int = 2
    """Stages that are not trained: 2 = up to layer2, 3 = layer3 too, 4 = layer4 too; less = none."""
    use_ema: bool = False
    """Validate and save an average of the weights over the steps."""
    alpha_ema: float = 0.99
    """Share of the average that stays at each step."""
    legacy_ema: bool = False
    """(+) The published average, which is written back into the trained network."""
    num_classes: int | None = None
    """(+) Outputs of the network, background included; default: the class names beside the split, else 21."""
    match: Match = "none"
    """(+) Scores: none = labels are classes; val = clusters are matched to classes one-to-one, background fixed."""


@dataclass(frozen=True, kw_only=True)
class DbKwargs:
    """Data set."""

    split: str = "trainaug"
    """List of images: trainaug, train, val ..."""


@dataclass(frozen=True, kw_only=True)
class SegmentationDataOptions:
    """Data."""

    data_file: Path | None = None
    """(+) Split prefix with its folder: NAME stands for NAME_train.csv and NAME_val.csv."""
    base_dir: Path = Path(".")
    """(+) Folder that the paths in the split are relative to."""
    dataset_root: Path | None = None
    """(+) Instead of --data_file: folder of VOCSegmentation (images, SegmentationClass..., sets) or of VOCdevkit."""
    train_db_name: Literal["VOCSegmentationDistill", "VOCSegmentation"] = "VOCSegmentationDistill"
    """VOCSegmentationDistill: train on the label maps of --distill_dir; VOCSegmentation: on the ground truth."""
    train_db_kwargs: DbKwargs = field(default_factory=DbKwargs)
    distill_dir: Path | None = None
    """Label maps to train on: a folder of <stem>.png, or (+) a prediction split with Image and Pred."""
    val_db_name: Literal["VOCSegmentation"] = "VOCSegmentation"
    """Only one is known."""
    val_db_kwargs: DbKwargs = field(default_factory=lambda: DbKwargs(split="val"))
    transforms: Transforms = "fblib_pascal"
    """Augmentation: flip, rotation, scaling, 512 px; vanilla_pascal: scale 0.5 to 2, crop of 513 px, flip."""
    image_px: int | None = None
    """(+) Side of the network's square input; default 512, or 513 with vanilla_pascal."""
    border_label: int = 0
    """(+) fblib_pascal: label of what a rotation brings in; the published 0 makes it background, 255 leaves it out."""
    batch_size: int = 16
    """Images per batch and process (the original: of all processes together)."""
    num_workers: int = 4
    """Loader processes."""
    resize_labels: bool = False
    """(+) Bring label maps of another size than their image to it (nearest) instead of stopping."""
    skip_bad: bool = False
    """(+) Leave out images that cannot be read instead of stopping."""
    seed: int = 123
    """Seed of the initialisation, the order, the augmentation and the dropout."""


@dataclass(frozen=True, kw_only=True)
class LabelOptions:
    """Prediction after the training."""

    model_path: Path | None = None
    """Train nothing: load this network (run directory, checkpoint or published file), predict and score."""
    crf_postprocess: bool = False
    """Refine the predictions with a dense CRF."""
    crf_train: bool = False
    """Predict the training images, not the validation images: label maps for the next round. With crf_postprocess."""
    select: Literal["last", "best"] = "last"
    """(+) Weights that predict: the last, or the best on the validation labels, which is an oracle's choice."""
    predict_resize: Literal["labels", "logits"] = "labels"
    """(+) Without CRF: labels are resized to the image by nearest neighbour, as published, or the logits are."""
    crf_workers: int | None = None
    """(+) Processes for the CRF; 0 = this one; default: one per core."""
    crf_min_probability: float = 1e-3
    """(+) CRF: classes that nowhere reach it are left out, which is much faster; 0 keeps all, as published."""
    overlay: bool = True
    """(+) Lay the predictions over their pictures."""
    overwrite: bool = False
    """(+) Remove predictions of other weights first; otherwise they stop the run."""


@dataclass(frozen=True, kw_only=True)
class OriginalFiles:
    """The original's two configuration files."""

    config_exp: Path | None = None
    """Experiment file; its keys are the options above. Flags and --config go before it."""
    config_env: Path | None = None
    """Environment file with root_dir: --out becomes root_dir/<folder of config_exp>/<name of config_exp>."""


PROBE_DEFAULTS: dict[str, Any] = {
    "loss": "CE",
    "epochs": 60,
    "scheduler_kwargs.lr_decay_epochs": [25],
    "optimizer_kwargs.lr": 0.1,
    "freeze_batchnorm": "all",
    "freeze_layers": 0,
    "train_db_name": "VOCSegmentation",
}
"""What ``linear_finetune.py`` has for defaults where ``train.py`` has others: the original's ``linear_deeplab``."""
