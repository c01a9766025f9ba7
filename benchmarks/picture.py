"""One picture of what the methods give: of each run the panel of the frame in the middle of its scores."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from common.files import read_image, write_image
from common.panels import at_width
from common.visualize import image_grid

WIDTH_PX = 960
COLUMNS = 2
KEYS = ("Sequence", "Sequence_Index", "Status")


def write_picture(runs: Mapping[str, Path], file: Path) -> None:
    """Write the panels of several runs as one picture; runs without panels are left out.

    Args:
        runs: Run directories by caption.
        file: Picture to write.
    """
    found = {caption: typical_panel(folder) for caption, folder in runs.items()}
    panels = [image_grid([at_width(panel, WIDTH_PX)], 1, [name]) for name, panel in found.items() if panel is not None]
    if panels:
        write_image(file, columns_of(panels))


def columns_of(panels: Sequence[NDArray[np.uint8]]) -> NDArray[np.uint8]:
    """Pictures of one width in columns, each in turn below the shorter one, so that little stays empty."""
    columns: list[list[NDArray[np.uint8]]] = [[] for _ in range(min(COLUMNS, len(panels)))]
    for panel in panels:
        min(columns, key=lambda column: sum(map(len, column))).append(panel)
    return image_grid([np.concatenate(column) for column in columns])


def typical_panel(run: Path) -> NDArray[np.uint8] | None:
    """The panel of the frame whose score is the middle one of those that have a panel; neither best nor worst."""
    table = pd.read_csv(run / "per_frame.csv", dtype={"Sequence": str}) if (run / "per_frame.csv").exists() else None
    if table is None:
        return None
    score = next(name for name in table.columns if name not in KEYS)
    panels = []
    for _, row in table.dropna(subset=[score]).sort_values(score, kind="stable").iterrows():
        panel = run / "overlays" / str(row["Sequence"]) / f"{int(row['Sequence_Index']):05d}.jpg"
        panels += [panel] if panel.exists() else []
    return read_image(panels[len(panels) // 2]) if panels else None
