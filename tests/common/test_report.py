"""The report: everything embedded, text escaped, missing files left out."""

import json
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from common.errors import InputError
from common.files import write_image
from common.report import ReportOptions, build_report, main, run
from common.report_layers import MOST_SEGMENTS, Layered, embed_layered
from common.report_pictures import data_uri

EVIL = "<script>alert('x')</script>"


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    folder = tmp_path / "my_run"
    folder.mkdir()
    scores = [
        {"name": "j_mean", "value": 0.73214, "protocol": {"matching": "none", "oracle": False}, "n": 20},
        {"name": EVIL, "value": 0.9, "protocol": {"matching": "hungarian", "oracle": True}, "n": 20},
    ]
    (folder / "scores.json").write_text(json.dumps(scores))
    lines = ["epoch,step,train/loss,val/loss,val/j_mean"]
    lines += [
        f"{k // 10},{k},{1 / (k + 1)},{'' if k % 10 else 2 / (k + 1)},{'' if k % 10 else k / 100}" for k in range(100)
    ]
    (folder / "metrics.csv").write_text("\n".join(lines))
    (folder / "provenance.json").write_text(json.dumps({"git": "abc", "versions": {"torch": "2.14"}, "evil": EVIL}))
    (folder / "config.yaml").write_text(f"lr: 0.1\nname: {EVIL}\n")
    (folder / "per_sequence.csv").write_text(f"Sequence,j_mean\ndog,0.5\n{EVIL},0.25\n")
    rng = np.random.default_rng(0)
    frames = ["Sequence,Sequence_Index,j"]
    for k in range(9):
        write_image(folder / f"samples/step_{k}.png", rng.integers(0, 255, (60, 80, 3)).astype(np.uint8))
        write_image(folder / f"overlays/007/{k:05d}.png", np.full((20, 30, 3), 20 * k, np.uint8))
        frames.append(f"007,{k},{(k * 4 % 9) / 10}")
    (folder / "per_frame.csv").write_text("\n".join(frames))
    return folder


