"""DINO's loss with its gradient: a product for each of the 2 V - 2 pairs of crops, beside one softmax for all."""

import torch
from ceilings import num_bytes
from measuring import Benchmark
from torch import Tensor
from torch.nn import functional as F

from transformer_seg.dino.losses import distillation_loss

CROPS, TEMPERATURES = 10, {"teacher_temperature": 0.04, "student_temperature": 0.1}


def build(tiny: bool) -> Benchmark:
    """Eight images, ten crops each, 65536 dimensions."""
    B, K = (2, 64) if tiny else (8, 65536)
    student = torch.randn(CROPS * B, K, requires_grad=True)
    teacher, center = torch.randn(2 * B, K), torch.randn(1, K) / 10

    def gradient(loss: Tensor) -> Tensor:
        (found,) = torch.autograd.grad(loss, student)
        return torch.cat([loss.detach().reshape(1), found.flatten()])

    return Benchmark(
        f"loss and gradient of {B} images, {CROPS} crops, {K} dimensions",
        lambda: gradient(textbook_loss(student, teacher, center)),
        lambda: gradient(distillation_loss(student, teacher, center, **TEMPERATURES)),
        lambda a, b: torch.testing.assert_close(b, a, rtol=1e-4, atol=1e-7),
        least_bytes=2 * num_bytes(student) + num_bytes(teacher, center),
    )


def textbook_loss(student: Tensor, teacher: Tensor, center: Tensor) -> Tensor:
    """Cross-entropy of every pair of different crops, then their mean."""
    students = (student / TEMPERATURES["student_temperature"]).chunk(CROPS)
    targets = ((teacher - center) / TEMPERATURES["teacher_temperature"]).softmax(dim=-1).detach().chunk(2)
    losses = [
        (-target * F.log_softmax(one, dim=-1)).sum(dim=-1).mean()
        for number, target in enumerate(targets)
        for place, one in enumerate(students)
        if place != number
    ]
    return torch.stack(losses).mean()
