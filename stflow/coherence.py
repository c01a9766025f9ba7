"""How well the flow agrees with the segments' parametric motions.

The data term of Meunier and Bouthemy, CVPR 2023. Symbols: B samples, L segments, T frames, I rows, J columns; a flow
has two components (u, v) in pixels.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from common.errors import InputError

MIN_SCALE = 1e-6  # a frame that does not move at all would divide by zero


def length(vectors: Tensor, dim: int, keepdim: bool = False) -> Tensor:
    """Euclidean length over a short axis, with gradient zero at zero.

    Many times faster than `torch.linalg.vector_norm`, which is slow over an axis of two that is not the last.
    """
    squared = vectors.square().sum(dim, keepdim)
    moving = squared != 0  # not "> 0": what is not a number has to stay so
    return torch.where(moving, squared, 1.0).sqrt() * moving


# Of a parametric flow a and an observed flow b, over the axis of the components.
DISTANCES: dict[str, Callable[[Tensor, Tensor, int], Tensor]] = {
    "squared": lambda a, b, dim: (a - b).square().sum(dim),
    "l2": lambda a, b, dim: length(a - b, dim),
    "l1": lambda a, b, dim: (a - b).abs().sum(dim),
    "charb": lambda a, b, dim: ((a - b).square() + 1e-8).sqrt().sum(dim),
    "l2_normed": lambda a, b, dim: length(a - b, dim) / (length(a, dim) + length(b, dim) + 1e-10),
    "l2_normed_alt": lambda a, b, dim: length(a - b, dim) / (length(b, dim) + 1e-10),
    "squared_normed_alt": lambda a, b, dim: (a - b).square().sum(dim) / (length(b, dim) + 1e-10),
}

COHERENCE_LOSSES = ("pieceFit", "pieceFitScale")


def vector_distance(a: Tensor, b: Tensor, v_distance: str = "l1", dim: int = -1) -> Tensor:
    """Distance of two fields of vectors.

    Args:
        a: Parametric flow.
        b: Observed flow, of the same shape; it alone normalises the ``*_alt`` distances.
        v_distance: A key of `DISTANCES`.
        dim: Axis of the two components, which disappears.

    Raises:
        InputError: Unknown distance.
    """
    if v_distance not in DISTANCES:
        raise InputError(f"v_distance: unknown distance {v_distance!r}, choose one of {', '.join(DISTANCES)}")
    return DISTANCES[v_distance](a, b, dim)


def at_least_float32(tensor: Tensor) -> Tensor:
    """The tensor, raised from half precision."""
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


def with_time_axis(pred: Tensor, flow: Tensor) -> tuple[Tensor, Tensor]:
    """(B,L,T,I,J) and (B,2,T,I,J), with T = 1 inserted where both come without time, in at least float32.

    Raises:
        InputError: Shapes that do not belong together.
    """
    if pred.dim() == 4 and flow.dim() == 4:
        pred, flow = pred.unsqueeze(2), flow.unsqueeze(2)
    fits = pred.dim() == flow.dim() == 5 and flow.shape[1] == 2
    if not fits or (pred.shape[0], *pred.shape[2:]) != (flow.shape[0], *flow.shape[2:]):
        raise InputError(
            f"prediction {tuple(pred.shape)} and flow {tuple(flow.shape)} do not fit: "
            "expected (B,L,T,I,J) and (B,2,T,I,J)"
        )
    return at_least_float32(pred), at_least_float32(flow)


def flow_scale(flow: Tensor, coherence_loss: str, v_distance: str) -> Tensor:
    """What the distances of one frame are divided by, (B, T).

    For pieceFitScale the mean distance of the observed flow from zero (at least 1e-6), for pieceFit one.

    Raises:
        InputError: Unknown loss or distance.
    """
    if coherence_loss not in COHERENCE_LOSSES:
        raise InputError(
            f"coherence_loss: unknown loss {coherence_loss!r}, choose one of {', '.join(COHERENCE_LOSSES)}"
        )
    if coherence_loss == "pieceFit":
        return flow.new_ones(flow.shape[0], flow.shape[2])
    # The observed flow stands first, as published: the *_alt distances then divide by |0| + 1e-10.
    return vector_distance(flow, torch.zeros_like(flow), v_distance, dim=1).mean((-2, -1)).clamp_min(MIN_SCALE)


def coherence_of_layers(
    pred: Tensor, flow: Tensor, layer_flow: Callable[[int], Tensor], coherence_loss: str, v_distance: str
) -> Tensor:
    """`coherence_loss` with the parametric flow of one segment at a time, which bounds memory.

    Args:
        pred: Probabilities (B, L, T, I, J).
        flow: Observed flow (B, 2, T, I, J).
        layer_flow: Gives the flow (B, 2, T, I, J) of a segment.
        coherence_loss: See `coherence_loss`.
        v_distance: See `vector_distance`.

    Returns:
        Loss per sample (B,).
    """
    scale = flow_scale(flow, coherence_loss, v_distance)
    total = torch.zeros_like(scale)
    for layer, weight in enumerate(pred.unbind(1)):
        distance = vector_distance(layer_flow(layer), flow, v_distance, dim=1)
        total = total + (weight * distance).mean((-2, -1))
    return (total / scale).mean(1)


def coherence_loss(
    pred: Tensor,
    flow: Tensor,
    param_flow: Tensor,
    coherence_loss: str = "pieceFitScale",
    v_distance: str = "l1",
) -> Tensor:
    """Mean distance of the observed flow from the segments' flows, weighted by the segments' probabilities.

    Args:
        pred: Probabilities (B, L, T, I, J), or (B, L, I, J) for one frame. Gradients reach it.
        flow: Observed flow (B, 2, T, I, J) or (B, 2, I, J), in pixels.
        param_flow: Flow of each segment (B, L, 2, T, I, J) or (B, L, 2, I, J). Gradients reach it if it has a graph.
        coherence_loss: pieceFit, or pieceFitScale, which divides each frame by its mean speed.
        v_distance: A key of `DISTANCES`. pieceFitScale with an ``*_alt`` distance is about 1e-11, as its scale is
            divided by 1e-10: kept as published, of no use for training.

    Returns:
        Loss per sample (B,), at least float32.
    """
    pred, flow = with_time_axis(pred, flow)
    if param_flow.dim() == 5:
        param_flow = param_flow.unsqueeze(3)
    layers = at_least_float32(param_flow).unbind(1)
    return coherence_of_layers(pred, flow, lambda layer: layers[layer], coherence_loss, v_distance)
