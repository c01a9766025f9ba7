"""The segmentation network: a 3-D U-Net over a window of optical flow.

Space is halved at every level, time never is: each of the T frames gets its own segmentation, and all of them see each
other through the 3 x 3 x 3 convolutions. Source: Meunier and Bouthemy, CVPR 2023. With the published sizes (four
segments, 32 features, three levels) it has 1.34 million parameters.

Symbols: B samples, C channels, T frames, I rows, J columns, L segments.
"""

# ruff: noqa: E741 - T I J are this field's letters for frames, rows and columns

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from common.errors import InputError
from stflow.normalisation import normalisation

PaddingMode = Literal["zeros", "reflect"]


def double_convolution(
    inputs: int, outputs: int, padding_mode: PaddingMode, norm: str, train_bn: bool
) -> nn.Sequential:
    """Twice a 3 x 3 x 3 convolution, normalisation and ReLU."""
    return nn.Sequential(
        nn.Conv3d(inputs, outputs, 3, padding=1, padding_mode=padding_mode),
        normalisation(norm, outputs, train_bn),
        nn.ReLU(inplace=True),
        nn.Conv3d(outputs, outputs, 3, padding=1, padding_mode=padding_mode),
        normalisation(norm, outputs, train_bn),
        nn.ReLU(inplace=True),
    )


def pad_to(x: Tensor, skip: Tensor) -> Tensor:
    """Zeros around x up to the rows and columns of skip, the odd one last."""
    rows, columns = skip.shape[-2] - x.shape[-2], skip.shape[-1] - x.shape[-1]
    return F.pad(x, (columns // 2, columns - columns // 2, rows // 2, rows - rows // 2))


class UNet3D(nn.Module):
    """Flow window to segment logits.

    Args:
        num_classes: Segments L.
        in_channels: Channels of the input: two, u and v.
        features_start: Channels of level 0; they double at every level.
        num_layers: Levels, the lowest included.
        padding_mode: zeros or reflect, of the 3 x 3 x 3 convolutions.
        inner_normalisation: See `normalisation`.
        train_bn: See `normalisation`.
    """

    def __init__(
        self,
        num_classes: int,
        in_channels: int = 2,
        features_start: int = 32,
        num_layers: int = 3,
        padding_mode: PaddingMode = "zeros",
        inner_normalisation: str = "InstanceNorm",
        train_bn: bool = False,
    ):
        super().__init__()
        self.padding_mode = padding_mode
        self.batch_statistics = inner_normalisation == "BatchNorm" or train_bn  # what one sample gives others see
        widths = [features_start * 2**k for k in range(num_layers)]
        conv = (padding_mode, inner_normalisation, train_bn)
        self.encoders, self.decoders = nn.ModuleList(), nn.ModuleList()  # of level k: to widths[k], both
        self.downs, self.ups = nn.ModuleList(), nn.ModuleList()  # between levels k and k + 1
        for k, width in enumerate(widths):  # in the order of the published code: the same seed, the same first weights
            above = widths[k - 1]
            if k > 0:
                self.downs.append(nn.Conv3d(above, above, (1, 2, 2), stride=(1, 2, 2)))
            self.encoders.append(double_convolution(above if k > 0 else in_channels, width, *conv))
            if k < num_layers - 1:
                self.decoders.append(double_convolution(2 * width, width, *conv))
            if k > 0:
                self.ups.append(nn.ConvTranspose3d(width, above, (1, 2, 2), stride=(1, 2, 2)))
        self.head = nn.Conv3d(features_start, num_classes, 1)

    def forward(self, flow: Tensor) -> Tensor:
        """Logits (B, L, T, I, J) of a flow window (B, 2, T, I, J) in pixels.

        Raises:
            InputError: A window too small for the network.
        """
        self._check_size(flow)
        return torch.cat([self._layers(part)[0] for part in self._parts(flow)])[: len(flow)].contiguous()

    def features(self, flow: Tensor) -> tuple[Tensor, Tensor]:
        """Logits (B, L, T, I, J), and the features (B, features_start, T, I, J) that the last convolution sees."""
        self._check_size(flow)
        parts = zip(*map(self._layers, self._parts(flow)), strict=True)
        logits, x = (torch.cat(part)[: len(flow)].contiguous() for part in parts)
        return logits, x

    def _layers(self, flow: Tensor) -> tuple[Tensor, Tensor]:
        x, skips = self.encoders[0](flow), []
        for down, encoder in zip(self.downs, self.encoders[1:], strict=True):
            skips.append(x)
            x = encoder(down(x))  # I and J halved, an odd last row or column dropped
        for skip, up, decoder in zip(reversed(skips), reversed(self.ups), reversed(self.decoders), strict=True):
            x = decoder(torch.cat([skip, pad_to(up(x), skip)], dim=1))
        return self.head(x), x

    def _parts(self, flow: Tensor) -> tuple[Tensor, ...]:
        """Samples to compute together: the batch, or on a CPU pairs, which changes nothing but the speed.

        A CPU asks the system anew for every large activation, and is a third faster on small ones. PyTorch convolves a
        lone 3-D sample many times slower than two, so it gets a twin, whose results are dropped.
        """
        if flow.device.type != "cpu" or (self.batch_statistics and self.training):
            return (flow,)
        if len(flow) == 1:
            flow = flow.expand(2, -1, -1, -1, -1)
        if not torch.is_grad_enabled():  # quicker forward, slower backward
            flow = flow.contiguous(memory_format=torch.channels_last_3d)
        return (flow,) if self.batch_statistics else flow.tensor_split(max(1, len(flow) // 2))

    def _check_size(self, flow: Tensor) -> None:
        T, I, J = flow.shape[-3:]
        depth = 2 ** len(self.downs)
        side = 2 * depth if self.padding_mode == "reflect" else depth  # a side of one pixel has nothing to reflect
        if min(I, J) < side:
            raise InputError(
                f"--img_size: {I} x {J} is too small for {len(self.encoders)} levels with {self.padding_mode} padding, "
                f"use at least {side} x {side} or fewer unet.num_layers"
            )
        if T < 2 and self.padding_mode == "reflect":
            raise InputError(f"--unet.padding_mode: reflect needs at least 2 frames, got {T}; use zeros")
