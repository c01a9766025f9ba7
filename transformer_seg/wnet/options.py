"""The options of WNet, torch-free, so that ``--help`` is quick.

The defaults are a recipe of today (Adam, cosine, no dropout); the published settings are files in
``transformer_seg/configs``.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from common.errors import InputError
from transformer_seg.options import ImageDataOptions

ALIASES = {
    "--wnet-variant": "--variant",
    "--wnet-order": "--order",
    "--wnet-dropout": "--dropout",
    "--crf-iters": "--crf_iters",
}
MULTIPLES = {"sep": 16, "lite": 8}


@dataclass(frozen=True, kw_only=True)
class NcutOptions:
    """Soft normalised cut."""

    radius: float = 5.0
    """Neighbours are closer than this, in pixels."""
    sigma_intensity: float = 10.0
    """Scale of the colour difference, for values in 0..255."""
    sigma_space: float = 4.0
    """Scale of the distance in pixels."""


@dataclass(frozen=True, kw_only=True)
class WnetOptions:
    """Network, losses and optimiser."""

    num_classes: int = 16
    """Number of segments K; the paper's network has 64."""
    variant: Literal["sep", "lite"] = "sep"
    """sep: the paper's five-level net with separable convolutions; lite: the three-level net of fkodom."""
    width: int = 64
    """Channels of the first module (sep)."""
    order: Literal["bn_relu", "relu_bn"] = "bn_relu"
    """Normalise before the ReLU (published weights) or after it (the paper)."""
    dropout: float = 0.0
    """Dropout after each separable module; the paper: 0.65."""
    ncut: Literal["exact", "class_mean"] = "exact"
    """exact: the paper's cut; class_mean: fkodom's approximation with its joint loss, which tends to one segment."""
    kernel: NcutOptions = field(default_factory=NcutOptions)
    joint: bool = False
    """One step on the sum of cut and reconstruction instead of a step on each."""
    ncut_weight: float = 1.0
    """Weight of the exact cut in the joint loss, beside the mean squared error. The paper's error is a sum: its balance
    is 1 / (3 x rows x columns)."""
    optim: Literal["Adam", "SGD"] = "Adam"
    """Optimiser."""
    learning_rate: float = 1e-3
    """Base learning rate."""
    momentum: float = 0.0
    """Momentum of SGD."""
    weight_decay: float = 0.0
    """Weight decay."""
    schedule: Literal["constant", "cosine", "steps"] = "cosine"
    """cosine: to 0 at the last iteration; steps: a tenth after every --decay_every iterations."""
    decay_every: int = 1000
    """Iterations between two decays of the schedule called steps."""
    schedule_epochs: int | None = None
    """Epochs that the cosine reaches its end in; default --max_epochs."""
    starts: int = 1
    """Begin with so many short starts from different weights, and train on the one with the lowest cut."""
    start_iterations: int = 60
    """Iterations of each start, when there are several; those of the training come after them."""
    revive_every: int = 0
    """Iterations between two looks at the segments: the one that adds most to the cut, an empty one above all, takes
    over half of another one if that lowers the cut. 0 = never."""
    pretrained: bool = False
    """Start from published weights, which --ckpt_path names."""


@dataclass(frozen=True, kw_only=True)
class WnetDataOptions(ImageDataOptions):
    """Data. Without --data_file, embedded scenes are made and used."""

    batch_size: int = 10
    """Pictures per batch and process."""
    image_size: int = 224
    """Rows and columns that enter the network in training."""
    crop: Literal["resize", "random_resized", "random"] = "random_resized"
    """resize: the whole picture; random_resized: a part of half to all of it; random: a part at its own scale."""
    flip: bool = True
    """Mirror every second picture."""


@dataclass(frozen=True, kw_only=True)
class RefineOptions:
    """From WNet's probabilities to segments."""

    image_size: int | None = None
    """Rows and columns that pictures are resized to; 0 = their own size. Default: as in training."""
    crf: bool = True
    """Refine by a fully connected CRF."""
    crf_iters: int = 10
    """Mean-field iterations; published results used 150."""
    legacy_crf: bool = False
    """The published CRF: 150 iterations, and colour scales under which blue hardly counts."""
    merge: float | None = None
    """Also merge neighbouring regions whose mean contrast is at most this, from 0 to 1."""
    contours: bool = False
    """Also write the ultrametric contour map, as .npz and as a picture."""
    save_proba: bool = False
    """Also write the probabilities, float16 .npz."""


@dataclass(frozen=True, kw_only=True)
class WnetChainOptions:
    """The chain."""

    test_file: Path | None = None
    """Split to predict and score; default: the _test split of --data_file, or its _val split when there is none."""
    predict_size: int | None = None
    """Rows and columns that pictures are resized to for the prediction; 0 = their own size."""
    crf: bool = True
    """Refine by a fully connected CRF."""
    crf_iters: int = 10
    """Mean-field iterations; published results used 150."""
    baseline: bool = True
    """Also score k-means on colour and position, with as many segments per picture."""


def check_wnet(model: WnetOptions, data: WnetDataOptions) -> None:
    """Refuse options that training cannot work with.

    Raises:
        InputError: names flag, value and remedy.
    """
    if model.num_classes < 2:
        raise InputError(f"--num_classes {model.num_classes}: a cut needs at least 2 segments")
    if model.variant == "sep" and model.width < 1:
        raise InputError(f"--width {model.width}: give at least 1")
    least = MULTIPLES[model.variant]
    if data.image_size < least:
        raise InputError(f"--image_size {data.image_size}: give at least {least}, a multiple of it works best")
    if model.kernel.radius <= 1 or min(model.kernel.sigma_intensity, model.kernel.sigma_space) <= 0:
        raise InputError("--kernel: the radius must be above 1 and both sigmas above 0")
    if not 0 <= model.dropout < 1:
        raise InputError(f"--dropout {model.dropout}: give a share from 0 to below 1")
    if model.learning_rate <= 0:
        raise InputError(f"--learning_rate {model.learning_rate}: give a rate above 0")
    if model.starts < 1:
        raise InputError(f"--starts {model.starts}: give at least 1")
    if model.starts > 1 and (model.joint or model.ncut == "class_mean"):
        raise InputError(
            f"--starts {model.starts}: they are compared by the exact cut, trained in turn; give --starts 1"
        )
    if model.start_iterations < 1:
        raise InputError(f"--start_iterations {model.start_iterations}: give at least 1")
    if model.revive_every < 0:
        raise InputError(f"--revive_every {model.revive_every}: give a number of iterations, or 0 for never")
    if model.decay_every < 1:
        raise InputError(f"--decay_every {model.decay_every}: give at least 1")
