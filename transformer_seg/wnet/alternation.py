"""One iteration of W-Net training: a step on the cut, then a step on the reconstruction (algorithm 1 of the paper)."""

from typing import NamedTuple, Protocol

from torch import Tensor
from torch.optim import Optimizer

from transformer_seg.wnet.losses import NcutKernel, reconstruction_loss, soft_ncut


class Segmenting(Protocol):
    """A W-Net of either size."""

    def __call__(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Logits and reconstruction."""

    def segment(self, image: Tensor) -> Tensor:
        """Logits."""


class IterationLosses(NamedTuple):
    """The two losses of an iteration, each before its step."""

    ncut: Tensor
    reconstruction: Tensor


def alternating_iteration(
    network: Segmenting, optimiser: Optimizer, image: Tensor, kernel: NcutKernel | None = None
) -> IterationLosses:
    """Step on the cut, which moves the encoder alone, then on the reconstruction of a fresh forward pass.

    In training mode the batch statistics of the encoder move twice, those of the decoder once.

    Args:
        network: In training mode.
        optimiser: Over all its parameters.
        image: In [0, 1] (B, C, H, W).
        kernel: See `soft_ncut`.
    """
    optimiser.zero_grad(set_to_none=True)  # with None the decoder has no gradient, and no momentum moves it
    ncut = soft_ncut(image, network.segment(image).softmax(dim=1), kernel).mean()
    ncut.backward()
    optimiser.step()

    optimiser.zero_grad(set_to_none=True)
    reconstruction = reconstruction_loss(image, network(image)[1])
    reconstruction.backward()
    optimiser.step()
    return IterationLosses(ncut.detach(), reconstruction.detach())
