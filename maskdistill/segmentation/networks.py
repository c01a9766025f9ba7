"""The network of the options: DeepLab-v3 or FCN, its trunk from a self-supervised ResNet-50 or from random weights."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from common.errors import InputError
from maskdistill.checkpoints import import_resnet50, import_segmentation, load_weights, read_published, weights_of
from maskdistill.model.deeplab import FCN, DeepLabV3, LinearProbe, Trunk
from maskdistill.segmentation.options import ModelKwargs

SemanticNetwork = DeepLabV3 | FCN | LinearProbe


def make_network(options: ModelKwargs, num_classes: int) -> DeepLabV3 | FCN:
    """A new network.

    Raises:
        InputError: Weights that are not named, missing, or of another network.
    """
    kind = FCN if options.use_fcn else DeepLabV3
    network = kind(num_classes, options.trunk)
    flag = "--model_kwargs.pretraining"
    if options.pretraining == "random":
        return network
    if options.trunk != "resnet50":
        raise InputError(f"{flag} {options.pretraining}: is a ResNet-50; give --model_kwargs.trunk resnet50")
    if options.pretraining_path is None:
        raise InputError(f"{flag} {options.pretraining}: name its file with {flag}_path, or give {flag} random")
    path = options.pretraining_path
    load_weights(network.backbone, import_resnet50(read_published(path), str(path)), str(path))
    return network


def trainable(network: nn.Module) -> list[nn.Parameter]:
    """The parameters that are trained."""
    return [parameter for parameter in network.parameters() if parameter.requires_grad]


def freeze_batch_norms(network: nn.Module) -> None:
    """Batch norms to eval mode, their weights out of training; call it after each switch to training mode."""
    for module in network.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.eval().requires_grad_(False)


def import_network(checkpoint: Mapping[str, Any], path: str = "checkpoint") -> SemanticNetwork:
    """A published or own file as the network that its names and shapes say, in eval mode.

    Raises:
        InputError: Not a DeepLab-v3, FCN or linear probe.
    """
    weights = weights_of(checkpoint)
    trunk = _trunk_of(weights)
    network: SemanticNetwork
    if "head.4.weight" in weights:
        network = DeepLabV3(len(weights["head.4.weight"]), trunk)
    elif "decoder.0.weight" in weights:
        network = FCN(len(_last(weights, "decoder.")), trunk)
    elif "head.weight" in weights and "backbone.conv1.weight" in weights:
        network = LinearProbe(len(weights["head.weight"]), trunk)
    else:
        network = DeepLabV3()  # its importer says what the file is instead
    import_segmentation(network, checkpoint, path)
    return network.eval()


def _trunk_of(weights: Mapping[str, Tensor]) -> Trunk:
    if any(key.endswith("layer1.0.conv3.weight") for key in weights):
        return "resnet50"
    stem = next((value for key, value in weights.items() if key.endswith("conv1.weight")), None)
    return "small" if stem is not None and len(stem) == 16 else "resnet18"


def _last(weights: Mapping[str, Tensor], prefix: str) -> Tensor:
    places = [int(key.split(".")[1]) for key in weights if key.startswith(prefix) and key.endswith(".weight")]
    return weights[f"{prefix}{max(places)}.weight"]
