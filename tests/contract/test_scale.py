"""The recipes of docs/scale.md, on two processes of this machine."""

import json
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.contract.subjects import STFLOW
from tests.contract.test_training import ENVIRONMENT, checkpoint, command

pytestmark = pytest.mark.slow


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


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
