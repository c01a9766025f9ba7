"""DINO on clips: labels carried from the first frame, attention of a video, GIFs."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from common.errors import InputError
from common.files import read_labels, write_image, write_labels
from common.metrics.protocol import read_scores
from common.splits import Split, read_split, write_split
from common.video import VideoWriter, video_frames, video_info
from tests.transformer_seg.formula import filled
from transformer_seg.dino.arch import Architecture, freeze
from transformer_seg.dino.attention_video import open_clip, run_video, same_size, watch, with_limits
from transformer_seg.dino.checkpoints import import_backbone
from transformer_seg.dino.davis import carry, check_davis_options, davis_scores, davis_split, score_clip
from transformer_seg.dino.gif import GifWriter
from transformer_seg.dino.options import DavisOptions, VideoOptions

ROOT = Path(__file__).resolve().parents[2]
T, H, W = 10, 192, 256


def moving_objects() -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Frames and labels of a disc (1) and a checkered square (2) that move over a noisy textured ground."""
    generator = np.random.default_rng(0)
    y, x = np.mgrid[:H, :W]
    ground = 110 + 20 * np.sin(x / 9.0) * np.cos(y / 7.0)
    frames, labels = [], []
    for t in range(T):
        image = np.stack([ground, ground * 0.8, 160 - ground * 0.5], axis=-1)
        label = np.zeros((H, W), np.uint8)
        label[(y - 60) ** 2 + (x - (60 + 8 * t)) ** 2 <= 40**2] = 1
        top, left = 120, 190 - 6 * t
        square = (y >= top) & (y < top + 64) & (x >= left) & (x < left + 64)
        label[square] = 2
        image[label == 1] = (220, 60, 50)
        checks = ((y - top) // 16 + (x - left) // 16) % 2 == 0
        image[square & checks] = (40, 200, 60)
        image[square & ~checks] = (230, 230, 90)
        image = image + generator.normal(0, 4, image.shape)
        frames.append(np.clip(image, 0, 255).astype(np.uint8))
        labels.append(label)
    return frames, labels


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Split:
    folder = tmp_path_factory.mktemp("clip")
    rows = []
    for t, (frame, label) in enumerate(zip(*moving_objects(), strict=True)):
        write_image(folder / f"frames/{t:05d}.png", frame)
        write_labels(folder / f"labels/{t:05d}.png", label)
        row = {"Sequence": "clip", "Sequence_Index": t, "Image": f"frames/{t:05d}.png", "GtMask": f"labels/{t:05d}.png"}
        rows.append(row)
    write_split(folder / "clip_val.csv", rows)
    return read_split(folder / "clip_val.csv", base_dir=folder)


def test_formula_weights_carry_labels_as_far_as_the_published_code(clip: Split, tmp_path: Path) -> None:
    blank = Architecture("vit_tiny", 8, width=96, depth=2, heads=3).build()
    backbone = freeze(import_backbone(filled(blank, "formula"), heads=3))
    options = DavisOptions(n_last_frames=4, size_mask_neighborhood=6, short_side=192)
    rows = list(range(T))
    files = [tmp_path / f"{t:05d}.png" for t in rows]
    carry(clip, rows, files, backbone, torch.device("cpu"), options)
    found = score_clip("clip", clip, rows, files, options)
    scores = {score.name: score for score in davis_scores(found, options)}
    assert [one.name for one in found] == ["clip/1", "clip/2"]
    assert all(len(one.j) == T - 2 for one in found)
    assert scores["jf_mean_carried"].value >= 0.89
    assert scores["j_mean_carried"].value == pytest.approx(np.mean([one.j.mean() for one in found]))


def command(script: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    line = [sys.executable, str(ROOT / "transformer_seg" / script), *map(str, arguments)]
    return subprocess.run(line, capture_output=True, text=True, timeout=120)


def test_eval_video_writes_indexed_pngs_of_a_split(clip: Split, tmp_path: Path) -> None:
    sizes = ["--random_weights", "--arch", "vit_tiny", "--patch_size", "16", "--short_side", "96"]
    done = command(
        "eval_video.py", "--data_file", clip.file, "--base_dir", clip.base_dir, *sizes, "--out", tmp_path / "out"
    )
    assert done.returncode == 0, done.stderr
    written = read_split(tmp_path / "out" / "clip_val.csv", base_dir=clip.base_dir)
    first = written.path(0, "Pred")
    assert Image.open(first).mode == "P"
    np.testing.assert_array_equal(read_labels(first), read_labels(clip.path(0, "GtMask")))
    assert set(np.unique(read_labels(written.path(5, "Pred")))) <= {0, 1, 2}
    scores = {score.name: score for score in read_scores(tmp_path / "out" / "scores.json")}
    assert set(scores["jf_mean_carried"].per_item) == {"clip/1", "clip/2"}
    assert "torch" in scores["jf_mean_carried"].protocol.notes


def test_a_clip_without_labels_in_its_first_frame_is_refused(clip: Split, tmp_path: Path) -> None:
    table = clip.frame
    table.loc[0, "GtMask"] = ""
    write_split(tmp_path / "clip_val.csv", table)
    options = DavisOptions(data_file=tmp_path / "clip_val.csv", base_dir=clip.base_dir)
    with pytest.raises(InputError, match="clip clip has no GtMask in its first frame"):
        davis_split(options)


def test_a_copy_of_davis_gives_the_clips_of_2017(tmp_path: Path) -> None:
    """The copy lists other clips for 2016 too."""
    for name in ("bear", "bike", "camel"):
        write_image(tmp_path / "JPEGImages" / "480p" / name / "00000.jpg", np.full((32, 48, 3), 90, np.uint8))
        write_labels(tmp_path / "Annotations" / "480p" / name / "00000.png", np.ones((32, 48), np.uint8))
    for year, names in (("2016", "bear\n"), ("2017", "camel\nbike\n")):
        (tmp_path / "ImageSets" / year).mkdir(parents=True)
        (tmp_path / "ImageSets" / year / "val.txt").write_text(names)
    assert list(davis_split(DavisOptions(data_path=tmp_path)).sequences()) == ["camel", "bike"]
    assert list(davis_split(DavisOptions(data_path=tmp_path, sequences=["bear"])).sequences()) == ["bear"]
    with pytest.raises(InputError, match="no such clip; there are: bear, bike, camel"):
        davis_split(DavisOptions(data_path=tmp_path, sequences=["dog"]))
    with pytest.raises(InputError, match="no JPEGImages in this folder"):
        davis_split(DavisOptions(data_path=tmp_path / "JPEGImages"))


@pytest.mark.parametrize(
    ("options", "part"),
    [
        (DavisOptions(), "give either --data_path DAVIS"),
        (DavisOptions(data_path=Path("d"), short_side=8), "--short_side 8: give at least"),
        (DavisOptions(data_path=Path("d"), topk=0), "--topk 0: give 1 or more"),
    ],
    ids=["no data", "short side", "topk"],
)
def test_options_that_cannot_work(options: DavisOptions, part: str) -> None:
    with pytest.raises(InputError) as refused:
        check_davis_options(options)
    assert part in str(refused.value)


@pytest.fixture(scope="module")
def movie(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("movie") / "movie.mp4"
    with VideoWriter(path, 10) as video:
        for frame in moving_objects()[0]:
            video.write(frame[:70, :101])  # no multiple of a patch
    return path


def test_video_command_writes_what_can_be_played(movie: Path, tmp_path: Path) -> None:
    sizes = ["--random_weights", "--arch", "vit_tiny", "--patch_size", "16"]
    more = ["--overlay", "--masks", "--keep_frames", "--fixed_range", "--output_path", tmp_path]
    done = command("video.py", movie, *sizes, *more)
    assert done.returncode == 0, done.stderr
    for name in ("video.mp4", "overlay.mp4"):
        info = video_info(tmp_path / name)
        assert (info.num_frames, info.height, info.width, info.fps) == (T, 70, 102, 10)
    with Image.open(tmp_path / "attention.gif") as gif:
        assert (gif.n_frames, gif.size) == (T, (102, 70))
    mask = read_labels(tmp_path / "masks" / "mask-frame-0009.png")
    assert mask.shape == (70, 102)
    assert set(np.unique(mask)) == {0, 255}
    assert len(list((tmp_path / "frames").glob("frame-*.jpg"))) == T
    run_video(VideoOptions(input_path=tmp_path / "attention", video_only=True, fps=5, output_path=tmp_path / "two"))
    assert video_info(tmp_path / "two" / "video.mp4").fps == 5


def test_video_is_read_no_further_than_a_batch_ahead() -> None:
    taken = 0

    def frames() -> Iterator[np.ndarray]:
        nonlocal taken
        for frame in moving_objects()[0]:
            taken += 1
            yield frame[:32, :48]

    backbone = freeze(Architecture("vit_tiny", 16, width=16, depth=1, heads=1).build())
    options = VideoOptions(input_path=Path("x.mp4"), batch_size=3)
    seen = watch(frames(), backbone, torch.device("cpu"), options)
    for number, one in enumerate(with_limits(seen, 0)):
        assert one[0].mean.shape == (2, 3)
        assert taken <= 3 * (number // 3 + 1)
    assert number == T - 1


def test_the_first_frames_give_the_limits_of_all() -> None:
    backbone = freeze(Architecture("vit_tiny", 16, width=16, depth=1, heads=1).build())
    options = VideoOptions(input_path=Path("x.mp4"), batch_size=4)
    every = list(watch(iter(moving_objects()[0]), backbone, torch.device("cpu"), options))
    limits = [limit for _, limit in with_limits(every, 3)]
    values = np.stack([one.mean for one in every[:3]])
    assert limits == [(float(values.min()), float(np.quantile(values, 0.99)))] * T


def test_frames_of_two_sizes_are_refused() -> None:
    frames = [np.zeros((8, 8, 3), np.uint8), np.zeros((8, 9, 3), np.uint8)]
    with pytest.raises(InputError, match="frame 1 has 8 x 9 pixels, the first one 8 x 8"):
        list(same_size(frames, Path("clip")))


def test_folder_is_read_in_natural_order(tmp_path: Path) -> None:
    for number in (2, 10, 1):
        write_image(tmp_path / f"frame-{number}.png", np.full((4, 4, 3), number, np.uint8))
    assert [int(frame[0, 0, 0]) for frame in open_clip(tmp_path).frames()] == [1, 2, 10]
    with pytest.raises(InputError, match="no picture attn-"):
        open_clip(tmp_path, "attn-")


def test_gif_keeps_frames_and_colours(tmp_path: Path) -> None:
    colours = [(200, 10, 10), (10, 200, 10), (10, 10, 200)]
    with GifWriter(tmp_path / "out.gif", fps=20) as gif:
        for colour in colours:
            frame = np.zeros((6, 9, 3), np.uint8)
            frame[:, 4:] = colour
            gif.write(frame)
    with Image.open(tmp_path / "out.gif") as image:
        assert (image.n_frames, image.size, image.info["duration"], image.info["loop"]) == (3, (9, 6), 50, 0)
        for number, colour in enumerate(colours):
            image.seek(number)
            shown = np.asarray(image.convert("RGB")).astype(int)
            assert np.abs(shown[:, 5:] - colour).max() <= 4
            assert shown[:, :4].max() <= 4


def test_gif_that_fails_leaves_nothing(tmp_path: Path) -> None:
    def write(*sides: int) -> None:
        with GifWriter(tmp_path / "out.gif") as gif:
            for side in sides:
                gif.write(np.zeros((side, side, 3), np.uint8))

    with pytest.raises(ValueError, match="the first one had"):
        write(4, 5)
    assert list(tmp_path.iterdir()) == []


def test_video_frames_of_the_attention_differ(movie: Path, tmp_path: Path) -> None:
    """The pictures follow the input: a still would pass every other check."""
    run_video(
        VideoOptions(
            input_path=movie, random_weights=True, arch="vit_tiny", resize=[64], gif=False, output_path=tmp_path
        )
    )
    frames = list(video_frames(tmp_path / "video.mp4"))
    assert np.abs(frames[0].astype(int) - frames[-1]).mean() > 5
