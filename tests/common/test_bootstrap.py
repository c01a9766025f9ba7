"""Intervals: drawing counts is drawing sequences, whatever the score; what has no interval; several seeds."""

import json
from pathlib import Path

import numpy as np
import pytest

from common.errors import InputError
from common.evaluate import EvaluateOptions, ScoringOptions, evaluate, main, run
from common.files import write_labels
from common.metrics.bootstrap import Evidence, draws
from common.metrics.protocol import Interval, Protocol, Score, read_scores, value_text, write_scores
from common.runs import distinct_names, over_seeds, predictions_of
from common.splits import Split, write_split

LENGTHS = {"a": 4, "b": 3, "c": 5, "d": 3}


def write_maps(folder: Path, column: str, seed: int, num_labels: int, lengths: dict[str, int] = LENGTHS) -> list[str]:
    """Label maps of random blobs, one per frame; cells in the order of the frames."""
    cells = []
    for name, number in lengths.items():
        for t in range(number):
            rng = np.random.default_rng([seed, t, *name.encode()])
            labels = np.zeros((20, 26), np.uint8)
            for label in range(1, num_labels + 1):
                y, x = rng.integers(0, 12), rng.integers(0, 16)
                labels[y : y + 8, x : x + 9] = label
            cells.append(f"{column}{seed}/{name}_{t}.png")
            write_labels(folder / cells[-1], labels)
    return cells


def make_split(
    folder: Path, columns: dict[str, list[str]], lengths: dict[str, int] = LENGTHS, name: str = "set"
) -> Split:
    keys = [(sequence, t) for sequence, number in lengths.items() for t in range(number)]
    rows = [
        {"Sequence": sequence, "Sequence_Index": t, **{column: cells[k] for column, cells in columns.items()}}
        for k, (sequence, t) in enumerate(keys)
    ]
    return Split.from_rows(rows, folder, write_split(folder / f"{name}_val.csv", rows).file)


def drawn_split(split: Split, weights: np.ndarray) -> Split:
    """The split in which each sequence stands as often as it was drawn."""
    rows = []
    frame = split.frame
    for (name, chosen), weight in zip(split.sequences().items(), weights, strict=True):
        for copy in range(int(weight)):
            rows += [{**row, "Sequence": f"{name}_{copy}"} for row in frame.iloc[chosen].to_dict("records")]
    return Split.from_rows(rows, split.base_dir)


@pytest.mark.parametrize(
    ("column", "labels", "options"),
    [
        ("GtMask", 1, ScoringOptions(resamples=0)),
        ("GtInstance", 3, ScoringOptions(resamples=0)),
        ("GtSemantic", 3, ScoringOptions(resamples=0, num_classes=4)),
        ("GtSemantic", 3, ScoringOptions(resamples=0, num_classes=4, matching="hungarian")),
        ("GtMask", 2, ScoringOptions(resamples=0, task="davis2017")),
    ],
)
def test_drawing_counts_is_drawing_sequences(tmp_path: Path, column: str, labels: int, options: ScoringOptions) -> None:
    """Every score of a resample equals that of a split in which the drawn sequences stand."""
    truth, guess = (write_maps(tmp_path, name, seed, labels) for name, seed in ((column, 0), ("Pred", 1)))
    split = make_split(tmp_path, {column: truth, "Pred": guess})
    evidence = evaluate(split, options).evidence
    replicates = evidence.replicates(4, seed=3)
    (weights,) = draws(len(LENGTHS), 4, seed=3)
    assert len(np.unique(weights, axis=0)) > 1
    for k, weight in enumerate(weights):
        expected = {score.name: score.value for score in evaluate(drawn_split(split, weight), options).scores}
        assert set(expected) == set(replicates)
        for name, value in expected.items():
            assert replicates[name][k] == pytest.approx(value, nan_ok=True), name


def test_draws_do_not_depend_on_the_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = np.concatenate(list(draws(7, 50, seed=1)))
    monkeypatch.setattr("common.metrics.bootstrap._CELLS_AT_ONCE", 20)
    assert (whole == np.concatenate(list(draws(7, 50, seed=1)))).all()
    assert (whole.sum(1) == 7).all()


