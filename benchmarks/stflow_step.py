"""A training step: network, motion parameters, loss, backward pass and Adam. Network layers are PyTorch's in both."""

import copy

import torch
from measuring import Benchmark
from stflow_theta import MODEL, segments_in_motion, textbook_coherence, textbook_theta
from torch import Tensor, nn

from stflow.losses import segmentation_losses
from stflow.model import UNet3D
from stflow.motion import basis
from stflow.theta import fit_theta


def build(tiny: bool) -> Benchmark:
    """Two windows of 3 x 64 x 112, four segments, 32 features."""
    _, flow = segments_in_motion(*((2, 2, 3, 8, 12) if tiny else (2, 4, 3, 64, 112)))
    segments, features = (2, 4) if tiny else (4, 32)
    ours = Trained(UNet3D(segments, features_start=features))
    textbook = Trained(textbook_network(ours.network))

    def our_step() -> Tensor:
        pred = ours.network(flow).softmax(1)
        theta = fit_theta(pred, flow, MODEL)
        return ours.descend(segmentation_losses(pred, flow, theta, MODEL).total.mean())

    def textbook_step() -> Tensor:
        pred = textbook.network._layers(flow)[0].softmax(1)
        return textbook.descend(textbook_loss(pred, flow, textbook_theta(pred.detach(), flow)))

    def check(textbook_loss: Tensor, our_loss: Tensor) -> None:
        torch.testing.assert_close(our_loss, textbook_loss, rtol=5e-3, atol=0)

    return Benchmark(f"training step on {tuple(flow.shape)}, {features} features", textbook_step, our_step, check)


def textbook_network(network: UNet3D) -> UNet3D:
    """A copy with PyTorch's own instance norm; its ``_layers`` takes the batch as a whole."""
    network = copy.deepcopy(network)
    for block in [*network.encoders, *network.decoders]:
        block[1], block[4] = (nn.InstanceNorm3d(block[0].out_channels) for _ in range(2))
    return network


class Trained:
    """A network with its optimiser."""

    def __init__(self, network: UNet3D) -> None:
        self.network = network
        self.optimizer = torch.optim.Adam(network.parameters(), lr=1e-4)

    def descend(self, loss: Tensor) -> Tensor:
        """One step down the loss, which is given back."""
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        return loss.detach()


def textbook_loss(pred: Tensor, flow: Tensor, theta: Tensor) -> Tensor:
    """Coherence and the temporal regulariser, the batch's mean."""
    B, L, T, rows, columns = pred.shape
    grids = basis(MODEL, T, rows, columns).repeat(B * L, 1, 1, 1, 1, 1)
    layers = (grids.flatten(1, 4) @ theta.view(B * L, -1, 1)).view(B, L, 2, T, rows, columns)
    change = (flow[:, :, 1:] - flow[:, :, :-1]).abs().sum(1)
    limit = torch.quantile(change.flatten(1), 0.99, dim=1)[:, None, None, None]
    moves = (pred[:, :, 1:] - pred[:, :, :-1]).abs().mean(1)
    return textbook_coherence(pred, flow, layers) + (moves * (change < limit)).mean()
