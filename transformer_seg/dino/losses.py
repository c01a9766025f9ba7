"""The self-distillation loss, its centre, and what to watch for collapse (arXiv 2104.14294, section 3.1).

Symbols: B images, V crops of which the first two are global, K dimensions of the output.
"""

from typing import Any

import torch
from torch import Tensor

GLOBAL_CROPS = 2


def teacher_probabilities(teacher: Tensor, center: Tensor, temperature: float) -> Tensor:
    """Centred, sharpened and without gradient: (..., K) to (..., K) in float32."""
    return ((teacher.detach().float() - center) / temperature).softmax(dim=-1)


def distillation_loss(
    student: Tensor, teacher: Tensor, center: Tensor, *, teacher_temperature: float, student_temperature: float = 0.1
) -> Tensor:
    """Mean cross-entropy of the student's crops under the teacher's, over all pairs of different crops.

    Args:
        student: (V B, K), all images of the first crop first.
        teacher: (2 B, K), likewise.
        center: (1, K).
        teacher_temperature: Sharpening of the teacher.
        student_temperature: Of the student.
    """
    targets = teacher_probabilities(teacher, center, teacher_temperature).unflatten(0, (GLOBAL_CROPS, -1))
    crops = student.unflatten(0, (-1, targets.shape[1]))
    with torch.autocast(student.device.type, enabled=False):
        loss: Tensor = _Pairs.apply(crops, targets, student_temperature)
    return loss


class _Pairs(torch.autograd.Function):
    """The cross-entropies of all pairs in three passes over the student's outputs, instead of one for each pair.

    With z a crop's output over its temperature and t a target, which sums to 1, a pair costs logsumexp(z) - t z, and
    its gradient is softmax(z) - t. So products of t and z and a single softmax give both.
    """

    @staticmethod
    def forward(ctx: Any, student: Tensor, targets: Tensor, temperature: float) -> Tensor:
        """Student (V, B, K) and targets (2, B, K) to the mean."""
        V, B, _ = student.shape
        pairs, G = B * GLOBAL_CROPS * (V - 1), GLOBAL_CROPS
        z = student.float() / temperature
        largest = z.amax(dim=-1)
        products = torch.stack([targets[:, b] @ z[:, b].T for b in range(B)], dim=-1)  # (2, V, B)
        shares = z.softmax(dim=-1)
        del z
        costs = largest - shares.amax(dim=-1).log() - products
        loss = (costs.sum() - costs[range(G), range(G)].sum()) / pairs
        part = 1 / (pairs * temperature)
        pulls = -part * targets
        torch.add(pulls.flip(0), shares[:G], alpha=part * (G - 1), out=shares[:G])  # each has the other as its target
        torch.add(pulls.sum(dim=0), shares[G:], alpha=part * G, out=shares[G:])
        ctx.save_for_backward(shares)
        ctx.dtype = student.dtype
        return loss

    @staticmethod
    def backward(ctx: Any, outer: Tensor) -> tuple[Tensor, None, None]:
        """Of the student's outputs."""
        (gradient,) = ctx.saved_tensors
        return (gradient * outer).to(ctx.dtype), None, None


def updated_center(center: Tensor, teacher_mean: Tensor, momentum: float = 0.9) -> Tensor:
    """The centre (1, K) after a step.

    Args:
        center: (1, K).
        teacher_mean: Mean of the teacher's raw outputs over both crops, all images and all processes (1, K).
        momentum: Share of the old centre.
    """
    return center * momentum + teacher_mean * (1 - momentum)


def entropy(probabilities: Tensor) -> Tensor:
    """Mean entropy in nats of distributions (..., K).

    Of the teacher: near ln K it has collapsed to the uniform output, near 0 to a single component. The loss minus it is
    the divergence that can be learnt.
    """
    return -torch.xlogy(probabilities, probabilities).sum(dim=-1).mean()
