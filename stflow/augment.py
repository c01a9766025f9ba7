"""Augmentation and perturbation of flow windows, batched.

Every random form comes in two parts: a pure function of the drawn numbers, and a draw from generators that are passed
in. What belongs to a sample is drawn from the sample's own generator, so a result does not depend on how a batch is
split over processes.
"""

# ruff: noqa: E741 - T I J are this field's letters for frames, rows and columns

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from common.errors import InputError
from stflow.coherence import length
from stflow.motion import MOTION_MODELS, MotionModel, motion_model

STRENGTHS = {"light": 2.0, "medium": 4.0, "strong": 8.0}
PERTURBATIONS = ("PerturbInputFlowNoise", "PerturbInputFlowNoiseStd")
GATE = 0.8


@dataclass(frozen=True)
class GlobalMotion:
    """Adds one random parametric motion to the whole window, as a moving camera would.

    The augmented flow is the network's input and the target of the loss.

    Args:
        model: Motion model of the added flow.
        alpha: Mean speed of a full added flow, relative to the window's own.
    """

    model: MotionModel
    alpha: float

    def __call__(self, flow: Tensor, theta: Tensor, mixing: Tensor) -> Tensor:
        """See `global_motion`."""
        T, I, J = flow.shape[2:]
        added = self.model.flow(theta.to(flow.device), T, I, J)
        added = added * (self.alpha * _mean_speed(flow) / (_mean_speed(added) + 1e-6))
        return flow + mixing.to(flow.device).view(-1, 1, 1, 1, 1) * added

    def draw(self, generators: Sequence[torch.Generator]) -> tuple[Tensor, Tensor]:
        """Draw theta (B, ft) in [-0.5, 0.5) and mixing (B,) in [0, 1), in this order, one generator per sample."""
        drawn = [
            (torch.rand(self.model.num_parameters, generator=g, device=g.device) - 0.5, _rand(g)) for g in generators
        ]
        return torch.stack([theta for theta, _ in drawn]), torch.stack([mixing for _, mixing in drawn])


def parse_global_motion(name: str) -> GlobalMotion:
    """Augmentation ``globalmotion.<motion model>.<light | medium | strong>``.

    Raises:
        InputError: Another name.
    """
    kind, _, rest = name.partition(".")
    model, _, strength = rest.partition(".")
    if kind != "globalmotion" or model not in MOTION_MODELS or strength not in STRENGTHS:
        raise InputError(
            f"--flow_augmentation: {name!r} is not globalmotion.<model>.<strength> "
            f"with a model of {', '.join(MOTION_MODELS)} and a strength of {', '.join(STRENGTHS)}"
        )
    return GlobalMotion(motion_model(model), STRENGTHS[strength])


def global_motion(flow: Tensor, name: str, theta: Tensor, mixing: Tensor) -> Tensor:
    """Window plus ``mixing`` times a parametric flow of ``alpha`` times the window's mean speed.

    Args:
        flow: (B, 2, T, I, J) in pixels.
        name: See `parse_global_motion`.
        theta: Direction of the parameters (B, ft); its length does not count.
        mixing: (B,), 0 to 1.
    """
    return parse_global_motion(name)(flow, theta, mixing)


def random_global_motion(flow: Tensor, name: str, generators: Sequence[torch.Generator]) -> Tensor:
    """`global_motion` with parameters drawn from one generator per sample."""
    augmentation = parse_global_motion(name)
    return augmentation(flow, *augmentation.draw(generators))


def perturb_flow(flow: Tensor, name: str, gate: float, frame: int | None, noise: Tensor | None) -> Tensor:
    """Replace one frame of every window by noise around its mean, to teach temporal consistency. For the input only.

    Args:
        flow: (B, 2, T, I, J) in pixels.
        name: PerturbInputFlowNoise multiplies the noise by the frame's variance, as published (far too strong where
            flow is large); PerturbInputFlowNoiseStd multiplies it by the standard deviation.
        gate: Nothing happens up to 0.8.
        frame: Which of the T frames; may be None where the gate is shut.
        noise: Standard normal (B, 2, I, J); may be None where the gate is shut.

    Returns:
        The window itself where the gate is shut, else a changed copy.

    Raises:
        InputError: Unknown name.
    """
    if name not in PERTURBATIONS:
        raise InputError(f"--experimental_flag: unknown flag {name!r}, choose from {', '.join(PERTURBATIONS)}")
    if gate <= GATE or frame is None or noise is None:
        return flow
    replaced = flow[:, :, frame]
    spread, mean = torch.var_mean(replaced, dim=(-2, -1), keepdim=True)
    if name == "PerturbInputFlowNoiseStd":
        spread = spread.sqrt()
    flow = flow.clone()
    flow[:, :, frame] = noise.to(flow) * spread + mean
    return flow


def random_perturb_flow(
    flow: Tensor, name: str, batch_generator: torch.Generator, generators: Sequence[torch.Generator]
) -> Tensor:
    """`perturb_flow` with drawn numbers.

    Args:
        flow: (B, 2, T, I, J) in pixels.
        name: See `perturb_flow`.
        batch_generator: Draws gate and frame of the whole batch; in the same state in every process.
        generators: One per sample, for its noise.
    """
    gate = float(_rand(batch_generator))
    if gate <= GATE:
        return perturb_flow(flow, name, gate, None, None)
    _, _, T, I, J = flow.shape
    frame = int(torch.randint(T, (1,), generator=batch_generator, device=batch_generator.device))
    noise = torch.stack([torch.randn(2, I, J, generator=g, device=g.device) for g in generators])
    return perturb_flow(flow, name, gate, frame, noise)


def _rand(generator: torch.Generator) -> Tensor:
    return torch.rand(1, generator=generator, device=generator.device)[0]


def _mean_speed(flow: Tensor) -> Tensor:
    """(B, 2, T, I, J) to (B, 1, 1, 1, 1)."""
    return length(flow, dim=1, keepdim=True).mean((2, 3, 4), keepdim=True)
