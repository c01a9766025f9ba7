"""Motion parameters of every segment: L-BFGS on a grid copied for every sample and segment, beside `fit_theta`."""

# ruff: noqa: E741 - T I J are this field's letters for frames, rows and columns

import torch
from ceilings import num_bytes
from measuring import Benchmark
from torch import Tensor
from torch.nn.functional import interpolate

from stflow.losses import coherence_loss
from stflow.motion import basis, parametric_flow
from stflow.theta import fit_theta

MODEL = "QuadraticFullPT"
ABOVE_LBFGS = 0.005  # the loss after ours may lie above that after the textbook form by this share


def build(tiny: bool) -> Benchmark:
    """Two windows of 3 x 64 x 112, four segments."""
    pred, flow = segments_in_motion(*((1, 2, 3, 8, 10) if tiny else (2, 4, 3, 64, 112)))

    def loss(theta: Tensor) -> float:
        return float(coherence_loss(pred, flow, parametric_flow(theta, MODEL, *flow.shape[2:])).mean())

    def check(textbook: Tensor, ours: Tensor) -> None:
        assert loss(ours) <= loss(textbook) * (1 + ABOVE_LBFGS), (loss(ours), loss(textbook))

    return Benchmark(
        f"theta of {tuple(pred.shape)}, {MODEL}",
        lambda: textbook_theta(pred, flow),
        lambda: fit_theta(pred, flow, MODEL),
        check,
        least_bytes=num_bytes(pred, flow),
    )


def segments_in_motion(B: int, L: int, T: int, I: int, J: int) -> tuple[Tensor, Tensor]:
    """Soft segments (B, L, T, I, J), and flow (B, 2, T, I, J) in pixels: of each pixel's segment, with noise."""
    logits = interpolate(torch.randn(B * L, 1, 1, 4, 6), (1, I, J), mode="trilinear").view(B, L, 1, I, J)
    labels = logits.argmax(1, keepdim=True).expand(B, 1, T, I, J)
    layers = parametric_flow(2 * torch.randn(B, L, 24), MODEL, T, I, J)
    flow = layers.gather(1, labels[:, :, None].expand(B, 1, 2, T, I, J)).squeeze(1)
    pred = (3 * logits + 0.3 * torch.randn(B, L, T, I, J)).softmax(1)
    return pred, flow + 0.3 * torch.randn_like(flow)


def textbook_theta(pred: Tensor, flow: Tensor) -> Tensor:
    """Weighted least squares, then one L-BFGS call on the batch's mean loss."""
    B, L, T, I, J = pred.shape
    grid = basis(MODEL, T, I, J).flatten(0, 3)  # (2TIJ, 24)
    grids = grid.repeat(B * L, 1, 1)
    observed = flow.flatten(1).repeat_interleave(L, 0)[:, :, None]  # (BL, 2TIJ, 1)
    root = pred.flatten(0, 1).flatten(1).sqrt().repeat(1, 2)[:, :, None]
    theta = torch.linalg.lstsq(root * grids, root * observed).solution.nan_to_num()
    theta = theta.view(B, L, -1).requires_grad_()
    optimizer = torch.optim.LBFGS([theta], max_iter=20, max_eval=25, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        layers = (grids @ theta.view(B * L, -1, 1)).view(B, L, 2, T, I, J)
        loss = textbook_coherence(pred, flow, layers)
        loss.backward()
        return loss

    optimizer.step(closure)
    return theta.detach()


def textbook_coherence(pred: Tensor, flow: Tensor, layers: Tensor) -> Tensor:
    """The loss pieceFitScale with the l1 distance: parametric flows (B, L, 2, T, I, J) to the batch's mean."""
    distance = (layers - flow[:, None].repeat(1, layers.shape[1], 1, 1, 1, 1)).abs().sum(2)
    scale = flow.abs().sum(1).mean((-2, -1))[:, :, None, None]  # (B, T, 1, 1)
    return ((pred * distance).sum(1) / scale).mean()
