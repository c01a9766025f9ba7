"""State dicts by the manifest's weights rules, and tensors of a case."""

import torch
from torch import Tensor, nn

from tests.golden import Case, chirp_tensor, formula_tensor

RULES = {"formula": formula_tensor, "chirp": chirp_tensor}


def tensors(case: Case) -> dict[str, Tensor]:
    return {key: torch.from_numpy(array) for key, array in case.arrays().items()}


def rule_of(text: str) -> str:
    """The rule's name, which may be followed by remarks: "formula, then ..."."""
    (rule,) = [name for name in RULES if text == name or text.startswith((f"{name} ", f"{name},"))]
    return rule


def filled(network: nn.Module, rule: str, prefix: str = "") -> dict[str, Tensor]:
    """The network's state dict by a rule, phases from ``prefix`` + key; counters are 0, weight_v has norm 1."""
    state = {}
    for key, tensor in network.state_dict().items():
        if key.endswith("num_batches_tracked"):
            state[key] = torch.zeros_like(tensor)
            continue
        state[key] = RULES[rule_of(rule)](prefix + key, tensor.shape)
        if key.endswith(("weight_u", "weight_v")):
            state[key] /= state[key].norm()
    return state
