"""Hierarchical merging of the regions of a segmentation, and its ultrametric contour map.

The regions are the connected components of a label map. Two neighbours are as far apart as the mean difference of
their probabilities along the border that they share; the closest pair merges first, and borders that fall together are
averaged by length (arXiv 1711.08506, section 4; the tree is that of Arbeláez et al., PAMI 2011, section 4).

Symbols: K segments, R regions, H W pixels.
"""

import heapq
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

Labels = NDArray[np.int64]
Maps = NDArray[np.floating]


@dataclass(frozen=True)
class Hierarchy:
    """A tree of regions. Node 0..R-1 are the regions, node R + m is made by merge m.

    Attributes:
        regions: Region of each pixel (H, W).
        parents: Parent of each node (2R - 1,); the root is its own.
        heights: Height at which each node was made (2R - 1,), 0 for regions, never falling from child to parent.
    """

    regions: Labels
    parents: Labels
    heights: NDArray[np.float64]

    def labels_at(self, threshold: float) -> Labels:
        """Labels (H, W) from 0 on after all merges of at most this height; a higher threshold gives a coarser map."""
        root = np.arange(len(self.parents))
        for node in range(len(root) - 2, -1, -1):  # parents have higher numbers than their children
            if self.heights[self.parents[node]] <= threshold:
                root[node] = root[self.parents[node]]
        return np.unique(root[self.regions], return_inverse=True)[1].reshape(self.regions.shape).astype(np.int64)

    def contour_map(self) -> NDArray[np.float32]:
        """The ultrametric contour map (2H + 1, 2W + 1).

        Pixel (i, j) sits at (2i + 1, 2j + 1) with value 0. Between two pixels stands the height at which their regions
        become one, at a corner the largest of the four values around it, on the image's border 0.
        """
        H, W = self.regions.shape
        contours = np.zeros((2 * H + 1, 2 * W + 1), dtype=np.float32)
        contours[1::2, 2:-1:2] = self._meeting_heights(self.regions[:, :-1], self.regions[:, 1:])
        contours[2:-1:2, 1::2] = self._meeting_heights(self.regions[:-1], self.regions[1:])
        across, down = contours[1::2, 2:-1:2], contours[2:-1:2, 1::2]
        corners = np.maximum(across[:-1], across[1:])
        contours[2:-1:2, 2:-1:2] = np.maximum(corners, np.maximum(down[:, :-1], down[:, 1:]))
        return contours

    def _meeting_heights(self, first: Labels, second: Labels) -> NDArray[np.float64]:
        """Height of the lowest common ancestor of each pair of regions; 0 for a region with itself."""
        count = len(self.parents)
        pairs, index = np.unique(first * count + second, return_inverse=True)
        a, b = pairs // count, pairs % count
        while (a != b).any():  # the lower number cannot be an ancestor of the higher one
            lower = a < b
            a, b = np.where(lower, self.parents[a], a), np.where(~lower & (a != b), self.parents[b], b)
        return self.heights[a][index].reshape(first.shape)


def components(labels: NDArray[np.integer]) -> Labels:
    """Connected regions (H, W) of equal labels (H, W), numbered from 0; four neighbours."""
    H, W = labels.shape
    pixel = np.arange(H * W).reshape(H, W)
    right, down = labels[:, :-1] == labels[:, 1:], labels[:-1] == labels[1:]
    first = np.concatenate([pixel[:, :-1][right], pixel[:-1][down]])
    second = np.concatenate([pixel[:, 1:][right], pixel[1:][down]])
    graph = coo_matrix((np.ones(len(first), dtype=np.int8), (first, second)), shape=(H * W, H * W))
    return connected_components(graph, directed=False)[1].reshape(H, W).astype(np.int64)


def borders(regions: Labels, probabilities: Maps) -> dict[tuple[int, int], tuple[float, int]]:
    """Sum of the contrasts, and length in pixel edges, of the border between each pair of neighbouring regions.

    The contrast of an edge is half the L1 difference of the probabilities (K, H, W) on both sides, between 0 and 1.
    """
    count = int(regions.max()) + 1
    codes, contrasts = [], []
    for axis in (0, 1):
        a, b = (np.moveaxis(regions, axis, 0)[part] for part in (slice(None, -1), slice(1, None)))
        p = np.moveaxis(probabilities, axis + 1, 1)
        contrast = np.abs(p[:, :-1] - p[:, 1:]).sum(0) / 2
        border = a != b
        codes.append((np.minimum(a, b) * count + np.maximum(a, b))[border])
        contrasts.append(contrast[border])
    pairs, index = np.unique(np.concatenate(codes), return_inverse=True)
    sums = np.bincount(index, weights=np.concatenate(contrasts), minlength=len(pairs))
    lengths = np.bincount(index, minlength=len(pairs))
    return {
        (int(pair // count), int(pair % count)): (float(total), int(length))
        for pair, total, length in zip(pairs, sums, lengths, strict=True)
    }


def merge_hierarchy(labels: NDArray[np.integer], probabilities: Maps) -> Hierarchy:
    """The tree of merges of a label map's connected regions.

    Args:
        labels: (H, W), usually the argmax of the probabilities.
        probabilities: Sum to one over K (K, H, W), usually the CRF's marginals.
    """
    regions = components(labels)
    R = int(regions.max()) + 1
    parents, heights = np.arange(2 * R - 1), np.zeros(2 * R - 1)
    neighbours: dict[int, dict[int, tuple[float, int]]] = {node: {} for node in range(R)}
    queue = []
    for (a, b), (total, length) in borders(regions, probabilities).items():
        neighbours[a][b] = neighbours[b][a] = (total, length)
        queue.append((total / length, a, b))
    heapq.heapify(queue)
    node, height = R, 0.0
    while queue:
        strength, a, b = heapq.heappop(queue)
        if a not in neighbours or b not in neighbours:
            continue  # an end was merged since; its borders are in the queue again under the new node
        height = max(height, strength)
        parents[a] = parents[b] = node
        heights[node] = height
        neighbours[node] = _joined(neighbours, a, b, node)
        for other, (total, length) in neighbours[node].items():
            heapq.heappush(queue, (total / length, other, node))
        node += 1
    return Hierarchy(regions, parents, heights)


def _joined(
    neighbours: dict[int, dict[int, tuple[float, int]]], a: int, b: int, node: int
) -> dict[int, tuple[float, int]]:
    """Take nodes a and b out of the graph; the borders of their union, also entered at its neighbours."""
    joined: dict[int, tuple[float, int]] = {}
    for end in (a, b):
        for other, (total, length) in neighbours.pop(end).items():
            if other in (a, b):
                continue
            before = joined.get(other, (0.0, 0))
            joined[other] = (before[0] + total, before[1] + length)
            del neighbours[other][end]
    for other, border in joined.items():
        neighbours[other][node] = border
    return joined
