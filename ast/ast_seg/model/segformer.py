"""SegFormer as the generator of attention logits and slot features, at a quarter of the resolution (the v2 paper's).

The network is that of ``transformers``: a MiT encoder, which may be pretrained, and a decode head drawn at random. The
published models feed it images in [0, 1] without ImageNet's normalisation. ``transformers`` is imported only when such
a network is built: it takes seconds.
"""

import math
from typing import Any

import torch
from torch import Tensor, nn

from common.errors import InputError

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

_DEPTHS = {
    "mit-b0": (2, 2, 2, 2),
    "mit-b1": (2, 2, 2, 2),
    "mit-b2": (3, 4, 6, 3),
    "mit-b3": (3, 4, 18, 3),
    "mit-b4": (3, 8, 27, 3),
    "mit-b5": (3, 6, 40, 3),
}


def mit_architecture(name: str = "mit-b3") -> dict[str, Any]:
    """Sizes of a published MiT encoder and its decode head, as arguments of ``SegformerConfig``.

    Raises:
        InputError: Unknown name.
    """
    if name not in _DEPTHS:
        raise InputError(f"SegFormer architecture {name}: unknown, choose one of {', '.join(_DEPTHS)}")
    return {
        "hidden_sizes": [32, 64, 160, 256] if name == "mit-b0" else [64, 128, 320, 512],
        "depths": list(_DEPTHS[name]),
        "decoder_hidden_size": 256 if name in ("mit-b0", "mit-b1") else 768,
    }


class SegformerMaps(nn.Module):
    """Feature maps at a quarter of the resolution.

    Args:
        out_channels: Maps to draw (attention logits of the slots, then their features).
        pretrained: Where the encoder's weights come from: a folder saved by ``transformers``, a name on the Hugging
            Face hub, or "none" for random ones (``--pretrained_backbone_weights_reference``).
        architecture: Arguments of ``SegformerConfig`` when ``pretrained`` is "none"; default MiT-B3.
        imagenet_norm: Normalise images as the encoder's pretraining did; off in the published models.

    Raises:
        InputError: The pretrained weights cannot be had.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        out_channels: int,
        *,
        pretrained: str = "none",
        architecture: dict[str, Any] | None = None,
        imagenet_norm: bool = False,
    ) -> None:
        super().__init__()
        from transformers import SegformerConfig, SegformerForSemanticSegmentation

        if pretrained == "none":
            sizes = mit_architecture() if architecture is None else architecture
            config = SegformerConfig(**{**sizes, "num_labels": out_channels})
            self.network: nn.Module = SegformerForSemanticSegmentation(config)
        else:
            self.network = _pretrained(pretrained, out_channels)
        self.register_buffer("mean", torch.tensor(IMAGENET_MEAN).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(IMAGENET_STD).view(3, 1, 1), persistent=False)
        self.imagenet_norm = imagenet_norm

    def map_size(self, height: int, width: int) -> tuple[int, int]:
        """Size of the maps of an image."""
        return math.ceil(height / 4), math.ceil(width / 4)

    def forward(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) in [0, 1] to (B, C, ceil(H/4), ceil(W/4))."""
        if self.imagenet_norm:
            images = (images - self.mean) / self.std
        return self.network(pixel_values=images).logits


def _pretrained(reference: str, out_channels: int) -> nn.Module:
    from transformers import SegformerForSemanticSegmentation

    try:
        return SegformerForSemanticSegmentation.from_pretrained(
            reference, num_labels=out_channels, ignore_mismatched_sizes=True
        )
    except OSError as error:
        raise InputError(
            f"--pretrained_backbone_weights_reference {reference}: not a folder of SegFormer weights and not to be had "
            "from the hub; name a local folder, or none for random weights"
        ) from error
