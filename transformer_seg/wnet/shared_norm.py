"""Batch normalisation over all processes, on any device (PyTorch's own runs on GPUs only).

With it, P processes of batch size b train as one of batch size P b.
"""

from typing import Any

import torch
from torch import Tensor, distributed, nn
from torch.distributed.nn.functional import all_reduce


class SharedBatchNorm2d(nn.BatchNorm2d):
    """Mean and variance of the batches of all processes, which must be of one size."""

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W)."""
        if not self.training:
            return super().forward(x)
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.num_batches_tracked is not None
        values = x.float()
        count = values.numel() / values.shape[1] * distributed.get_world_size()
        mean = _summed(values.sum(dim=(0, 2, 3))) / count
        centred = values - mean[:, None, None]
        variance = _summed(centred.square().sum(dim=(0, 2, 3))) / count
        with torch.no_grad():
            self.num_batches_tracked += 1
            share = self.momentum if self.momentum is not None else 1 / float(self.num_batches_tracked)
            self.running_mean.lerp_(mean.to(self.running_mean), share)
            self.running_var.lerp_((variance * count / max(count - 1, 1)).to(self.running_var), share)
        normalised = centred * torch.rsqrt(variance + self.eps)[:, None, None]
        if self.affine:
            normalised = normalised * self.weight[:, None, None] + self.bias[:, None, None]
        return normalised.to(x.dtype)


def share_statistics(network: nn.Module) -> None:
    """Make every batch normalisation of a network share its statistics, in place; parameters stay where they are."""
    for module in network.modules():
        if type(module) is nn.BatchNorm2d:
            module.__class__ = SharedBatchNorm2d


def _summed(values: Tensor) -> Tensor:
    total: Any = all_reduce(values)
    return total
