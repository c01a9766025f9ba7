"""Published weights: what a file holds, and its names in our networks.

| file | layout |
|---|---|
| DINO ViT-S/16, ViT-S/8, ResNet-50 | flat, our names, no classifier |
| MoCo v1, v2 / v3 ResNet-50 | ``state_dict``, prefix ``module.encoder_q.`` / ``module.base_encoder.``, much else |
| MaskDistill DeepLab, FCN, linear probe | flat, prefix ``module.`` or none; a resumable one under ``model`` |
| detectron2 Mask R-CNN, also ``.pkl`` | under ``model``; see ``maskdistill.detectron2_weights`` |
"""

import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy._core.multiarray import scalar as numpy_scalar
from torch import Tensor, nn

from common.checkpoints import check_keys, load_checkpoint
from common.errors import InputError
from common.files import check_file
from maskdistill.model.vit import WIDTHS, VisionTransformer

Weights = Mapping[str, Tensor]

MOCO_PREFIXES = ("module.encoder_q.", "module.base_encoder.")
FCN_STAGES = ("conv1.", "bn1.", "layer1.", "layer2.", "layer3.", "layer4.")

SCALAR_TYPES = (np.dtypes.Float64DType, np.dtypes.Float32DType, np.dtypes.Int64DType)
ARRAY_NAMES = {
    ("numpy._core.multiarray", "_reconstruct"),
    ("numpy._core.multiarray", "scalar"),
    ("numpy._core.numeric", "_frombuffer"),
    ("numpy", "ndarray"),
    ("numpy", "dtype"),
    ("_codecs", "encode"),
    ("collections", "OrderedDict"),
}

# Telling key of each kind of file, looked for in this order
KINDS = {
    "blocks.0.attn.qkv.weight": "a ViT",
    "backbone.stem.conv1.weight": "a detectron2 Mask R-CNN",
    "stem.conv1.weight": "a detectron2 ResNet-50",
    "head.0.project.0.weight": "a DeepLab-v3",
    "decoder.0.weight": "an FCN",
    "backbone.layer4.2.conv3.weight": "a linear probe",
    "layer4.2.conv3.weight": "a ResNet-50",
}


def read_published(path: Path | str) -> dict[str, Any]:
    """A published file: a PyTorch one, or a pickle of arrays as detectron2 writes them (``.pkl``).

    No code of the file runs. Beside tensors and plain values numpy's scalars and arrays are let in: the resumable
    DeepLab files hold their best score as such a scalar.

    Raises:
        InputError: Missing, unreadable, or holding anything else.
    """
    path = Path(path)
    if path.suffix == ".pkl":
        return _read_pickle(path)
    scalars: list[Any] = [numpy_scalar, (numpy_scalar, "numpy.core.multiarray.scalar"), np.dtype, *SCALAR_TYPES]
    with torch.serialization.safe_globals(scalars):
        return load_checkpoint(path)


class _ArrayUnpickler(pickle.Unpickler):
    """Plain values and numpy arrays, nothing else."""

    def find_class(self, module: str, name: str) -> Any:
        """What a name in the pickle stands for; only numpy's constructors are known."""
        if (module.replace("numpy.core", "numpy._core"), name) in ARRAY_NAMES:
            return super().find_class(module.replace("numpy.core", "numpy._core"), name)
        raise pickle.UnpicklingError(f"{module}.{name} is not allowed")


def _read_pickle(path: Path) -> dict[str, Any]:
    file = check_file(path, "checkpoint", "name a file of weights that is there")
    try:
        with file.open("rb") as stream:
            content = _ArrayUnpickler(stream, encoding="latin1").load()
    except (pickle.UnpicklingError, EOFError, ValueError, KeyError, IndexError, TypeError, AttributeError) as error:
        raise InputError(f"{path}: not a pickle of arrays ({' '.join(str(error).split())[:160]})") from error
    if not isinstance(content, dict):
        raise InputError(f"{path}: holds a {type(content).__name__}, not a dictionary of weights")
    return content


def weights_of(checkpoint: Mapping[str, Any]) -> dict[str, Tensor]:
    """The tensors of a loaded file, out of ``model`` or ``state_dict``, without a ``module.`` that all keys share."""
    content = checkpoint
    for key in ("model", "state_dict"):
        if isinstance(content.get(key), Mapping):
            content = content[key]
    weights = {key: torch.as_tensor(value) for key, value in content.items() if hasattr(value, "shape")}
    if weights and all(key.startswith("module.") for key in weights):
        weights = {key.removeprefix("module."): value for key, value in weights.items()}
    return weights


