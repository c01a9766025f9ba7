"""Panels, layers and strips: which frames, which files, and what is in them."""

from pathlib import Path

import numpy as np
import pandas as pd

from common.files import read_image, read_labels, write_image, write_labels
from common.panels import STRIP_FRAMES, STRIP_WIDTH_PX, chosen_frames, truth_of, write_panels
from common.splits import Split


def make_split(folder: Path, num_frames: int, truth: str = "GtMask") -> Split:
    rows = []
    for t in range(num_frames):
        write_image(folder / f"image/{t}.png", np.full((30, 40, 3), 8 * t, np.uint8))
        labels = np.zeros((30, 40), np.uint8)
        labels[5:15, t : t + 10] = 1
        write_labels(folder / f"pred/{t}.png", labels)
        write_image(folder / f"truth/{t}.png", np.repeat(np.repeat(labels, 2, 0), 2, 1) * 255)
        cells = {"Image": f"image/{t}.png", "Pred": f"pred/{t}.png", truth: f"truth/{t}.png"}
        rows.append({"Sequence": "clip", "Sequence_Index": t, **cells})
    return Split.from_rows(rows, folder)


def test_worst_middle_and_best_are_chosen() -> None:
    scores = np.array([0.5, np.nan, 0.1, 0.9, 0.3, 0.7])
    assert chosen_frames(scores, each=1) == [0, 2, 3]
    assert chosen_frames(np.array([np.nan])) == []


def test_files_of_a_clip(tmp_path: Path) -> None:
    split = make_split(tmp_path, 30)
    table = pd.DataFrame({"j": np.linspace(0, 1, 30)})
    write_panels(split, table, tmp_path / "overlays", lambda row: {"input": np.full((60, 80, 3), row, np.uint8)})
    assert len(list((tmp_path / "overlays" / "clip").iterdir())) == 18
    names = sorted(path.name for path in (tmp_path / "layers" / "clip").glob("00000.*"))
    assert names == ["00000.ground_truth.png", "00000.jpg", "00000.prediction.png"]
    prediction = read_labels(tmp_path / "layers" / "clip" / "00029.prediction.png")
    assert (prediction == read_labels(split.path(29, "Pred"))).all()
    assert (read_labels(tmp_path / "layers" / "clip" / "00029.ground_truth.png") == prediction).all()
    strip = read_image(tmp_path / "strips" / "clip.jpg")
    assert strip.shape == (120, STRIP_FRAMES * STRIP_WIDTH_PX, 3)
    assert strip[100, 5].mean() < 5 < strip[100, -5].mean()


def test_truth_of_each_kind(tmp_path: Path) -> None:
    mask = truth_of(make_split(tmp_path / "a", 1), 0)
    assert mask is not None
    assert set(np.unique(mask)) == {0, 1}
    instances = truth_of(make_split(tmp_path / "b", 1, "GtInstance"), 0)
    assert instances is not None
    assert set(np.unique(instances)) == {0}  # 255 is void there
    assert truth_of(make_split(tmp_path / "c", 1, "Other"), 0) is None
