"""Background networks that start at the median image of their frames."""

from pathlib import Path

import numpy as np
import pytest
import torch

from ast_seg.median_start import median_start
from ast_seg.restore import restore_background
from common.files import read_image
from common.splits import read_split
from tests.ast.commands import QUIET, TINY_BACKGROUND, fails, make_clip, run


def frames_of(prefix: Path) -> np.ndarray:
    split = read_split(prefix, "train", prefix.parent)
    return np.stack([read_image(split.path(row, "Image")).transpose(2, 0, 1) for row in range(len(split))])


def test_median_and_its_error() -> None:
    """Five frames of one pixel: the median of each channel, and the median of the mean smoothed differences."""
    values = torch.tensor([[10, 20, 30], [10, 20, 30], [13, 20, 30], [16, 26, 30], [250, 250, 250]], dtype=torch.uint8)
    start = median_start(values[:, :, None, None])
    assert start[0, :3, 0, 0].tolist() == [13, 20, 30]
    # |d| - 1.5 from three on: the first two and the fourth differ by 3, 3 and (3, 6)
    assert start[0, 3, 0, 0].item() == pytest.approx(0.5)


def test_networks_start_at_the_median(tmp_path: Path) -> None:
    """Before anything is learnt, every frame's background is the median; both kinds of file keep it."""
    prefix = make_clip(tmp_path / "data")
    data = ["--data_file", prefix, "--base_dir", prefix.parent, "--cache_dir", tmp_path / "cache"]
    still = [*TINY_BACKGROUND, "--background_start", "median", "--learning_rate", "0"]
    run("background/train.py", *data, *still, "--out", tmp_path / "run", *QUIET)
    images = frames_of(prefix)
    median = torch.from_numpy(np.median(images, axis=0)).float()
    for path in (tmp_path / "run", tmp_path / "run" / "trained_model.pth"):
        with torch.no_grad():
            drawn = restore_background(path).model(torch.from_numpy(images[:2]).float())
        torch.testing.assert_close(drawn[:, :3], median.clamp(0.25, 254.75).expand(2, -1, -1, -1), rtol=0, atol=0.01)
    run("background/train.py", *data, *still, "--learning_rate", "1e-3", "--out", tmp_path / "learnt", *QUIET)
    with torch.no_grad():
        learnt = restore_background(tmp_path / "learnt").model(torch.from_numpy(images[:2]).float())
    assert (learnt - drawn).abs().mean() > 0.1


def test_other_start_than_the_checkpoint(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    prefix = make_clip(tmp_path / "data")
    data = ["--data_file", prefix, "--base_dir", prefix.parent, "--cache_dir", tmp_path / "cache", *QUIET]
    run("background/train.py", *data, *TINY_BACKGROUND, "--background_start", "median", "--out", tmp_path / "run")
    again = [*data, *TINY_BACKGROUND, "--ckpt_path", tmp_path / "run" / "trained_model.pth"]
    assert "--background_start median" in fails(capsys, "background/train.py", *again, "--out", tmp_path / "other")
