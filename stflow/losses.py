"""What training minimises: coherence with the parametric motions, plus temporal regularisers.

Pure functions on tensors. Symbols: B samples, L segments, T frames, I rows, J columns; ``pred`` holds probabilities
over L. Everything is computed in float32 at least, also under autocast.
"""

# ruff: noqa: E741 - T I J are this field's letters for frames, rows and columns

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from common.errors import InputError
from stflow.clusters import flow_clusters_loss
from stflow.coherence import coherence_loss, coherence_of_layers, vector_distance, with_time_axis
from stflow.motion import MotionModel, as_motion_model
from stflow.theta import fit_theta

__all__ = [
    "REGULARISERS",
    "Losses",
    "coherence_loss",
    "euler_potts_l1_r3",
    "motion_coherence_loss",
    "quantile",
    "regularisation_terms",
    "segmentation_losses",
    "speed_change",
    "vector_distance",
]


def quantile(values: Tensor, fraction: float) -> Tensor:
    """Quantile of each row with linear interpolation, of rows of any length (`torch.quantile` stops at 16 million).

    Args:
        values: (B, n), n at least one.
        fraction: Between 0 and 1.

    Returns:
        (B,).
    """
    n = values.shape[1]
    position = fraction * (n - 1)
    below = min(int(position), n - 1)
    # The two neighbours of the quantile are the smallest of its upper tail.
    tail = values.topk(n - below, dim=1).values
    return torch.lerp(tail[:, -1], tail[:, max(n - below - 2, 0)], position - below)


def speed_change(flow: Tensor) -> Tensor:
    """|u_t - u_{t+1}| + |v_t - v_{t+1}|: (B, 2, T, I, J) to (B, T-1, I, J), in the flow's pixels."""
    return flow.diff(dim=2).abs().sum(1)


def euler_potts_l1_r3(pred: Tensor, flow: Tensor) -> Tensor:
    """Change of the segmentation between frames, where the flow does not change much.

    The temporal term of Meunier and Bouthemy, CVPR 2023: the mean over segments, places and times of |p_t - p_{t+1}|,
    leaving out the hundredth of the sample's places and times where the flow changes most (occlusions).

    Args:
        pred: Probabilities (B, L, T, I, J); gradients reach it.
        flow: Observed flow (B, 2, T, I, J); no gradient.

    Returns:
        (B,); zero for a single frame and for a constant flow.
    """
    pred, flow = with_time_axis(pred, flow)
    if pred.shape[2] == 1:
        return pred.sum((1, 2, 3, 4)) * 0.0
    with torch.no_grad():
        change = speed_change(flow)
        smooth = change < quantile(change.flatten(1), 0.99)[:, None, None, None]
    return (pred.diff(dim=2).abs().mean(1) * smooth).mean((1, 2, 3))


def _flow_clusters(pred: Tensor, flow: Tensor) -> Tensor:
    return flow_clusters_loss(*with_time_axis(pred, flow))


REGULARISERS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "EulerPottsl1R3": euler_potts_l1_r3,
    "FlowClusters": _flow_clusters,
}


def regularisation_terms(pred: Tensor, flow: Tensor, names: Mapping[str, float]) -> dict[str, Tensor]:
    """Every named regulariser per sample (B,), without its weight.

    Raises:
        InputError: Unknown name.
    """
    for name in names:
        if name not in REGULARISERS:
            raise InputError(f"regularisation: unknown term {name!r}, choose from {', '.join(REGULARISERS)}")
    return {name: REGULARISERS[name](pred, flow) for name in names}


@dataclass(frozen=True)
class Losses:
    """Losses of a batch, each (B,); ``total.mean()`` is what training minimises.

    Attributes:
        total: coherence + regularisation.
        coherence: Coherence loss.
        regularisation: Weighted sum of the terms.
        terms: Every regulariser without its weight, for logs.
    """

    total: Tensor
    coherence: Tensor
    regularisation: Tensor
    terms: dict[str, Tensor]


def segmentation_losses(
    pred: Tensor,
    flow: Tensor,
    theta: Tensor,
    param_model: MotionModel | str = "QuadraticFullPT",
    *,
    coherence_loss: str = "pieceFitScale",
    v_distance: str = "l1",
    regularisation: Mapping[str, float] | None = None,
) -> Losses:
    """All losses of a segmentation with given motions, the segments' flows evaluated one at a time.

    Args:
        pred: Probabilities (B, L, T, I, J) or (B, L, I, J).
        flow: Observed flow (B, 2, T, I, J) or (B, 2, I, J), in pixels.
        theta: Motion parameters (B, L, ft), as `stflow.theta.fit_theta` gives them.
        param_model: Motion model that theta belongs to.
        coherence_loss: pieceFit or pieceFitScale.
        v_distance: Distance of `vector_distance`.
        regularisation: Weight of every regulariser; EulerPottsl1R3 with weight 1 by default.
    """
    model = as_motion_model(param_model)
    pred, flow = with_time_axis(pred, flow)
    T, I, J = flow.shape[2:]

    def layer_flow(layer: int) -> Tensor:
        return model.flow(theta[:, layer], T, I, J)

    weights = {"EulerPottsl1R3": 1.0} if regularisation is None else regularisation
    coherence = coherence_of_layers(pred, flow, layer_flow, coherence_loss, v_distance)
    terms = regularisation_terms(pred, flow, weights)
    penalty = sum((weights[name] * term for name, term in terms.items()), torch.zeros_like(coherence))
    return Losses(coherence + penalty, coherence, penalty, terms)


def motion_coherence_loss(
    pred: Tensor,
    flow: Tensor,
    param_model: MotionModel | str = "QuadraticFullPT",
    v_distance: str = "l1",
    coherence_loss: str = "pieceFitScale",
    solver: str = "irls",
) -> Tensor:
    """Motion coherence of any segmentation, with the best motion of each segment fitted on the way.

    A loss for projects of any kind that segment moving things: it needs nothing but probabilities and optical flow.

    Args:
        pred: Probabilities (B, L, T, I, J), or (B, L, I, J) for one frame; the only way for gradients.
        flow: Optical flow (B, 2, T, I, J) or (B, 2, I, J), in pixels.
        param_model: What a coherent motion is, a key of `stflow.motion.MOTION_MODELS`.
        v_distance: Distance of `vector_distance`.
        coherence_loss: pieceFitScale, relative to each frame's speed, or pieceFit, in pixels.
        solver: Solver of `stflow.theta.fit_theta`.

    Returns:
        Loss per sample (B,).
    """
    theta = fit_theta(pred, flow, param_model, coherence_loss, v_distance, solver)
    losses = segmentation_losses(
        pred, flow, theta, param_model, coherence_loss=coherence_loss, v_distance=v_distance, regularisation={}
    )
    return losses.coherence
