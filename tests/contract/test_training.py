"""What every training command promises: a complete run directory, exact resume, graceful stop, equal processes.

Each command runs as a subprocess, as a user runs it.
"""

import csv
import math
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from common.dashboards import read_logged
from tests.contract.subjects import SUBJECTS, Subject
from tests.processes import in_one_process, interruptible

ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}


@pytest.fixture(scope="module", params=SUBJECTS, ids=lambda subject: subject.name)
def subject(request: pytest.FixtureRequest) -> Subject:
    return request.param


@pytest.fixture(scope="module")
def data(subject: Subject, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    return subject.make_data(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def uninterrupted(subject: Subject, data: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("run") / "whole"
    done = run(subject, data, out, "--save_every", "1")
    assert done.returncode == 0, done.stderr
    return out


def command(subject: Subject, data: list[str], out: Path, *more: str) -> list[str]:
    batch = [] if subject.batch_flag in more else [subject.batch_flag, "2"]
    return [sys.executable, str(subject.script), *data, *subject.options, *batch, "--out", str(out), *more]


def run(subject: Subject, data: list[str], out: Path, *more: str) -> subprocess.CompletedProcess[str]:
    arguments = command(subject, data, out, *more)
    folder = out.parent if out.parent.is_dir() else None
    return subprocess.run(arguments, cwd=folder, env=ENVIRONMENT, capture_output=True, text=True, timeout=300)


def rows(file: Path) -> list[dict[str, str]]:
    with file.open(newline="") as stream:
        return list(csv.DictReader(stream))


def losses(subject: Subject, out: Path) -> list[float]:
    return [float(row[subject.metric]) for row in rows(out / "metrics.csv") if row.get(subject.metric)]


def checkpoint(out: Path) -> dict[str, Any]:
    return torch.load(out / "checkpoints" / "last.ckpt", map_location="cpu", weights_only=True)


def leaves(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict):
        for key, item in value.items():
            yield from leaves(item, f"{path}/{key}")
    elif isinstance(value, (list, tuple)):
        for key, item in enumerate(value):
            yield from leaves(item, f"{path}/{key}")
    else:
        yield path, value


def assert_same_run(one: Path, other: Path) -> None:
    """Weights, optimiser and logs, bit for bit."""
    first, second = checkpoint(one), checkpoint(other)
    for part in ("state_dict", "optimizer_states"):
        expected, found = dict(leaves(first[part])), dict(leaves(second[part]))
        assert expected.keys() == found.keys()
        for key, value in expected.items():
            same = torch.equal(value, found[key]) if isinstance(value, torch.Tensor) else value == found[key]
            assert same, f"{part}{key} differs"
    assert (first["epoch"], first["global_step"]) == (second["epoch"], second["global_step"])
    for name in ("metrics.csv", "results.csv"):
        if (one / name).exists():
            assert rows(one / name) == rows(other / name), f"{name} differs"


def test_run_directory_is_complete(subject: Subject, uninterrupted: Path) -> None:
    for name in ("config.yaml", "provenance.json", "metrics.csv", "checkpoints/last.ckpt"):
        assert (uninterrupted / name).exists(), name
    assert list((uninterrupted / "checkpoints").glob(f"epoch=*{subject.monitor}=*.ckpt"))
    assert list((uninterrupted / "samples").glob("*.png"))
    assert yaml.safe_load((uninterrupted / "config.yaml").read_text())["max_epochs"] == 2
    assert not list(uninterrupted.rglob("*.tmp*"))


def test_dashboards_find_what_was_logged(subject: Subject, uninterrupted: Path) -> None:
    """Metric names are stage/metric, so that one dashboard fits all methods; the run says which method it is of."""
    logged = read_logged(uninterrupted)
    assert any(name.startswith("train/") for name in logged.metrics)
    assert logged.pictures
    assert logged.method != uninterrupted.name


def test_checkpoint_opens_without_running_code(uninterrupted: Path) -> None:
    assert checkpoint(uninterrupted)["global_step"] > 4


def test_config_file_repeats_the_run(subject: Subject, data: list[str], uninterrupted: Path, tmp_path: Path) -> None:
    recipe = ["--config", str(uninterrupted / "config.yaml"), "--out", str(tmp_path / "again")]
    done = subprocess.run(
        [sys.executable, str(subject.script), *recipe],
        cwd=tmp_path,
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    assert_same_run(uninterrupted, tmp_path / "again")


def test_one_batch_smoke_run(subject: Subject, data: list[str], tmp_path: Path) -> None:
    done = run(subject, data, tmp_path / "smoke", "--fast_dev_run")
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    "number", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.slow)], ids=["SIGINT", "SIGTERM"]
)
def test_signal_saves_and_resume_equals_uninterrupted(
    subject: Subject, data: list[str], uninterrupted: Path, tmp_path: Path, number: signal.Signals
) -> None:
    out = tmp_path / "stopped"
    process = start(subject, data, out)
    wait_for_steps(process, out, 2)
    process.send_signal(number)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 130, errors
    assert errors.strip().splitlines()[-1].startswith("interrupted: state saved")
    assert (out / "checkpoints" / "last.ckpt").exists()
    done = run(subject, data, out, "--save_every", "1", "--resume")
    assert done.returncode == 0, done.stderr
    assert_same_run(uninterrupted, out)


@pytest.mark.slow
def test_a_finished_run_can_be_made_longer(
    subject: Subject, data: list[str], uninterrupted: Path, tmp_path: Path
) -> None:
    """Also the exact place where an epoch has just ended: its row of metrics must not be lost."""
    out = tmp_path / "longer"
    for epochs in ("1", "2"):
        done = run(subject, data, out, "--save_every", "1", "--max_epochs", epochs, "--resume")
        assert done.returncode == 0, done.stderr
    assert_same_run(uninterrupted, out)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_ten_kills_and_resume_equal_uninterrupted(
    subject: Subject, data: list[str], uninterrupted: Path, tmp_path: Path
) -> None:
    """At random moments: while it starts, while it trains, while it saves."""
    out = tmp_path / "killed"
    chance = random.Random(subject.name)
    for number in range(10):
        process = start(subject, data, out, "--resume")
        if chance.random() < 0.3:
            time.sleep(chance.uniform(0.0, 4.0))
        else:
            wait_for_steps(process, out, 1 + number // 2)
            time.sleep(chance.uniform(0.0, 0.5))
        process.kill()
        process.communicate()
    done = run(subject, data, out, "--save_every", "1", "--resume")
    assert done.returncode == 0, done.stderr
    assert_same_run(uninterrupted, out)
    assert not list((out / "checkpoints").glob(".*"))
    best = [file.name for file in (uninterrupted / "checkpoints").iterdir()]
    assert sorted(best) == sorted(file.name for file in (out / "checkpoints").iterdir())


@pytest.mark.slow
def test_half_precision_and_the_same_seed_twice(subject: Subject, data: list[str], tmp_path: Path) -> None:
    for name in ("one", "two"):
        done = run(subject, data, tmp_path / name, "--precision", "bf16-mixed", "--max_epochs", "1")
        assert done.returncode == 0, done.stderr
    found = losses(subject, tmp_path / "one")
    assert found
    assert all(math.isfinite(loss) for loss in found)
    assert_same_run(tmp_path / "one", tmp_path / "two")


SHORT = ("--max_epochs", "1", "--limit_train_batches", "2", "--limit_val_batches", "1")


@pytest.mark.slow
def test_traced_networks_train_like_plain_ones_under_the_same_names(
    subject: Subject, data: list[str], tmp_path: Path
) -> None:
    plain, traced = tmp_path / "plain", tmp_path / "traced"
    done = run(subject, data, plain, *SHORT)
    assert done.returncode == 0, done.stderr
    arguments = command(subject, data, traced, *SHORT, "--compile")
    arguments.insert(1, str(Path(__file__).with_name("traced.py")))
    done = subprocess.run(
        arguments, cwd=tmp_path, env=ENVIRONMENT, capture_output=True, text=True, timeout=500, check=False
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout.rsplit("graphs:", 1)[1]) > 0
    assert checkpoint(traced)["state_dict"].keys() == checkpoint(plain)["state_dict"].keys()
    found, expected = losses(subject, traced), losses(subject, plain)
    assert expected
    assert found == pytest.approx(expected, rel=1e-3)


@pytest.mark.slow
def test_compiled_networks_train(subject: Subject, data: list[str], tmp_path: Path) -> None:
    if subject.name != "stflow":
        pytest.skip("a C++ compiler takes minutes per network: one stands for all, the others are traced")
    arguments = command(subject, data, tmp_path / "run", *SHORT, "--compile")
    environment = {**ENVIRONMENT, "TORCHINDUCTOR_CACHE_DIR": str(tmp_path / "compiled")}
    done = subprocess.run(
        arguments, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=500, check=False
    )
    assert done.returncode == 0, done.stderr
    assert any((tmp_path / "compiled").rglob("*.cpp")), "nothing was compiled"
    found = losses(subject, tmp_path / "run")
    assert found
    assert all(math.isfinite(loss) for loss in found)


@pytest.mark.slow
def test_a_full_disk_is_one_line_and_resume_equals_uninterrupted(
    subject: Subject, data: list[str], uninterrupted: Path, small_disk: Callable[[int], Path]
) -> None:
    """There is room for one checkpoint and a half: the second one does not fit, the first stays whole."""
    size = (uninterrupted / "checkpoints" / "last.ckpt").stat().st_size
    disk = small_disk(size * 8 // 5 + 2**16)
    done = run(subject, data, disk / "run", "--save_every", "1")
    assert done.returncode == 2, done.stderr
    assert "No space left on device" in one_line(done.stderr)
    assert checkpoint(disk / "run")["global_step"] >= 1
    for file in (disk / "run" / "checkpoints").iterdir():
        torch.load(file, map_location="cpu", weights_only=True)  # nothing half-written, under whatever name
    small_disk(2**30)
    done = run(subject, data, disk / "run", "--save_every", "1", "--resume")
    assert done.returncode == 0, done.stderr
    assert_same_run(uninterrupted, disk / "run")


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Callable[[int], Path]]:
    """A file system of so many bytes; called again, it grows."""
    folder = tmp_path / "disk"
    folder.mkdir()

    def make(size: int) -> Path:
        options = f"{'remount,' if folder.is_mount() else ''}size={size}"
        done = subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)], capture_output=True)
        if done.returncode != 0:
            pytest.skip("a small file system can only be mounted by the superuser")
        return folder

    yield make
    if folder.is_mount():
        subprocess.run(["umount", str(folder)], check=True)


