"""The self-distillation loss, its centre, and what to watch for collapse (arXiv 2104.14294, section 3.1).

Symbols: B images, V crops of which the first two are global, K dimensions of the output.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

GLOBAL_CROPS = 2


def teacher_probabilities(teacher: Tensor, center: Tensor, temperature: float) -> Tensor:
    """Centred, sharpened and without gradient: (..., K) to (..., K) in float32."""
    return ((teacher.detach().float() - center) / temperature).softmax(dim=-1)


def distillation_loss(
    student: Tensor, teacher: Tensor, center: Tensor, *, teacher_temperature: float, student_temperature: float = 0.1
) -> Tensor:
    """Mean cross-entropy of the student's crops under the teacher's, over all pairs of different crops.

    The partners of a teacher's crop are summed before the product, so that there are two products and not one for each
    of the 2 V - 2 pairs.

    Args:
        student: (V B, K), all images of the first crop first.
        teacher: (2 B, K), likewise.
        center: (1, K).
        teacher_temperature: Sharpening of the teacher.
        student_temperature: Of the student.
    """
    targets = teacher_probabilities(teacher, center, teacher_temperature).unflatten(0, (GLOBAL_CROPS, -1))
    logs = F.log_softmax(student.float() / student_temperature, dim=-1).unflatten(0, (-1, targets.shape[1]))
    V, B, _ = logs.shape
    partners = logs.sum(dim=0) - logs[:GLOBAL_CROPS]
    return -(targets * partners).sum() / (B * GLOBAL_CROPS * (V - 1))


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
