"""Prediction of many items: every one once, the same values wherever a run was stopped."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from torch.utils.data import Dataset

from common.errors import InputError
from common.files import atomic_path, write_array
from common.options import TrainerFlags
from common.prediction import ItemWriter, claim, forget_older, predict_items

FLAGS = TrainerFlags(accelerator="cpu", devices="1", enable_progress_bar=False)


class Numbers(Dataset[dict[str, Any]]):
    def __init__(self, count: int) -> None:
        self.values = torch.randn(count, 16, generator=torch.Generator().manual_seed(0))

    def __len__(self) -> int:
        return len(self.values)

    def __getitem__(self, index: int) -> dict[str, Any]:
        position = index if index >= 0 else ~index
        return {"value": self.values[position], "index": position, "weight": float(index >= 0)}


class Net(pl.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.linear = torch.nn.Linear(16, 33)

    def predict_step(self, batch: dict[str, Any]) -> torch.Tensor:
        return self.linear(batch["value"])


class Arrays(ItemWriter):
    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.folder = folder

    def write(self, batch: dict[str, Any], prediction: torch.Tensor) -> None:
        for index, weight, value in zip(batch["index"].tolist(), batch["weight"].tolist(), prediction, strict=True):
            if weight > 0:
                path = self.folder / f"{index}.npy"
                assert not path.exists(), "written twice"
                write_array(path, value.numpy())


def _arrays(folder: Path) -> dict[str, bytes]:
    return {path.name: np.load(path).tobytes() for path in folder.glob("*.npy")}


@pytest.mark.parametrize("batch_size", [1, 4, 100])
def test_every_item_is_written_once(tmp_path: Path, batch_size: int) -> None:
    count = predict_items(Net(), Numbers(7), range(7), Arrays(tmp_path), flags=FLAGS, batch_size=batch_size)
    assert count == 7
    assert set(_arrays(tmp_path)) == {f"{number}.npy" for number in range(7)}


def test_the_rest_of_a_stopped_run_gives_the_same_bits(tmp_path: Path) -> None:
    whole, rest = tmp_path / "whole", tmp_path / "rest"
    predict_items(Net(), Numbers(11), range(11), Arrays(whole), flags=FLAGS, batch_size=4)
    predict_items(Net(), Numbers(11), [2, 9, 10], Arrays(rest), flags=FLAGS, batch_size=4)
    assert _arrays(rest) == {name: value for name, value in _arrays(whole).items() if name in _arrays(rest)}
    assert len(_arrays(rest)) == 3


def test_nothing_to_do_is_no_work(tmp_path: Path) -> None:
    assert predict_items(Net(), Numbers(3), [], Arrays(tmp_path), flags=FLAGS) == 0


def test_a_folder_belongs_to_one_source(tmp_path: Path) -> None:
    claim(tmp_path / "out", {"checkpoint": "abc", "split": "s"})
    claim(tmp_path / "out", {"checkpoint": "abc", "split": "s"})
    with pytest.raises(InputError, match=r"another checkpoint \(abc, now other\)"):
        claim(tmp_path / "out", {"checkpoint": "other", "split": "s"})
    assert json.loads((tmp_path / "out" / "source.json").read_text())["checkpoint"] == "abc"
    (tmp_path / "out" / "source.json").write_text("{")
    with pytest.raises(InputError, match="not readable"):
        claim(tmp_path / "out", {"checkpoint": "abc"})


def test_what_a_killed_process_left_half_written_is_removed(tmp_path: Path) -> None:
    claim(tmp_path / "out", {"checkpoint": "abc"})
    (tmp_path / "out" / "clip").mkdir()
    with atomic_path(tmp_path / "out" / "clip" / "0000.png") as temporary:
        temporary.touch()
        shutil.copy(temporary, temporary.with_name(temporary.name.replace("0000", "0001")))  # its end never came
    assert len(list((tmp_path / "out").rglob("*.tmp.png"))) == 1
    claim(tmp_path / "out", {"checkpoint": "abc"})
    assert {path.name for path in (tmp_path / "out").rglob("*.*")} == {"source.json", "0000.png"}


def test_predictions_of_an_older_checkpoint_are_forgotten(tmp_path: Path) -> None:
    claim(tmp_path / "out", {"checkpoint": "abc", "split": "s"})
    (tmp_path / "out" / "x.npy").write_bytes(b"")
    forget_older(tmp_path / "out", "abc")
    assert (tmp_path / "out" / "x.npy").exists()
    forget_older(tmp_path / "out", "other")
    assert not (tmp_path / "out").exists()
    forget_older(tmp_path / "out", "other")
    (tmp_path / "mine").mkdir()
    for content in ("{", "[]"):  # nobody knows whose they are: kept, for `claim` to refuse
        (tmp_path / "mine" / "source.json").write_text(content)
        forget_older(tmp_path / "mine", "other")
        assert (tmp_path / "mine" / "source.json").exists()
