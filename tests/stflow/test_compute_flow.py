"""Flow estimation: against exact flow, against real frames, and the command's resuming, inputs and errors."""

import urllib.error
from pathlib import Path

import cv2
import numpy as np
import pytest

from common import synthetic
from common.errors import InputError
from common.files import read_image, write_image
from common.flow_files import read_flow
from common.splits import read_split
from common.video import VideoWriter
from stflow.compute_flow import ComputeFlowOptions, main, run
from stflow.flow_estimation import RAFT_FILE, dis_estimator, raft_estimator
from tests.golden import need_data

TEXTURE = np.random.default_rng(0).integers(0, 255, (24, 32, 3)).astype(np.uint8)


def frame(shift: int) -> np.ndarray:
    """A smooth random picture, (48, 64, 3), moved to the right by ``shift`` pixels."""
    large = cv2.resize(TEXTURE, (128, 96), interpolation=cv2.INTER_CUBIC)
    return np.ascontiguousarray(large[20:68, 40 - shift : 104 - shift])


@pytest.fixture
def clip_folder(tmp_path: Path) -> Path:
    for sequence in ("a", "b"):
        for k in range(3):
            write_image(tmp_path / "frames" / sequence / f"{k:05d}.png", frame(2 * k))
    return tmp_path / "frames"


def end_point_error(flow: np.ndarray, expected: np.ndarray) -> np.ndarray:
    return np.hypot(*(flow - expected))


def test_dis_against_exact_flow() -> None:
    """Measured over 32 pairs of 8 clips: mean 0.24 px, worst clip 0.36 px; no flow at all gives 1.48 px."""
    estimate = dis_estimator("medium")
    errors, still = [], []
    for seed in range(4):
        clip = synthetic.moving_clip(seed, num_frames=3)
        for k in range(2):
            flow = estimate(clip.frames[k], clip.frames[k + 1])
            assert flow.dtype == np.float32
            errors.append(end_point_error(flow, clip.flow[k]).mean())
            still.append(np.hypot(*clip.flow[k]).mean())
    assert np.mean(errors) < 0.35
    assert max(errors) < 0.6
    assert np.mean(errors) < 0.3 * np.mean(still)


def test_presets_trade_speed_for_quality() -> None:
    clip = synthetic.moving_clip(0, num_frames=2)
    errors = [
        end_point_error(dis_estimator(preset)(*clip.frames), clip.flow[0]).mean()
        for preset in ("ultrafast", "fast", "medium")
    ]
    assert errors[2] < errors[1]
    assert errors[2] < errors[0]


def test_the_smooth_preset_is_smoother_and_still_right() -> None:
    clip = synthetic.moving_clip(0, num_frames=2)
    flows = {name: dis_estimator(name)(*clip.frames) for name in ("medium", "smooth")}
    rough = {name: np.abs(np.diff(flow, 2, axis=1)).mean() for name, flow in flows.items()}
    assert rough["smooth"] < 0.7 * rough["medium"]
    assert end_point_error(flows["smooth"], clip.flow[0]).mean() < 0.6


