"""What is looked at before anything is read or written: options that cannot work, each refused in one line.

Looser than the network itself on purpose: a checkpoint of other options must stay readable, so these checks belong to
the commands, not to the module.
"""

from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from common.errors import InputError
from common.files import image_size
from common.messages import warn
from common.options import TrainerFlags, resolve_gpus
from common.splits import Split
from stflow.augment import PERTURBATIONS, parse_global_motion
from stflow.data import check_size, read_mask_of_flow
from stflow.linking import cut
from stflow.losses import REGULARISERS
from stflow.model import UNet3D
from stflow.module import MotionSegmenter
from stflow.options import DataOptions, MaskEncoding, ModelOptions, PredictOptions, check_model_options

MAX_LABELS = 255  # label maps are 8-bit images
MOST_LOOKED_AT = 10_000


def check_training(model: ModelOptions, data: DataOptions, out: Path) -> None:
    """Refuse options that training cannot work with.

    Raises:
        InputError: names flag, value and remedy.
    """
    check_size(data.img_size, model.unet)
    check_model_options(model)
    _check_model_numbers(model)
    _check_names(model)
    _check_fields(model)
    check_network(model, data.img_size)
    check_data_numbers(data)
    check_apart(out, data.base_dir)
    if model.nAffineMasks == 1:
        warn("-L 1 fits one global motion and segments nothing; usual are 2 to 8")
    if model.unet.inner_normalisation == "BatchNorm" and not model.unet.train_bn:
        warn("BatchNorm without --unet.train_bn: a prediction depends on the other windows of its batch")


def check_network(model: ModelOptions, img_size: list[int]) -> None:
    """Send a window without values through the network: sizes, normalisation and padding that do not fit show here.

    Raises:
        InputError: the network's own objection.
    """
    unet = model.unet
    with torch.device("meta"), torch.no_grad():
        network = UNet3D(
            num_classes=model.nAffineMasks,
            features_start=unet.features_start,
            num_layers=unet.num_layers,
            padding_mode=unet.padding_mode,
            inner_normalisation=unet.inner_normalisation,
            train_bn=unet.train_bn,
        )
        network.eval()(torch.empty(1, 2, len(model.inputs), *img_size))


def check_data_numbers(data: DataOptions) -> None:
    """Refuse numbers out of range.

    Raises:
        InputError: names flag, value and range.
    """
    at_least("batch_size", data.batch_size, 1)
    at_least("num_workers", data.num_workers, 0)
    at_least("max_bad_samples", data.max_bad_samples, 0)
    if not 0 < data.subsample_train <= 1:
        raise InputError(f"--subsample_train {data.subsample_train}: give a share above 0 and at most 1")
    if not 0 <= data.seed < 2**32:
        raise InputError(f"--seed {data.seed}: give a whole number from 0 to {2**32 - 1}")


def check_apart(out: Path, base_dir: Path) -> None:
    """Refuse to write results among the data.

    Raises:
        InputError: ``out`` is the data folder.
    """
    if out.resolve() == base_dir.resolve():
        raise InputError(f"--out {out}: is the data folder (--base_dir); give a folder of its own")


def check_not_overwritten(split: Split, out: Path) -> None:
    """Refuse a folder in which results would replace the data they were made from.

    Raises:
        InputError: the data split lies in ``out`` under the name of the prediction split.
    """
    if (out / f"{split.name}.csv").resolve() == split.file.resolve():
        raise InputError(f"--out {out}: the predictions would replace {split.file}; give a folder of its own")


def at_least(name: str, value: float, smallest: float) -> None:
    """Refuse a flag below its smallest value.

    Raises:
        InputError: names both.
    """
    if not value >= smallest:
        raise InputError(f"--{name} {value}: give at least {smallest}")


def _check_model_numbers(model: ModelOptions) -> None:
    at_least("unet.num_layers", model.unet.num_layers, 1)
    at_least("unet.features_start", model.unet.features_start, 1)
    at_least("theta_iterations", model.theta_iterations, 1)
    at_least("optim.lr", model.optim.lr, 0)
    at_least("optim.weight_decay", model.optim.weight_decay, 0)
    if model.nAffineMasks > MAX_LABELS:
        raise InputError(f"--nAffineMasks {model.nAffineMasks}: give at most {MAX_LABELS}")


def _check_names(model: ModelOptions) -> None:
    for name in model.regularisation:
        if name not in REGULARISERS:
            raise InputError(f"--regularisation: unknown term {name!r}, choose from {', '.join(REGULARISERS)}")
    for name in model.flow_augmentation or []:
        parse_global_motion(name)
    for name in model.experimental_flag or []:
        if name not in PERTURBATIONS:
            raise InputError(f"--experimental_flag {name}: unknown, choose from {', '.join(PERTURBATIONS)} or none")


def _check_fields(model: ModelOptions) -> None:
    """Each predicted field is compared with its own flow, so both lists name the same fields."""
    for name in ("inputs", "flows_volume"):
        fields = getattr(model, name)
        if len(set(fields)) < len(fields):
            raise InputError(f"--{name} {' '.join(fields)}: names a field twice; name each once")
    if model.inputs != model.flows_volume:
        raise InputError(
            f"--inputs {' '.join(model.inputs)} and --flows_volume {' '.join(model.flows_volume)}: must name the same"
            " fields in the same order"
        )


def check_prediction(options: PredictOptions, module: MotionSegmenter, flags: TrainerFlags) -> None:
    """Refuse options that prediction cannot work with, before the data is read.

    Raises:
        InputError: names flag, value and remedy.
    """
    size = list(options.img_size or module.hparams["img_size"])
    check_size(size, module.options.unet)
    check_network(module.options, size)
    at_least("batch_size", options.batch_size, 1)
    at_least("num_workers", options.num_workers, 0)
    cut(1, options.cuts_size)
    resolve_gpus(options.gpus, flags.arguments(), torch.cuda.device_count())


def check_prediction_data(split: Split, out: Path, *, with_gt: bool, encoding: MaskEncoding) -> None:
    """Look at the frames and masks of a split before the first window is predicted, at a sample of very many.

    Args:
        split: What is to be predicted.
        out: Folder of the predictions.
        with_gt: Ground truth will choose the segments: look at the masks too.
        encoding: How masks are read.

    Raises:
        InputError: predictions would replace the data; a frame or mask that cannot be used.
    """
    check_not_overwritten(split, out)
    images = split.available("Image") if "Image" in split.columns else np.zeros(len(split), bool)
    masks = split.available("GtMask") if with_gt and "GtMask" in split.columns else np.zeros(len(split), bool)
    flows = split.available("Flow")
    rows = np.flatnonzero(images | masks)
    if len(rows) > MOST_LOOKED_AT:  # of a long split an even sample: the first window should not wait for minutes
        rows = rows[np.linspace(0, len(rows) - 1, MOST_LOOKED_AT).round().astype(int)]
    for row in tqdm(rows.tolist(), desc="checking", unit="frame", disable=None):
        if images[row]:
            image_size(split.path(row, "Image"))
        if masks[row] and flows[row]:
            read_mask_of_flow(split, row, encoding)
