"""Intervals of scores: units of the data are drawn with replacement and the score is computed anew from their counts.

The unit is the sequence where there are clips, since the frames of a clip are nearly the same picture, and the image
where every image stands alone. No pixel is read again: a mean needs the sum and the number of its items per unit, a
pooled score the contingency table per unit, which is matched anew in every resample, as it would be in new data.

Reference: Efron and Tibshirani, "An Introduction to the Bootstrap" (1993), chapter 13 (percentile intervals). With
fewer than about 20 units such intervals are too narrow; the number of units is therefore stored with each.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from common.metrics.confusion import Counts
from common.metrics.protocol import Interval, Score, Unit

if TYPE_CHECKING:
    from scipy.sparse import csr_array

Values = NDArray[np.float64]
Parts = Mapping[str, tuple[float, int]]
"""What a mean rests on: sum and number of its items by sequence."""

_CELLS_AT_ONCE = 4_000_000


@dataclass(frozen=True)
class Cells:
    """The cells of a table (K, C) that are not zero; most are."""

    row: NDArray[np.int64]
    column: NDArray[np.int64]
    count: Counts

    @classmethod
    def of(cls, table: Counts) -> "Cells":
        """The cells of a table."""
        row, column = np.nonzero(table)
        return cls(row, column, table[row, column])


@dataclass(frozen=True)
class Tables:
    """Contingency tables by sequence, and the scores of their sum.

    Attributes:
        by_sequence: Tables of the frames of each sequence.
        shape: K and C of the whole data set.
        scores: Name -> score of a table of that shape.
    """

    by_sequence: Mapping[str, Sequence[Cells]]
    shape: tuple[int, int]
    scores: Callable[[Counts], Mapping[str, float]]

    def rows(self, units: Sequence[str]) -> "csr_array":
        """The tables of some sequences as sparse rows (U, K * C)."""
        from scipy.sparse import csr_array

        tables = [self.by_sequence.get(unit, ()) for unit in units]
        places = [cells.row * self.shape[1] + cells.column for frames in tables for cells in frames]
        counts = [cells.count.astype(np.float64) for frames in tables for cells in frames]
        ends = np.cumsum([0, *(sum(cells.count.size for cells in frames) for frames in tables)])
        size = (len(tables), self.shape[0] * self.shape[1])
        return csr_array((np.concatenate(counts), np.concatenate(places), ends), shape=size)

    def replicates(self, rows: "csr_array", weights: Values) -> list[Mapping[str, float]]:
        """The scores of each draw, weights (R, U)."""
        tables = (np.rint(weight @ rows).astype(np.int64).reshape(self.shape) for weight in weights)
        return [self.scores(table) for table in tables]


@dataclass
class Evidence:
    """What the scores of a data set rest on, unit by unit.

    Attributes:
        units: Sequences in order; two evaluations of the same rows have the same.
        unit: Whether such a sequence is an image or a clip.
        parts: What each mean rests on, by score.
        tables: What the pooled scores rest on, if there are any.
    """

    units: tuple[str, ...]
    unit: Unit
    parts: dict[str, Parts] = field(default_factory=dict)
    tables: Tables | None = None

    def replicates(self, resamples: int, seed: int) -> dict[str, Values]:
        """Every score in every resample (R,), NaN where a resample has nothing to score.

        The draws depend on the number of units and the seed alone: replicates of two evaluations of the same rows
        belong together one by one.
        """
        names = list(self.parts)
        U, S = len(self.units), len(names)
        sums, numbers = np.zeros((U, S)), np.zeros((U, S))
        for column, name in enumerate(names):
            for row, unit in enumerate(self.units):
                sums[row, column], numbers[row, column] = self.parts[name].get(unit, (0.0, 0))
        rows = self.tables.rows(self.units) if self.tables is not None else None
        found: dict[str, list[Values]] = {}
        for weights in draws(U, resamples, seed):
            number = weights @ numbers
            means = np.where(number > 0, (weights @ sums) / np.maximum(number, 1), np.nan)
            for column, name in enumerate(names):
                found.setdefault(name, []).append(means[:, column])
            if self.tables is not None:
                scored = self.tables.replicates(rows, weights)
                for name in scored[0]:
                    found.setdefault(name, []).append(np.array([scores[name] for scores in scored]))
        return {name: np.concatenate(values) for name, values in found.items()}

    def num_units(self, name: str) -> int:
        """Units that a score rests on."""
        if name in self.parts:
            return sum(number > 0 for _, number in self.parts[name].values())
        return 0 if self.tables is None else len(self.tables.by_sequence)

    def interval(self, name: str, replicates: Values, level: float, seed: int) -> Interval | None:
        """The interval of a score from its replicates (R,); None where it rests on fewer than two units."""
        units, known = self.num_units(name), replicates[~np.isnan(replicates)]
        if units < 2 or not known.size:
            return None
        low, high = np.quantile(known, [(1 - level) / 2, (1 + level) / 2])
        return Interval(float(low), float(high), level, self.unit, units, len(replicates), seed)

    def with_intervals(self, scores: Sequence[Score], resamples: int, level: float, seed: int) -> list[Score]:
        """The scores with their intervals; as they are for no resamples or a single unit."""
        if not resamples or len(self.units) < 2:
            return list(scores)
        replicates = self.replicates(resamples, seed)
        return [
            replace(score, interval=self.interval(score.name, replicates[score.name], level, seed))
            if score.name in replicates
            else score
            for score in scores
        ]


def draws(num_units: int, resamples: int, seed: int) -> Iterator[Values]:
    """How often each unit is drawn in each resample, some resamples at a time: (r, U), rows of sum U."""
    generator = np.random.default_rng(seed)
    at_once = max(1, _CELLS_AT_ONCE // num_units)
    for start in range(0, resamples, at_once):
        shape = (min(at_once, resamples - start), num_units)
        drawn = generator.integers(num_units, size=shape) + np.arange(shape[0])[:, None] * num_units
        yield np.bincount(drawn.ravel(), minlength=shape[0] * num_units).reshape(shape).astype(np.float64)
