"""A segment of WNet that holds nothing together takes over half of another one.

A segment that is empty, or whose pixels lie scattered, adds up to 1 to the cut for ever: to become a region it would
have to take pixels from others against the gradient. Whether and which segment is halved instead, the cut decides: one
of two unconnected things comes apart for nothing, a uniform one does not. No label is needed.

Symbols: B images, F features of the last convolution's input, K segments, H W pixels.
"""

import math
from typing import Any, NamedTuple

import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from common.messages import tell
from transformer_seg.wnet.lite import LiteWNet
from transformer_seg.wnet.losses import NcutKernel, ncut_parts, soft_ncut
from transformer_seg.wnet.model import WNet

SPREAD = 4.0  # standard deviation, in a halved segment, of the logit that each half gains or loses
GAIN = 0.05  # share by which the cut must fall


class Revived(NamedTuple):
    """A change: ``segment`` gave up its pixels and took half of ``halved``."""

    segment: int
    halved: int


class Revival(pl.Callback):
    """Looks at the segments every so many iterations, in the pictures of that iteration.

    Args:
        every: Iterations.
        kernel: See `soft_ncut`.
    """

    def __init__(self, every: int, kernel: NcutKernel) -> None:
        self.every, self.kernel = every, kernel
        self.revived: list[list[int]] = []

    def state_dict(self) -> dict[str, Any]:
        """[iteration, segment, halved segment] of all changes."""
        return {"revived": self.revived}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from there."""
        self.revived = list(state_dict["revived"])

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """When it is time, revive a segment if the cut falls."""
        if trainer.global_step % self.every:
            return
        network = pl_module.model
        assert isinstance(network, WNet | LiteWNet)
        change = revive_together(trainer, network, batch["image"], self.kernel)
        if change is not None:
            segment, halved = change
            self.revived.append([trainer.global_step, segment, halved])
            tell(f"iteration {trainer.global_step}: segment {segment} held nothing together, took half of {halved}")


def revive_together(trainer: pl.Trainer, network: WNet | LiteWNet, image: Tensor, kernel: NcutKernel) -> Revived | None:
    """`revive` by the pictures of all processes; the change of the first one is that of all.

    Args:
        trainer: Of these processes.
        network: The same in all.
        image: The pictures of this one (b, 3, H, W), as many in each.
        kernel: See `soft_ncut`.
    """
    if trainer.world_size > 1:
        gathered = trainer.strategy.all_gather(image)  # (processes, b, 3, H, W)
        image = gathered.transpose(0, 1).flatten(0, 1)  # as one process has them
    change = trainer.strategy.broadcast(revive(network, image, kernel))
    for parameter in last_convolution(network).parameters():
        parameter.data.copy_(trainer.strategy.broadcast(parameter.data))
    return change


def last_convolution(network: WNet | LiteWNet) -> nn.Conv2d:
    """The convolution (K, F, 1, 1) that gives the logits."""
    found = network.encoder.output.layers[-1] if isinstance(network, LiteWNet) else network.UEnc.final
    assert isinstance(found, nn.Conv2d)
    return found


@torch.no_grad()
def revive(network: WNet | LiteWNet, image: Tensor, kernel: NcutKernel) -> Revived | None:
    """Let the segment that adds most to the cut take half of another one, if the cut of these images falls.

    Only two rows of the last convolution change.

    Args:
        network: Its mode stays as it is.
        image: In [0, 1] (B, 3, H, W).
        kernel: See `soft_ncut`.

    Returns:
        The change, the one with the lowest cut; None when none lowers it by the share `GAIN`.
    """
    last = last_convolution(network)
    features = _features(network, last, image)
    weight, bias = last.weight.float(), last.bias
    assert bias is not None
    logits = F.conv2d(features, weight, bias.float())
    proba = logits.softmax(dim=1)
    parts = ncut_parts(image, proba, kernel)
    segment = int((parts.association / parts.mass.clamp(min=1e-12)).mean(dim=0).argmin())
    best, found = float(parts.per_image().mean()) * (1 - GAIN), None
    for halved in range(len(weight)):
        if halved == segment:
            continue
        towards, offset = _halves(features, proba[:, halved])
        across = torch.einsum("bfhw,f->bhw", features, towards) - offset
        level = logits[:, halved] - math.log(2)  # both halves together are as likely as the whole was
        trial = logits.clone()
        trial[:, segment], trial[:, halved] = level + across, level - across
        cut = float(soft_ncut(image, trial.softmax(dim=1), kernel).mean())
        if cut < best:
            best, found = cut, (halved, towards, offset)
    if found is None:
        return None
    halved, towards, offset = found
    row, level = last.weight[halved, :, 0, 0].clone(), bias[halved].clone() - math.log(2)
    last.weight[segment, :, 0, 0], bias[segment] = row + towards, level - offset
    last.weight[halved, :, 0, 0], bias[halved] = row - towards, level + offset
    return Revived(segment, halved)


def _features(network: WNet | LiteWNet, last: nn.Conv2d, image: Tensor) -> Tensor:
    """What enters the last convolution (B, F, H, W), by the running statistics."""
    seen: list[Tensor] = []
    handle = last.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    training = network.training
    network.eval().segment(image)
    network.train(training)
    handle.remove()
    return seen[0][..., : image.shape[-2], : image.shape[-1]].float()


def _halves(features: Tensor, probability: Tensor) -> tuple[Tensor, Tensor]:
    """Direction (F,) and offset along which a segment (B, H, W) varies most, scaled to ``SPREAD``."""
    values, share = features.permute(0, 2, 3, 1).flatten(0, 2), probability.flatten()[:, None]
    share = share / share.sum().clamp(min=1e-12)
    mean = (values * share).sum(dim=0)
    centred = values - mean
    spread, directions = torch.linalg.eigh((centred * share).T @ centred)  # ascending
    towards = directions[:, -1] * (SPREAD / spread[-1].clamp(min=1e-12).sqrt())
    return towards, mean @ towards
