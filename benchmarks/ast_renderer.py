"""Placing and mixing of slots, forward and backward: grid sampling and exp, beside the `Renderer`."""

from copy import deepcopy

import torch
from ceilings import num_bytes
from measuring import Benchmark
from torch import Tensor, nn
from torch.nn.functional import affine_grid, grid_sample

from ast_seg.model.celu import CELU
from ast_seg.model.renderer import Renderer


def build(tiny: bool) -> Benchmark:
    """Four images of 128 x 128, ten slots, 32 appearance latents."""
    batch, slots, what, side = (2, 3, 4, 32) if tiny else (4, 10, 32, 128)
    renderer = Renderer(height=side, width=side, what_dim=what)
    plain = deepcopy(renderer)
    with_plain_celu(plain)
    draw = torch.randn(slots, batch, what + 5)
    draw[..., :2] *= 0.5
    latents = draw.requires_grad_()
    background = torch.rand(batch, 3, side, side)
    weight = torch.rand(batch, 3, side, side)

    def textbook() -> tuple[Tensor, Tensor]:
        return _with_gradient(textbook_rendering(plain, latents, background)[0], weight, latents)

    def ours() -> tuple[Tensor, Tensor]:
        return _with_gradient(renderer(latents, background).reconstruction, weight, latents)

    def check(textbook: tuple[Tensor, Tensor], ours: tuple[Tensor, Tensor]) -> None:
        torch.testing.assert_close(ours[0], textbook[0], rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(ours[1], textbook[1], rtol=1e-2, atol=2e-2)

    moved = num_bytes(latents, background, weight) + num_bytes(latents, background)  # the last two: results
    step = f"rendering of {slots} slots on {batch}x{side}x{side}, with gradient"
    return Benchmark(step, textbook, ours, check, least_bytes=moved)


def with_plain_celu(network: nn.Module) -> None:
    """Put PyTorch's own CELU in place of ours, inside a network."""
    for module in network.modules():
        for name, child in list(module.named_children()):
            if isinstance(child, CELU):
                setattr(module, name, nn.CELU())


def textbook_rendering(renderer: Renderer, latents: Tensor, background: Tensor) -> tuple[Tensor, Tensor]:
    """Reconstruction, and weights (K+1, B, 1, H, W): the formulas of the paper, layer by layer."""
    slots, batch, _ = latents.shape
    height, width = background.shape[-2:]
    flat = latents.flatten(0, 1)
    centre, scale = renderer.place(flat)
    theta = torch.zeros(len(flat), 2, 3)
    theta[:, 0, 0], theta[:, 1, 1] = scale[:, 0], scale[:, 1]
    theta[:, 0, 2], theta[:, 1, 2] = -centre[:, 0] * scale[:, 0], -centre[:, 1] * scale[:, 1]
    glimpses = renderer.glimpses(flat[:, 3 + renderer.num_scales :])
    grid = affine_grid(theta, [len(flat), 4, height, width], align_corners=False)
    placed = grid_sample(glimpses, grid, align_corners=False).view(slots, batch, 4, height, width)
    activation = latents[..., renderer.activation_index, None, None, None].exp().expand(-1, -1, 1, height, width)
    own = renderer.background_logit.exp().expand(1, batch, 1, height, width)
    shares = torch.cat([own, activation * placed[:, :, 3:]])
    weights = shares / shares.sum(0, keepdim=True)
    layers = weights * torch.cat([background[None], placed[:, :, :3]])
    return layers.sum(0), weights


def _with_gradient(reconstruction: Tensor, weight: Tensor, latents: Tensor) -> tuple[Tensor, Tensor]:
    (gradient,) = torch.autograd.grad((reconstruction * weight).sum(), latents)
    return reconstruction.detach(), gradient
