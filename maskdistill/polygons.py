"""Binary masks to polygons: marching squares, then Douglas-Peucker.

Contours follow scikit-image's conventions, in order, orientation and starting point too, because the published files
were made with them: the level is 0.5, so every vertex lies midway between two pixels; pixels that touch only at a
corner are apart; a contour has its high side on the left as seen in image coordinates.
"""

import numpy as np
from numpy.typing import NDArray

Points = NDArray[np.float64]

# Midpoints of a cell's sides, in half pixels from its upper left pixel (row, column)
TOP, LEFT, BOTTOM, RIGHT = (0, 1), (1, 0), (2, 1), (1, 2)

# Sides by which the contour enters and leaves a cell. The case adds 1, 2, 4, 8 for a set upper left, upper right, lower
# left, lower right pixel. Cases 6 and 9 hold two opposite corners and two pieces.
FIRST = {
    1: (TOP, LEFT),
    2: (RIGHT, TOP),
    3: (RIGHT, LEFT),
    4: (LEFT, BOTTOM),
    5: (TOP, BOTTOM),
    6: (RIGHT, TOP),
    7: (RIGHT, BOTTOM),
    8: (BOTTOM, RIGHT),
    9: (TOP, LEFT),
    10: (BOTTOM, TOP),
    11: (BOTTOM, LEFT),
    12: (LEFT, RIGHT),
    13: (TOP, RIGHT),
    14: (LEFT, TOP),
}
SECOND = {6: (LEFT, BOTTOM), 9: (BOTTOM, RIGHT)}


def mask_to_polygons(mask: NDArray[np.generic], tolerance_px: float = 2.0) -> list[list[float]]:
    """The outlines of a mask as COCO polygons.

    A hole becomes a ring of its own, which COCO's rasteriser (a union) fills. Rings of fewer than three vertices, the
    repeated first one included, are dropped.

    Args:
        mask: (H, W), non-zero is inside.
        tolerance_px: See :func:`simplify`; 0 keeps every vertex.

    Returns:
        Rings ``[x0, y0, x1, y1, ..., x0, y0]``, in pixels, not below 0.
    """
    polygons = []
    for ring in find_contours(np.pad(np.asarray(mask, dtype=np.bool_), 1)):
        vertices = simplify(ring - 1.0, tolerance_px)
        if len(vertices) >= 3:
            polygons.append(np.maximum(vertices[:, ::-1], 0.0).ravel().tolist())
    return polygons


def find_contours(mask: NDArray[np.bool_]) -> list[Points]:
    """The closed contours of a mask whose border pixels are all unset.

    Args:
        mask: (H, W).

    Returns:
        Rings (V, 2) of (row, column), first vertex repeated at the end, in the order in which a scan of the cells
        meets them. Each ring starts where the last of its pieces in scan order ends.
    """
    starts, ends = _pieces(mask)
    # Every vertex is the start of one piece and the end of one: following pieces is a permutation.
    by_start = np.argsort(starts)
    following = by_start[np.searchsorted(starts, ends, sorter=by_start)].tolist()
    unseen = np.ones(len(starts), dtype=np.bool_)
    width = 2 * mask.shape[1]
    rings = []
    for first in range(len(starts)):
        if not unseen[first]:
            continue
        pieces = [first]
        while (piece := following[pieces[-1]]) != first:
            pieces.append(piece)
        unseen[pieces] = False
        closing = pieces.index(max(pieces))
        ring = starts[pieces[closing + 1 :] + pieces[: closing + 1]]
        ring = np.append(ring, ring[0])
        rings.append(np.stack(np.divmod(ring, width), axis=1) / 2.0)
    return rings


def _pieces(mask: NDArray[np.bool_]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Start and end of every piece of contour in scan order, as indices into the grid of half pixels."""
    cells = mask[:-1, :-1] + 2 * mask[:-1, 1:] + 4 * mask[1:, :-1] + 8 * mask[1:, 1:].astype(np.int64)
    rows, columns = np.nonzero((cells > 0) & (cells < 15))
    cases = cells[rows, columns]
    width = 2 * mask.shape[1]
    corner = 2 * rows * width + 2 * columns
    parts = []
    for table in (FIRST, SECOND):
        offsets = np.full((16, 2), -1, dtype=np.int64)
        for case, sides in table.items():
            offsets[case] = [row * width + column for row, column in sides]
        present = np.flatnonzero(offsets[cases, 0] >= 0)
        parts.append((present, corner[present, None] + offsets[cases[present]]))
    scan = np.argsort(np.concatenate([present for present, _ in parts]), kind="stable")
    both = np.concatenate([ends for _, ends in parts])[scan]
    return both[:, 0], both[:, 1]


def simplify(points: Points, tolerance_px: float) -> Points:
    """A chain of points without those that lie within a tolerance of the simplified chain (Douglas and Peucker 1973).

    Distances to a chord are taken in its normal form, as scikit-image does: on pixel grids many points are equally far,
    and rounding decides between them.

    Args:
        points: (V, 2); the first and the last always stay.
        tolerance_px: Largest distance of a dropped point from its chord; 0 returns the points as they are.
    """
    if tolerance_px <= 0:
        return points
    stays = np.zeros(len(points), dtype=np.bool_)
    stays[[0, -1]] = True
    spans = [(0, len(points) - 1)]
    while spans:
        start, end = spans.pop()
        if end - start < 2:
            continue
        distances = _distances(points[start + 1 : end], points[start], points[end])
        if distances.max() > tolerance_px:
            farthest = start + 1 + int(distances.argmax())
            stays[farthest] = True
            spans += [(farthest, end), (start, farthest)]
    return points[stays]


def _distances(points: Points, start: Points, end: Points) -> NDArray[np.float64]:
    """Distance of points (V, 2) from the chord between two points."""
    chord = end - start
    angle = -np.arctan2(chord[0], chord[1])
    offset = start[1] * np.sin(angle) + start[0] * np.cos(angle)
    from_start, from_end = points - start, points - end
    beside = (from_start @ chord > 0) & (-(from_end @ chord) > 0)
    across = np.abs(points[:, 0] * np.cos(angle) + points[:, 1] * np.sin(angle) - offset)
    to_ends = np.minimum(np.hypot(*from_start.T), np.hypot(*from_end.T))
    distances: NDArray[np.float64] = np.where(beside, across, to_ends)
    return distances
