"""Checkpoints are written whole or not at all."""

from pathlib import Path

import pytest
import torch

from common.checkpoint_files import WholeCheckpoints
from common.errors import InputError


def test_what_is_written_can_be_read(tmp_path: Path) -> None:
    WholeCheckpoints().save_checkpoint({"weight": torch.arange(5)}, tmp_path / "new" / "a.ckpt")
    assert torch.equal(torch.load(tmp_path / "new" / "a.ckpt", weights_only=True)["weight"], torch.arange(5))
    assert [file.name for file in (tmp_path / "new").iterdir()] == ["a.ckpt"]


def test_a_failure_leaves_the_older_file_alone(tmp_path: Path) -> None:
    WholeCheckpoints().save_checkpoint({"weight": 1}, tmp_path / "a.ckpt")
    with pytest.raises(AttributeError, match="pickle"):
        WholeCheckpoints().save_checkpoint({"weight": lambda: 1}, tmp_path / "a.ckpt")
    assert torch.load(tmp_path / "a.ckpt", weights_only=True) == {"weight": 1}
    assert [file.name for file in tmp_path.iterdir()] == ["a.ckpt"]


def test_a_full_disk_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(content: object, stream: object) -> None:
        try:
            raise OSError(28, "No space left on device")
        except OSError as error:
            raise RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 576 vs 534") from error

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(InputError, match=r"a\.ckpt: cannot write \(No space left on device\)"):
        WholeCheckpoints().save_checkpoint({}, tmp_path / "a.ckpt")
    assert not list(tmp_path.iterdir())
