"""What may be named as input, and the overlays of what comes out."""

from pathlib import Path

import numpy as np
import pytest

from common.errors import InputError
from common.files import read_image, write_image, write_labels
from common.inputs import input_split, predictions_folder
from common.overlays import write_overlays
from common.splits import read_split, relative_cell, write_split
from common.video import VideoWriter, video_info


def _picture(value: int) -> np.ndarray:
    return np.full((24, 32, 3), value, dtype=np.uint8)


def test_a_picture_is_a_sequence_of_one(tmp_path: Path) -> None:
    write_image(tmp_path / "cat.png", _picture(7))
    split = input_split(tmp_path / "cat.png", tmp_path / "out")
    assert len(split) == 1
    assert int(read_image(split.path(0, "Image")).max()) == 7


@pytest.mark.parametrize(("clip", "sequences"), [(False, 3), (True, 1)])
def test_a_folder_is_pictures_or_a_clip(tmp_path: Path, clip: bool, sequences: int) -> None:
    for number in range(3):
        write_image(tmp_path / "in" / f"{number}.png", _picture(number))
    split = input_split(tmp_path / "in", tmp_path / "deep" / "out", clip=clip)
    assert len(split.sequences()) == sequences
    assert [int(read_image(split.path(row, "Image")).max()) for row in range(3)] == [0, 1, 2]


def test_the_frames_of_a_video_are_extracted(tmp_path: Path) -> None:
    with VideoWriter(tmp_path / "clip.mp4", 10.0) as video:
        for number in range(4):
            video.write(_picture(40 * number))
    split = input_split(tmp_path / "clip.mp4", tmp_path / "out")
    assert list(split.sequences()) == ["clip"]
    assert len(split) == 4
    assert abs(int(read_image(split.path(3, "Image")).mean()) - 120) < 6


def test_a_split_is_read_where_it_lies(tmp_path: Path) -> None:
    write_image(tmp_path / "a.png", _picture(1))
    write_split(tmp_path / "x.csv", [{"Sequence": "a", "Sequence_Index": 0, "Image": "a.png"}])
    assert input_split(tmp_path / "x.csv", tmp_path / "out").path(0, "Image").exists()
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", ["missing.mp4", "notes.txt"])
def test_other_inputs_are_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / "notes.txt").write_text("x")
    with pytest.raises(InputError, match=name):
        input_split(tmp_path / name, tmp_path / "out")


def test_overlays_are_a_video_per_clip_and_a_picture_per_image(tmp_path: Path) -> None:
    rows = []
    for sequence, length in (("clip", 3), ("single", 1)):
        for index in range(length):
            image, pred = (tmp_path / f"{sequence}{index}{end}.png" for end in ("", "_pred"))
            write_image(image, _picture(100))
            write_labels(pred, np.eye(24, 32, dtype=np.uint8))
            cells = {"Image": relative_cell(image, tmp_path), "Pred": relative_cell(pred, tmp_path)}
            rows.append({"Sequence": sequence, "Sequence_Index": index, **cells})
    split = read_split(write_split(tmp_path / "p.csv", rows).file, base_dir=tmp_path)
    written = write_overlays(split, tmp_path / "overlays")
    assert [path.name for path in written] == ["clip.mp4", "single.jpg"]
    assert video_info(written[0]).num_frames == 3
    assert (read_image(written[1]) != 100).any()


def test_each_input_has_a_folder_of_its_own(tmp_path):
    (tmp_path / "run" / "my.photos").mkdir(parents=True)
    run = tmp_path / "run"
    (run / "last.ckpt").touch()
    assert predictions_folder(run, None) == predictions_folder(run, Path("mine_test.csv")) == run / "predictions"
    assert predictions_folder(run / "last.ckpt", Path("in/clip.mp4")) == run / "predictions_clip"
    assert predictions_folder(run, run / "my.photos") == run / "predictions_my.photos"