@pytest.mark.slow
def test_two_processes_equal_one(subject: Subject, data: list[str], tmp_path: Path) -> None:
    one = run(subject, data, tmp_path / "one", subject.batch_flag, "4", "--accelerator", "cpu")
    two = run(
        *(subject, data, tmp_path / "two", subject.batch_flag, "2", "--accelerator", "cpu"),
        *("--devices", "2", "--strategy", "ddp"),
    )
    assert one.returncode == 0, one.stderr
    assert two.returncode == 0, two.stderr
    pairs = zip(rows(tmp_path / "one" / "metrics.csv"), rows(tmp_path / "two" / "metrics.csv"), strict=True)
    values = [(a[subject.metric], b[subject.metric]) for a, b in pairs if a.get(subject.metric)]
    assert len(values) == 2
    if not subject.pooled:
        assert all(math.isfinite(float(found)) for _, found in values)
        return
    for expected, found in values:
        assert float(found) == pytest.approx(float(expected), rel=1e-4)
    first, second = checkpoint(tmp_path / "one")["state_dict"], checkpoint(tmp_path / "two")["state_dict"]
    for key, value in first.items():
        if value.dim() >= 2:  # a bias before a normalisation has no effect, and rounding noise for a gradient
            torch.testing.assert_close(second[key], value, rtol=5e-3, atol=5e-4)


