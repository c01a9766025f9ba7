"""Comparison: the same frames only, paired differences, who wins where, the page and the files."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from common.compare import Difference, compare, joint_split, main, sequence_table, win_lines
from common.compare_page import chosen_rows
from common.errors import InputError
from common.evaluate import ScoringOptions, evaluate
from common.files import write_image, write_labels
from common.metrics.protocol import Interval
from common.splits import Split, write_split
from tests.browser import Browser, need_chromium

LENGTHS = {"a": 4, "b": 4, "c": 4, "d": 4}


def disk(shift: int) -> np.ndarray:
    y, x = np.mgrid[:40, :60]
    return ((x - 25 - shift) ** 2 + (y - 20) ** 2 < 120).astype(np.uint8)


def write_result(folder: Path, shift_of: dict[str, int], name: str = "pred_val") -> Split:
    """Predictions that are off by so many pixels in each sequence (and one more every other frame)."""
    rows = []
    for sequence, number in LENGTHS.items():
        for t in range(number):
            cells = {kind: f"{kind}/{sequence}_{t}.png" for kind in ("Image", "GtMask", "Pred")}
            write_image(folder / cells["Image"], np.full((40, 60, 3), 60 + 10 * t, np.uint8))
            write_image(folder / cells["GtMask"], 255 * disk(0))
            write_labels(folder / cells["Pred"], disk(shift_of[sequence] + t % 2))
            rows.append({"Sequence": sequence, "Sequence_Index": t, **cells})
    return Split.from_rows(rows, folder, write_split(folder / f"{name}.csv", rows).file)


@pytest.fixture
def pair(tmp_path: Path) -> dict[str, Split]:
    return {
        "A": write_result(tmp_path / "A", dict.fromkeys(LENGTHS, 5)),
        "B": write_result(tmp_path / "B", {"a": 2, "b": 3, "c": 3, "d": 9}),
    }


def test_differences_are_those_of_the_scores(pair: dict[str, Split]) -> None:
    found = compare(pair, ScoringOptions())
    single = {name: {s.name: s.value for s in evaluate(split).scores} for name, split in pair.items()}
    assert {item.name for item in found.differences} == set(single["A"])
    for item in found.differences:
        assert item.value == pytest.approx(single["B"][item.name] - single["A"][item.name])
        assert item.interval is not None
        assert item.interval.unit == "sequence"


def test_pairing_makes_a_constant_gain_certain(tmp_path: Path) -> None:
    """Sequences differ much, the gain does not: each interval alone is wide, that of the difference is not."""
    hard = {"a": 1, "b": 6, "c": 11, "d": 16}
    pair = {
        "A": write_result(tmp_path / "A", {name: shift + 1 for name, shift in hard.items()}),
        "B": write_result(tmp_path / "B", hard),
    }
    found = compare(pair, ScoringOptions())
    change = next(item for item in found.differences if item.name == "j_mean_frame")
    alone = next(score for score in found.evaluations["A"].scores if score.name == "j_mean_frame").interval
    assert alone is not None
    assert change.interval is not None
    assert change.verdict == "better"
    assert change.interval.high - change.interval.low < 0.2 * (alone.high - alone.low)


def test_a_result_with_itself_is_equal(pair: dict[str, Split]) -> None:
    found = compare({"A": pair["A"], "same": pair["A"]}, ScoringOptions())
    assert {item.verdict for item in found.differences} == {"equal"}
    assert set(sequence_table(found)["best"]) == {"equal"}


@pytest.mark.parametrize(
    ("value", "low", "high", "lower", "verdict"),
    [
        (0.1, 0.02, 0.2, False, "better"),
        (0.1, 0.02, 0.2, True, "worse"),
        (-0.1, -0.2, -0.02, False, "worse"),
        (0.1, -0.02, 0.2, False, "not clear"),
    ],
)
def test_verdicts(value: float, low: float, high: float, lower: bool, verdict: str) -> None:
    assert Difference("x", "B", value, Interval(low, high, 0.95, "image", 9, 100, 0), lower).verdict == verdict


def test_only_frames_that_all_have(pair: dict[str, Split]) -> None:
    frame = pair["B"].frame
    frame.loc[1, "Pred"] = ""
    extra = frame.iloc[[5]].assign(Sequence_Index="77")
    b = Split.from_rows(pd.concat([frame.drop(index=[0]), extra]), pair["B"].base_dir)
    a_frame = pair["A"].frame
    a_frame.loc[2, "GtMask"] = ""
    a = Split.from_rows(a_frame, pair["A"].base_dir)
    joint, left_out = joint_split({"A": a, "B": b}, "Pred")
    reasons = {f"{row.Sequence}/{row.Sequence_Index}": row.Reason for row in left_out.itertuples()}
    assert reasons == {
        "a/0": "not in B",
        "a/1": "no prediction in B",
        "a/2": "no ground truth",
        "b/77": "not in A",
    }
    assert len(joint) == 13
    found = compare({"A": a, "B": b}, ScoringOptions())
    assert found.evaluations["A"].scores[0].n == found.evaluations["B"].scores[0].n == 13


def test_who_wins_where(pair: dict[str, Split]) -> None:
    found = compare(pair, ScoringOptions())
    table = sequence_table(found).set_index("Sequence")
    assert table["best"].to_dict() == {"a": "B", "b": "B", "c": "B", "d": "A"}
    assert win_lines(found) == [
        "B is better than A (j) on 12 of 16 frames, worse on 4 and on 3 of 4 sequences, worse on 1"
    ]
    kinds = chosen_rows(found, 2)
    of = found.joint.column("Sequence")
    assert {of[row] for row in kinds["B gains most on A"]} == {"a"}
    assert {of[row] for row in kinds["B loses most to A"]} == {"d"}
    assert {of[row] for row in kinds["Best for all"]} <= {"b", "c"} | {"a"}


def test_command_writes_page_and_tables(
    tmp_path: Path, pair: dict[str, Split], capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    files = [str(split.file) for split in pair.values()]
    assert main([*files, "--out", str(out)]) == 0
    printed = capsys.readouterr().out
    assert "B - A" in printed
    assert "16 frames compared, 0 left out" in printed
    content = json.loads((out / "compare.json").read_text())
    assert content["names"] == ["A", "B"]
    change = next(item for item in content["differences"] if item["name"] == "j_mean_frame")
    assert change["interval"]["num_units"] == 4
    assert sorted(path.name for path in out.iterdir()) == [
        "compare.html",
        "compare.json",
        "left_out.csv",
        "per_frame.csv",
        "per_sequence.csv",
    ]
    assert len(pd.read_csv(out / "per_frame.csv")) == 16
    text = (out / "compare.html").read_text()
    assert "http" not in text.replace("http://www.w3.org", "")
    for expected in ("B gains most on A", "Worst for all", "B − A", "4 sequences"):
        assert expected in text, expected


def test_three_results_and_clusters(tmp_path: Path) -> None:
    splits = {}
    for k, name in enumerate("ABC"):
        rows = []
        for t in range(6):
            rng = np.random.default_rng([k, t])
            truth = (np.arange(30 * 40).reshape(30, 40) // 300).astype(np.uint8)
            guess = np.where(rng.random(truth.shape) < 0.1 * (k + 1), 0, (truth + 1) % 4).astype(np.uint8)
            write_labels(tmp_path / f"truth/{t}.png", truth)
            write_labels(tmp_path / f"{name}/{t}.png", guess)
            cells = {"GtSemantic": f"truth/{t}.png", "Pred": f"{name}/{t}.png"}
            rows.append({"Sequence": f"image{t}", "Sequence_Index": 0, **cells})
        splits[name] = Split.from_rows(rows, tmp_path)
    found = compare(splits, ScoringOptions(matching="hungarian", num_classes=4))
    verdicts = {(item.name, item.other): item.verdict for item in found.differences}
    assert verdicts["miou_dataset_hungarian", "B"] == verdicts["miou_dataset_hungarian", "C"] == "worse"
    assert found.differences[0].interval is not None
    assert found.differences[0].interval.unit == "image"
    assert list(chosen_rows(found, 3)) == ["Frames"]
    assert sequence_table(found).empty


def test_mistakes_are_one_line(tmp_path: Path, pair: dict[str, Split], capsys: pytest.CaptureFixture[str]) -> None:
    a, b = (str(split.file) for split in pair.values())
    for arguments, message in (
        ([a], "name two or more"),
        ([a, b, "--names", "x"], "a name of its own"),
        ([a, b, "--names", "x", "frames"], "means something else"),
        ([a, str(tmp_path / "absent")], "no such run directory"),
        ([a, b, "--pred_column", "Nothing"], "no column 'Nothing'"),
    ):
        assert main([*arguments, "--out", str(tmp_path / "out")]) == 2
        error = capsys.readouterr().err
        assert message in error
        assert error.count("\n") == 1
    other = Split.from_rows(pair["B"].frame.assign(Sequence="z", Sequence_Index=range(16)), pair["B"].base_dir)
    with pytest.raises(InputError, match=r"no frame that A, B all have predicted: 16 not in B, 16 not in A"):
        compare({"A": pair["A"], "B": other}, ScoringOptions())


def test_page_in_a_browser(tmp_path: Path, pair: dict[str, Split]) -> None:
    need_chromium()
    assert main([*(str(split.file) for split in pair.values()), "--out", str(tmp_path / "out")]) == 0
    with Browser(tmp_path) as page:
        page.open(tmp_path / "out" / "compare.html")
        page.wait("document.querySelector('figure.layered')?.dataset.painted")
        sides = "[...document.querySelectorAll('figure.layered')[0].querySelectorAll('select')].map((s) => s.value)"
        assert page.value(sides) == ["A", "B"]
        page.click("figure.layered [data-segment='1']")
        page.wait("document.querySelector('figure.layered').dataset.painted === '2'")
        page.click("#sequences th:nth-child(5) button")
        page.wait("document.querySelector('#sequences tbody tr td').textContent === 'd'")
        assert page.errors() == []
        assert all(url.startswith("file:") for url in page.requested())
        page.screenshot(tmp_path / "compare.png")
