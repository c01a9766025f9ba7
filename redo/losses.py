"""What ReDO's networks play for: compositing, adversarial hinge losses and the recovery of the noise.

Pure functions on tensors, in float32. Symbols: B samples, n regions. Source: Chen, Artières, Denoyer, NeurIPS 2019, as
its code does it: all regions are redrawn at every step, not a random one as in the paper.
"""

import torch
import torch.nn.functional as F
from torch import Tensor


def composite(drawings: Tensor, masks: Tensor, images: Tensor) -> Tensor:
    """The images with one region redrawn, one per sample and region: h_k + (1 - m_k) I.

    Args:
        drawings: Regions drawn and cut out (B, n, 3, S, S).
        masks: (B, n, S, S).
        images: (B, 3, S, S).

    Returns:
        (B*n, 3, S, S), all regions of the first sample first.
    """
    return torch.addcmul(drawings, 1 - masks.unsqueeze(2), images.unsqueeze(1)).flatten(0, 1)


def redrawn(drawings: Tensor) -> Tensor:
    """The images with every region redrawn at once: (B, n, 3, S, S) to (B, 3, S, S)."""
    return drawings.sum(dim=1)


def adversarial_loss(fake_scores: Tensor) -> Tensor:
    """What M and X lower: minus the mean score of the composites."""
    return -fake_scores.float().mean()


def noise_recovery_loss(noise: Tensor, recovered: Tensor) -> Tensor:
    """Mean squared error of the recovered noise, over samples, regions and noise numbers."""
    return F.mse_loss(recovered.float(), noise.float())


def hinge_loss(real_scores: Tensor, fake_scores: Tensor) -> Tensor:
    """What D lowers: mean relu(1 - D(real)) + mean relu(1 + D(fake)), the means taken apart.

    A score exactly on its margin has gradient 0.
    """
    return F.relu(1 - real_scores.float()).mean() + F.relu(1 + fake_scores.float()).mean()
