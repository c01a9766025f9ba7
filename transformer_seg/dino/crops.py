"""Multi-crop augmentation: two large and several small random views of an image (arXiv 2104.14294, section 3.2)."""

from dataclasses import dataclass

import torch
from PIL import Image, ImageFilter
from torch import Tensor
from torchvision.transforms import InterpolationMode, v2

from transformer_seg.backbones import MEAN_STD

SOLARIZE_FROM = 128  # pixels from this value on are inverted


def blur(image: Image.Image, radius: float) -> Image.Image:
    """Gaussian blur of a radius in pixels."""
    return image.filter(ImageFilter.GaussianBlur(radius))


def solarize(image: Image.Image) -> Image.Image:
    """Values from 128 on inverted."""
    return v2.functional.solarize(image, SOLARIZE_FROM)


class RandomBlur(torch.nn.Module):
    """`blur` with a probability, by a radius between 0.1 and 2 pixels."""

    def __init__(self, probability: float, radius: tuple[float, float] = (0.1, 2.0)):
        super().__init__()
        self.probability, self.radius = probability, radius

    def forward(self, image: Image.Image) -> Image.Image:
        """The image, blurred or not."""
        if float(torch.rand(())) >= self.probability:
            return image
        low, high = self.radius
        return blur(image, low + (high - low) * float(torch.rand(())))


@dataclass(frozen=True)
class CropOptions:
    """Sizes and scales.

    Attributes:
        global_scale: Share of the image's area of the two large crops.
        local_scale: Of the small ones.
        num_local: Small crops.
        global_size_px: Side of a large crop.
        local_size_px: Side of a small crop.
    """

    global_scale: tuple[float, float] = (0.4, 1.0)
    local_scale: tuple[float, float] = (0.05, 0.4)
    num_local: int = 8
    global_size_px: int = 224
    local_size_px: int = 96


class MultiCrop:
    """An RGB image to its crops, normalised: the two large ones, then the small ones.

    The first large crop is always blurred, the second seldom and sometimes solarised, small ones in half of the cases.
    Random numbers are PyTorch's.
    """

    def __init__(self, options: CropOptions | None = None):
        self.options = options = options or CropOptions()
        large = (options.global_size_px, options.global_scale)
        self.first = _augmentation(*large, blur=1.0, solarize=0.0)
        self.second = _augmentation(*large, blur=0.1, solarize=0.2)
        self.local = _augmentation(options.local_size_px, options.local_scale, blur=0.5, solarize=0.0)

    def __call__(self, image: Image.Image) -> list[Tensor]:
        """Float tensors (3, side, side), 2 + num_local of them."""
        return [self.first(image), self.second(image), *(self.local(image) for _ in range(self.options.num_local))]


def _augmentation(size: int, scale: tuple[float, float], *, blur: float, solarize: float) -> v2.Compose:
    jitter = v2.ColorJitter(brightness=0.4, contrast=0.4, saturation=0.2, hue=0.1)
    return v2.Compose(
        [
            v2.RandomResizedCrop(size, scale, ratio=(3 / 4, 4 / 3), interpolation=InterpolationMode.BICUBIC),
            v2.RandomHorizontalFlip(0.5),
            v2.RandomApply([jitter], p=0.8),
            v2.RandomGrayscale(0.2),
            RandomBlur(blur),
            v2.RandomSolarize(SOLARIZE_FROM, p=solarize),
            v2.ToImage(),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize(*map(list, MEAN_STD["deit"])),
        ]
    )
