"""That every benchmark runs and its two forms agree; times are never asserted."""

import importlib
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

FOLDER = Path(__file__).resolve().parents[2] / "benchmarks"
NAMES = sorted(file.stem for file in FOLDER.glob("*_*.py"))


@pytest.fixture
def measuring(monkeypatch):
    monkeypatch.syspath_prepend(FOLDER)
    return importlib.import_module("measuring")


@pytest.mark.parametrize("name", NAMES)
def test_both_forms_give_the_same(name, measuring):
    benchmark = measuring.build(name, tiny=True)
    textbook, ours = benchmark.textbook(), benchmark.ours()
    benchmark.check(textbook, ours)
    assert benchmark.step


def test_linking_check_sees_a_difference(measuring):
    benchmark = measuring.build("stflow_linking", tiny=True)
    with pytest.raises(AssertionError):
        benchmark.check(benchmark.textbook(), 1 - np.minimum(benchmark.ours(), 1))


def command(*arguments):
    return subprocess.run(
        [sys.executable, FOLDER / "run.py", *map(str, arguments)], capture_output=True, text=True, timeout=300
    )


def test_command_writes_the_table(tmp_path):
    out = tmp_path / "table.json"
    done = command("--tiny", "--only", "stflow_linking", "--repeats", 2, "--out", out)
    assert done.returncode == 0, done.stderr
    assert "stflow_linking" in done.stdout
    table = json.loads(out.read_text())
    assert {"commit", "machine", "processor", "threads", "repeats", "versions"} <= set(table)
    (row,) = table["rows"]
    assert row["name"] == "stflow_linking"
    assert 0 < row["ratio_min"] <= row["ratio"] <= row["ratio_max"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [(["--only", "stflow_thta"], "no such benchmark, choose from"), (["--repeats", "0"], "give numbers from 1 on")],
)
def test_bad_flags_are_one_line(arguments, message):
    done = command(*arguments)
    assert done.returncode == 2
    assert message in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
