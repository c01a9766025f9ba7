"""Batch normalisation over all processes, on any device (PyTorch's own runs on GPUs only).

With it, P processes of batch size b train as one of batch size P b.
"""

from typing import Any

import torch
from torch import Tensor, distributed, nn


class SharedBatchNorm2d(nn.BatchNorm2d):
    """Mean and variance of the batches of all processes, which must be of one size."""

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W)."""
        if not self.training:
            return super().forward(x)
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.num_batches_tracked is not None
        values = x.to(torch.promote_types(x.dtype, torch.float32))
        count = values.numel() / values.shape[1] * distributed.get_world_size()
        mean = _Summed.apply(values.sum(dim=(0, 2, 3))) / count
        centred = values - mean[:, None, None]
        variance = _Summed.apply(centred.square().sum(dim=(0, 2, 3))) / count
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


class _Summed(torch.autograd.Function):
    """The sum over all processes; what each of them does with it flows back to all."""

    @staticmethod
    def forward(ctx: Any, values: Tensor) -> Tensor:
        return _total(values)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return _total(grad)


def _total(values: Tensor) -> Tensor:
    total = values.clone()
    distributed.all_reduce(total)
    return total
