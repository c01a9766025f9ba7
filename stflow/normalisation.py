"""The layers between a convolution of the 3-D U-Net and its ReLU, by the names of the published options.

Of the Smooth variants the publication's library has no description; they are what its code was found to do. None but
BatchNorm (and running statistics) lets a sample see its batch.

Symbols: B samples, C channels, T frames, I rows, J columns.
"""

from typing import get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from common.errors import InputError
from stflow.options import Norm

NAMES: tuple[str, ...] = get_args(Norm)
BLOCK = 9  # frames that the block norms take together


class InstanceNorm(nn.Module):
    """Zero mean and unit variance of every channel over the window, frames and pixels together."""

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, T, I, J), the same out."""
        if x.device.type == "cpu":  # the same numbers, and a tenth off the whole training step
            return F.group_norm(x, x.shape[1])
        return F.instance_norm(x)  # autocast on a GPU would raise group_norm's output to float32


class FrameNorm(nn.Module):
    """cInstanceNorm2d: zero mean and unit variance of every channel in every frame."""

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, T, I, J), the same out."""
        return F.layer_norm(x, x.shape[-2:])


class BlockNorm(nn.Module):
    """cBlockNorm3d: zero mean and unit variance of every channel in every block of nine frames.

    Time is padded by reflection to whole blocks, and cropped afterwards.
    """

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, T, I, J), the same out.

        Raises:
            InputError: Fewer frames than the padding reflects.
        """
        B, C, T = x.shape[:3]
        missing = -T % BLOCK
        before = missing // 2
        if missing - before >= T:
            raise InputError(
                f"--unet.inner_normalisation cBlockNorm3d: {T} frames are too few to pad to {T + missing}, "
                "use at least 5 frames or InstanceNorm"
            )
        padded = F.pad(x, (0, 0, 0, 0, before, missing - before), mode="reflect") if missing else x
        blocks = padded.reshape(B, C, -1, BLOCK, *x.shape[3:])
        return F.layer_norm(blocks, blocks.shape[3:]).view_as(padded)[:, :, before : before + T]


class MeanFilter(nn.Module):
    """Mean over the nine frames around each, time reflected at its ends: weights that are stored and never learned."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.register_buffer("weight", torch.full((channels, 1, BLOCK), 1 / BLOCK))

    def forward(self, means: Tensor) -> Tensor:
        """(B, C, T), the same out."""
        weight = self.get_buffer("weight")
        padded = F.pad(means, (BLOCK // 2, BLOCK // 2), mode="reflect")
        return F.conv1d(padded, weight.to(means.dtype), groups=len(weight))


class SmoothBlockNorm(nn.Module):
    """cBlockNorm3dSmooth: every frame without the mean of the nine around it; its variance stays.

    The published layer computes a division by the deviation too, and drops the result.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv_gaussian = MeanFilter(channels)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, T, I, J), the same out.

        Raises:
            InputError: Fewer frames than are reflected.
        """
        _check_frames("cBlockNorm3dSmooth", x.shape[2])
        return x - self.conv_gaussian(x.mean((3, 4)))[..., None, None]


class SlidingBlockNorm(nn.Module):
    """cBlockNorm3dSmoothV2: every frame by mean and deviation of the nine around it, time reflected at its ends."""

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, T, I, J), the same out.

        Raises:
            InputError: Fewer frames than are reflected.
        """
        _check_frames("cBlockNorm3dSmoothV2", x.shape[2])
        means = _around(x.mean((3, 4)))  # (B,C,T,9)
        mean = means.mean(3)
        # within frames and between them, each without the difference of large numbers
        variance = _around(x.var((3, 4), correction=0)).mean(3) + (means - mean[..., None]).square().mean(3)
        return (x - mean[..., None, None]) / (variance + 1e-8).sqrt()[..., None, None]


def _around(values: Tensor) -> Tensor:
    """The nine frames around each: (B, C, T) to (B, C, T, 9)."""
    return F.pad(values, (BLOCK // 2, BLOCK // 2), mode="reflect").unfold(2, BLOCK, 1)


def _check_frames(name: str, T: int) -> None:
    if T <= BLOCK // 2:
        raise InputError(
            f"--unet.inner_normalisation {name}: {T} frames are too few to reflect {BLOCK // 2}, "
            f"use at least {BLOCK // 2 + 1} frames or InstanceNorm"
        )


def normalisation(name: str, channels: int, train_bn: bool) -> nn.Module:
    """The layer between a convolution and its ReLU.

    Args:
        name: One of `NAMES`.
        channels: Channels C.
        train_bn: Keep running statistics and use them in evaluation. Without them BatchNorm uses the statistics of the
            batch in evaluation too, and a prediction depends on its batch mates.

    Raises:
        InputError: Unknown name.
    """
    match name:
        case "InstanceNorm":
            return nn.InstanceNorm3d(channels, track_running_stats=True) if train_bn else InstanceNorm()
        case "BatchNorm":
            return nn.BatchNorm3d(channels, track_running_stats=train_bn)
        case "None":
            return nn.Identity()
        case "cInstanceNorm2d":
            return FrameNorm()
        case "cBlockNorm3d":
            return BlockNorm()
        case "cBlockNorm3dSmooth":
            return SmoothBlockNorm(channels)
        case "cBlockNorm3dSmoothV2":
            return SlidingBlockNorm()
    raise InputError(f"--unet.inner_normalisation: unknown layer {name!r}, choose one of {', '.join(NAMES)}")
