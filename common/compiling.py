"""``--compile``: the networks of a module through ``torch.compile``, in place, so that checkpoints keep their names."""

import pytorch_lightning as pl
from torch import nn
from torchmetrics import Metric


def compile_networks(module: pl.LightningModule) -> list[str]:
    """Compile what a module spends its time in; the work is done when each is called for the first time.

    That is what the module lists as ``compiled_networks`` (names of sub-modules that are called as such, those it does
    not have left out), else its direct parts with parameters.

    Returns:
        The names of what was compiled.
    """
    parts = dict(module.named_modules())
    listed = getattr(module, "compiled_networks", None)
    names = [name for name in listed if name in parts] if listed else _with_parameters(module)
    for name in names:
        parts[name].compile()
    return names


def _with_parameters(module: nn.Module) -> list[str]:
    return [
        name
        for name, part in module.named_children()
        if not isinstance(part, Metric) and next(part.parameters(), None) is not None
    ]
