"""Stage B: features of mask crops to clusters, and clusters to classes."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.cluster import KMeans, MiniBatchKMeans
from sklearn.metrics import normalized_mutual_info_score

from common.errors import InputError
from common.metrics.ari import adjusted_rand_index
from common.metrics.confusion import contingency
from common.metrics.hungarian import UNMATCHED, match_one_to_one

Features = NDArray[np.floating[Any]]
Labels = NDArray[np.int64]


@dataclass(frozen=True)
class Clusters:
    """One run of k-means."""

    labels: NDArray[np.integer[Any]]
    """(M,) cluster of each sample."""
    centres: Features
    """(K, D)."""
    inertia: float
    """Sum of squared distances to the centres."""


def normalise_features(features: Features) -> Features:
    """Features (M, D) with every dimension divided by its population deviation, then rows of unit length.

    No mean is taken off; a dimension that never changes stays as it is.
    """
    deviation = features.std(axis=0)
    scaled = features / np.where(deviation > 0, deviation, 1.0).astype(features.dtype)
    lengths = np.linalg.norm(scaled, axis=1, keepdims=True)
    unit: Features = scaled / np.maximum(lengths, np.finfo(features.dtype).tiny)
    return unit


def nearest_centre(features: Features, centres: Features) -> Labels:
    """Index (M,) of the nearest of the centres (K, D), the lowest on a tie."""
    # |z|^2 is the same for all centres and left out.
    distances = (centres**2).sum(1) - 2 * features @ centres.T
    nearest: Labels = distances.argmin(1).astype(np.int64)
    return nearest


def lloyd(features: Features, centres: Features, num_iterations: int = 20) -> Clusters:
    """Full k-means from given centres (K, D)."""
    # scikit-learn works in the features' precision; centres of float32 features lose digits that float64 keeps.
    run = KMeans(len(centres), init=centres, n_init=1, max_iter=num_iterations, tol=0.0).fit(features)
    return Clusters(run.labels_, run.cluster_centers_, float(run.inertia_))


def minibatch_kmeans(
    features: Features, num_clusters: int, seeds: Sequence[int] = (1234,), num_starts: int = 3
) -> list[Clusters]:
    """Mini-batch k-means (batches of 1000, k-means++ starts), one run per seed.

    Args:
        features: (M, D), normalised.
        num_clusters: K.
        seeds: Seeds of the runs; the one of lowest inertia is the one to keep.
        num_starts: Starts of each run of which the best goes on; the published results used 3.

    Raises:
        InputError: Fewer samples than clusters.
    """
    if len(features) < num_clusters:
        raise InputError(f"{len(features)} masks cannot make {num_clusters} clusters: lower --num_classes")
    runs = [
        MiniBatchKMeans(num_clusters, batch_size=1000, n_init=num_starts, random_state=seed).fit(features)
        for seed in seeds
    ]
    return [Clusters(run.predict(features), run.cluster_centers_, float(run.inertia_)) for run in runs]


def match_hungarian(labels: Labels, targets: Labels, num_classes: int) -> Labels:
    """The class of each cluster under the one-to-one matching with the most agreeing samples.

    Args:
        labels: (M,) clusters 0..C-1.
        targets: (M,) classes 0..C-1.
        num_classes: C.
    """
    counts = contingency(labels, targets, num_predicted=num_classes, num_classes=num_classes, ignore_index=None)
    return match_one_to_one(counts, "count")


def match_majority(labels: Labels, targets: Labels, num_clusters: int) -> Labels:
    """Each cluster's most frequent class, on a tie the one that comes first in the samples; -1 for an empty cluster.

    Args:
        labels: (M,) clusters 0..K-1.
        targets: (M,) classes.
        num_clusters: K.
    """
    classes = np.full(num_clusters, UNMATCHED, dtype=np.int64)
    for cluster in np.unique(labels):
        found, first, counts = np.unique(targets[labels == cluster], return_index=True, return_counts=True)
        classes[cluster] = found[np.lexsort((first, -counts))[0]]
    return classes


def clustering_scores(labels: Labels, targets: Labels, classes: Labels) -> dict[str, float]:
    """Accuracy after matching, normalised mutual information and adjusted Rand index of the raw clusters, in percent.

    Args:
        labels: (M,) clusters.
        targets: (M,) classes.
        classes: (K,) class of each cluster.
    """
    table = contingency(labels, targets, ignore_index=None)
    return {
        "acc": 100 * float((classes[labels] == targets).mean()),
        "nmi": 100 * float(normalized_mutual_info_score(targets, labels)),
        "ari": 100 * float(adjusted_rand_index(table)),
    }
