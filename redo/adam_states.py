"""Adam's state in the original containers: by position in the original's list of parameters, ours by our names.

Both ways, so that a published run can be continued and ours can be handed back.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from common.errors import InputError
from redo.checkpoints import pairs, to_original, to_ours

MOMENTS = ("exp_avg", "exp_avg_sq")


def import_adam(
    network: nn.Module, state: Mapping[str, Any] | tuple[Any, ...], source: object = "container"
) -> dict[str, Any]:
    """A state dict for an Adam over ``network.parameters()`` from the original's.

    Args:
        network: The network it belongs to.
        state: The original's optimiser state; containers before September 2019 hold Z's inside a tuple of one.
        source: File to name in an error.

    Raises:
        InputError: It belongs to another network.
    """
    content: Mapping[str, Any] = state[0] if isinstance(state, tuple) else state
    names = [pair.original for pair in pairs(network, parameters_only=True)]
    group = dict(content["param_groups"][0])
    positions = group.pop("params")  # consecutive numbers, or memory addresses in old files
    if len(positions) != len(names):
        raise InputError(
            f"{source}: optimiser state of {len(positions)} parameters for a {type(network).__name__} of {len(names)}"
        )
    group["betas"] = tuple(float(beta) for beta in group["betas"])  # current PyTorch refuses the original's integer 0
    slots = {name: content["state"][key] for name, key in zip(names, positions, strict=True) if key in content["state"]}
    moments = {m: to_ours(network, {name: slot[m] for name, slot in slots.items()}) for m in MOMENTS}
    step = torch.tensor(float(max((slot["step"] for slot in slots.values()), default=0)))
    ours = [name for name, _ in network.named_parameters()]
    return {
        "state": {
            position: {"step": step.clone(), **{m: moments[m][name] for m in MOMENTS}}
            for position, name in enumerate(ours)
            if name in moments["exp_avg"]
        },
        "param_groups": [{**group, "params": list(range(len(ours)))}],
    }


def export_adam(network: nn.Module, state: Mapping[str, Any]) -> dict[str, Any]:
    """The original's optimiser state from the state dict of an Adam over ``network.parameters()``."""
    ours = [name for name, _ in network.named_parameters()]
    names = [pair.original for pair in pairs(network, parameters_only=True)]
    slots: Mapping[int, Mapping[str, Any]] = state["state"]
    moments: dict[str, dict[str, Tensor]] = {
        m: to_original(network, {ours[position]: slot[m] for position, slot in slots.items()}) for m in MOMENTS
    }
    step = int(max((slot["step"] for slot in slots.values()), default=0))
    return {
        "state": {
            position: {"step": step, **{m: moments[m][name].clone() for m in MOMENTS}}
            for position, name in enumerate(names)
            if name in moments["exp_avg"]
        },
        "param_groups": [{**state["param_groups"][0], "params": list(range(len(names)))}],
    }
