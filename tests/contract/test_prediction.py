"""What every command that predicts promises: two processes give what one gives, also after one of them was killed."""

import os
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from tests.contract.predictions import PREDICTIONS, Prediction
from tests.contract.test_training import ENVIRONMENT

pytestmark = pytest.mark.slow

ROWS = 240
TWO = ("--accelerator", "cpu", "--devices", "2", "--strategy", "ddp")


@pytest.fixture(scope="module", params=PREDICTIONS, ids=lambda prediction: prediction.name)
def prediction(request: pytest.FixtureRequest) -> Prediction:
    return request.param


@pytest.fixture(scope="module")
def trained(prediction: Prediction, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("trained")
    prediction.train(folder)
    return folder


def test_two_processes_one_of_them_killed_give_what_one_gives(
    prediction: Prediction, trained: Path, tmp_path: Path
) -> None:
    """The others end too, with a word; the same command then completes what stands. Every item has its one file."""
    data = prediction.data(trained / "data", ROWS)
    out = tmp_path / "out"
    run(prediction.command(trained, data, out, "--accelerator", "cpu", "--devices", "1"), tmp_path)
    out = out.rename(tmp_path / "whole").with_name("out")  # paths in the splits depend on the folder's name
    expected = prediction.found(tmp_path / "whole")
    assert len(expected) > 1

    two = prediction.command(trained, data, out, *TWO)
    returncode, errors = killed_child(two, prediction, out, tmp_path)
    assert returncode != 0
    assert "Traceback" not in errors, errors
    assert 0 < prediction.count(out) < ROWS
    assert not set(prediction.found(out)) >= set(expected)
    run(two, tmp_path)
    found = prediction.found(out)
    assert found.keys() == expected.keys()
    assert [name for name, content in expected.items() if found[name] != content] == []


def run(line: list[str], folder: Path) -> None:
    done = subprocess.run(line, cwd=folder, env=ENVIRONMENT, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr


def killed_child(line: list[str], prediction: Prediction, out: Path, folder: Path) -> tuple[int, str]:
    """Start two processes and kill the second when some items stand; exit code of the first and what was said."""
    with (folder / "errors.txt").open("w+") as errors:
        process = subprocess.Popen(
            line, cwd=folder, env=ENVIRONMENT, stdout=subprocess.DEVNULL, stderr=errors, start_new_session=True
        )
        try:
            deadline = time.monotonic() + 120
            while process.poll() is None and prediction.count(out) < 4 and time.monotonic() < deadline:
                time.sleep(0.005)
            assert process.poll() is None, (folder / "errors.txt").read_text()
            second = next(children(process.pid))
            os.kill(second, signal.SIGKILL)
            returncode = process.wait(timeout=60)
        finally:
            end(process.pid)
    return returncode, (folder / "errors.txt").read_text()


def children(pid: int) -> Iterator[int]:
    """The Python processes that a process has started."""
    for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
        if "python" in Path(f"/proc/{child}/cmdline").read_text():
            yield int(child)


def end(session: int) -> None:
    """End what is left of a session of processes."""
    with suppress(ProcessLookupError):
        os.killpg(session, signal.SIGKILL)
