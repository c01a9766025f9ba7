"""Start-up aids: slots start e^11 times fainter than the background, and in most short runs they never light up.

The aids use what the training holds anyway, the difference between an image and its background or the mask of step 2,
and fade out linearly.

- The foreground hint is a cross-entropy between the weight of all slots together and that difference.
- The component hint goes further: the difference falls into connected pieces, and each of the largest is given to one
  slot by a one-to-one matching. Three terms pull the matched slots: the piece's pixels should carry the slot's weight
  (and all others the background's), the slot's attention should lie on the piece, and its place be the piece's centre.
- The mask hint is meant for real videos, of small objects before an uneasy background. Its pieces are of the cleaned
  masks of step 2; distances count in sizes of the piece, and a fourth term makes the glimpse somewhat larger than the
  piece. Without it, glimpses grow as large as they may, because a pixel that no glimpse reaches costs most, and small
  objects cannot be drawn in them.

Pieces are only where to start: touching objects are one piece, and once the aid has gone the reconstruction alone
decides.
"""

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment
from torch import Tensor
from torch.nn.functional import nll_loss, one_hot, smooth_l1_loss

SMALLEST = 1e-12
"""Least weight that an aid looks at."""
FROM = 0.5
"""Soft difference from which on a pixel belongs to a piece."""
NEARNESS = 5.0
"""Weight of the squared distance between a slot and its piece: slots explain small objects only from nearby."""
MARGIN = 2.0
"""Mask hint: side of a glimpse over that of its piece; leaves room for slots that are not yet in place."""
LEAST_SHARE = 1 / 256
"""Area of the smallest piece, as a share of the image."""
LEAST_CLEANED_SHARE = 1 / 512
"""Mask hint: the same; masks have been rid of specks."""
LEAST_MATCHED = 1e-30
"""Share of a slot's attention below which the matching does not tell pieces apart."""


def components(difference: Tensor, most: int, threshold: float = FROM, least_share: float = LEAST_SHARE) -> Tensor:
    """The largest connected pieces of what differs from the background.

    Args:
        difference: (B, 1, H, W) in [0, 1]; see ``losses.soft_difference``.
        most: Pieces to keep.
        threshold: Difference from which on a pixel belongs to a piece.
        least_share: Area of the smallest piece, as a share of the image.

    Returns:
        int64 (B, H, W): 0 for none, pieces from 1 on by falling area.
    """
    masks = (difference[:, 0] > threshold).cpu().numpy().astype(np.uint8)
    least = max(2, round(least_share * masks[0].size))
    labels = np.stack([_largest(mask, most, least) for mask in masks])
    return torch.from_numpy(labels).to(difference.device)


def _largest(mask: NDArray[np.uint8], most: int, least: int) -> NDArray[np.int64]:
    _, pieces, statistics, _ = cv2.connectedComponentsWithStats(mask, connectivity=4)
    areas = statistics[1:, cv2.CC_STAT_AREA]
    kept = [int(i) for i in np.argsort(-areas, kind="stable")[:most] if areas[i] >= least]
    order = np.zeros(len(areas) + 1, np.int64)
    for label, piece in enumerate(kept, start=1):
        order[piece + 1] = label
    return order[pieces]


