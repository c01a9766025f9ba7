"""Scoring of prediction splits: the numbers, the missing rows, the protocols, the files and the errors."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from common.errors import InputError
from common.evaluate import EvaluateOptions, ScoringOptions, evaluate, run
from common.files import write_image, write_labels
from common.metrics.ari import adjusted_rand_index
from common.metrics.confusion import class_iou, contingency
from common.metrics.davis import davis2017_sequence, statistics
from common.metrics.frames import resize_nearest
from common.metrics.jaccard import binary_jaccard
from common.metrics.pairs import pair_counts
from common.metrics.protocol import read_scores
from common.splits import Split, write_classes, write_split
from tests.golden import ROOT

SIZE = (24, 32)


def blob(seed: int, num_labels: int = 1) -> np.ndarray:
    rng = np.random.default_rng(seed)
    labels = np.zeros(SIZE, dtype=np.uint8)
    for label in range(1, num_labels + 1):
        y, x = rng.integers(0, 14), rng.integers(0, 20)
        labels[y : y + 9, x : x + 11] = label
    return labels


class Data:
    """A split on disk whose label maps are still at hand."""

    def __init__(self, folder: Path, lengths: dict[str, int]) -> None:
        self.folder = folder
        self.rows: list[dict[str, object]] = []
        self.maps: dict[str, list[np.ndarray]] = {}
        self.keys = [(name, t) for name, N in lengths.items() for t in range(N)]
        self.rows = [{"Sequence": name, "Sequence_Index": t} for name, t in self.keys]

    def add(self, column: str, maps: list[np.ndarray], binary255: bool = False) -> "Data":
        self.maps[column] = maps
        for row, labels in zip(self.rows, maps, strict=True):
            path = f"{column}/{row['Sequence']}_{row['Sequence_Index']}.png"
            if binary255:
                write_image(self.folder / path, (labels * 255).astype(np.uint8))
            else:
                write_labels(self.folder / path, labels)
            row[column] = path
        return self

    def split(self) -> Split:
        write_split(self.folder / "set_val.csv", self.rows)
        return Split.from_rows(self.rows, self.folder, self.folder / "set_val.csv")


@pytest.fixture
def video(tmp_path: Path) -> Data:
    data = Data(tmp_path, {"bear": 5, "cow": 4})
    data.add("GtMask", [blob(seed) for seed in range(9)], binary255=True)
    return data.add("Pred", [blob(seed + 100) | blob(seed) for seed in range(9)])


def values(scores: list) -> dict[str, float]:
    return {score.name: score.value for score in scores}


def test_foreground_in_two_protocols(video: Data) -> None:
    found = evaluate(video.split())
    pairs = list(zip(video.maps["Pred"], video.maps["GtMask"], strict=True))
    j = np.array([binary_jaccard(p == 1, t == 1) for p, t in pairs])
    f = np.array([pair_counts(p == 1, t == 1, num_predicted=1, num_objects=1).f()[0, 0] for p, t in pairs])
    scores = values(found.scores)
    assert scores["j_mean_frame"] == pytest.approx(j.mean())
    assert scores["f_mean_frame"] == pytest.approx(f.mean())
    assert scores["jf_mean_frame"] == pytest.approx((j + f).mean() / 2)
    inner = [statistics(j[1:4]), statistics(j[6:8])]
    for key in ("mean", "recall", "decay"):
        assert scores[f"j_{key}_davis2016"] == pytest.approx(np.mean([getattr(entry, key) for entry in inner]))
    assert scores["f_mean_davis2016"] == pytest.approx((f[1:4].mean() + f[6:8].mean()) / 2)
    assert scores["jf_mean_davis2016"] == pytest.approx((scores["j_mean_davis2016"] + scores["f_mean_davis2016"]) / 2)
    by_name = {score.name: score for score in found.scores}
    assert by_name["j_mean_frame"].n == 9
    assert by_name["j_mean_davis2016"].n == 2
    assert by_name["j_mean_davis2016"].per_item == pytest.approx({"bear": j[1:4].mean(), "cow": j[6:8].mean()})
    assert by_name["j_mean_davis2016"].protocol.scope == "sequence"
    assert all(score.protocol.background == "left_out" for score in found.scores)
    np.testing.assert_allclose(found.per_frame["j"], j)
    np.testing.assert_allclose(found.per_sequence["j_mean_frame"], [j[:5].mean(), j[5:].mean()])


def test_rows_are_scored_in_frame_order(video: Data) -> None:
    expected = evaluate(video.split()).scores
    video.rows.reverse()
    assert values(evaluate(video.split()).scores) == pytest.approx(values(expected))


def test_missing_predictions_are_counted(video: Data) -> None:
    video.rows[2]["Pred"] = ""
    video.rows[8]["GtMask"] = ""
    found = evaluate(video.split())
    assert found.per_frame["Status"].tolist()[2] == "no_prediction"
    assert found.per_frame["Status"].tolist()[8] == "no_ground_truth"
    assert np.isnan(found.per_frame["j"][2])
    assert all("1 of 9 rows without prediction left out" in score.protocol.notes for score in found.scores)
    assert found.per_sequence["no_prediction"].tolist() == [1, 0]
    assert found.per_sequence["no_ground_truth"].tolist() == [0, 1]
    assert found.scores[0].n == 7
    empty = evaluate(video.split(), ScoringOptions(missing="empty"))
    assert empty.per_frame["j"][2] == 0.0
    assert empty.scores[0].n == 8
    with pytest.raises(InputError, match="bear/2 has no prediction"):
        evaluate(video.split(), ScoringOptions(missing="error"))


def test_short_sequences_have_no_davis2016_score(tmp_path: Path) -> None:
    data = Data(tmp_path, {"one": 1, "two": 2})
    maps = [blob(seed) for seed in range(3)]
    data.add("GtMask", maps, binary255=True).add("Pred", maps)
    assert values(evaluate(data.split()).scores) == {"j_mean_frame": 1.0, "f_mean_frame": 1.0, "jf_mean_frame": 1.0}


def test_protocol_records_what_the_user_says(video: Data) -> None:
    found = evaluate(video.split(), ScoringOptions(oracle=True, crf=True, notes="optimax, cut 10"))
    assert all(score.protocol.oracle and score.protocol.crf for score in found.scores)
    assert all("optimax, cut 10" in score.protocol.notes for score in found.scores)


def test_sizes_must_agree_unless_resized(video: Data) -> None:
    small = [labels[::2, ::2] for labels in video.maps["Pred"]]
    video.add("Pred", small)
    with pytest.raises(InputError, match=r"Pred.bear_0.png: 12x16, but .* is 24x32: pass --resize_pred"):
        evaluate(video.split())
    found = evaluate(video.split(), ScoringOptions(resize_pred=True))
    expected = [
        binary_jaccard(p.repeat(2, 0).repeat(2, 1) == 1, t == 1)
        for p, t in zip(small, video.maps["GtMask"], strict=True)
    ]
    assert found.scores[0].value == pytest.approx(np.mean(expected))
    assert "9 predictions resized by nearest" in found.scores[0].protocol.resolution


def test_nearest_is_that_of_torch() -> None:
    torch = pytest.importorskip("torch")
    labels = np.arange(7 * 9).reshape(7, 9)
    for size in ((14, 18), (5, 4), (16, 23), (7, 9)):
        expected = torch.nn.functional.interpolate(torch.from_numpy(labels)[None, None].double(), size, mode="nearest")
        np.testing.assert_array_equal(resize_nearest(labels, size), expected[0, 0].long().numpy())


def test_binary_ground_truth_needs_a_binary_prediction(video: Data) -> None:
    video.add("Pred", [blob(seed, 3) for seed in range(9)])
    with pytest.raises(InputError, match="holds labels up to 3, but GtMask is binary"):
        evaluate(video.split())
    with pytest.raises(InputError, match="foreground scores need 0 and 1 only"):
        evaluate(video.split(), ScoringOptions(task="foreground"))
    assert "ari_image" in values(evaluate(video.split(), ScoringOptions(task="instances")).scores)


@pytest.mark.parametrize("column", ["GtMask", "GtInstance"])
def test_instances(tmp_path: Path, column: str) -> None:
    data = Data(tmp_path, {"a": 2, "b": 1, "c": 1})
    target = [blob(seed, 3) for seed in range(3)] + [np.zeros(SIZE, dtype=np.uint8)]
    target[1][:2] = 255
    data.add(column, target).add("Pred", [blob(seed + 9, 4) for seed in range(4)])
    found = evaluate(data.split())
    ari = [adjusted_rand_index(contingency(p, t)) for p, t in zip(data.maps["Pred"], target, strict=True)]
    by_name = {score.name: score for score in found.scores}
    assert by_name["ari_image"].value == pytest.approx(np.mean(ari))
    assert by_name["ari_image"].n == 4
    assert by_name["ari_fg_image"].n == 3
    assert "1 images without foreground left out" in by_name["ari_fg_image"].protocol.notes
    assert by_name["miou_image_hungarian"].protocol.matching == "hungarian"
    assert set(by_name) == {"ari_image", "ari_fg_image", "miou_image_hungarian", "msc_image", "msc_fg_image"}
    np.testing.assert_allclose(found.per_frame["ari_image"], ari)


def test_prediction_with_itself_is_perfect(tmp_path: Path) -> None:
    data = Data(tmp_path, {"a": 3})
    maps = [blob(seed, 3) for seed in range(3)]
    data.add("GtInstance", maps).add("Pred", [np.array([2, 0, 3, 1], dtype=np.uint8)[labels] for labels in maps])
    assert list(values(evaluate(data.split()).scores).values()) == pytest.approx([1.0] * 5)


@pytest.fixture
def classes(tmp_path: Path) -> Data:
    data = Data(tmp_path, {f"image{k}": 1 for k in range(4)})
    target = [blob(seed, 3) for seed in range(4)]
    target[0][:3] = 255
    predicted = [np.where(labels == 255, 0, labels) for labels in target]
    predicted[1][:5, :5] = 2
    return data.add("GtSemantic", target).add("Pred", predicted)


def test_semantic_scores_are_pooled(classes: Data) -> None:
    write_classes(classes.folder / "set_val.csv", {0: "background", 1: "cat", 2: "cat", 3: "dog"})
    found = evaluate(classes.split())
    table = sum(
        contingency(p, t, num_predicted=4, num_classes=4)
        for p, t in zip(classes.maps["Pred"], classes.maps["GtSemantic"], strict=True)
    )
    miou = found.scores[0]
    assert miou.name == "miou_dataset_none"
    assert miou.value == pytest.approx(class_iou(table).mean())
    assert list(miou.per_item) == ["background", "1 cat", "2 cat", "dog"]
    assert [score.name for score in found.scores[1:]] == ["mean_accuracy_dataset_none", "pixel_accuracy_dataset_none"]
    assert found.scores[2].value == pytest.approx(np.trace(table) / table.sum())


def test_clusters_are_matched_once(classes: Data) -> None:
    plain = evaluate(classes.split()).scores[0].value
    order = np.array([4, 2, 0, 3], dtype=np.uint8)
    classes.add("Pred", [order[labels] for labels in classes.maps["Pred"]])
    with pytest.raises(InputError, match="predicted label 4 is none of the 4 classes"):
        evaluate(classes.split(), ScoringOptions(num_classes=4))
    for matching in ("hungarian", "majority"):
        scores = evaluate(classes.split(), ScoringOptions(matching=matching)).scores
        assert values(scores)[f"miou_dataset_{matching}"] == pytest.approx(plain)
        assert scores[0].protocol.matching == matching


def test_more_clusters_than_classes(classes: Data) -> None:
    predicted = [labels.copy() for labels in classes.maps["Pred"]]
    predicted[3][-4:, -4:] = 7
    classes.add("Pred", predicted)
    with pytest.raises(InputError, match="--matching majority, or --unmatched background or missed"):
        evaluate(classes.split(), ScoringOptions(matching="hungarian"))
    for unmatched in ("background", "missed"):
        found = evaluate(classes.split(), ScoringOptions(matching="hungarian", unmatched=unmatched))
        assert f"unmatched clusters: {unmatched}" in found.scores[0].protocol.notes
    with pytest.raises(InputError, match="holds class 3, outside the 2"):
        evaluate(classes.split(), ScoringOptions(num_classes=2))


def test_davis2017(tmp_path: Path) -> None:
    data = Data(tmp_path, {"a": 3, "b": 2})
    data.add("GtMask", [blob(seed, 2) for seed in range(5)]).add("Pred", [blob(seed + 40, 3) for seed in range(5)])
    found = evaluate(data.split(), ScoringOptions(task="davis2017"))
    sequences = [
        davis2017_sequence(data.maps["Pred"][part], data.maps["GtMask"][part]) for part in (slice(0, 3), slice(3, 5))
    ]
    scores = values(found.scores)
    objects = np.concatenate([scores.j.mean(1) for scores in sequences])
    assert scores["j_mean_davis2017"] == pytest.approx(objects.mean())
    assert found.scores[0].n == len(objects)
    assert next(iter(scores)) == "jf_mean_davis2017"
    assert found.per_sequence["num_objects"].tolist() == [len(entry.j) for entry in sequences]


def test_benchmarks_keep_their_own_numbers(video: Data) -> None:
    everything = values(evaluate(video.split()).scores)
    for name, ending in (("davis2016", "_davis2016"), ("fbms59", "j_mean_frame"), ("segtrackv2", "j_mean_frame")):
        found = evaluate(video.split(), ScoringOptions(protocol=name)).scores
        assert values(found) == {key: value for key, value in everything.items() if key.endswith(ending)}
        assert all(score.protocol.benchmark == name and score.protocol.notes.startswith(name) for score in found)
    with pytest.raises(InputError, match="--protocol fbms59 is scored as --task foreground"):
        evaluate(video.split(), ScoringOptions(protocol="fbms59", task="instances"))


def test_davis2016_scores_the_last_row_of_a_sequence_that_goes_on(video: Data) -> None:
    """Splits with one row per flow field lack the last frame; the benchmark leaves that one out, not the one before."""
    whole = evaluate(video.split(), ScoringOptions(protocol="davis2016"))
    video.rows = [row for row, (name, t) in zip(video.rows, video.keys, strict=True) if (name, t) not in {("bear", 4)}]
    found = evaluate(video.split(), ScoringOptions(protocol="davis2016"))
    assert values(found.scores) == values(whole.scores)
    assert "1 sequences go on after their last row" not in whole.scores[0].protocol.notes
    assert "1 sequences go on after their last row" in found.scores[0].protocol.notes


def test_davis2017_motion_writes_the_official_tables(tmp_path: Path) -> None:
    data = Data(tmp_path, {"bear": 4, "cow": 3})
    data.add("GtMask", [blob(seed, 2) for seed in range(7)]).add("Pred", [blob(seed + 50, 3) for seed in range(7)])
    split = data.split()
    assert run(EvaluateOptions(data_file=split.file, base_dir=tmp_path, out=tmp_path, protocol="davis2017-motion")) == 0
    scores = {score.name: score for score in read_scores(tmp_path / "scores.json")}
    assert {score.protocol.benchmark for score in scores.values()} == {"davis2017-motion"}
    total = pd.read_csv(tmp_path / "global_results-val.csv").iloc[0]
    assert list(total.index) == ["J&F-Mean", "J-Mean", "J-Recall", "J-Decay", "F-Mean", "F-Recall", "F-Decay"]
    assert total["J-Mean"] == pytest.approx(scores["j_mean_davis2017"].value, abs=5.1e-4)
    objects = pd.read_csv(tmp_path / "per-sequence_results-val.csv")
    assert list(objects["Sequence"]) == ["bear_1", "bear_2", "cow_1", "cow_2"]
    assert objects["F-Mean"].mean() == pytest.approx(scores["f_mean_davis2017"].value, abs=1e-3)


def test_predictions_of_0_and_255_are_masks(video: Data) -> None:
    expected = values(evaluate(video.split()).scores)
    video.add("Pred", video.maps["Pred"], binary255=True)
    for encoding in ("auto", "255"):
        video.add("GtMask", video.maps["GtMask"], binary255=encoding == "255")
        assert values(evaluate(video.split(), ScoringOptions(mask_encoding=encoding)).scores) == expected
    video.add("GtMask", video.maps["GtMask"])
    with pytest.raises(InputError, match="holds labels up to 255"):
        evaluate(video.split(), ScoringOptions(mask_encoding="binary01"))


def test_ground_truth_without_foreground_is_refused(video: Data) -> None:
    video.add("GtMask", [np.zeros_like(labels) for labels in video.maps["GtMask"]])
    with pytest.raises(InputError, match="GtMask is empty in every scored frame"):
        evaluate(video.split())


def test_a_folder_that_cannot_be_written_is_refused_first(video: Data) -> None:
    (video.folder / "file").write_text("")
    for row in video.rows:
        row["Pred"] = "no such file.png"  # would be found out next
    with pytest.raises(InputError, match=r"--out .*file is a file, not a folder"):
        run(EvaluateOptions(data_file=video.split().file, base_dir=video.folder, out=video.folder / "file" / "scores"))


def test_columns_that_are_not_there(video: Data) -> None:
    with pytest.raises(InputError, match="no column 'Mask2'"):
        evaluate(video.split(), ScoringOptions(pred_column="Mask2"))
    with pytest.raises(InputError, match=r"no ground truth to score against \(GtSemantic\)"):
        evaluate(video.split(), ScoringOptions(task="semantic"))
    for row in video.rows:
        row["Pred"] = ""
    with pytest.raises(InputError, match="no row has both"):
        evaluate(video.split())


def test_coco_reference_is_refused(video: Data) -> None:
    for row in video.rows:
        row["GtInstance"] = "instances.json"
    with pytest.raises(InputError, match="a COCO file is no instance map"):
        evaluate(video.split())


def test_files_and_table(video: Data, capsys: pytest.CaptureFixture[str]) -> None:
    split, out = video.split(), video.folder / "run" / "scores"
    assert run(EvaluateOptions(data_file=split.file, base_dir=video.folder, out=out)) == 0
    assert read_scores(out / "scores.json") == evaluate(split).scores
    assert sorted(path.name for path in out.iterdir()) == ["per_frame.csv", "per_sequence.csv", "scores.json"]
    assert len(pd.read_csv(out / "per_frame.csv")) == 9
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split()[:3] == ["score", "value", "n"]
    assert len({line.index("sequence  ") for line in lines if "davis2016" in line}) == 1
    assert lines[-1].startswith("9 of 9 rows scored")


def test_workers_give_the_same(video: Data) -> None:
    split = video.split()
    assert evaluate(split, ScoringOptions(num_workers=2)).scores == evaluate(split).scores


def test_command(video: Data) -> None:
    video.split()
    script = [sys.executable, str(ROOT / "common" / "evaluate.py")]
    arguments = ["set", "--step", "val", "--base_dir", ".", "--out", "scores"]
    done = subprocess.run([*script, *arguments], cwd=video.folder, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert "j_mean_davis2016" in done.stdout
    assert json.loads((video.folder / "scores" / "scores.json").read_text())
    wrong = subprocess.run(
        [*script, "absent.csv", "--out", "x"], cwd=video.folder, capture_output=True, text=True, timeout=120
    )
    assert wrong.returncode == 2
    assert len(wrong.stderr.strip().splitlines()) == 1
