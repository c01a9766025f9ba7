"""Building blocks of the four networks: spectral norm, folded up- and down-sampling convolutions, self-attention."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

POWER_EPS = 1e-12


class SpectralConv2d(nn.Module):
    """A convolution (stride 1, size kept) whose weight is divided by an estimate of its largest singular value.

    Every call in training mode first does one power iteration and stores it, v before u; a call in evaluation mode uses
    the stored vectors as they are. So a network called twice in a step moves twice, with slightly different weights:
    part of the method, and counted by the tests. ``torch.nn.utils.parametrizations.spectral_norm`` updates in another
    order. Gradient flows through the singular value, with u and v constant. Sources: Miyato et al., ICLR 2018;
    ReDO's code.
    """

    u: Tensor
    v: Tensor

    def __init__(self, in_channels: int, out_channels: int, kernel: int, bias: bool = True) -> None:
        super().__init__()
        self.padding = kernel // 2
        self.weight = nn.Parameter(torch.empty(out_channels, in_channels, kernel, kernel))
        self.bias = nn.Parameter(torch.empty(out_channels)) if bias else None
        self.register_buffer("u", torch.empty(out_channels))
        self.register_buffer("v", torch.empty(in_channels * kernel**2))
        self.reset_parameters()

    def reset_parameters(self, generator: torch.Generator | None = None) -> None:
        """PyTorch's default for convolutions, uniform in +-1/sqrt(fan-in), and random unit vectors u and v."""
        bound = self.v.numel() ** -0.5
        with torch.no_grad():
            self.weight.uniform_(-bound, bound, generator=generator)
            if self.bias is not None:
                self.bias.uniform_(-bound, bound, generator=generator)
            for vector in (self.u, self.v):
                vector.copy_(F.normalize(vector.normal_(generator=generator), dim=0, eps=POWER_EPS))

    def normalised_weight(self) -> Tensor:
        """Weight over singular value, float32 also under autocast; in training mode after one power iteration."""
        with torch.autocast(self.weight.device.type, enabled=False):
            matrix = self.weight.flatten(1)
            if not self.training:
                return self.weight / torch.dot(self.u, torch.mv(matrix, self.v))
            v = F.normalize(torch.mv(matrix.detach().t(), self.u), dim=0, eps=POWER_EPS)
            product = torch.mv(matrix, v)  # serves the update of u and the singular value
            u = F.normalize(product.detach(), dim=0, eps=POWER_EPS)
            self.v.copy_(v)
            self.u.copy_(u)
            return self.weight / torch.dot(u, product)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) to (B, C', H, W)."""
        return F.conv2d(x, self.normalised_weight(), self.bias, padding=self.padding)


def conv_then_halve(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """A 3x3 convolution followed by 2x2 average pooling: (B, C, H, W) to (B, C', H/2, W/2).

    Computed as one 4x4 convolution of stride 2, at 16/36 of the multiplications.
    """
    B, C, H, W = x.shape
    if not _folding_pays(B * H * W // 4, C):
        return F.avg_pool2d(F.conv2d(x, weight, bias, padding=1), 2)
    return F.conv2d(x, _spread(weight) / 4, bias, stride=2, padding=1)


def double_then_conv(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Nearest-neighbour doubling followed by a 3x3 convolution: (B, C, H, W) to (B, C', 2H, 2W).

    Computed as one 4x4 transposed convolution of stride 2, at 16/36 of the multiplications.
    """
    B, C, H, W = x.shape
    if not _folding_pays(B * H * W, C):
        return F.conv2d(double(x), weight, bias, padding=1)
    return F.conv_transpose2d(x, _spread(weight.flip(-1, -2)).transpose(0, 1), bias, stride=2, padding=1)


def double(x: Tensor) -> Tensor:
    """Nearest-neighbour doubling of both sides."""
    return F.interpolate(x, scale_factor=2.0, mode="nearest")


def _folding_pays(small_pixels: int, channels: int) -> bool:
    # Folding costs some passes over the kernel and saves work per pixel; measured break-even on a CPU.
    return small_pixels > 2 * channels


def _spread(weight: Tensor) -> Tensor:
    """The kernels (..., 3, 3) convolved with a 2x2 block of ones: (..., 4, 4)."""
    rows = F.pad(weight, (0, 0, 0, 1)) + F.pad(weight, (0, 0, 1, 0))
    return F.pad(rows, (0, 1)) + F.pad(rows, (1, 0))


class SelfAttention(nn.Module):
    """Every place looks at a quarter of the others: x + gamma * o(attention over max-pooled keys and values).

    No 1/sqrt(d) in the softmax; gamma starts at 0. Source: Zhang et al., SAGAN, ICML 2019, in the variant of ReDO's
    code.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        inner = max(channels // 8, 1)
        self.query = SpectralConv2d(channels, inner, 1, bias=False)
        self.key = SpectralConv2d(channels, inner, 1, bias=False)
        self.value = SpectralConv2d(channels, channels // 2, 1, bias=False)
        self.output = SpectralConv2d(channels // 2, channels, 1, bias=False)
        self.gamma = nn.Parameter(torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W), the same out; H and W even."""
        H, W = x.shape[-2:]
        query = self.query(x).flatten(2).transpose(1, 2)  # (B,HW,C/8)
        key = F.max_pool2d(self.key(x), 2).flatten(2).transpose(1, 2)  # (B,HW/4,C/8)
        value = F.max_pool2d(self.value(x), 2).flatten(2).transpose(1, 2)  # (B,HW/4,C/2)
        seen = attend(query, key, value).transpose(1, 2).unflatten(2, (H, W))
        return x + self.gamma * self.output(seen)


def attend(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """softmax(query key^T) value, with the softmax over the keys and no scaling.

    The attention map, at 64x64 the largest tensor of the whole method, is never stored: with equal head sizes, which
    zeros in queries and keys make, the fused kernels of CPU and GPU apply.

    Args:
        query: (B, Q, C).
        key: (B, P, C).
        value: (B, P, D), with D >= C.

    Returns:
        (B, Q, D).
    """
    missing = value.shape[2] - query.shape[2]
    heads = (F.pad(query, (0, missing)), F.pad(key, (0, missing)), value)
    query, key, value = (tensor.unsqueeze(1).contiguous() for tensor in heads)
    return F.scaled_dot_product_attention(query, key, value, scale=1.0).squeeze(1)
