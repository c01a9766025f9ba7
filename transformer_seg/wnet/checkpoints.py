"""Read published W-Net weights, of both sizes.

The large net's state dict (taoroalin/WNet) and the small one's (fkodom/wnet-unsupervised-image-segmentation) have our
names; what is read off them is the size of the network. The small one was published as a pickled module, see
`transformer_seg.wnet.legacy_pickle`.
"""

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from common.checkpoints import load_checkpoint, state_dict_of
from common.errors import InputError
from transformer_seg.fitting import check_fits
from transformer_seg.wnet.legacy_pickle import is_legacy, read_legacy_module
from transformer_seg.wnet.lite import LiteWNet
from transformer_seg.wnet.model import Order, WNet

LITE_MODULES = ("src.wnet", "wnet")  # where the classes of the published pickle were defined


def import_wnet(
    state: Mapping[str, Tensor], *, order: Order = "bn_relu", dropout: float = 0.0, path: Path | str = "checkpoint"
) -> WNet | LiteWNet:
    """The network of a state dict, in evaluation mode; which of the two, and its size, the tensors show.

    Args:
        state: Published tensors, or ours.
        order: See `WNet`; not visible in the tensors.
        dropout: See `WNet`.
        path: Named in errors.

    Raises:
        InputError: Tensors missing, left over or of another shape.
    """
    network: WNet | LiteWNet
    if "UEnc.enc1.conv1.weight" in state and "UEnc.final.weight" in state:
        first, last = state["UEnc.enc1.conv1.weight"], state["UEnc.final.weight"]
        with torch.device("meta"):
            network = WNet(
                num_segments=last.shape[0],
                width=first.shape[0],
                channels=first.shape[1],
                order=order,
                dropout=dropout,
            )
    elif "encoder.conv1.layers.2.weight" in state and "encoder.output.layers.4.weight" in state:
        first, last = state["encoder.conv1.layers.2.weight"], state["encoder.output.layers.4.weight"]
        with torch.device("meta"):
            network = LiteWNet(num_segments=last.shape[0], channels=first.shape[1])
    else:
        raise InputError(
            f"{path}: not a W-Net: neither UEnc.enc1.conv1.weight (large) nor encoder.conv1.layers.2.weight (lite)"
        )
    check_fits(state, network.state_dict(), path)
    network.load_state_dict(dict(state), assign=True)
    return network.requires_grad_(True).eval()


def load_wnet(path: Path | str, *, order: Order = "bn_relu", dropout: float = 0.0) -> WNet | LiteWNet:
    """The network of a file: a state dict, a checkpoint with one, or the lite variant's pickled module.

    Raises:
        InputError: A file that is no such thing.
    """
    if Path(path).is_file() and is_legacy(path):
        state = read_legacy_module(path, LITE_MODULES)
    else:
        state = state_dict_of(load_checkpoint(path), path)
    return import_wnet(state, order=order, dropout=dropout, path=path)
