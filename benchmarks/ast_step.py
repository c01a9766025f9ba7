"""A foreground update: network, rendering, loss, backward pass and Adam; PyTorch's layers and formulas beside ours."""

import torch
from ast_renderer import textbook_rendering, with_plain_celu
from ast_softargmax import textbook_pooling
from measuring import Benchmark
from torch import Tensor, nn

from ast_seg.foreground_module import SlotLearner
from ast_seg.model import unet
from ast_seg.model.rendering import TINY
from ast_seg.model.slots import position_map
from ast_seg.options import LossOptions, ModelOptions


def build(tiny: bool) -> Benchmark:
    """Four images of 64 x 64, three slots, the published U-Net."""
    return update(*((2, 32, [8, 16]) if tiny else (4, 64, None)))


def update(batch: int, side: int, widths: list[int] | None) -> Benchmark:
    """An update of so many images, with a U-Net of given or published widths."""
    options = ModelOptions(
        max_set_size=3,
        unet_widths=widths,
        transformer_dropout=0.0,
        background_model_training_scenario="frozen_weights",
    )
    ours, textbook = (Trained(SlotLearner(options, LossOptions(), (side, side)), fused) for fused in (True, False))
    textbook.learner.load_state_dict(ours.learner.state_dict())
    textbook.learner = as_textbook(textbook.learner)
    images, background = torch.rand(2, batch, 3, side, side)

    def our_step() -> Tensor:
        learner = ours.learner
        rendering = learner.renderer(learner.encoder(images), background)
        return ours.descend(learner.losses(rendering, images, full=True)["loss"])

    def textbook_step() -> Tensor:
        learner = textbook.learner
        encoder = learner.encoder
        maps = encoder.feature_maps(images)
        pooled = textbook_pooling(maps, position_map(side, side), encoder.num_slots)
        drawn, weights = textbook_rendering(learner.renderer, encoder.refined(pooled), background)
        reconstruction = (drawn - images).abs().sum(1).square().mean()
        entropy = (weights * (weights + TINY).log()).sum(0).square().mean()
        return textbook.descend(reconstruction + 1e-2 * entropy)

    def check(textbook_loss: Tensor, our_loss: Tensor) -> None:
        torch.testing.assert_close(our_loss, textbook_loss, rtol=5e-3, atol=1e-5)

    return Benchmark(f"foreground update on {tuple(images.shape)}, U-Net, 3 slots", textbook_step, our_step, check)


class Trained:
    """A learner with its optimiser, updated tensor by tensor or all at once."""

    def __init__(self, learner: SlotLearner, fused: bool) -> None:
        self.learner = learner
        self.optimizer = torch.optim.Adam(learner.parameters(), lr=1e-6, betas=(0.9, 0.98), eps=1e-9, fused=fused)

    def descend(self, loss: Tensor) -> Tensor:
        """One step down the loss, which is given back."""
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        return loss.detach()


def as_textbook(learner: SlotLearner) -> SlotLearner:
    """PyTorch's own CELU in place of ours."""
    with_plain_celu(learner)
    for module in learner.modules():
        for name, child in list(module.named_children()):
            if isinstance(child, unet.ConvNorm):
                setattr(module, name, nn.Sequential(child.conv, child.norm, nn.CELU()))
    for up in learner.encoder.feature_maps.ups:  # type: ignore[union-attr]
        up.__class__ = TextbookUp
    return learner


class TextbookUp(unet.Up):
    """With PyTorch's CELU."""

    def forward(self, x: Tensor, skipped: Tensor, size: object) -> Tensor:
        """As its parent."""
        x = torch.cat([x, skipped], dim=1)
        x = self.refine(x) + x
        return nn.functional.celu(self.norm(self.enlarge(x, output_size=list(size))))  # type: ignore[call-overload]
