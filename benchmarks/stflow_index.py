"""Rows that can serve every request (Strict): a table look-up for every cell, beside `RequestIndex`."""

import numpy as np
import pandas as pd
from measuring import Benchmark
from numpy.typing import NDArray

from common.splits import Split
from common.windows import RequestIndex

REQUESTS = {"Flow-1": -1, "Flow": 0, "Flow+1": 1}


def build(tiny: bool) -> Benchmark:
    """2049 rows in 30 sequences, as DAVIS-2016 has them, three requests."""
    rows, sequences = (20, 3) if tiny else (2049, 30)
    frames = np.array_split(np.arange(rows), sequences)
    table = pd.DataFrame(
        [
            {"Sequence": f"clip{s}", "Sequence_Index": k, "Flow": f"DAVIS/OpticalFlow/480p/clip{s}/{k:05d}.flo"}
            for s, members in enumerate(frames)
            for k in range(len(members))
        ]
    )
    split = Split.from_rows(table)

    def check(textbook: list[int], ours: NDArray[np.int64]) -> None:
        np.testing.assert_array_equal(textbook, ours)

    return Benchmark(
        f"Strict index of {rows} rows, {len(REQUESTS)} requests",
        lambda: textbook_strict(table),
        lambda: RequestIndex(split, list(REQUESTS), "Strict").rows,
        check,
    )


def textbook_strict(table: pd.DataFrame) -> list[int]:
    """Rows whose every request finds a row of the same sequence."""
    indexed = table.set_index(["Sequence", "Sequence_Index"])
    kept = []
    for row, (sequence, index) in enumerate(zip(table["Sequence"], table["Sequence_Index"], strict=True)):
        keys = [(sequence, index + offset) for offset in REQUESTS.values()]
        if all(key in indexed.index and isinstance(indexed.at[key, "Flow"], str) for key in keys):
            kept.append(row)
    return kept
