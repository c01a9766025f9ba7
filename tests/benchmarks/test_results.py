"""The table of all methods: rows are run once, minutes and scores stand in it, failures say where to look."""

import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import yaml

from common.errors import InputError, RunFailed
from common.files import read_image, write_image
from common.metrics.protocol import Protocol, Score, write_scores

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = """
import pathlib, shutil, sys
out, source = pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2])
rows = ["Sequence,Sequence_Index,Status,j", "001,0,scored,0.1", "001,1,scored,0.5", "001,2,scored,0.9"]
(out / "per_frame.csv").write_text("\\n".join(rows))
for number in range(3):
    panel = out / "overlays" / "001" / f"0000{number}.jpg"
    panel.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(source.parent / f"grey{number}.jpg", panel)
(out / "runs.txt").open("a").write("run ")
shutil.copy(source, out / "scores.json")
"""


@pytest.fixture
def results(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """benchmarks/results.py as a module."""
    specification = importlib.util.spec_from_file_location("results", ROOT / "benchmarks" / "results.py")
    assert specification is not None
    assert specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    monkeypatch.setitem(sys.modules, "results", module)
    specification.loader.exec_module(module)
    return module


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    """Two rows of a made method, one of which needs data that are not there."""
    (tmp_path / "method.py").write_text(SCRIPT)
    for number in range(3):
        write_image(tmp_path / f"grey{number}.jpg", np.full((32, 48, 3), 40 + 60 * number, np.uint8))
    write_scores(
        tmp_path / "made.json", [Score("j_mean", 0.5, Protocol(oracle=True), 7), Score("other", 0.1, Protocol(), 7)]
    )
    run = f"{tmp_path / 'method.py'} {{out}} {tmp_path / 'made.json'}"
    entries = [
        {"method": "made", "data": "embedded", "run": run, "shown": ["j_mean"]},
        {"method": "made", "data": "real", "needs": "nowhere", "run": run, "shown": ["j_mean"]},
    ]
    (tmp_path / "rows.yaml").write_text(yaml.safe_dump(entries))
    return tmp_path / "rows.yaml"


def options(results: ModuleType, rows: Path, **more: object) -> object:
    """Options that keep everything in the folder of the rows."""
    folder = rows.parent
    return results.ResultOptions(
        recipes=rows, out=folder / "runs", table=folder / "RESULTS.md", data=folder, jobs=1, **more
    )


def test_rows_are_measured_once_and_named(results: ModuleType, rows: Path) -> None:
    for _ in range(2):
        assert results.results(options(results, rows)) == 0
    table = (rows.parent / "RESULTS.md").read_text()
    assert "| made | embedded | j_mean (oracle) | 0.5000 | 7 |" in table
    assert "Left out, their data were not there: made on real (`nowhere`)" in table
    assert (rows.parent / "runs" / "made-embedded" / "runs.txt").read_text() == "run "
    facts = json.loads((rows.parent / "runs" / "made-embedded" / "measured.json").read_text())
    assert facts["peak_mb"] > 1
    assert 0 < facts["cpu_minutes"] < 1
    picture = read_image(rows.parent / "docs" / "results.jpg")
    assert abs(int(picture[-60:-20, 100:-100].mean()) - 100) < 3  # the frame in the middle of the scores


def test_a_failure_names_the_log_and_leaves_the_table(results: ModuleType, rows: Path) -> None:
    entries = yaml.safe_load(rows.read_text())
    entries[0]["run"] = f"{rows.parent / 'method.py'} {{out}} missing.json"
    rows.write_text(yaml.safe_dump(entries))
    with pytest.raises(RunFailed, match=r"log\.txt"):
        results.results(options(results, rows))
    assert not (rows.parent / "RESULTS.md").exists()


def test_unknown_scores_and_methods_are_named(results: ModuleType, rows: Path) -> None:
    with pytest.raises(InputError, match="known are made"):
        results.results(options(results, rows, only=["unet"]))
    entries = yaml.safe_load(rows.read_text())
    entries[0]["shown"] = ["iou"]
    rows.write_text(yaml.safe_dump(entries))
    with pytest.raises(RunFailed, match="there are j_mean, other"):
        results.results(options(results, rows))


def test_the_committed_rows_can_be_read(results: ModuleType) -> None:
    recipes = results.read_recipes(results.RECIPES)
    assert {recipe.method for recipe in recipes} == {
        *("ast", "redo", "maskdistill", "wnet", "segmenter", "dino", "stflow"),
    }
    for recipe in recipes:
        words = recipe.run.split()
        assert all((ROOT / word).is_file() for word in words if word.endswith((".py", ".yaml")))
