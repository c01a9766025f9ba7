"""One iteration of DINO training, in the order of the published loop."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from transformer_seg.dino.losses import GLOBAL_CROPS, distillation_loss, updated_center
from transformer_seg.dino.model import DinoNetwork
from transformer_seg.dino.optimisation import clip_each, follow


@dataclass(frozen=True)
class Rates:
    """What the schedules say about an iteration.

    Attributes:
        learning_rate: Of all groups.
        weight_decay: Of the first group.
        teacher_momentum: Share of its old value that the teacher keeps.
        teacher_temperature: Sharpening of the teacher.
    """

    learning_rate: float
    weight_decay: float
    teacher_momentum: float
    teacher_temperature: float


@dataclass(frozen=True)
class Settings:
    """What stays the same over a run.

    Attributes:
        clip: Largest norm of the gradient of each tensor; 0 for none.
        student_temperature: Sharpening of the student.
        center_momentum: Share of its old value that the centre keeps.
    """

    clip: float = 3.0
    student_temperature: float = 0.1
    center_momentum: float = 0.9


@dataclass(frozen=True)
class Outcome:
    """What an iteration leaves.

    Attributes:
        loss: Before the step.
        center: For the next iteration (1, K).
        teacher: Raw outputs of the teacher (2 B, K).
    """

    loss: Tensor
    center: Tensor
    teacher: Tensor


def _backward(loss: Tensor) -> None:
    loss.backward()


def _itself(mean: Tensor) -> Tensor:
    return mean


def distillation_iteration(
    student: DinoNetwork,
    teacher: DinoNetwork,
    optimiser: Optimizer,
    crops: Sequence[Tensor],
    center: Tensor,
    rates: Rates,
    settings: Settings,
    *,
    freeze_last_layer: bool = False,
    backward: Callable[[Tensor], Any] = _backward,
    mean_over_processes: Callable[[Tensor], Tensor] = _itself,
) -> Outcome:
    """Set the rates, compare student and teacher, step, and let the teacher follow.

    Args:
        student: Trained.
        teacher: Follows; needs no gradient.
        optimiser: Over `parameter_groups` of the student.
        crops: V batches (B, 3, H, W), the two global ones first.
        center: (1, K).
        rates: Of this iteration.
        settings: Of the run.
        freeze_last_layer: Leave the head's last layer as it is, without decay too.
        backward: Called with the loss, for mixed precision.
        mean_over_processes: Average of a tensor over all processes.
    """
    for group in optimiser.param_groups:
        group["lr"] = rates.learning_rate
    optimiser.param_groups[0]["weight_decay"] = rates.weight_decay
    with torch.no_grad():
        teacher_outputs = teacher(crops[:GLOBAL_CROPS])
    loss = distillation_loss(
        student(crops),
        teacher_outputs,
        center,
        teacher_temperature=rates.teacher_temperature,
        student_temperature=settings.student_temperature,
    )
    teacher_mean = mean_over_processes(teacher_outputs.float().mean(dim=0, keepdim=True))
    center = updated_center(center, teacher_mean, settings.center_momentum)
    optimiser.zero_grad(set_to_none=True)
    backward(loss)
    if settings.clip:
        clip_each(student.parameters(), settings.clip)
    if freeze_last_layer:
        for weight in student.head.last_layer.parameters():
            weight.grad = None  # with None the optimiser skips it: a gradient of zeros would still decay it
    optimiser.step()
    follow(teacher, student, rates.teacher_momentum)
    return Outcome(loss.detach(), center, teacher_outputs)
