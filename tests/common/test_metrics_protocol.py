"""Scores and protocols survive the trip through their file."""

import json
import math
from pathlib import Path

import pytest

from common.errors import InputError
from common.metrics.protocol import Protocol, Score, read_scores, write_scores


def test_round_trip(tmp_path: Path) -> None:
    scores = [
        Score("j_mean_davis2016", 0.5, Protocol(scope="sequence", oracle=True, notes="optimax"), 2, {"bear": 0.25}),
        Score("miou_dataset_hungarian", 0.25, Protocol(matching="hungarian", crf=True), 21),
    ]
    write_scores(tmp_path / "a" / "scores.json", scores)
    assert read_scores(tmp_path / "a" / "scores.json") == scores


def test_undefined_values_are_null(tmp_path: Path) -> None:
    path = tmp_path / "scores.json"
    write_scores(path, [Score("ari_fg_image", math.nan, Protocol(), 0, {"absent": math.nan})])
    assert json.loads(path.read_text())[0]["value"] is None
    (score,) = read_scores(path)
    assert math.isnan(score.value)
    assert score.per_item is not None
    assert math.isnan(score.per_item["absent"])


@pytest.mark.parametrize("name", ["", "J", "mean iou", "1st"])
def test_names_are_plain(name: str) -> None:
    with pytest.raises(ValueError, match="lower case"):
        Score(name, 0.0, Protocol(), 1)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "not a readable score file"),
        ("{}", "holds no list of scores"),
        ('[{"name": "x"}]', "'value'"),
        ('[{"name": "x", "value": 1, "n": 1, "protocol": {"scop": "image"}}]', "unknown key 'scop'"),
    ],
)
def test_other_files_are_refused(tmp_path: Path, content: str, message: str) -> None:
    path = tmp_path / "scores.json"
    path.write_text(content)
    with pytest.raises(InputError, match=message):
        read_scores(path)
    with pytest.raises(InputError, match="absent"):
        read_scores(tmp_path / "absent.json")
