"""Tables as CSV files."""

from pathlib import Path

import pandas as pd

from common.files import atomic_path


def write_table(table: pd.DataFrame, path: Path) -> None:
    """Write a table without its row numbers, all or nothing."""
    with atomic_path(path) as temporary:
        table.to_csv(temporary, index=False)
