"""J and F of the DAVIS benchmarks: statistics of a sequence, and the protocols of DAVIS-2016 and DAVIS-2017.

J (region similarity) and F (contour accuracy) themselves are in ``common.metrics.pairs``.

References: Perazzi et al., "A Benchmark Dataset and Evaluation Methodology for Video Object Segmentation" (DAVIS-2016);
Caelles et al., "The 2019 DAVIS Challenge on VOS: Unsupervised Multi-Object Segmentation" (DAVIS-2017).
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment

from common.errors import InputError
from common.metrics.pairs import PairCounts, Scores, pair_counts

MAX_PROPOSALS = 20
"""Proposals per sequence that DAVIS-2017 unsupervised allows."""


@dataclass(frozen=True)
class Statistics:
    """What DAVIS reports of a measure over the N frames of a sequence."""

    mean: float
    recall: float
    """Share of frames above 0.5."""
    decay: float
    """Mean of the first quarter minus mean of the last quarter."""


def statistics(values: Scores) -> Statistics:
    """M, O and D of one sequence.

    Quarters share their edge frames. The official code keeps the edges in 8 bits, which is wrong beyond 256 frames;
    integers of full width are used here.

    Args:
        values: (N,) one value per frame, N >= 1.
    """
    if values.ndim != 1 or not values.size:
        raise ValueError(f"statistics need one value per frame, got shape {values.shape}")
    edges = np.round(np.linspace(1, len(values), 5) + 1e-10).astype(np.int64) - 1
    first, last = values[edges[0] : edges[1] + 1], values[edges[3] : edges[4] + 1]
    return Statistics(float(values.mean()), float((values > 0.5).mean()), float(first.mean() - last.mean()))


def davis2016_frames(num_frames: int) -> slice:
    """The frames that DAVIS-2016 scores: all but the first and the last."""
    return slice(1, max(num_frames - 1, 1))


@dataclass(frozen=True)
class ObjectScores:
    """J and F of the matched objects of one sequence (DAVIS-2017 unsupervised)."""

    j: Scores
    """(G, N)"""
    f: Scores
    """(G, N)"""
    proposals: NDArray[np.int64]
    """Proposal id given to each object (G,); ids above those predicted stand for an empty mask."""


def match_proposals(frames: Sequence[PairCounts]) -> ObjectScores:
    """Match proposals to objects once per sequence, by the Hungarian method on the mean of (J + F) / 2.

    Objects without a proposal get an empty mask. Results are in the order of the objects; the official code orders
    them by proposal, which names them wrongly when there are more proposals than objects (its means are the same).

    Args:
        frames: Counts of the N frames. Objects 1..G are those of the first frame; P may differ.

    Raises:
        InputError: There are more than :data:`MAX_PROPOSALS` proposals.
    """
    P, G = max(len(frame.predicted_area) for frame in frames), len(frames[0].target_area)
    if P > MAX_PROPOSALS:
        raise InputError(f"{P} proposals in a sequence: DAVIS-2017 unsupervised allows {MAX_PROPOSALS}, keep the best")
    fitted = [frame.fitted(max(P, G), G) for frame in frames]
    j, f = np.stack([frame.j() for frame in fitted], -1), np.stack([frame.f() for frame in fitted], -1)
    rows, columns = linear_sum_assignment(-((j + f) / 2).mean(-1))
    proposals = rows[np.argsort(columns)]
    objects = np.arange(G)
    return ObjectScores(j[proposals, objects], f[proposals, objects], proposals + 1)


def davis2017_sequence(
    predicted: Iterable[NDArray[Any]],
    target: Iterable[NDArray[Any]],
    void: Iterable[NDArray[np.bool_] | None] | None = None,
    *,
    num_objects: int | None = None,
    tolerance: float = 0.008,
) -> ObjectScores:
    """Score the proposals of one sequence, all frames counted (DAVIS-2017 unsupervised).

    One frame is held at a time, so iterators that read from disk need little memory.

    Args:
        predicted: N maps of proposal ids 1..P, 0 for none (H, W).
        target: N maps of object ids (H, W).
        void: N void masks (H, W).
        num_objects: G; None takes the largest id of the first annotated frame, as the benchmark does.
        tolerance: See :func:`pair_counts`.
    """
    frames: list[PairCounts] = []
    targets = iter(target)
    voids = iter(void) if void is not None else None
    for proposals in predicted:
        objects = next(targets)
        ignored = next(voids) if voids is not None else None
        if num_objects is None:
            num_objects = int(np.where(False if ignored is None else ignored, 0, objects).max())
        frames.append(pair_counts(proposals, objects, num_objects=num_objects, void=ignored, tolerance=tolerance))
    return match_proposals(frames)


def davis2017_summary(sequences: Mapping[str, ObjectScores]) -> dict[str, float]:
    """The benchmark's global results: each statistic per object, then its mean over all objects of all sequences.

    Returns:
        ``J&F-Mean``, ``J-Mean``, ``J-Recall``, ``J-Decay``, ``F-Mean``, ``F-Recall``, ``F-Decay``, in that order.
    """
    results: dict[str, float] = {}
    for letter in ("J", "F"):
        objects = [values for scores in sequences.values() for values in (scores.j if letter == "J" else scores.f)]
        found = [statistics(values) for values in objects]
        for name in ("mean", "recall", "decay"):
            results[f"{letter}-{name.capitalize()}"] = float(np.mean([getattr(entry, name) for entry in found]))
    return {"J&F-Mean": (results["J-Mean"] + results["F-Mean"]) / 2, **results}