class Page(HTMLParser):
    """Collects what a browser would load, the text outside scripts, and the tags."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.loads: list[str] = []
        self.text: list[str] = []
        self.alts: list[str] = []
        self.scripts: list[str] = []
        self.inside = ""
        self.feed(text)

    def handle_starttag(self, tag, attrs) -> None:
        values = dict(attrs)
        self.inside = tag
        self.loads += [value for key, value in values.items() if key in ("src", "href", "srcset", "action", "poster")]
        if tag == "img" and values.get("src"):
            self.alts.append(values["alt"])

    def handle_endtag(self, tag) -> None:
        self.inside = ""

    def handle_data(self, data) -> None:
        (self.scripts if self.inside in ("script", "style") else self.text).append(data)


def test_report_holds_everything(run_dir: Path) -> None:
    path = build_report(run_dir)
    assert path == run_dir / "report.html"
    page = Page(path.read_text(encoding="utf-8"))
    assert all(link.startswith(("data:image/webp;base64,", "#")) for link in page.loads)
    assert sum(link.startswith("data:") for link in page.loads) == 18  # 9 samples, 3 x 3 frames
    assert not any("@import" in script or "url(http" in script for script in page.scripts if len(script) < 100_000)
    text = " ".join(page.text)
    for expected in ("my_run", "j_mean", "0.7321", "hungarian", "oracle", "versions.torch", "lr: 0.1", "dog"):
        assert expected in text, expected
    assert page.alts[:9] == [f"step_{k}" for k in range(9)]
    (data,) = [script for script in page.scripts if script.startswith("[{")]
    charts = {chart["title"]: chart["lines"] for chart in json.loads(data)}
    assert [line["name"] for line in charts["loss"]] == ["train", "val"]
    assert charts["j_mean"][0]["x"] == list(range(0, 100, 10))
    assert charts["j_mean"][0]["y"] == [k / 100 for k in range(0, 100, 10)]


def test_report_escapes(run_dir: Path) -> None:
    text = build_report(run_dir, title=EVIL).read_text(encoding="utf-8")
    assert EVIL not in text
    assert text.count("&lt;script&gt;alert") == 6  # title twice, score, provenance, config, sequence


def test_frames_are_ordered_by_score(run_dir: Path) -> None:
    page = Page(build_report(run_dir).read_text(encoding="utf-8"))
    scores = [float(caption.split(", j ")[1]) for caption in page.alts[9:]]
    assert scores == [k / 10 for k in range(9)]
    assert all(caption.startswith("007 ") for caption in page.alts[9:])


def test_empty_run_has_no_script_library(tmp_path: Path) -> None:
    text = build_report(tmp_path).read_text(encoding="utf-8")
    assert "recorded nothing yet" in text
    assert len(text) < 30_000


def test_many_pictures_stay_small(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 255, (150, 600, 3)).astype(np.uint8)  # the worst case for compression
    for k in range(210):
        write_image(tmp_path / f"samples/{k}.png", noise)
    (tmp_path / "metrics.csv").write_text("step,loss\n0,1\n1,0.5\n")
    path = build_report(tmp_path, max_pictures=200)
    page = Page(path.read_text(encoding="utf-8"))
    assert sum(link.startswith("data:") for link in page.loads) == 200
    assert {"0", "209"} <= set(page.alts)
    assert path.stat().st_size < 10_000_000


def test_run_writes_where_told(run_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(ReportOptions(run_dir=run_dir, out=tmp_path / "there" / "page.html")) == 0
    assert "page.html" in capsys.readouterr().out
    assert [path.name for path in (tmp_path / "there").iterdir()] == ["page.html"]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("scores.json", "{", "scores.json: not readable as JSON"),
        ("scores.json", "{}", "expected a list"),
        ("scores.json", '[{"value": 1}]', "needs a name"),
        ("scores.json", '[{"name": "x", "value": 1, "interval": {"low": 0}}]', "an interval is"),
        ("restarts.json", "[3]", "restarts.json: expected a list of objects"),
        ("metrics.csv", 'a,b\n"1,2\n', "metrics.csv: not readable as CSV"),
    ],
)
def test_bad_files(tmp_path: Path, name: str, content: str, message: str) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(InputError, match=message):
        build_report(tmp_path)


def test_missing_folder(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such run directory"):
        build_report(tmp_path / "nothing")


def test_small_pictures_are_enlarged_by_whole_pixels() -> None:
    import base64
    import io

    from PIL import Image

    uri = data_uri(np.zeros((8, 16, 3), np.uint8), 100_000)
    picture = Image.open(io.BytesIO(base64.b64decode(uri.split(",")[1])))
    assert picture.size == (160, 80)


def test_command(run_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(run_dir), "--title", "A title"]) == 0
    assert "<h1>A title</h1>" in (run_dir / "report.html").read_text(encoding="utf-8")
    assert main([str(tmp_path / "nothing")]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_layers_stay_small_and_keep_their_labels() -> None:
    import base64
    import io

    from PIL import Image

    rng = np.random.default_rng(0)
    image = rng.integers(0, 255, (270, 480, 3)).astype(np.uint8)
    layers = {"prediction": rng.integers(0, 40, (270, 480)), "ground truth": rng.integers(0, 2, (135, 240))}
    groups = embed_layered({"Worst": [Layered("a", image, layers)] * 12, "Best": []}, 12 * 25_000)
    (group,) = groups
    assert len(group["pictures"]) == 12
    assert len(json.dumps(groups)) < 12 * 26_500  # the worst case for compression, captions and names included
    clear = np.zeros((270, 480), np.int64)
    clear[100:200, 50:300], clear[10:50] = 7, 300
    (one,) = embed_layered({"Best": [Layered("b", image, {"prediction": clear}, right="prediction")]}, 500_000)[0][
        "pictures"
    ]
    places = np.asarray(Image.open(io.BytesIO(base64.b64decode(one["layers"]["prediction"].split(",")[1]))))
    assert places.shape == clear.shape
    names = np.array([int(segment["name"]) for segment in one["segments"]])
    assert (names[places] == clear).all()
    assert [segment["shown"] for segment in one["segments"]] == [False, True, True]


def test_many_segments_share_a_switch() -> None:
    labels = np.repeat(np.arange(20), 20 - np.arange(20))[None]
    image = np.zeros((1, labels.shape[1], 3), np.uint8)
    (one,) = embed_layered({"x": [Layered("a", image, {"prediction": labels})]}, 10_000)[0]["pictures"]
    assert len(one["segments"]) == MOST_SEGMENTS + 1
    assert one["segments"][-1]["name"] == "others"


def test_restarts_are_listed(run_dir: Path) -> None:
    rows = [{"attempt": 0, "iteration": 600, "action": "restart"}, {"attempt": 1, "reason": EVIL, "action": "stop"}]
    (run_dir / "restarts.json").write_text(json.dumps(rows))
    text = build_report(run_dir).read_text(encoding="utf-8")
    assert EVIL not in text
    for expected in ("Restarts and collapses", "600", "restart", "stop"):
        assert expected in Page(text).text or expected in " ".join(Page(text).text), expected
