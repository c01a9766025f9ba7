"""How DINO's weights move: parameter groups, clipping, LARS, and the teacher's average."""

from collections.abc import Callable, Iterable
from typing import Any, overload

import torch
from torch import Tensor, nn
from torch.optim import Optimizer


def parameter_groups(network: nn.Module) -> list[dict[str, Any]]:
    """Two groups of what is trained: matrices, which decay, and biases and other vectors, which do not.

    Tokens and position embeddings have three axes and decay too.
    """
    trained = [(name, value) for name, value in network.named_parameters() if value.requires_grad]
    exempt = [value.ndim < 2 or name.endswith(".bias") for name, value in trained]
    return [
        {"params": [value for (_, value), out in zip(trained, exempt, strict=True) if not out]},
        {"params": [value for (_, value), out in zip(trained, exempt, strict=True) if out], "weight_decay": 0.0},
    ]


def clip_each(parameters: Iterable[Tensor], limit: float) -> list[float]:
    """Scale every gradient tensor on its own to at most this L2 norm, in place.

    Returns:
        The norms before, of the parameters that have a gradient.
    """
    gradients = [value.grad for value in parameters if value.grad is not None]
    if not gradients:
        return []
    norms = torch._foreach_norm(gradients)
    factors = (limit / (torch.stack(norms) + 1e-6)).clamp(max=1.0)
    torch._foreach_mul_(gradients, list(factors.unbind()))
    return torch.stack(norms).tolist()


@torch.no_grad()
def follow(teacher: nn.Module, student: nn.Module, momentum: float) -> None:
    """Move the teacher's parameters towards the student's; buffers (batch statistics) are copied.

    Args:
        teacher: Changed in place.
        student: Of the same architecture.
        momentum: Share of the teacher's old value.
    """
    targets, sources = ([value.detach() for value in network.parameters()] for network in (teacher, student))
    torch._foreach_lerp_(targets, sources, 1 - momentum)
    for target, source in zip(teacher.buffers(), student.buffers(), strict=True):
        target.copy_(source)


class Lars(Optimizer):
    """Momentum SGD whose steps are scaled tensor by tensor to the size of the weights (You et al., 2017).

    Vectors take their plain gradient, neither decayed nor scaled.

    Args:
        params: Parameters or groups.
        lr: Learning rate.
        weight_decay: Added to the gradient before scaling.
        momentum: Of the update.
        eta: Length of a step relative to the weights.
    """

    def __init__(
        self, params: Any, lr: float = 0.0, weight_decay: float = 0.0, momentum: float = 0.9, eta: float = 0.001
    ):
        super().__init__(params, {"lr": lr, "weight_decay": weight_decay, "momentum": momentum, "eta": eta})

    @overload
    def step(self, closure: None = None) -> None: ...

    @overload
    def step(self, closure: Callable[[], float]) -> float: ...

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """One step; see `torch.optim.Optimizer.step`."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for weight in group["params"]:
                if weight.grad is not None:
                    self._move(weight, group)
        return loss

    def _move(self, weight: Tensor, group: dict[str, Any]) -> None:
        update = weight.grad
        assert update is not None
        if weight.ndim != 1:
            update = update.add(weight, alpha=group["weight_decay"])
            length, change = weight.norm(), update.norm()
            scale = torch.where((length > 0) & (change > 0), group["eta"] * length / change, 1.0)
            update = update * scale
        state = self.state[weight]
        velocity = state.setdefault("mu", torch.zeros_like(weight))
        velocity.mul_(group["momentum"]).add_(update)
        weight.add_(velocity, alpha=-group["lr"])
