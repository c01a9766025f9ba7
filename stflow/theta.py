"""Fit the motion parameters of every segment to the observed flow.

theta minimises the coherence loss for the segmentation at hand, which is taken as given: no gradient passes. Solvers:

``irls`` (default)  iteratively reweighted least squares, every sample and segment on its own. Monomials in space make
    the normal equations a matter of the weights' moments sum_ij w i^a j^b, a and b at most four, taken frame by frame
    and axis by axis; no grid of N pixels x ft columns exists. No step waits for the device.
``ols``  weighted least squares, where the published code starts.
``lbfgs``  the published solver: from ``ols``, one L-BFGS call on the batch mean. A sample's theta depends on its batch.
"""

# ruff: noqa: E741 - T I J are this field's letters for frames, rows and columns

from collections.abc import Callable

import torch
from torch import Tensor

from common.errors import InputError
from stflow.coherence import coherence_of_layers, flow_scale, length, vector_distance, with_time_axis
from stflow.motion import MotionModel, as_motion_model, powers

SOLVERS = ("irls", "lbfgs", "ols")
MIN_RESIDUAL_PX = 1e-3  # residuals below weigh no more than this one
# Longer steps do not raise the loss either (smoothed below that residual, it lies under the quadratic that the weights
# define, so any factor below 2 will do), and ten of them end twice as close to the minimum as ten plain ones. With 1.7
# they end closer still, but a network then needs more steps until it tells two segments apart (IoU after 200 steps of
# the overfitting test, worst of six seeds: 0.89 with 1.7, 0.99 with 1.3).
RELAXATION = 1.3
RIDGE = 1e-9  # of the mean diagonal of a normal matrix, all in float64
# Elements (samples x segments x components x pixels) in flight. On a CPU they should stay in the cache and below the
# size from which memory is asked of the system anew (2.5 times faster); a GPU wants few, large launches.
CHUNK_CPU, CHUNK_GPU = 1 << 18, 1 << 25

Weights = Callable[[Tensor, Tensor, Tensor], Tensor]


def _least_squares(q: Tensor, residual: Tensor, flow: Tensor) -> Tensor:
    return q


def _by_component(q: Tensor, residual: Tensor, flow: Tensor) -> Tensor:
    return q / residual.abs().clamp_min(MIN_RESIDUAL_PX)


def _by_length(q: Tensor, residual: Tensor, flow: Tensor) -> Tensor:
    return q / _length(residual)


def _by_speed(q: Tensor, residual: Tensor, flow: Tensor) -> Tensor:
    return q / _length(flow)


def _by_speed_and_length(q: Tensor, residual: Tensor, flow: Tensor) -> Tensor:
    return q / (_length(flow) * _length(residual))


def _length(vectors: Tensor) -> Tensor:
    return length(vectors, dim=2, keepdim=True).clamp_min(MIN_RESIDUAL_PX)


# Weights whose least-squares solution is a step down the loss, and whether one solution is already the minimum.
IRLS: dict[str, tuple[Weights, bool]] = {
    "squared": (_least_squares, True),
    "l1": (_by_component, False),
    "charb": (_by_component, False),
    "l2": (_by_length, False),
    "l2_normed_alt": (_by_speed_and_length, False),
    "squared_normed_alt": (_by_speed, True),
}


def fit_theta(
    pred: Tensor,
    flow: Tensor,
    model: MotionModel | str = "QuadraticFullPT",
    coherence_loss: str = "pieceFitScale",
    v_distance: str = "l1",
    solver: str = "irls",
    iterations: int = 10,
) -> Tensor:
    """Parameters of every segment's motion.

    Args:
        pred: Probabilities (B, L, T, I, J), or (B, L, I, J) for one frame.
        flow: Observed flow (B, 2, T, I, J) or (B, 2, I, J), in pixels.
        model: Motion model or its name.
        coherence_loss: pieceFit or pieceFitScale.
        v_distance: Distance of `stflow.coherence.vector_distance`. l2_normed is not convex and has no usable weights:
            irls then means lbfgs.
        solver: One of `SOLVERS`.
        iterations: Re-solves of irls. 10 keep the loss within 0.2 % of L-BFGS's, or below it.

    Returns:
        theta (B, L, ft), float32 (float64 for float64 inputs), without a graph. A segment without weight gets zeros.

    Raises:
        InputError: Unknown solver, loss, distance or model, or shapes that do not fit.
    """
    if solver not in SOLVERS:
        raise InputError(f"theta_solver: unknown solver {solver!r}, choose one of {', '.join(SOLVERS)}")
    model = as_motion_model(model)
    with torch.no_grad(), torch.autocast(flow.device.type, enabled=False):
        pred, flow = with_time_axis(pred.detach(), flow.detach())
        scale = flow_scale(flow, coherence_loss, v_distance)
        if solver == "ols":
            return _solve_repeatedly(pred, flow, model, _least_squares, 1)
        if solver == "irls" and v_distance in IRLS:
            weights, exact = IRLS[v_distance]
            q = pred / scale[:, None, :, None, None]
            return _solve_repeatedly(q, flow, model, weights, 1 if exact else iterations)
        vector_distance(flow[:0], flow[:0], v_distance, dim=1)  # an unknown name is said before the long way
        start = _solve_repeatedly(pred, flow, model, _least_squares, 1)
    return _lbfgs(start, pred, flow, model, coherence_loss, v_distance)