def component_hint_loss(
    log_weights: Tensor, attention_logits: Tensor, places: Tensor, pieces: Tensor, scales: Tensor | None = None
) -> Tensor:
    """Cross-entropies that give each piece to one slot.

    Args:
        log_weights: (K+1, B, 1, H, W), background first.
        attention_logits: (B, K, h, w).
        places: x, y of the slots (K, B, 2) in the image's coordinates, -1 and 1 being its edges; not clamped.
        pieces: int64 (B, H, W) in 0..K; see :func:`components`.
        scales: Image side over glimpse side along x and y (K, B, 2), for the mask hint's sizes; None: the component
            hint.

    Returns:
        Scalar.
    """
    K = attention_logits.shape[1]
    height, width = attention_logits.shape[-2:]
    seen = pieces[:, None].float()
    if pieces.shape[-2:] != (height, width):
        seen = torch.nn.functional.interpolate(seen, (height, width), mode="nearest-exact")
    inside = one_hot(seen[:, 0].long(), K + 1)[..., 1:].permute(0, 3, 1, 2).flatten(2).bool()  # (B,K,hw)
    attention = attention_logits.float().flatten(2).log_softmax(-1)  # (B,K,hw)
    # all pairs only to match them, as a product; those matched once more, exactly
    with torch.no_grad(), torch.autocast(attention.device.type, enabled=False):
        shares = attention.exp() @ inside.transpose(1, 2).float()  # (B,K slots,K pieces)
    images, slots, taken = matched(shares.clamp(min=LEAST_MATCHED).log().cpu().numpy(), inside.any(-1).cpu().numpy())
    target = torch.zeros(len(pieces), K + 1, dtype=torch.int64)
    target[images, taken + 1] = slots + 1
    owner = target.to(pieces.device).gather(1, pieces.flatten(1))  # (B,HW)
    weights = log_weights.squeeze(2).flatten(2).clamp(min=float(np.log(SMALLEST))).permute(1, 0, 2).contiguous()
    loss = nll_loss(weights, owner)
    if len(images):
        centre, share = (found[images, taken] for found in piece_boxes(pieces, K))
        away = places[slots, images].float() - centre
        if scales is None:
            loss = loss + NEARNESS * away.square().sum(-1).mean()
        else:
            glimpse = MARGIN * share
            # logarithms: twice too large is as bad as twice too small
            misfit = (scales[slots, images].float() * glimpse).log().square()
            loss = (
                loss
                + (smooth_l1_loss(away / glimpse, torch.zeros_like(away), reduction="none") + misfit).sum(-1).mean()
            )
        on_piece = torch.where(inside[images, taken], attention[images, slots], -torch.inf).logsumexp(-1)
        loss = loss - on_piece.mean()
    return loss


def piece_boxes(pieces: Tensor, most: int) -> tuple[Tensor, Tensor]:
    """Where the pieces of (B, H, W) are.

    Returns:
        Mean x, y (B, K, 2) in [-1, 1], 0 for pieces that do not exist; width and height of the bounding box (B, K, 2)
        as shares of the image's.
    """
    inside = one_hot(pieces, most + 1)[..., 1:].float()  # (B,H,W,K)
    centres, sides = [], []
    for profile in (inside.sum(1), inside.sum(2)):  # pixels per column, per row: (B,n,K)
        size = profile.shape[1]
        positions = torch.arange(size, device=pieces.device)[:, None]
        area = profile.sum(1).clamp(min=1)
        centres.append((profile * ((2 * positions + 1) / size - 1)).sum(1) / area)
        first = torch.where(profile > 0, positions, size).amin(1)
        last = torch.where(profile > 0, positions, -1).amax(1)
        sides.append((last - first + 1).clamp(min=0) / size)
    return torch.stack(centres, dim=-1), torch.stack(sides, dim=-1)


def matched(scores: NDArray[np.floating], present: NDArray[np.bool_]) -> tuple[Tensor, Tensor, Tensor]:
    """The one-to-one matching of slots and pieces with the largest sum of scores, image by image.

    Args:
        scores: (B, K slots, P pieces).
        present: Pieces that exist (B, P).

    Returns:
        Index tensors of images, slots and pieces (M,).
    """
    found = []
    for image, (score, exists) in enumerate(zip(scores, present, strict=True)):
        pieces = np.flatnonzero(exists)
        slots, columns = linear_sum_assignment(score[:, pieces], maximize=True)
        found += [(image, int(slot), int(pieces[column])) for slot, column in zip(slots, columns, strict=True)]
    table = torch.tensor(found, dtype=torch.int64).reshape(-1, 3)
    return table[:, 0], table[:, 1], table[:, 2]