def test_interval_of_a_mean_is_the_textbook_one() -> None:
    """200 units of normal values: the percentile interval is close to mean ± 1.96 standard errors."""
    values = np.random.default_rng(0).normal(0.5, 0.1, 200)
    parts = {"x": {str(k): (float(value), 1) for k, value in enumerate(values)}}
    evidence = Evidence(tuple(parts["x"]), "image", parts)
    interval = evidence.interval("x", evidence.replicates(4000, 0)["x"], 0.95, 0)
    half = 1.96 * values.std() / np.sqrt(200)
    assert interval is not None
    assert (interval.low, interval.high) == pytest.approx((values.mean() - half, values.mean() + half), abs=0.05 * half)
    assert (interval.unit, interval.num_units, interval.resamples) == ("image", 200, 4000)


def test_intervals_cover_the_truth_as_often_as_they_say() -> None:
    covered = 0
    for seed in range(200):
        values = np.random.default_rng(seed).normal(0.5, 0.1, 60)
        parts = {"x": {str(k): (float(value), 1) for k, value in enumerate(values)}}
        evidence = Evidence(tuple(parts["x"]), "image", parts)
        interval = evidence.interval("x", evidence.replicates(300, seed)["x"], 0.9, seed)
        covered += interval is not None and interval.low <= 0.5 <= interval.high
    assert 165 <= covered <= 195  # 180 expected, standard deviation 4.2


@pytest.mark.parametrize(("lengths", "unit"), [(LENGTHS, "sequence"), (dict.fromkeys("abcdef", 1), "image")])
def test_unit_follows_the_split(tmp_path: Path, lengths: dict[str, int], unit: str) -> None:
    columns = {name: write_maps(tmp_path, name, seed, 1, lengths) for name, seed in (("GtMask", 0), ("Pred", 1))}
    found = evaluate(make_split(tmp_path, columns, lengths), ScoringOptions(resamples=200, level=0.9))
    for score in found.scores:
        assert score.interval is not None
        assert score.interval.low <= score.value <= score.interval.high
        assert (score.interval.unit, score.interval.num_units) == (unit, len(lengths))
        assert (score.interval.level, score.interval.resamples, score.interval.seed) == (0.9, 200, 0)


