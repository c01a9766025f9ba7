"""The network of stages A and B by name: DINO's ViT with weights from somewhere, or hand-made features without any."""

import hashlib
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from common.errors import InputError
from common.messages import warn
from common.training import seed_everything
from maskdistill.checkpoints import import_vit, read_published
from maskdistill.model.vit import HEAD_WIDTH, VisionTransformer
from maskdistill.transforms import IMAGENET_MEAN, IMAGENET_STD

TIMM_NAMES = {"small": "vit_small_patch{}_224.dino", "base": "vit_base_patch{}_224.dino"}


class ContrastBackbone(nn.Module):
    """Hand-made features in the place of a transformer's: how far a patch's colour lies from the image's border.

    No weights, no training. A patch is described by its mean colour without its grey and by its deviation; its salience
    is the distance to the median of the border patches. Keys are 2 u for the most salient patches down to -0.7 u for
    the least, for one unit vector u per head, and the CLS query is u: the geometry of the planted objects that the
    selection is tested with. Salient patches of different colour are told apart by a part of their own. The feature of
    a crop is the histogram of the hues in its salient part, and of the directions of its edges. Good for plain pictures
    of colourful things on a duller ground, as the embedded scenes are; not for photographs.

    Args:
        patch_size: Side of a patch in pixels.
    """

    num_heads = 6
    HUES, DIRECTIONS = 18, 8
    directions: Tensor
    mean: Tensor
    std: Tensor

    def __init__(self, patch_size: int = 16) -> None:
        super().__init__()
        self.patch_size = patch_size
        directions = torch.randn(self.num_heads, HEAD_WIDTH, generator=torch.Generator().manual_seed(0))
        directions[:, :3] = 0  # the place of the colours
        self.register_buffer("directions", F.normalize(directions, dim=1))
        self.register_buffer("mean", torch.tensor(IMAGENET_MEAN)[:, None, None])
        self.register_buffer("std", torch.tensor(IMAGENET_STD)[:, None, None])

    def queries_keys(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Queries and keys (B, L, 1+N, d) of normalised images (B, 3, H, W)."""
        saliency, colours = self._saliency(images)
        saliency, colours = saliency.flatten(1), colours.flatten(2).transpose(1, 2)  # (B,N), (B,N,3)
        values = torch.cat([torch.ones_like(saliency[:, :1]), saliency], 1)  # CLS first
        keys = 2 * values[:, None, :, None] * self.directions[None, :, None, :]
        keys[:, :, 1:, :3] = (2 * F.normalize(colours, dim=2) * saliency.clamp(min=0)[..., None])[:, None]
        queries = self.directions[None, :, None, :].expand_as(keys)
        return queries, keys

    def forward(self, images: Tensor) -> Tensor:
        """The feature (B, D) of each crop."""
        colours = (images * self.std + self.mean).clamp(0, 1)
        inside = F.interpolate(self._saliency(images)[0][:, None].clamp(min=0), images.shape[-2:])[:, 0]
        inside = inside + 1e-6
        top, bottom = colours.amax(1), colours.amin(1)
        chroma = top - bottom
        red, green, blue = colours.unbind(1)
        hue = torch.atan2(3**0.5 * (green - blue), 2 * red - green - blue) / (2 * torch.pi) % 1.0
        grey = colours.mean(1)
        dy, dx = torch.gradient(grey, dim=(1, 2))
        angle = torch.atan2(dy, dx) / torch.pi % 1.0
        parts = [
            _histogram(hue, inside * chroma, self.HUES),
            0.3 * _histogram(angle, inside * (dx**2 + dy**2).sqrt(), self.DIRECTIONS),
        ]
        return torch.cat(parts, 1)

    def _saliency(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Salience of the patches (B, h, w), 1 for the object and at least -0.35, and their colours (B, 3, h, w)."""
        P = self.patch_size
        pixels = images * self.std + self.mean
        mean = F.avg_pool2d(pixels, P)
        spread = (F.avg_pool2d(pixels**2, P) - mean**2).clamp(min=0).sqrt()
        described = torch.cat([3 * (mean - mean.mean(1, keepdim=True)), 0.3 * spread], 1)  # (B,6,h,w)
        described = F.avg_pool2d(F.pad(described, (1, 1, 1, 1), mode="replicate"), 3, stride=1)
        sides = [described[..., 0, :], described[..., -1, :], described[..., 0], described[..., -1]]
        contrast = described - torch.cat(sides, -1).median(-1).values[..., None, None]
        distance = (contrast**2).mean(1).sqrt()
        strongest = distance.flatten(1).quantile(0.97, dim=1)[:, None, None].clamp(min=1e-6)
        return ((distance / strongest - 0.44) / 0.56).clamp(-0.35, 1.0), contrast[:, :3]


def _histogram(values: Tensor, weights: Tensor, num_bins: int) -> Tensor:
    """Smooth circular histogram (B, bins) of values (B, H, W) in 0..1, of sum 1."""
    place = values.flatten(1) * num_bins
    low = place.floor().long()
    share = place - low
    weights = weights.flatten(1)
    found = torch.zeros(len(values), num_bins, device=values.device, dtype=weights.dtype)
    found.scatter_add_(1, low % num_bins, weights * (1 - share))
    found.scatter_add_(1, (low + 1) % num_bins, weights * share)
    return found / found.sum(1, keepdim=True).clamp(min=1e-9)


Backbone = VisionTransformer | ContrastBackbone


def make_backbone(
    weights: str, model: Literal["small", "base"] = "small", patch_size: int = 16, seed: int = 123
) -> Backbone:
    """The network of stages A and B, in eval mode.

    Args:
        weights: ``random``, ``contrast``, ``timm`` (DINO's weights through timm, downloaded), or a checkpoint file.
        model: Width of the transformer.
        patch_size: Side of a patch.
        seed: Of random weights.

    Raises:
        InputError: No such file, a file of another network, or a download that failed.
    """
    if patch_size < 1:
        raise InputError(f"--patch_size {patch_size}: give 8 or 16")
    if weights == "contrast":
        return ContrastBackbone(patch_size).eval()
    if weights == "random":
        warn("--weights random: the network has learnt nothing, its masks and features mean nothing")
        seed_everything(seed)
        return VisionTransformer(model, patch_size).eval()
    if weights == "timm":
        return _from_timm(model, patch_size)
    if not Path(weights).exists():
        raise InputError(f"--weights {weights}: no such file; give a DINO checkpoint, or random, contrast, timm")
    network = import_vit(read_published(weights), weights)
    found = "base" if network.num_heads == 12 else "small"
    if (found, network.patch_size) != (model, patch_size):
        raise InputError(
            f"--weights {weights}: holds a ViT {found} with patches of {network.patch_size} px; give --model {found}"
            f" --patch_size {network.patch_size}"
        )
    return network


def _from_timm(model: str, patch_size: int) -> VisionTransformer:
    import timm

    name = TIMM_NAMES[model].format(patch_size)
    try:
        found = timm.create_model(name, pretrained=True)
    except Exception as error:  # whatever the download library raises, it is one line to the user
        reason = " ".join(str(error).split())[:160]
        raise InputError(f"--weights timm: {name} cannot be loaded ({reason}); give a checkpoint file") from error
    return import_vit(found.state_dict(), name)


def weights_hash(network: nn.Module) -> str:
    """Hash of a network's content: files that depend on it are kept under this name."""
    digest = hashlib.sha256(f"{type(network).__name__} {getattr(network, 'patch_size', '')}".encode())
    for name, value in sorted(network.state_dict().items()):
        digest.update(name.encode())
        digest.update(value.detach().cpu().contiguous().float().numpy().tobytes())
    return digest.hexdigest()[:16]
