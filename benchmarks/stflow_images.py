"""stflow from flow files to probabilities of windows: a batch at a time beside a window at a time."""

import shutil
from pathlib import Path

import numpy as np
from measuring import Benchmark
from prediction import System, prediction, temporary_folder

from common.files import read_array
from common.flow_files import write_flow
from common.prediction import ItemWriter
from common.splits import Split
from stflow.data import FlowWindows
from stflow.module import MotionSegmenter
from stflow.options import DataOptions, ModelOptions, UNetOptions
from stflow.prediction import WindowFiles, WindowWriter
from stflow.sequence_files import proba_file


def build(tiny: bool) -> Benchmark:
    """Fields of 480 x 854 in windows of three at 128 x 224, four segments, 32 features; all files are read anew."""
    count, full, size, features = (4, (24, 36), (8, 12), 4) if tiny else (12, (480, 854), (128, 224), 32)
    folder = temporary_folder()
    rng = np.random.default_rng(0)
    rows = []
    for number in range(count):
        write_flow(folder / f"{number}.flo", rng.normal(0, 3, (2, *full)))
        rows.append({"Sequence": "clip", "Sequence_Index": number, "Flow": f"{number}.flo"})
    split = Split.from_rows(rows, folder, folder / "clip.csv")
    options = ModelOptions(nAffineMasks=4, unet=UNetOptions(features_start=features))
    data = DataOptions(data_file=split.file, base_dir=folder, img_size=list(size), cache_dir=folder / "cache")

    def windows() -> FlowWindows:
        shutil.rmtree(data.cache_dir, ignore_errors=True)
        found = FlowWindows(split, options.inputs, data)
        found.build()
        return found

    cells = windows().paths

    def results(out: Path) -> tuple[ItemWriter, list[Path]]:
        return WindowWriter(WindowFiles(out)), [proba_file(out, cell) for cell in cells]

    system = System(MotionSegmenter(options, img_size=size), windows, results, batch_size=10)
    step = f"{len(cells)} windows of 3 x {size[0]} x {size[1]} from fields {full[0]} x {full[1]}"
    return prediction(step, system, read_array, tolerance=1e-3)