@pytest.mark.parametrize("sequence", ["blackswan", "dog", "car-roundabout"])
def test_real_frames_are_explained_by_the_flow(sequence: str) -> None:
    folder = need_data("davis", "DAVIS", "JPEGImages", "480p", sequence)
    first, second = (read_image(folder / f"{k:05d}.jpg") for k in (10, 11))
    flow = dis_estimator("medium")(first, second)
    grid = np.stack(np.meshgrid(np.arange(flow.shape[2]), np.arange(flow.shape[1]))).astype(np.float32)

    def difference(sign: float) -> float:
        x, y = grid + np.float32(sign) * flow
        fetched = cv2.remap(second, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
        return float(np.abs(fetched.astype(float) - first).mean())

    assert difference(1) < 0.6 * difference(0)
    assert difference(-1) > difference(0)


def test_dis_against_provided_flow() -> None:
    """Measured mean distance to the three network estimates: 1.18, 1.06, 0.98 px (median 0.2) at 5.7 to 6.8 px flow."""
    frames = need_data("davis", "DAVIS", "JPEGImages", "480p", "blackswan")
    flows = need_data("davis", "DAVIS", "OpticalFlow", "480p", "blackswan")
    for k in range(3):
        pair = [read_image(frames / f"{index:05d}.jpg") for index in (k, k + 1)]
        error = end_point_error(dis_estimator("medium")(*pair), read_flow(flows / f"{k:05d}.flo"))
        assert error.mean() < 1.5
        assert np.median(error) < 0.3


def test_folder_gets_flow_and_a_split(clip_folder: Path) -> None:
    assert run(ComputeFlowOptions(input=clip_folder)) == 0
    split = read_split(clip_folder / "frames_test.csv", base_dir=clip_folder)
    assert split.column("Sequence").tolist() == ["a"] * 3 + ["b"] * 3
    assert split.column("Image").tolist()[:2] == ["a/00000.png", "a/00001.png"]
    flows = ["OpticalFlow_dis/a/00000.flo", "OpticalFlow_dis/a/00001.flo", ""]
    assert split.column("Flow").tolist()[:3] == flows
    flow = read_flow(split.path(0, "Flow"))
    assert flow.shape == (2, 48, 64)
    assert np.median(flow[0]) == pytest.approx(2, abs=0.1)  # forward: the picture moves right by 2
    assert np.median(flow[1]) == pytest.approx(0, abs=0.1)


def test_resumes_and_redoes_truncated_files(clip_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ComputeFlowOptions(input=clip_folder)
    run(options)
    folder = clip_folder / "OpticalFlow_dis"
    whole = {path: path.read_bytes() for path in sorted(folder.rglob("*.flo"))}
    assert len(whole) == 4
    kept, cut, wrong, absent = whole
    kept_time = kept.stat().st_mtime_ns
    cut.write_bytes(whole[cut][:-100])
    wrong.write_bytes(b"not a flow file at all")
    absent.unlink()
    capsys.readouterr()
    run(options)
    assert "3 flow fields estimated, 1 kept" in capsys.readouterr().out
    assert kept.stat().st_mtime_ns == kept_time
    assert {path: path.read_bytes() for path in whole} == whole
    assert sum(path.is_file() for path in folder.rglob("*")) == 4  # no temporary file is left


def test_flow_of_another_size_is_redone(clip_folder: Path) -> None:
    options = ComputeFlowOptions(input=clip_folder / "a", num_workers=0)
    run(options)
    for k in range(3):
        write_image(clip_folder / "a" / f"{k:05d}.png", frame(2 * k)[:40])
    run(options)
    assert read_flow(clip_folder / "a" / "OpticalFlow_dis" / "a" / "00000.flo").shape == (2, 40, 64)


def test_split_gets_its_flow_column(clip_folder: Path, tmp_path: Path) -> None:
    split = clip_folder / "mine_val.csv"
    split.write_text(
        "Sequence,Sequence_Index,Image,GtMask\n"
        "a,7,a/00001.png,m1.png\na,6,a/00000.png,m0.png\na,9,a/00002.png,m2.png\nb,0,b/00000.png,m3.png\n"
    )
    run(ComputeFlowOptions(input=split, base_dir=clip_folder, out=tmp_path / "flow"))
    written = read_split(split, base_dir=clip_folder)
    # only 6 -> 7 follow each other; the order of rows and the other columns stay
    assert written.column("Flow").tolist() == ["", "../flow/a/00000.flo", "", ""]
    assert written.column("GtMask").tolist() == ["m1.png", "m0.png", "m2.png", "m3.png"]
    assert written.path(1, "Flow").is_file()


def test_video(tmp_path: Path) -> None:
    with VideoWriter(tmp_path / "film.mp4") as video:
        for k in range(3):
            video.write(frame(2 * k))
    run(ComputeFlowOptions(input=tmp_path / "film.mp4"))
    split = read_split(tmp_path / "film_frames" / "film_test.csv", base_dir=tmp_path / "film_frames")
    assert len(split) == 3
    assert read_image(split.path(2, "Image")).shape == (48, 64, 3)
    assert np.median(read_flow(split.path(1, "Flow"))[0]) == pytest.approx(2, abs=0.2)


def test_processes_give_the_same_files(clip_folder: Path, tmp_path: Path) -> None:
    for num_workers, out in ((0, "alone"), (2, "pool")):
        split = tmp_path / f"{out}.csv"
        run(ComputeFlowOptions(input=clip_folder, out=tmp_path / out, num_workers=num_workers, out_split=split))
    alone = {path.relative_to(tmp_path / "alone"): path.read_bytes() for path in (tmp_path / "alone").rglob("*.flo")}
    pool = {path.relative_to(tmp_path / "pool"): path.read_bytes() for path in (tmp_path / "pool").rglob("*.flo")}
    assert len(alone) == 4
    assert alone == pool


@pytest.fixture(scope="module")
def raft_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Random weights of the right form: the network's arithmetic is torchvision's, ours is padding and loading."""
    import torch
    from torchvision.models.optical_flow import raft_large

    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("raft") / "raft.pth"
    torch.save(raft_large(weights=None).state_dict(), path)
    return path


def test_raft_pads_to_its_grid_and_crops_back(raft_file: Path) -> None:
    import torch
    from torchvision.models.optical_flow import raft_large

    estimate = raft_estimator(raft_file, iterations=1, device="cpu")
    rng = np.random.default_rng(0)
    first, second = rng.integers(0, 255, (2, 128, 136, 3)).astype(np.uint8)
    network = raft_large(weights=None).eval()
    network.load_state_dict(torch.load(raft_file, weights_only=True))
    pair = torch.from_numpy(np.stack([first, second])).permute(0, 3, 1, 2) / 255 * 2 - 1
    with torch.inference_mode():
        expected = network(pair[:1], pair[1:], num_flow_updates=1)[-1][0].numpy()
    np.testing.assert_allclose(estimate(first, second), expected, atol=1e-3 * np.abs(expected).max())
    # a replicated border put there by hand, 131 -> 136 columns: 2 before, 3 after
    narrow = [image[:, :131] for image in (first, second)]
    padded = [np.pad(image, ((0, 0), (2, 3), (0, 0)), mode="edge") for image in narrow]
    np.testing.assert_allclose(estimate(*narrow), estimate(*padded)[:, :, 2:133], atol=1e-4)
    assert estimate(first[:50, :33], second[:50, :33]).shape == (2, 50, 33)


def test_raft_command(clip_folder: Path, raft_file: Path) -> None:
    run(ComputeFlowOptions(input=clip_folder / "a", method="raft", weights=raft_file, iterations=1, device="cpu"))
    assert read_flow(clip_folder / "a" / "OpticalFlow_raft" / "a" / "00000.flo").shape == (2, 48, 64)


def test_raft_without_weights_and_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    def unreachable(*args: object, **kwargs: object) -> None:
        raise urllib.error.URLError("no network")

    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    monkeypatch.setattr(torch.hub, "download_url_to_file", unreachable)
    with pytest.raises(InputError) as caught:
        raft_estimator()
    assert RAFT_FILE in str(caught.value)
    assert str(tmp_path / "checkpoints") in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("content", "complaint"),
    [(b"", "not a readable PyTorch file"), (b"garbage", "not a checkpoint file"), (None, "not the weights")],
)
def test_raft_refuses_other_weights(tmp_path: Path, content: bytes | None, complaint: str) -> None:
    import torch

    path = tmp_path / "weights.pth"
    if content is None:
        torch.save({"layer.weight": torch.zeros(3)}, path)
    else:
        path.write_bytes(content)
    with pytest.raises(InputError, match=complaint) as caught:
        raft_estimator(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda folder: folder / "nowhere", "no such file or folder"),
        (lambda folder: folder, "no images"),
    ],
)
def test_bad_input(tmp_path: Path, make, message: str) -> None:
    with pytest.raises(InputError, match=message):
        run(ComputeFlowOptions(input=make(tmp_path)))


def test_single_frame_and_uneven_sizes(tmp_path: Path) -> None:
    write_image(tmp_path / "one" / "0.png", frame(0))
    with pytest.raises(InputError, match="at least 2"):
        run(ComputeFlowOptions(input=tmp_path / "one"))
    write_image(tmp_path / "one" / "1.png", frame(0)[:40])
    with pytest.raises(InputError, match="48x64 and 40x64"):
        run(ComputeFlowOptions(input=tmp_path / "one"))


def test_command(clip_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(clip_folder), "--preset", "fast"]) == 0
    assert "4 flow fields estimated" in capsys.readouterr().out
    assert main([str(clip_folder / "nowhere")]) == 2
    assert capsys.readouterr().err.endswith("no such file or folder\n")
