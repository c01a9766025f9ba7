"""A training step of DeepLab-v3 with hard example mining, the first stages frozen."""

import copy
from collections.abc import Callable

import torch
from measuring import Benchmark
from torch import Tensor, nn
from torch.nn import functional as F

from maskdistill.losses import ohem_cross_entropy
from maskdistill.model.deeplab import DeepLabV3

SHARE = 0.2


def build(tiny: bool) -> Benchmark:
    """Two images of 128 x 128."""
    side = 32 if tiny else 128
    images = torch.randn(2, 3, side, side)
    target = torch.randint(0, 21, (2, side, side))
    target[torch.rand(target.shape) < 0.05] = 255
    trunk = "resnet18" if tiny else "resnet50"
    network = DeepLabV3(21, trunk)
    network.dropout.p = 0.0  # both shall draw the same
    textbook_net = textbook_network(network)
    network.backbone.freeze(2)

    def textbook_loss(logits: Tensor) -> Tensor:
        losses = F.cross_entropy(logits, target, ignore_index=255, reduction="none").flatten()
        valid = losses[target.flatten() != 255].sort(descending=True).values
        return valid[: int(SHARE * target.numel())].mean()

    ours = _stepper(network, images, lambda logits: ohem_cross_entropy(logits, target, SHARE))
    textbook = _stepper(textbook_net, images, textbook_loss)

    def check(expected: Tensor, found: Tensor) -> None:
        torch.testing.assert_close(found, expected, rtol=1e-3, atol=0)

    return Benchmark(f"training step on {tuple(images.shape)}, OHEM, two stages frozen", textbook, ours, check)


def textbook_network(network: DeepLabV3) -> DeepLabV3:
    """A copy with PyTorch's convolutions throughout, whose frozen stages are only left out of the optimiser."""
    copied = copy.deepcopy(network)
    for branch in copied.head[0].convs[1:4]:
        old = branch[0]
        conv = nn.Conv2d(old.in_channels, old.out_channels, 3, padding=old.padding, dilation=old.dilation, bias=False)
        conv.load_state_dict(old.state_dict())
        branch[0] = conv
    return copied


def _stepper(network: DeepLabV3, images: Tensor, loss_of: Callable[[Tensor], Tensor]) -> Callable[[], Tensor]:
    trained = [*network.backbone.layer3.parameters(), *network.backbone.layer4.parameters(), *network.head.parameters()]
    optimizer = torch.optim.SGD(trained, lr=0.0, momentum=0.9)  # rate 0: every call does the same
    backbone = network.backbone
    frozen = (backbone.conv1, backbone.bn1, backbone.layer1, backbone.layer2)

    def step() -> Tensor:
        network.train()
        for stage in frozen:
            stage.eval()
        optimizer.zero_grad()
        loss = loss_of(network(images))
        loss.backward()
        optimizer.step()
        return loss.detach()

    return step