def kind_of(weights: Weights) -> str:
    """What a file's names say it is, for messages."""
    known = (kind for key, kind in KINDS.items() if key in weights)
    moco = any(key.startswith(prefix.removeprefix("module.")) for key in weights for prefix in MOCO_PREFIXES)
    return next(known, "a MoCo checkpoint" if moco else "of no kind known here")


def load_weights(network: nn.Module, weights: Weights, path: str = "checkpoint") -> None:
    """Fill a network, strictly but for batch norms' step counters, which some files lack.

    Raises:
        InputError: Names or shapes that do not fit, with what the file seems to be.
    """
    own = network.state_dict()
    counters = {key for key in own if key.endswith("num_batches_tracked") and key not in weights}
    try:
        check_keys(weights, set(own) - counters, path)
    except InputError as error:
        raise InputError(f"{error}; the file is {kind_of(weights)}, a {type(network).__name__} is needed") from error
    misfits = [key for key, value in weights.items() if value.shape != own[key].shape]
    if misfits:
        shapes = ", ".join(f"{key} {list(weights[key].shape)} for {list(own[key].shape)}" for key in misfits[:3])
        raise InputError(f"{path}: {len(misfits)} weights of another shape ({shapes}); the file is {kind_of(weights)}")
    network.load_state_dict({**{key: own[key] for key in counters}, **weights})


def import_vit(checkpoint: Mapping[str, Any], path: str = "checkpoint") -> VisionTransformer:
    """The ViT of a DINO file, of the size and patch that its shapes say, in eval mode. A classifier is left out.

    Raises:
        InputError: Not a ViT, or one of another width than ``small`` and ``base``.
    """
    weights = {key: value for key, value in weights_of(checkpoint).items() if not key.startswith("head.")}
    if "patch_embed.proj.weight" not in weights or "blocks.0.attn.qkv.weight" not in weights:
        raise InputError(f"{path}: this is {kind_of(weights)}, a DINO ViT is needed")
    width, _, patch_size, _ = weights["patch_embed.proj.weight"].shape
    sizes = [size for size, known in WIDTHS.items() if known == width]
    if not sizes:
        raise InputError(f"{path}: tokens are {width} wide, known are {WIDTHS}")
    depth = len({key.split(".")[1] for key in weights if key.startswith("blocks.")})
    network = VisionTransformer(sizes[0], patch_size, depth)
    load_weights(network, weights, path)
    return network.eval()


def import_resnet50(checkpoint: Mapping[str, Any], path: str = "checkpoint") -> dict[str, Tensor]:
    """The convolutional part of a ResNet-50 under torchvision's names, of a MoCo, DINO or torchvision file.

    Classifiers, projection heads, queues and momentum encoders are left out.

    Raises:
        InputError: No ResNet-50 in it.
    """
    content = checkpoint.get("state_dict", checkpoint)
    for prefix in MOCO_PREFIXES:
        if any(key.startswith(prefix) for key in content):
            content = {key.removeprefix(prefix): value for key, value in content.items() if key.startswith(prefix)}
    weights = {key: value for key, value in weights_of(content).items() if key.startswith(FCN_STAGES)}
    if "layer4.2.conv3.weight" not in weights:
        raise InputError(f"{path}: this is {kind_of(weights_of(checkpoint))}, a MoCo or DINO ResNet-50 is needed")
    return weights


def import_segmentation(network: nn.Module, checkpoint: Mapping[str, Any], path: str = "checkpoint") -> None:
    """Fill a DeepLab-v3, an FCN or a linear probe from a published or an own file.

    Raises:
        InputError: The file is of another network.
    """
    weights = weights_of(checkpoint)
    if "decoder.0.weight" in weights:  # the published FCN has its trunk at the top
        weights = {f"backbone.{key}" if key.startswith(FCN_STAGES) else key: value for key, value in weights.items()}
    load_weights(network, weights, path)


def export_segmentation(network: nn.Module) -> dict[str, Tensor]:
    """The weights of a DeepLab-v3, an FCN or a linear probe in the published layout."""
    weights = network.state_dict()
    if "decoder.0.weight" in weights:
        weights = {key.removeprefix("backbone."): value for key, value in weights.items()}
    return {f"module.{key}": value for key, value in weights.items()}
