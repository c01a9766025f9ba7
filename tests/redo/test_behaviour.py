"""It works: small networks find the shapes of the embedded data without a label."""

from pathlib import Path

import pytest

from common.options import RunOptions, TrainerFlags
from common.splits import read_split
from common.synthetic import ObjectOptions
from common.synthetic import run as make_data
from redo.module import Redrawer
from redo.options import DataOptions, ModelOptions, WatchOptions
from redo.restore import Trained, restore
from redo.scoring import score_split
from redo.training import train

MODEL = ModelOptions(
    **{"sizex": 32, "nz": 8, "nf": 8, "nfM": 16, "useSelfAttD": True, "useSelfAttG": True},
    **{"lrM": 2e-4, "lrG": 4e-4, "lrD": 4e-4, "lrZ": 4e-4, "nIteration": 200},
)


def iou(trained: Trained, data: DataOptions) -> float:
    assert data.data_file is not None
    found = score_split(trained, read_split(data.data_file, "val", data.base_dir), data)
    return next(score.value for score in found.scores if score.name == "iou_per_image")


@pytest.mark.slow
def test_two_hundred_iterations_raise_the_iou_of_one_of_two_seeds(tmp_path: Path) -> None:
    make_data(ObjectOptions(out=tmp_path / "data", num=1024, num_val=256))
    gains = []
    for seed in (0, 1):
        files = {"data_file": tmp_path / "data" / "objects", "base_dir": tmp_path / "data"}
        data = DataOptions(**files, cache_dir=tmp_path / "cache", batchSize=16, seed=seed)
        before = iou(Trained(tmp_path, MODEL, {"M": Redrawer(MODEL, seed).networks.mask}), data)
        out = tmp_path / str(seed)
        watch = WatchOptions(checkpointFreq=200, silent=True, clean=True, nTest=2)
        flags = TrainerFlags(accelerator="cpu", enable_model_summary=False)
        train(MODEL, watch, data, RunOptions(out=out, sample_every=0), flags)
        gains.append(iou(restore(out), data) - before)
        if max(gains) > 0.1:
            return
    pytest.fail(f"IoU rose by {gains} only")
