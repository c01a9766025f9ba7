"""COCO files: streamed, checked entry by entry, grown over runs that were killed."""

import json
import tracemalloc
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.errors import InputError
from maskdistill import coco_files
from maskdistill.coco_files import Parts, iterate_entries, read_coco, read_results, stands, write_coco, write_results

IMAGES = [
    {"id": 7, "file_name": "a.jpg", "height": 4, "width": 6},
    {"id": 9, "file_name": "b.jpg", "height": 2, "width": 2},
]
CATEGORIES = [{"id": 0, "name": "cat", "supercategory": ""}]
ENTRY = {"image_id": 7, "category_id": 0, "bbox": [0, 0, 2, 2], "score": 0.5}

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@settings(deadline=None, max_examples=60)
@given(entries=st.lists(json_values, max_size=6), chunk=st.integers(1, 40), indent=st.sampled_from([None, 2]))
def test_any_list_is_read_in_pieces_of_any_size(
    tmp_path_factory: pytest.TempPathFactory, entries: list, chunk: int, indent: int | None
) -> None:
    file = tmp_path_factory.mktemp("json") / "list.json"
    file.write_text(json.dumps(entries, indent=indent))
    before, coco_files.CHUNK = coco_files.CHUNK, chunk
    try:
        assert [entry for _, entry in iterate_entries(file)] == entries
        file.write_text(json.dumps({"info": {"a": [1]}, "images": entries, "year": 2012}, indent=indent))
        assert list(iterate_entries(file)) == [("images", entry) for entry in entries]
    finally:
        coco_files.CHUNK = before


@pytest.mark.parametrize("text", ["", "[1, 2", '{"images": [}', "3", "[1] 2", '[{"a": }]', "\x00"])
def test_damaged_json_is_one_line(tmp_path: Path, text: str) -> None:
    file = tmp_path / "damaged.json"
    file.write_text(text)
    with pytest.raises(InputError, match=r"damaged\.json"):
        list(iterate_entries(file))


def test_written_files_are_plain_json(tmp_path: Path) -> None:
    path = write_coco(tmp_path / "a.json", iter(IMAGES), iter([{**ENTRY, "id": 0}]), CATEGORIES)
    assert json.loads(path.read_text()) == {
        "images": IMAGES,
        "annotations": [{**ENTRY, "id": 0}],
        "categories": CATEGORIES,
    }
    assert read_coco(path).sizes() == {7: (4, 6), 9: (2, 2)}
    assert json.loads(write_results(tmp_path / "b.json", iter([])).read_text()) == []


@pytest.mark.parametrize(
    ("change", "part"),
    [
        ({"image_id": 8}, "entry 1: image_id 8 is not among the images of gt.json"),
        ({"category_id": 3}, "entry 1: category_id 3"),
        ({"score": float("nan")}, "entry 1: score nan is no number"),
        ({"score": "high"}, "entry 1: score high"),
        ({"bbox": [0, 0, 1]}, "entry 1: bbox"),
        ({"segmentation": {"size": [6, 4], "counts": "1"}}, r"entry 1: segmentation size \[6, 4\] differs"),
        ({"segmentation": [[0, 0, 1, 1]]}, "entry 1: polygon .* fewer than 6 numbers"),
        ({"score": None}, "entry 1: score None"),
    ],
)
def test_a_bad_entry_is_named(tmp_path: Path, change: dict, part: str) -> None:
    truth = read_coco(write_coco(tmp_path / "gt.json", IMAGES, [], CATEGORIES))
    file = tmp_path / "results.json"
    file.write_text(json.dumps([ENTRY, {**ENTRY, **change}]))
    with pytest.raises(InputError, match=part):
        read_results(file, truth, "gt.json")


def test_results_are_sorted_within_images(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "results.json"
    scores = [(7, 0.2), (9, 0.1), (7, 0.9)]
    file.write_text(json.dumps([{**ENTRY, "image_id": image, "score": score} for image, score in scores]))
    found = [(entry["image_id"], entry["score"]) for entry in read_results(file)]
    assert found == [(7, 0.9), (7, 0.2), (9, 0.1)]
    assert "1 images were not sorted" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("content", "part"),
    [
        ([ENTRY], "a results list"),
        ({"images": [], "annotations": []}, "lists no images"),
        ({"images": [{"id": 1}]}, r"images\[0\] has no 'file_name'"),
        ({"images": [IMAGES[0], IMAGES[0]]}, "1 image ids are repeated"),
        ({"images": IMAGES, "annotations": [{**ENTRY, "image_id": 8}]}, r"annotations\[0\] is of image_id 8"),
    ],
)
def test_a_bad_coco_file_is_one_line(tmp_path: Path, content: object, part: str) -> None:
    file = tmp_path / "gt.json"
    file.write_text(json.dumps(content))
    with pytest.raises(InputError, match=part):
        read_coco(file)


def test_parts_survive_a_cut_off_line_and_count_a_repeat_once(tmp_path: Path) -> None:
    output = tmp_path / "masks.json"
    parts = Parts(output, {"weights": "a"})
    assert parts.open() == {}
    parts.add({"key": 0, "entries": [1]})
    parts.close()
    file = next(parts.folder.glob("*.jsonl"))
    file.write_text(file.read_text() + '{"key": 1, "entr')
    again = Parts(output, {"weights": "a"})
    assert set(again.open()) == {0}
    for _ in range(2):
        again.add({"key": 1, "entries": []})
    again.close()
    assert set(again.open()) == {0, 1}
    with pytest.raises(InputError, match="another weights"):
        Parts(output, {"weights": "b"}).open()
    output.write_text("{}")
    again.finish()
    assert not parts.folder.exists()
    assert stands(output, {"weights": "a"}, False, "--out")
    with pytest.raises(InputError, match="made with another weights"):
        stands(output, {"weights": "b"}, False, "--out")
    assert not stands(output, {"weights": "b"}, True, "--out")


def test_a_file_of_unknown_origin_is_not_replaced(tmp_path: Path) -> None:
    output = tmp_path / "masks.json"
    output.write_text("{}")
    with pytest.raises(InputError, match="--overwrite or another name"):
        stands(output, {}, False, "--pred_json_path")


def test_records_of_many_images_stay_on_disk(tmp_path: Path) -> None:
    parts = Parts(tmp_path / "masks.json", {"weights": "a"})
    parts.open()
    for key in range(2000):
        parts.add({"key": key, "entries": [{"segmentation": "x" * 1000}]})
    parts.close()
    tracemalloc.start()
    records = parts.open()
    assert tracemalloc.get_traced_memory()[0] < 300 * len(records)
    tracemalloc.stop()
    assert len(records) == 2000
    assert records[1999]["key"] == 1999
