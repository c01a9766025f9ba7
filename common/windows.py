"""Requests such as ``Flow-1`` and the rows of a split that can serve them."""

import re
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from common.errors import InputError
from common.splits import Split

Boundaries = Literal["Strict", "Periodic", "Ignore"]


class RequestError(InputError, ValueError):
    """A request that cannot be read; also a ``ValueError`` for those who parse requests in code."""


@dataclass(frozen=True)
class Request:
    """A column and how many frames away from the row.

    Attributes:
        column: Column name, with the suffix ``Path`` when the path and not the content is asked for.
        offset: 0 this frame, -1 the frame before, +1 the one after.
    """

    column: str
    offset: int = 0


def parse_request(request: str, columns: Collection[str] = ()) -> Request:
    """Read ``Column``, ``Column+k`` or ``Column-k``; ``Flow-1Path`` asks for the column ``FlowPath``.

    Args:
        request: The text.
        columns: Names that exist, taken literally first; only such a name may hold digits.

    Raises:
        RequestError: Anything else, for example ``Flow+`` or ``Flow2``.
    """
    if request in columns:
        return Request(request)
    match = re.fullmatch(r"([A-Za-z_]\w*?)(?:([+-]\d+)(Path)?)?", request, flags=re.ASCII)
    if match is None or (match[1] not in columns and re.search(r"\d", match[1])):
        raise RequestError(f"request '{request}': expected a column name with an offset at most, like Flow or Flow-1")
    return Request(match[1] + (match[3] or ""), int(match[2] or 0))


def sort_requests(requests: Iterable[str], column: str) -> list[str]:
    """The requests of one column, in ascending offset."""
    fitting = [(parsed.offset, text) for text in requests if (parsed := parse_request(text)).column == column]
    return [text for _, text in sorted(fitting, key=lambda pair: pair[0])]


def bounce(index: NDArray[np.integer], low: NDArray[np.integer], high: NDArray[np.integer]) -> NDArray[np.int64]:
    """Reflect indices into [low, high] without repeating the ends, as often as it takes: -1 -> 1, high + 1 -> high - 1.

    A range of a single value gives that value. Arrays are broadcast.
    """
    low, high = np.asarray(low, dtype=np.int64), np.asarray(high, dtype=np.int64)
    period = np.maximum(2 * (high - low), 1)
    phase = np.mod(np.asarray(index, dtype=np.int64) - low, period)
    return low + np.minimum(phase, 2 * (high - low) - phase)


class RequestIndex:
    """Which row of a split serves each request of each row (a self-join on Sequence and Sequence_Index + offset).

    A request is available when that frame has a row and its cell is not empty.

    Attributes:
        requests: The requests, parsed.
        sources: int64 (N, R): the row that serves request r of row n, -1 when not available.
        servable: bool (N,): every request is available.
        rows: Rows that make a sample. ``Strict``: the servable ones. ``Ignore`` and ``Periodic``: all; the caller
            leaves out the samples with a gap.

    Under ``Periodic`` an index beyond the first or last *row* of the sequence is reflected. Drop rows without flow
    first (``split.take(split.available("Flow"))``) where the last frame has a row but no flow.
    """

    def __init__(self, split: Split, requests: Sequence[str | Request], boundaries: Boundaries = "Ignore") -> None:
        """Join the split with itself.

        Args:
            split: Rows to index.
            requests: At least one request.
            boundaries: What happens at the ends of a sequence.

        Raises:
            InputError: An unknown column or mode, or no row that can serve all requests.
        """
        if boundaries not in get_args(Boundaries):
            raise InputError(f"--boundaries {boundaries}: unknown; choose one of {', '.join(get_args(Boundaries))}")
        if not requests:
            raise InputError(f"{split.file}: nothing is requested; name at least one column")
        self.boundaries = boundaries
        self.requests = tuple(r if isinstance(r, Request) else parse_request(r, split.columns) for r in requests)
        columns = [_source_column(split, request) for request in self.requests]
        self.sources = self._join(split, columns)
        self.servable = (self.sources >= 0).all(axis=1)
        if not self.servable.any():
            raise InputError(self._why_empty(split))
        self.rows = np.flatnonzero(self.servable) if boundaries == "Strict" else np.arange(len(split))

    def __len__(self) -> int:
        return len(self.rows)

    def _join(self, split: Split, columns: list[str]) -> NDArray[np.int64]:
        group = np.unique(split.cells["Sequence"], return_inverse=True)[1]
        index = split.index
        known, rank = np.unique(index, return_inverse=True)
        key = group * len(known) + rank  # ranks, because indices may be time stamps whose product overflows
        order = np.argsort(key)
        low, high = np.full(group.max() + 1, index.max()), np.full(group.max() + 1, index.min())
        np.minimum.at(low, group, index)
        np.maximum.at(high, group, index)
        sources = np.empty((len(split), len(columns)), dtype=np.int64)
        for r, (request, column) in enumerate(zip(self.requests, columns, strict=True)):
            wanted = index + request.offset
            if self.boundaries == "Periodic":
                wanted = bounce(wanted, low[group], high[group])
            rank = np.searchsorted(known, wanted).clip(max=len(known) - 1)
            place = np.searchsorted(key, group * len(known) + rank, sorter=order).clip(max=len(key) - 1)
            row = order[place]
            found = (index[row] == wanted) & (group[row] == group) & split.available(column)[row]
            sources[:, r] = np.where(found, row, -1)
        return sources

    def _why_empty(self, split: Split) -> str:
        missing = (self.sources < 0).sum(axis=0)
        reasons = ", ".join(
            f"{request.column}{f'{request.offset:+d}' if request.offset else ''} is missing for {count}"
            for request, count in zip(self.requests, missing, strict=True)
            if count
        )
        return f"{split.file}: with --boundaries {self.boundaries} none of {len(split)} rows can be used: {reasons}"


def _source_column(split: Split, request: Request) -> str:
    """The column whose cells a request reads: ``FlowPath`` reads ``Flow`` unless there is a column of that name."""
    if request.column not in split.cells and request.column.removesuffix("Path") in split.cells:
        return request.column.removesuffix("Path")
    split.available(request.column)  # an unknown column is an error that lists those there are
    return request.column


def require_consecutive(split: Split) -> None:
    """Check that no sequence lacks a frame number between its first and its last.

    Raises:
        InputError: The gaps, up to five.
    """
    gaps = []
    for name, rows in split.sequences().items():
        index = split.index[rows]
        breaks = np.flatnonzero(np.diff(index) != 1)
        gaps += [f"{name}/{index[place]} -> {index[place + 1]}" for place in breaks]
    if gaps:
        shown = ", ".join(gaps[:5]) + (", ..." if len(gaps) > 5 else "")
        raise InputError(f"{split.file}: {len(gaps)} gaps in Sequence_Index: {shown}; number the frames without gaps")
