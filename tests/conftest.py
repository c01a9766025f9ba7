"""Tests repeat exactly: one thread each, and the same hypothesis examples in every run."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("WANDB_MODE", "offline")

import hypothesis
import pytest
import torch

hypothesis.settings.register_profile("repeatable", derandomize=True)
hypothesis.settings.load_profile("repeatable")


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)