def test_one_sequence_has_no_interval(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lengths = {"a": 5}
    columns = {name: write_maps(tmp_path, name, seed, 1, lengths) for name, seed in (("GtMask", 0), ("Pred", 1))}
    split = make_split(tmp_path, columns, lengths)
    assert run(EvaluateOptions(data_file=split.file, base_dir=tmp_path, out=tmp_path / "out")) == 0
    assert all(score.interval is None for score in read_scores(tmp_path / "out" / "scores.json"))
    assert "no intervals: fewer than two sequences" in capsys.readouterr().out


def test_printed_and_stored(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    columns = {name: write_maps(tmp_path, name, seed, 1) for name, seed in (("GtMask", 0), ("Pred", 1))}
    split = make_split(tmp_path, columns)
    assert main([str(split.file), "--base_dir", str(tmp_path), "--out", str(tmp_path / "out")]) == 0
    stored = json.loads((tmp_path / "out" / "scores.json").read_text())[0]
    interval = stored["interval"]
    assert {key: interval[key] for key in ("level", "unit", "resamples")} == {
        "level": 0.95,
        "unit": "sequence",
        "resamples": 1000,
    }
    printed = capsys.readouterr().out
    assert f"{stored['value']:.4f} [{interval['low']:.4f}, {interval['high']:.4f}]" in printed
    assert "in brackets: 95% intervals, 1000 resamples of 4 sequences" in printed


def test_seeds_give_mean_and_spread(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    truth = write_maps(tmp_path, "GtMask", 0, 1)
    splits = [
        make_split(tmp_path, {"GtMask": truth, "Pred": write_maps(tmp_path, "Pred", seed, 1)}, name=f"seed{seed}")
        for seed in (1, 2, 3)
    ]
    files = [str(split.file) for split in splits]
    assert main([*files, "--base_dir", str(tmp_path), "--out", str(tmp_path / "out")]) == 0
    single = [{score.name: score for score in evaluate(split).scores} for split in splits]
    for score in read_scores(tmp_path / "out" / "scores.json"):
        values = [scores[score.name].value for scores in single]
        assert score.value == pytest.approx(np.mean(values))
        assert score.spread == pytest.approx(np.std(values, ddof=1))
        assert score.per_item == pytest.approx(dict(zip(["seed1_val", "seed2_val", "seed3_val"], values, strict=True)))
        assert score.interval is not None
    assert read_scores(tmp_path / "out" / "seed2_val" / "scores.json") == list(single[1].values())
    assert " ± " in capsys.readouterr().out


def test_seeds_of_one_prediction_are_that_prediction(tmp_path: Path) -> None:
    columns = {name: write_maps(tmp_path, name, seed, 1) for name, seed in (("GtMask", 0), ("Pred", 1))}
    found = evaluate(make_split(tmp_path, columns))
    for mean, score in zip(over_seeds({"a": found, "b": found}, ScoringOptions()), found.scores, strict=True):
        assert (mean.value, mean.spread) == pytest.approx((score.value, 0.0))
        assert mean.interval == score.interval


def test_seeds_need_the_same_rows(tmp_path: Path) -> None:
    columns = {name: write_maps(tmp_path, name, seed, 1) for name, seed in (("GtMask", 0), ("Pred", 1))}
    split = make_split(tmp_path, columns)
    found = {"whole": evaluate(split), "part": evaluate(split.take(range(1, len(split))))}
    with pytest.raises(InputError, match="part: scores other rows than whole"):
        over_seeds(found, ScoringOptions())


@pytest.mark.parametrize(("flag", "value"), [("--resamples", "-1"), ("--level", "95"), ("--seed", "-3")])
def test_bad_numbers_name_their_flag(tmp_path: Path, flag: str, value: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["x.csv", "--out", str(tmp_path), flag, value]) == 2
    error = capsys.readouterr().err
    assert f"{flag} {value}" in error
    assert error.count("\n") == 1


def test_file_keeps_interval_and_spread(tmp_path: Path) -> None:
    interval = Interval(0.5512, 0.6649, 0.95, "image", 30, 1000, 0)
    score = Score("j_mean_frame", 0.6123, Protocol(), 30, interval=interval, spread=0.02)
    write_scores(tmp_path / "scores.json", [score])
    assert read_scores(tmp_path / "scores.json") == [score]
    assert value_text(score, 2) == "0.61 ± 0.02 [0.55, 0.66]"
    old = json.loads((tmp_path / "scores.json").read_text())
    for entry in old:
        del entry["interval"], entry["spread"]
    (tmp_path / "old.json").write_text(json.dumps(old))
    assert value_text(read_scores(tmp_path / "old.json")[0], 2) == "0.61"


def test_names_of_paths() -> None:
    assert distinct_names([Path("runs/a"), Path("runs/b")]) == ["a", "b"]
    assert distinct_names([Path("a/x/pred_val.csv"), Path("b/x/pred_val.csv")]) == ["a", "b"]
    assert distinct_names([Path("same"), Path("same")]) == ["same_1", "same_2"]


def test_predictions_of_a_run_directory(tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    columns = {name: write_maps(run_dir / "data", name, 0, 1) for name in ("GtMask", "Pred")}
    split = make_split(run_dir / "data", columns)
    for name in ("clips_val", "clips_test_cs10"):
        write_split(run_dir / "predictions" / f"{name}.csv", split.frame)
    write_split(run_dir / "data" / "clips_test.csv", split.frame.drop(columns="Pred"))
    found = predictions_of(run_dir)
    assert found.file.name == "clips_test_cs10.csv"
    assert found.base_dir == run_dir / "data"
    below = split.frame.assign(Pred=[f"../data/{cell}" for cell in split.column("Pred")])
    write_split(run_dir / "predictions" / "clips_test_cs10.csv", below)  # predictions are found from both folders
    assert predictions_of(run_dir).base_dir == run_dir / "data"
    write_split(run_dir / "predictions" / "clips_test_cs5.csv", split.frame)
    with pytest.raises(InputError, match="several prediction splits"):
        predictions_of(run_dir)
    with pytest.raises(InputError, match="no prediction split"):
        predictions_of(tmp_path)