def _solve_repeatedly(q: Tensor, flow: Tensor, model: MotionModel, weights: Weights, iterations: int) -> Tensor:
    """Weighted solution with weights q, then ``iterations`` re-solves with the weights that the residuals give."""
    B, L, _, I, J = q.shape
    results = [flow.new_zeros(0, L, model.num_parameters)]
    for first in range(0, B, count := max(1, _chunk(q) // max(1, L * 2 * I * J))):
        samples = slice(first, first + count)
        theta = flow.new_zeros(len(q[samples]), L, model.num_parameters)
        for step in range(1 + iterations):
            change = _step(theta, q[samples], flow[samples], model, weights if step else _least_squares)
            theta += change * (RELAXATION if 0 < step < iterations else 1.0)
        results.append(theta)
    return torch.cat(results)


def _chunk(tensor: Tensor) -> int:
    return CHUNK_CPU if tensor.device.type == "cpu" else CHUNK_GPU


def _step(theta: Tensor, q: Tensor, flow: Tensor, model: MotionModel, weights: Weights) -> Tensor:
    """Change of theta (B, L, ft) to the weighted least-squares solution.

    Solving for the change, not for theta, lets rounding and the ridge shrink with the residual.
    """
    B, L, T, I, J = q.shape
    P = model.degree + 1
    rows = powers(I, 2 * P - 1, torch.float64, q.device)
    columns = powers(J, 2 * P - 1, torch.float64, q.device)
    count = max(1, _chunk(q) // (B * L * 2 * I * J))
    moments, targets = [], []
    for first in range(0, T, count):
        frames = slice(first, min(first + count, T))
        observed = flow[:, None, :, frames]
        residual = model.flow(theta, T, I, J, frames).neg_().add_(observed)  # (B, L, 2, t, I, J)
        weight = weights(q[:, :, None, frames], residual, observed)  # (B, L, 1 or 2, t, I, J)
        moments.append(rows.mT @ (weight.double() @ columns))
        targets.append(rows[:, :P].mT @ (residual.mul_(weight).double() @ columns[:, :P]))
    change = _solve(torch.cat(moments, dim=3), torch.cat(targets, dim=3), model)
    return change.to(theta.dtype)


def _solve(moments: Tensor, targets: Tensor, model: MotionModel) -> Tensor:
    """Solve the normal equations of every segment.

    Args:
        moments: sum_ij w i^a j^b, a and b below 2P - 1: (B, L, 1 or 2, T, 2P-1, 2P-1) float64.
        targets: sum_ij w r i^a j^b, a and b below P: (B, L, 2, T, P, P) float64.
        model: Motion model.

    Returns:
        (B, L, ft) float64.
    """
    B, L, _, T, P, _ = targets.shape
    design = model.design(T, torch.float64, moments.device)
    if model.decoupled:  # one system per component over the shared columns
        design = design[0, ..., : model.num_parameters // 2]
    else:  # one system: components are further rows, as frames are
        moments = moments.expand(-1, -1, 2, *moments.shape[3:]).flatten(2, 3).unsqueeze(2)
        targets = targets.flatten(2, 3).unsqueeze(2)
        design = design.flatten(0, 1)
    design = design.flatten(1, 2)  # (S, P*P, K)
    power = torch.arange(P, device=moments.device)
    sums = power[:, None] + power  # monomials multiply by adding powers
    pairs = moments[..., sums[:, None, :, None], sums[None, :, None, :]].flatten(-4, -3).flatten(-2, -1)
    normal = (design.mT @ pairs @ design).sum(3)  # (B, L, groups, K, K)
    right = (design.mT @ targets.flatten(-2).unsqueeze(-1)).sum(3)  # (B, L, groups, K, 1)
    diagonal = normal.diagonal(dim1=-2, dim2=-1)
    diagonal += RIDGE * diagonal.mean(-1, keepdim=True) + 1e-30
    factor, failed = torch.linalg.cholesky_ex(normal)
    change = torch.cholesky_solve(right, factor.expand(*right.shape[:3], *factor.shape[-2:])).squeeze(-1)
    # Weights that are not finite have no solution; theta stays, as the published code's NaN becomes zero.
    change = torch.where((failed[..., None] == 0) & change.isfinite(), change, 0.0)
    return change.reshape(B, L, model.num_parameters)


def _lbfgs(
    theta: Tensor, pred: Tensor, flow: Tensor, model: MotionModel, coherence_loss: str, v_distance: str
) -> Tensor:
    """The published refinement: one strong-Wolfe L-BFGS call on the batch mean, all thetas as one vector."""
    T, I, J = flow.shape[2:]
    with torch.inference_mode(False), torch.enable_grad(), torch.autocast(flow.device.type, enabled=False):
        # Copies: a tensor made under inference mode cannot take part in a graph.
        theta, pred, flow = theta.clone().requires_grad_(), pred.clone(), flow.clone()
        optimizer = torch.optim.LBFGS([theta], max_iter=20, max_eval=25, line_search_fn="strong_wolfe")

        def closure() -> Tensor:
            layers = model.flow(theta, T, I, J).unbind(1)
            loss = coherence_of_layers(pred, flow, layers.__getitem__, coherence_loss, v_distance).mean()
            theta.grad = torch.autograd.grad(loss, theta)[0]
            return loss

        optimizer.step(closure)
    return theta.detach()
