"""What docs/scale.md says: its recipes on two processes of this machine, and what many rows cost.

Times are measured in ``benchmarks/scale.py``; here stands what they follow from: work that is done once per split, not
once per row, and memory per row.
"""

import json
import socket
import subprocess
import sys
import tracemalloc
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from ast_seg.frames import FrameFiles, Reading
from ast_seg.segmentation import Places, prediction_rows
from benchmarks.scale import measured
from common.metrics.frames import frame_files
from common.splits import Split, read_split, write_split
from redo.prediction import region_files
from stflow.sequence_files import flow_sequences, stem_of
from tests.contract.predictions import named
from tests.contract.subjects import STFLOW
from tests.contract.test_training import ENVIRONMENT, checkpoint, command
from transformer_seg.prediction import OutputFiles

ROWS = 20_000


def written(folder: Path, rows: int) -> Path:
    lines = (
        f"clip{k // 50:06d},{k % 50},i/{k // 50}/{k % 50:05d}.jpg,f/{k // 50}/{k % 50:05d}.flo" for k in range(rows)
    )
    file = folder / f"rows{rows}_val.csv"
    file.write_text("\n".join(["Sequence,Sequence_Index,Image,Flow", *lines]) + "\n")
    return file


def frames(split: Split) -> object:
    data = FrameFiles(split, Reading(4, 4))
    return [data.has_targets for _ in range(len(split))]


PER_ROW: dict[str, Callable[[Split], object]] = {
    "transformer_seg": lambda split: [OutputFiles(split, Path("out")).of(row, "Pred") for row in range(len(split))],
    "redo": partial(region_files, out=Path("out")),
    "ast": lambda split: prediction_rows(split, Places(split, Path("out")), "labels"),
    "ast frames": frames,
    "stflow": lambda split: [stem_of(split, row, "Image") for row in range(len(split))],
    "stflow sequences": flow_sequences,
    "evaluate": lambda split: frame_files(split, "Image", []),
    "available": lambda split: [bool(split.available("Flow")[row]) for row in range(len(split))],
}


@pytest.mark.parametrize("name", PER_ROW)
def test_no_row_costs_a_column(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whole columns are decoded or compared as often in a split of many rows as in one of few."""
    counts = Counter[int]()
    whole = Split._bytes

    def counted(split: Split, column: str) -> Any:
        found = whole(split, column)

        class Watched:
            """The bytes of a column; a single cell is free."""

            def __getitem__(self, row: Any) -> Any:
                return found[row]

            def __array__(self, *_: Any, **__: Any) -> Any:
                counts[len(split)] += 1
                return found

            def __ne__(self, other: object) -> Any:
                counts[len(split)] += 1
                return found != other

            __hash__ = None  # type: ignore[assignment]

        return Watched()

    monkeypatch.setattr(Split, "_bytes", counted)
    for rows in (100, 400):
        PER_ROW[name](read_split(written(tmp_path, rows), base_dir=tmp_path))
    assert counts[400] == counts[100] < 20


def test_memory_per_row(tmp_path: Path) -> None:
    """200,000 rows of such paths take less than 200 MB while they are read, and 20 MB from then on."""
    file = written(tmp_path, ROWS)
    tracemalloc.start()
    split = read_split(file, base_dir=tmp_path)
    kept, peak = tracemalloc.get_traced_memory()
    tracemalloc.reset_peak()
    write_split(tmp_path / "again_val.csv", split)
    writing = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert kept < 100 * ROWS
    assert peak < 1000 * ROWS
    assert writing < 2500 * ROWS


@pytest.mark.slow
@pytest.mark.parametrize("name", ["wnet", "stflow"])
def test_a_prediction_grows_by_little_per_row(name: str, tmp_path: Path) -> None:
    """From 1,000 to 21,000 rows the command takes less than 100 MB more: 200,000 rows stay under 2 GB."""
    (prediction,) = named(name)
    prediction.train(tmp_path)
    peaks = []
    for rows in (1_000, 1_000 + ROWS):
        data, out = prediction.data(tmp_path / "data", rows), tmp_path / f"out{rows}"
        line = prediction.command(tmp_path, data, out, "--accelerator", "cpu", "--devices", "1")
        peaks.append(measured(line, name, "first item", rows, partial(prediction.count, out)).peak_mb)
    assert 0 < peaks[0] < 1500
    assert peaks[1] - peaks[0] < 100


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.mark.slow
def test_torchrun_equals_the_launcher_of_lightning(tmp_path: Path) -> None:
    data = STFLOW.make_data(tmp_path / "data")
    flags = ("--accelerator", "cpu", "--devices", "2", "--strategy", "ddp")
    launcher = [sys.executable, "-m", "torch.distributed.run", "--nnodes", "1", "--nproc_per_node", "2"]
    launcher += ["--master_addr", "127.0.0.1", "--master_port", str(free_port())]
    plain = command(STFLOW, data, tmp_path / "plain", *flags)
    torchrun = launcher + command(STFLOW, data, tmp_path / "torchrun", *flags)[1:]
    for line in (plain, torchrun):
        done = subprocess.run(line, cwd=tmp_path, env=ENVIRONMENT, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stderr
    first, second = checkpoint(tmp_path / "plain")["state_dict"], checkpoint(tmp_path / "torchrun")["state_dict"]
    for key, value in first.items():
        assert torch.equal(value, second[key]), key
    assert json.loads((tmp_path / "torchrun" / "provenance.json").read_text())["finished"] is True
