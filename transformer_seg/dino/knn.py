"""Weighted nearest-neighbour classification of features (arXiv 2104.14294, appendix; Wu et al., CVPR 2018).

Symbols: M training rows, N test rows, D width, K classes.
"""

import torch
from torch import Tensor

MAX_SIMILARITIES = 1 << 26  # held at a time: 256 MB


@torch.no_grad()
def knn_votes(
    train: Tensor, labels: Tensor, test: Tensor, *, num_classes: int, neighbours: int = 20, temperature: float = 0.07
) -> Tensor:
    """What the nearest training rows vote for: exp(similarity / temperature) each.

    Args:
        train: Features of unit length (M, D).
        labels: Their classes (M,).
        test: Features of unit length (N, D).
        num_classes: K.
        neighbours: How many vote; at most M do.
        temperature: Of the votes.

    Returns:
        (N, K)
    """
    votes = test.new_zeros(len(test), num_classes)
    chunk = max(1, MAX_SIMILARITIES // max(len(train), 1))
    for start in range(0, len(test), chunk):
        similarities, nearest = (test[start : start + chunk] @ train.T).topk(min(neighbours, len(train)), dim=1)
        votes[start : start + chunk].scatter_add_(1, labels[nearest], (similarities / temperature).exp())
    return votes


def top_accuracy(votes: Tensor, labels: Tensor, best: int) -> float:
    """Share of the rows (N, K) whose class (N,) is among the ``best`` with most votes; all classes when K is less."""
    chosen = votes.topk(min(best, votes.shape[1]), dim=1).indices
    return float((chosen == labels[:, None]).any(dim=1).double().mean())