BAD_USAGE = [
    (["--gpus", "1"], "--gpus 1: torch sees no CUDA device here"),
    (["--accelerator", "gpu"], "--accelerator gpu: torch sees no CUDA device here"),
    (["--max_epoch", "3"], "did you mean --max_epochs?"),
    (["--logger", "csv,wand"], "'wand' is not known"),
    (["--ckpt_path", "no-such.ckpt"], "no-such.ckpt: no such checkpoint file"),
]


@pytest.fixture(scope="module")
def refused(
    subject: Subject, data: list[str], uninterrupted: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, str]:
    """The one line of each command that must not start, by what is wrong; all in one process."""
    folder = tmp_path_factory.mktemp("refused")
    (folder / "file").write_text("not a folder")
    lines = {
        "taken": command(subject, data, uninterrupted),
        "another option": command(subject, data, uninterrupted, "--resume", "--seed", "7"),
        "unwritable": command(subject, data, folder / "file" / "run"),
        **{more[0]: command(subject, data, folder / more[0], *more) for more, _ in BAD_USAGE},
    }
    before = (uninterrupted / "checkpoints" / "last.ckpt").read_bytes()
    answers = in_one_process([line[1:] for line in lines.values()], folder, seconds=60, environment=ENVIRONMENT)
    assert (uninterrupted / "checkpoints" / "last.ckpt").read_bytes() == before
    assert not list(folder.rglob("checkpoints"))
    for name, (code, said) in zip(lines, answers, strict=True):
        assert code == 2, (name, code, said)
    found = {name: one_line(said) for name, (_, said) in zip(lines, answers, strict=True)}
    return {**found, "unwritable path": str(folder / "file" / "run")}


