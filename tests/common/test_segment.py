"""One command for one's own files: a video, a folder and a picture through every method, to masks and a report."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from common.errors import InputError
from common.files import read_image, read_labels, write_image, write_labels
from common.report import build_report
from common.segment import RECIPES, SegmentOptions, main, prepare, segment
from common.splits import read_split
from common.video import VideoWriter
from tests.contract.subjects import DEEPLAB, DINO, REDO, SEGMENTER, Subject

SIZE = (40, 56)


def pictures(folder: Path, num: int = 6) -> Path:
    """A folder of frames: a bright square walks over a shaded ground."""
    for number in range(num):
        ground = np.linspace(40, 120, SIZE[1])[None, :, None] + np.zeros((*SIZE, 3))
        ground[12:24, 4 + 5 * number : 18 + 5 * number] = (230, 80, 30)
        write_image(folder / f"{number:05d}.png", ground.astype(np.uint8))
    return folder


def run(*arguments: str | Path, folder: Path) -> None:
    """The command as a user types it, in a folder of the user's."""
    python(Path(__file__).resolve().parents[2] / "common" / "segment.py", *arguments, folder=folder)


def python(*arguments: str | Path, folder: Path) -> None:
    """A script of the project."""
    command = [sys.executable, *map(str, arguments)]
    ended = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=300, check=False)
    assert ended.returncode == 0, ended.stderr[-2000:] + ended.stdout[-2000:]


def check_results(out: Path, num_frames: int) -> None:
    """Every frame has a mask of its size and an overlay, and the report holds pictures."""
    split = read_split(out / "masks.csv", base_dir=out)
    assert len(split) == num_frames
    found = np.flatnonzero(split.available("Pred"))
    assert len(found) >= num_frames - 1  # optical flow ends one frame early
    assert {read_labels(split.path(int(row), "Pred")).shape for row in found} == {SIZE}
    assert {path.stem for path in (out / "overlays").iterdir()} == {str(name) for name in split.sequences()}
    assert "data:image" in (out / "report.html").read_text(encoding="utf-8")


TINY = {
    "stflow": ("--max_epochs", "1", "--img_size", "16", "24", "--unet.num_layers", "2", "--flow", "dis"),
    "ast": (
        *("--image_height", "48", "--image_width", "64", "--background.n_iterations", "4"),
        *("--objects_height", "48", "--objects_width", "64", "--loss.number_of_training_steps", "4"),
        *("--loss.warmup", "1", "--loss.startup_steps", "2", "--loss.pixel_entropy_loss_full_activation_step", "2"),
    ),
    "wnet": ("--max_steps", "2", "--image_size", "32", "--predict_size", "32", "--starts", "1"),
}


@pytest.mark.slow
@pytest.mark.parametrize("method", TINY)
def test_a_video_is_trained_on_and_its_run_segments_a_folder(method: str, tmp_path: Path) -> None:
    frames = pictures(tmp_path / "walk", num=8)
    with VideoWriter(tmp_path / "walk.mp4", 8) as video:
        for file in sorted(frames.iterdir()):
            video.write(read_image(file))
    run("walk.mp4", "--method", method, "--", *TINY[method], folder=tmp_path)
    out = tmp_path / "runs" / "segment" / f"{method}-walk"
    check_results(out, 8)
    before = {path: path.stat().st_mtime_ns for path in (out / "checkpoints").iterdir()}
    run("walk.mp4", "--method", method, "--", *TINY[method], folder=tmp_path)
    assert {path: path.stat().st_mtime_ns for path in (out / "checkpoints").iterdir()} == before  # nothing again
    run(frames, "--method", method, "--ckpt", out, "--out", "applied", folder=tmp_path)
    check_results(tmp_path / "applied", 8)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("method", "subject"),
    [("segmenter", SEGMENTER), ("dino", DINO), ("redo", REDO), ("maskdistill", DEEPLAB)],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_checkpoint_segments_photos(method: str, subject: Subject, tmp_path: Path) -> None:
    data = subject.make_data(tmp_path / "data")
    trained = tmp_path / "trained"
    python(subject.script, *subject.options, *data, subject.batch_flag, "4", "--out", trained, folder=tmp_path)
    run(pictures(tmp_path / "photos"), "--method", method, "--ckpt", trained, "--out", "found", folder=tmp_path)
    check_results(tmp_path / "found", 6)


@pytest.mark.parametrize(
    ("named", "method", "complaint"),
    [
        ("photos/00000.png", "stflow", "needs the frames of a clip"),
        ("photos/00000.png", "ast", "needs the frames of a clip"),
        ("two", "stflow", "needs the frames of a clip"),
        ("photos", "redo", "give --ckpt"),
        ("photos", "maskdistill", "give --ckpt"),
        ("photos", "dino", "give --ckpt"),
        ("photos", "segmenter", "give --ckpt"),
        ("nowhere", "wnet", "no such picture, folder, video or split"),
    ],
)
def test_what_does_not_suit_a_method_is_refused(named: str, method: str, complaint: str, tmp_path: Path) -> None:
    pictures(tmp_path / "photos")
    pictures(tmp_path / "two", num=2)
    with pytest.raises(InputError, match=complaint):
        segment(SegmentOptions(input=tmp_path / named, method=method, out=tmp_path / "out"))  # type: ignore[arg-type]


def test_a_checkpoint_must_exist(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such run directory or checkpoint"):
        segment(SegmentOptions(input=pictures(tmp_path / "p"), method="redo", ckpt=tmp_path / "x", out=tmp_path / "o"))


def test_a_mistake_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(tmp_path / "no.mp4"), "--method", "stflow", "--out", str(tmp_path / "out")]) == 2
    assert capsys.readouterr().err.count("\n") == 1
    assert main([str(tmp_path / "no.mp4"), "--method", "unet"]) == 2
    assert "stflow" in capsys.readouterr().err


def test_training_and_prediction_name_the_same_frames(tmp_path: Path) -> None:
    options = SegmentOptions(input=pictures(tmp_path / "photos"), method="wnet", out=tmp_path / "out")
    task = prepare(options, needs_clip=False)
    assert [read_split(task.split.file.with_name(f"own_{step}.csv")).hash() for step in ("train", "val")] == [
        task.split.hash()
    ] * 2
    assert len(task.split.sequences()) == 6  # photos stand alone
    assert len(prepare(options, needs_clip=True).split.sequences()) == 1
    assert set(RECIPES) == set(SegmentOptions.__annotations__["method"].__args__)


def test_frames_without_scores_are_shown(tmp_path: Path) -> None:
    picture = np.full((20, 30, 3), 90, np.uint8)
    write_image(tmp_path / "layers" / "clip" / "00000.jpg", picture)
    write_labels(tmp_path / "layers" / "clip" / "00000.prediction.png", np.arange(600).reshape(20, 30) // 300)
    assert "clip 00000" in build_report(tmp_path).read_text(encoding="utf-8")
