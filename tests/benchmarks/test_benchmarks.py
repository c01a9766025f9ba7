"""That every benchmark runs and its two forms agree; times are never asserted."""

import importlib
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from common.files import read_labels, write_labels

FOLDER = Path(__file__).resolve().parents[2] / "benchmarks"
NAMES = sorted(file.stem for file in FOLDER.glob("*_*.py"))


@pytest.fixture
def measuring(monkeypatch):
    monkeypatch.syspath_prepend(FOLDER)
    return importlib.import_module("measuring")


@pytest.mark.parametrize("name", NAMES)
def test_both_forms_give_the_same(name, measuring):
    benchmark = measuring.build(name, tiny=True)
    textbook = benchmark.textbook() if benchmark.textbook else None
    benchmark.check(textbook, benchmark.ours())
    assert benchmark.step
    assert benchmark.textbook or benchmark.frames  # or the row would say nothing


def test_linking_check_sees_a_difference(measuring):
    benchmark = measuring.build("stflow_linking", tiny=True)
    with pytest.raises(AssertionError):
        benchmark.check(benchmark.textbook(), 1 - np.minimum(benchmark.ours(), 1))


@pytest.fixture
def ceilings(monkeypatch):
    monkeypatch.syspath_prepend(FOLDER)
    return importlib.import_module("ceilings")


@pytest.fixture
def table(monkeypatch):
    monkeypatch.syspath_prepend(FOLDER)
    return importlib.import_module("table")


def test_flops_of_products_convolutions_and_attention(ceilings):
    B, A, N, D = 2, 3, 10, 8
    image, conv, linear = torch.randn(B, 3, 16, 20), nn.Conv2d(3, 5, 3, padding=1), nn.Linear(D, 4)
    tokens = torch.randn(B, A, N, D, requires_grad=True)
    forward = 2 * B * 5 * 27 * 16 * 20
    assert ceilings.matrix_flops(lambda: conv(image)) == (0, forward)
    assert ceilings.matrix_flops(lambda: conv(image).sum().backward()) == (0, 2 * forward)  # no gradient of the image
    with torch.inference_mode():
        assert ceilings.matrix_flops(lambda: linear(tokens)) == (2 * B * A * N * D * 4, 0)
    attention = 2 * 2 * B * A * N * N * D

    def attended():
        return functional.scaled_dot_product_attention(tokens, tokens, tokens)

    assert ceilings.matrix_flops(attended) == (attention, 0)
    assert ceilings.matrix_flops(lambda: attended().sum().backward()) == (3.5 * attention, 0)  # the map is made anew
    assert ceilings.matrix_flops(lambda: image.exp().sum()) is None


def test_counting_changes_no_result(ceilings):
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.LazyLinear(2)).eval()
    image = torch.randn(2, 3, 8, 8)
    expected, found = network(image), []
    ceilings.matrix_flops(lambda: found.append(network(image)))
    assert torch.equal(found[0], expected)


def test_shares_are_of_the_ceilings(measuring, ceilings, table, monkeypatch):
    side = 256
    one, other = torch.randn(2, side, side)
    product = measuring.Benchmark(
        "a product", None, lambda: one @ other, lambda _, found: None, frames=1, least_bytes=3 * one.nbytes
    )
    monkeypatch.setattr(measuring, "build", lambda name, tiny: product)
    measured = measuring.time_forms("product", tiny=True, threads=1, repeats=3)
    limits = ceilings.Ceilings(product_gflop_s=200.0, convolution_gflop_s=400.0, copy_gb_s=50.0)
    row = measuring.row_of("product", measured, {"ours": None}, limits)
    assert (row.ratio, row.cpu_ratio, row.textbook_ms, row.textbook_mb) == (None,) * 4
    assert (row.product_gflop, row.convolution_gflop) == (pytest.approx(2e-9 * side**3), 0)
    assert row.compute_share == pytest.approx(row.product_gflop / (1e-3 * row.ours_cpu_ms) / 200)
    assert limits.compute_seconds(ceilings.Flops(2 * 10**9, 10**9)) == pytest.approx(2 / 200 + 1 / 400)
    assert row.copy_share == pytest.approx(3e-9 * one.nbytes / (1e-3 * row.ours_cpu_ms) / 50)
    assert "a product" in table.line(row, None)


def test_wrong_predictions_are_seen(measuring):
    benchmark = measuring.build("redo_images", tiny=True)
    files = benchmark.ours()
    other = files[0].with_name("other.png")
    write_labels(other, 1 - np.minimum(read_labels(files[0]), 1).astype(np.uint8))
    with pytest.raises(AssertionError):
        benchmark.check(files, [other, *files[1:]])


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
    assert {"commit", "machine", "processor", "threads", "repeats", "versions", "load_average"} <= set(table)
    assert set(table["ceilings"]) == {"product_gflop_s", "convolution_gflop_s", "copy_gb_s"}
    assert min(table["ceilings"].values()) > 0
    (row,) = table["rows"]
    assert row["name"] == "stflow_linking"
    assert 0 < row["ratio_min"] <= row["ratio"] <= row["ratio_max"]
    assert 0 < row["copy_share"] < 1
    assert row["compute_share"] is None  # labels are counted, not multiplied


@pytest.mark.parametrize(
    ("arguments", "message"),
    [(["--only", "stflow_thta"], "no such benchmark, choose from"), (["--repeats", "0"], "give numbers from 1 on")],
)
def test_bad_flags_are_one_line(arguments, message):
    done = command(*arguments)
    assert done.returncode == 2
    assert message in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


def test_the_page_shows_the_run_that_was_kept():
    kept = json.loads((FOLDER / "reference.json").read_text())
    assert {row["name"] for row in kept["rows"]} <= set(NAMES)
    assert kept["commit"]
    assert not kept["tiny"]
    page = (FOLDER.parent / "docs" / "performance.md").read_text()
    lines = {line.split("`")[1]: line for line in page.splitlines() if line.startswith("| `")}
    for row in kept["rows"]:
        if row["ratio"] is not None:
            digits = 0 if row["ratio"] >= 100 else 1 if row["ratio"] >= 10 else 2
            assert f" {row['ratio']:.{digits}f} (" in lines[row["name"]], row["name"]
        if row["frames_per_s"] is not None and row["name"].endswith("_images"):
            assert f" {row['frames_per_s']:.2f} |" in lines[row["name"]], row["name"]