def test_a_taken_run_directory_is_refused(refused: dict[str, str]) -> None:
    assert refused["taken"].endswith("add --resume to continue it, or give another --out")


def test_resume_with_another_option_is_refused(refused: dict[str, str]) -> None:
    assert "seed was 123" in refused["another option"]


@pytest.mark.parametrize(("more", "part"), BAD_USAGE, ids=lambda value: value[0] if isinstance(value, list) else "")
def test_bad_usage_is_one_line(refused: dict[str, str], more: list[str], part: str) -> None:
    assert part in refused[more[0]]


def test_unwritable_output_folder(refused: dict[str, str]) -> None:
    assert refused["unwritable path"] in refused["unwritable"]


def one_line(text: str) -> str:
    """The last line of standard error, which must be the only one the command itself wrote."""
    lines = [line for line in text.strip().splitlines() if line]
    assert "Traceback" not in text, text
    return lines[-1]


def start(subject: Subject, data: list[str], out: Path, *more: str) -> subprocess.Popen[str]:
    out.parent.mkdir(exist_ok=True)
    arguments = command(subject, data, out, "--save_every", "1", *more)
    return subprocess.Popen(
        arguments,
        cwd=out.parent,
        env=ENVIRONMENT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=interruptible,
    )


def wait_for_steps(process: subprocess.Popen[str], out: Path, steps: int) -> None:
    """Wait until a checkpoint of at least so many steps stands, or the process has ended."""
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and process.poll() is None:
        file = out / "checkpoints" / "last.ckpt"
        if file.exists() and checkpoint(out)["global_step"] >= steps:
            return
        time.sleep(0.02)
    assert process.poll() is not None, "no checkpoint in time"
