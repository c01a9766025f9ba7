"""The regulariser FlowClusters: segments that keep apart what stands out from one global motion.

The gradient of the coherence loss reaches a segment in proportion to its probability. From random weights all segments
fit the same motion; the first two that differ share the image out, the others lose everywhere, and what has lost is
never asked again. Long training on many videos finds its way; minutes on one clip do not. This term gives every segment
a place: background is where one robust motion of the whole window explains the flow (Otsu's threshold on the residual),
and k-means parts the residual flow elsewhere. It is not of the publication, and rests on the flow alone, as the loss
does: no picture and no annotation enters.
"""

# ruff: noqa: E741 - T I J are this field's letters for frames, rows and columns

import torch
import torch.nn.functional as F
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from stflow.motion import motion_model
from stflow.theta import fit_theta

MOTION = "QuadraticFullPT"
FIT_STEPS = 4  # re-weightings of the global motion's fit; it only has to leave the objects out
STEPS = 8  # of k-means; its clusters hardly move after that
COARSE = 2  # k-means looks at every second row and column
BINS = 256  # of the histogram that Otsu's threshold is taken from
FLATTENED = 0.75  # power of the residual's length there: below one, weaker motion stands out too
BALANCE = 0.5  # a cluster counts by this power of its size: one for its pixels, zero for all clusters alike


def residual_flow(flow: Tensor) -> Tensor:
    """The flow (B, 2, T, I, J) without the one motion that explains most of it, fitted robustly (l1)."""
    B, _, T, I, J = flow.shape
    model = motion_model(MOTION)
    theta = fit_theta(flow.new_ones(B, 1, T, I, J), flow, model, iterations=FIT_STEPS)
    return flow - model.flow(theta[:, 0], T, I, J)


def standing_out(length: Tensor) -> Tensor:
    """Which values of each row lie above Otsu's threshold: (B, n), at least zero, to (B, n) bool."""
    levels = (length / length.amax(1, keepdim=True).clamp_min(1e-6)).pow(FLATTENED).mul(BINS - 1).round().long()
    counts = torch.zeros(len(length), BINS, dtype=torch.float64, device=length.device)
    counts.scatter_add_(1, levels, torch.ones_like(levels, dtype=torch.float64))
    below = counts.cumsum(1)
    value = (counts * torch.arange(BINS, device=length.device)).cumsum(1)
    above = below[:, -1:] - below
    means = value / below.clamp_min(1), (value[:, -1:] - value) / above.clamp_min(1)
    threshold = (below * above * (means[0] - means[1]).square()).argmax(1, keepdim=True)
    return levels > threshold


def flow_clusters(flow: Tensor, num_segments: int) -> Tensor:
    """Background and clusters of the residual flow of every window; the same for the same window.

    Args:
        flow: (B, 2, T, I, J) in pixels.
        num_segments: L.

    Returns:
        Cluster of every pixel and frame (B, T, I, J), 0 for the background, others to L-1.
    """
    with torch.no_grad():
        if num_segments == 1:
            return torch.zeros(len(flow), *flow.shape[2:], dtype=torch.long, device=flow.device)
        residual = residual_flow(flow)
        stands = standing_out(residual.square().sum(1).sqrt().flatten(1)).view(len(flow), *flow.shape[2:])
        points = residual[..., ::COARSE, ::COARSE].flatten(2)  # (B, 2, n)
        counted = stands[..., ::COARSE, ::COARSE].flatten(1).to(points.dtype)
        centres = _first_centres(points, counted, num_segments - 1)
        for _ in range(STEPS):
            member = _one_hot(_squared_distances(points, centres)) * counted[:, None]  # (B, L-1, n)
            weight = member.sum(2, keepdim=True)
            centres = torch.where(weight > 0, member @ points.mT / weight.clamp_min(1), centres)
        nearest = _squared_distances(residual.flatten(2), centres).argmin(1).view_as(stands)
        return (1 + nearest) * stands


def _one_hot(distances: Tensor) -> Tensor:
    """(B, K, n), one where the distance is the least."""
    return torch.zeros_like(distances).scatter_(1, distances.argmin(1, keepdim=True), 1.0)


def _squared_distances(points: Tensor, centres: Tensor) -> Tensor:
    """(B, 2, n) and (B, K, 2) to (B, K, n)."""
    return (points[:, None] - centres[..., None]).square().sum(2)


def _first_centres(points: Tensor, counted: Tensor, number: int) -> Tensor:
    """Centres (B, K, 2) by k-means++: each a point, drawn in proportion to its squared distance from those before."""
    draws = torch.rand(number, generator=torch.Generator().manual_seed(0), dtype=torch.float64).tolist()
    chance, centres = counted, list[Tensor]()
    for draw in draws:
        total = chance.double().cumsum(1)
        place = torch.searchsorted(total, draw * total[:, -1:], right=True).clamp_max(points.shape[2] - 1)
        centres.append(points.gather(2, place[:, None].expand(-1, 2, -1))[..., 0])
        chance = _squared_distances(points, torch.stack(centres, dim=1)).amin(1) * counted
    return torch.stack(centres, dim=1)


def flow_clusters_loss(pred: Tensor, flow: Tensor) -> Tensor:
    """Cross-entropy of the segments with the clusters of the flow, matched one to one in every sample.

    Clusters have no identity over windows; the matching that costs least lets the network keep its own numbers.

    Args:
        pred: Probabilities (B, L, T, I, J); gradients reach it.
        flow: Observed flow (B, 2, T, I, J); no gradient.

    Returns:
        (B,).
    """
    L = pred.shape[1]
    clusters = flow_clusters(flow, L).flatten(1)
    member = F.one_hot(clusters, L).to(pred.dtype)  # (B, n, L)
    count = member.sum(1)
    share = count.pow(BALANCE) * (count > 0)
    weight = share / share.sum(1, keepdim=True) / count.clamp_min(1)
    log_p = pred.flatten(2).clamp_min(1e-30).log()
    cost = -(log_p @ member).mT * weight[..., None]  # of cluster k as segment l: (B, L, L)
    matched = torch.tensor([linear_sum_assignment(one)[1].tolist() for one in cost.detach().double().cpu().numpy()])
    return cost.gather(2, matched.to(cost.device)[..., None]).sum((1, 2))
