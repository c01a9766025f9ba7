"""The notebooks run from the first cell to the last, with the paths of their first cell replaced."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from common.synthetic import ClipOptions
from common.synthetic import run as make_data
from stflow.module import MotionSegmenter
from stflow.notebooks.simple_segmentation import main
from stflow.options import ModelOptions, UNetOptions

NOTEBOOKS = Path(__file__).resolve().parents[2] / "stflow" / "notebooks"


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    make_data(ClipOptions(out=folder, num=1, num_val=1, num_test=0, num_frames=8, height=40, width=56))
    module = MotionSegmenter(ModelOptions(nAffineMasks=3, unet=UNetOptions(features_start=4, num_layers=2)), [16, 24])
    content = {"state_dict": module.state_dict(), "hyper_parameters": dict(module.hparams)}
    torch.save(content, folder / "model.ckpt")
    return folder


def run_cells(name: str, **paths: Any) -> dict[str, Any]:
    """All code cells in one name space; the last expression of the last cell under ``shown``."""
    cells = json.loads((NOTEBOOKS / name).read_text())["cells"]
    code = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
    *before, last = code[-1].splitlines()
    space: dict[str, Any] = {}
    exec(code[0], space)
    assert paths.keys() <= space.keys(), "the notebook's first cell names its paths"
    space |= paths
    for cell in [*code[1:-1], "\n".join(before), f"shown = {last}"]:
        exec(cell, space)
    return space


def test_simple_segmentation(data: Path, tmp_path: Path) -> None:
    flows = [data / f"OpticalFlow/clips_001/{k:05d}.flo" for k in (2, 3, 4)]
    found = run_cells("Simple Segmentation Example.ipynb", MODEL_DIR=data / "model.ckpt", FLOWS=flows)
    torch.testing.assert_close(found["proba"].sum(1), torch.ones(1, 3, 16, 24))
    out = tmp_path / "segments.png"
    assert main(["-md", str(data / "model.ckpt"), "--out", str(out), "--flow", *map(str, flows)]) == 0
    np.testing.assert_array_equal(np.asarray(Image.open(out)), np.asarray(found["shown"]))
    assert main(["-md", str(data / "model.ckpt"), "--out", str(out), "--flow", str(flows[0])]) == 2


def test_inference(data: Path) -> None:
    paths = {
        "MODEL_DIR": data / "model.ckpt",
        "DATA_FILE": data / "clips",
        "BASE_DIR": data,
        "CACHE_DIR": data / "cache",
    }
    found = run_cells("Inference.ipynb", **paths)
    assert found["labels"].shape == (5, 3, 16, 24)  # seven fields make five windows
    assert found["shown"].size[0] > found["shown"].size[1]
