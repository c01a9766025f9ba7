"""CSV splits, requests and the window index."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.errors import InputError
from common.splits import Split, read_classes, read_split, write_classes, write_split
from common.windows import Request, RequestIndex, bounce, parse_request, require_consecutive, sort_requests

HEADER = "Sequence,Sequence_Index,Image,Flow\n"
ROWS = "a,0,a/0.jpg,a/0.flo\na,1,a/1.jpg,\nb,3,b/3.jpg,b/3.flo\n"


def write(folder, text, name="set_train.csv", **options):
    path = folder / name
    path.write_text(text, **options)
    return path


def error_of(function, *arguments, **options):
    with pytest.raises(InputError) as caught:
        function(*arguments, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def made(keys, **columns):
    """A split of (sequence, index) keys whose Flow cells are all filled unless given."""
    rows = [{"Sequence": s, "Sequence_Index": i, "Flow": f"{s}/{i}.flo"} for s, i in keys]
    for name, cells in columns.items():
        rows = [row | {name: cell} for row, cell in zip(rows, cells, strict=True)]
    return Split.from_rows(rows)


# ---------------------------------------------------------------- reading


def test_read_by_prefix_and_by_path(tmp_path):
    path = write(tmp_path, HEADER + ROWS)
    for split in (
        read_split(path, base_dir=tmp_path),
        read_split(tmp_path / "set", "train", tmp_path),
        read_split(tmp_path / "set_train", base_dir=tmp_path),
    ):
        assert len(split) == 3
        assert split.name == "set_train"
        assert split.columns == ("Sequence", "Sequence_Index", "Image", "Flow")
        assert split.column("Image").tolist() == ["a/0.jpg", "a/1.jpg", "b/3.jpg"]
        assert split.index.tolist() == [0, 1, 3]
        assert split.available("Flow").tolist() == [True, False, True]
        assert split.path(2, "Flow") == tmp_path / "b/3.flo"
        assert {name: rows.tolist() for name, rows in split.sequences().items()} == {"a": [0, 1], "b": [2]}


def test_bom_crlf_quotes_blank_lines_and_unicode(tmp_path):
    plain = read_split(write(tmp_path, HEADER + 'é,0,"x, y.jpg",\n', encoding="utf-8"))
    text = HEADER + 'é,0,"x, y.jpg",\n\n'
    odd = tmp_path / "odd.csv"
    odd.write_bytes(b"\xef\xbb\xbf" + text.replace("\n", "\r\n").encode())
    other = read_split(odd)
    assert other.column("Sequence").tolist() == ["é"]
    assert other.column("Image").tolist() == ["x, y.jpg"]
    assert plain.hash() == other.hash()


def test_text_stays_text(tmp_path):
    split = read_split(write(tmp_path, "Sequence,Sequence_Index,Image\n001,007,NA\nnan,1,1e5\n"))
    assert split.column("Sequence").tolist() == ["001", "nan"]
    assert split.column("Image").tolist() == ["NA", "1e5"]
    assert split.index.tolist() == [7, 1]
    assert split.frame["Image"].tolist() == ["NA", "1e5"]


def test_hash_follows_content(tmp_path):
    split = read_split(write(tmp_path, HEADER + ROWS))
    assert split.hash() == read_split(write(tmp_path, HEADER + ROWS, "copy.csv")).hash()
    assert split.hash() != read_split(write(tmp_path, HEADER + ROWS.replace("3.jpg", "4.jpg"), "other.csv")).hash()
    assert split.hash() != split.take([0, 2]).hash()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", ["no column 'Sequence'", "empty file"]),
        (HEADER, ["no rows"]),
        ("Sequence,Image\na,b\n", ["no column 'Sequence_Index'", "Sequence, Image"]),
        ("Sequence;Sequence_Index\na;0\n", ["separated by commas"]),
        (HEADER + "a,0,x\n", ["line 2", "3 cells", "4 columns"]),
        (HEADER + "a,0,x,y,z\n", ["line 2", "5 cells"]),
        (HEADER + "a,0.5,x,y\n", ["line 2", "'0.5'", "not an integer"]),
        (HEADER + "a,,x,y\n", ["line 2", "''"]),
        (HEADER + "a,0,x,y\na,00,z,w\n", ["1 repeated", "a/0"]),
        (HEADER + "".join(f"a,{i},x,y\n" for i in range(7)) * 2, ["7 repeated", "a/4, ..."]),
        ("Sequence,Sequence_Index,Image,Image\na,0,x,y\n", ["'Image' twice"]),
        (HEADER + 'a,0,"x,y\n', ["not CSV"]),
    ],
)
def test_bad_content(text, words, tmp_path):
    path = write(tmp_path, text)
    message = error_of(read_split, path)
    for word in [str(path), *words]:
        assert word in message


def test_bad_encoding(tmp_path):
    path = tmp_path / "x.csv"
    path.write_bytes((HEADER + "é,0,x,y\n").encode("latin-1"))
    assert "UTF-8" in error_of(read_split, path)
    path.write_bytes((HEADER + "a,0,x,y\n").encode("utf-16"))
    assert str(path) in error_of(read_split, path)


def test_missing_file_names_what_is_there(tmp_path):
    write(tmp_path, HEADER + ROWS)
    write(tmp_path, HEADER + ROWS, "set_val.csv")
    message = error_of(read_split, tmp_path / "set", "test")
    assert str(tmp_path / "set_test.csv") in message
    assert "set_train.csv, set_val.csv" in message
    assert "set_train.csv" in error_of(read_split, tmp_path / "set")
    assert "set_train.csv" in error_of(read_split, tmp_path / "sat_train.csv")
    assert "does not exist" in error_of(read_split, tmp_path / "nowhere" / "set", "val")
    (tmp_path / "void").mkdir()
    assert "no CSV file" in error_of(read_split, tmp_path / "void" / "set", "val")
    assert "'dev'" in error_of(read_split, tmp_path / "set", "dev")
    assert "--base_dir" in error_of(read_split, tmp_path / "set", "val", tmp_path / "nowhere")


def test_unknown_column_and_empty_cell(tmp_path):
    path = write(tmp_path, HEADER + ROWS)
    split = read_split(path)
    for access in (split.column, split.available, lambda name: split.path(0, name)):
        message = error_of(access, "GtMask")
        assert str(path) in message
        assert "Sequence, Sequence_Index, Image, Flow" in message
    message = error_of(split.path, 1, "Flow")
    assert str(path) in message
    assert "line 3" in message


def test_sequences_are_in_frame_order():
    split = made([("b", 2), ("a", 1), ("b", 0), ("a", 0), ("b", 1)])
    assert {name: rows.tolist() for name, rows in split.sequences().items()} == {"b": [2, 4, 0], "a": [3, 1]}
    assert list(split.sequences()) == ["b", "a"]


# ---------------------------------------------------------------- writing


def test_write_orders_columns_and_empties(tmp_path):
    rows = [
        {"Pred": "p.png", "Extra": 1.5, "Image": tmp_path / "x.jpg", "Sequence": "s", "Sequence_Index": 0},
        {"Sequence": "s", "Sequence_Index": 1, "Image": None, "Extra": float("nan"), "GtMask": "m.png"},
    ]
    write_split(tmp_path / "a" / "x.csv", rows)
    lines = (tmp_path / "a" / "x.csv").read_bytes().decode().split("\n")
    assert lines == [
        "Sequence,Sequence_Index,Image,GtMask,Extra,Pred",
        f"s,0,{tmp_path}/x.jpg,,1.5,p.png",
        "s,1,,m.png,,",
        "",
    ]


def test_write_table_and_split(tmp_path):
    table = pd.DataFrame({"Sequence": ["a", "a"], "Sequence_Index": [0, 1], "Image": ["x", None]})
    first = write_split(tmp_path / "x.csv", table)
    second = write_split(tmp_path / "y.csv", read_split(tmp_path / "x.csv"))
    assert first.hash() == second.hash() == read_split(tmp_path / "y.csv").hash()
    pd.testing.assert_frame_equal(first.frame, pd.read_csv(tmp_path / "y.csv", dtype=str, keep_default_na=False))


def test_write_refuses_and_leaves_nothing(tmp_path):
    path = tmp_path / "x.csv"
    assert str(path) in error_of(write_split, path, [])
    assert "repeated" in error_of(write_split, path, [{"Sequence": "a", "Sequence_Index": 0}] * 2)
    assert not path.exists()


cell = st.text(st.characters(blacklist_categories=("Cs", "Cc")), max_size=6)


@settings(deadline=None, derandomize=True, max_examples=40)
@given(
    keys=st.lists(st.tuples(cell, st.integers(-5, 10**12)), min_size=1, max_size=8, unique=True),
    data=st.data(),
)
def test_round_trip(keys, data, tmp_path_factory):
    path = tmp_path_factory.mktemp("split") / "x.csv"
    images = data.draw(st.lists(cell, min_size=len(keys), max_size=len(keys)))
    rows = [{"Sequence": s, "Sequence_Index": i, "Image": p} for (s, i), p in zip(keys, images, strict=True)]
    written = write_split(path, rows)
    split = read_split(path)
    assert split.hash() == written.hash()
    assert list(zip(split.column("Sequence"), split.index, strict=True)) == keys
    assert split.column("Image").tolist() == images


# ---------------------------------------------------------------- classes


@pytest.mark.parametrize(
    ("name", "text", "classes"),
    [
        ("set_classes.csv", "index,name\n0,background\n5,wall, building\n", {0: "background", 5: "wall, building"}),
        ("set_classes.csv", "\ufeff0,a\r\n1,b\r\n", {0: "a", 1: "b"}),
        ("set_classes.txt", "background\nwall, building\n", {0: "background", 1: "wall, building"}),
        ("set_classes.txt", "0,a\n7,b\n", {0: "a", 7: "b"}),
    ],
)
def test_classes(name, text, classes, tmp_path):
    write(tmp_path, text, name, encoding="utf-8")
    for split in ("set_train.csv", "set_val.csv", "set.csv", "set"):
        assert read_classes(tmp_path / split) == classes


def test_classes_round_trip_and_errors(tmp_path):
    assert str(tmp_path / "set_classes.csv") in error_of(read_classes, tmp_path / "set_val.csv")
    path = write_classes(tmp_path / "set_val.csv", {3: "b", 0: "a"})
    assert path == tmp_path / "set_classes.csv"
    assert read_classes(tmp_path / "set_train.csv") == {0: "a", 3: "b"}
    for text in ("x,a\n", "0,a\n0,b\n"):
        message = error_of(read_classes, write(tmp_path, text, "set_classes.csv"))
        assert str(path) in message
        assert "line" in message


# ---------------------------------------------------------------- requests


@pytest.mark.parametrize(
    "text", ["", "Flow-", "Flow+-1", "Flow--1", "-1", "Flow 1", "Flow-1path", "Flow-1PathX", "Flow-1\n", "Flow-١"]
)
def test_bad_requests(text):
    with pytest.raises(ValueError) as caught:
        parse_request(text)
    assert isinstance(caught.value, InputError)
    assert f"'{text}'" in str(caught.value)


def test_requests_with_columns_that_exist():
    assert parse_request("Pred2", ["Pred2"]) == Request("Pred2", 0)
    assert parse_request("Pred2-1", ["Pred2"]) == Request("Pred2", -1)
    assert parse_request("Unnamed: 0", ["Unnamed: 0"]) == Request("Unnamed: 0", 0)
    assert sort_requests(["Flow+10", "Flow", "Image", "Flow-2"], "Flow") == ["Flow-2", "Flow", "Flow+10"]


# ---------------------------------------------------------------- windows

gappy = st.lists(st.tuples(st.sampled_from(["a", "b", "c"]), st.integers(-3, 12)), min_size=1, max_size=25, unique=True)


@settings(deadline=None, derandomize=True, max_examples=100)
@given(
    keys=gappy,
    offsets=st.lists(st.integers(-4, 4), min_size=1, max_size=3),
    data=st.data(),
    boundaries=st.sampled_from(["Strict", "Periodic", "Ignore"]),
)
def test_index_against_a_dictionary(keys, offsets, data, boundaries):
    """The vectorised join equals looking every frame up by hand."""
    filled = data.draw(st.lists(st.booleans(), min_size=len(keys), max_size=len(keys)))
    split = made(keys, Flow=[f"{s}/{i}" if full else "" for (s, i), full in zip(keys, filled, strict=True)])
    rows = {key: row for row, key in enumerate(keys) if filled[row]}
    expected = []
    for sequence, index in keys:
        own = [i for s, i in keys if s == sequence]
        line = []
        for offset in offsets:
            wanted = index + offset
            while boundaries == "Periodic" and not min(own) <= wanted <= max(own):
                wanted = 2 * min(own) - wanted if wanted < min(own) else 2 * max(own) - wanted
                if min(own) == max(own):
                    wanted = min(own)
            line.append(rows.get((sequence, wanted), -1))
        expected.append(line)
    servable = [min(line) >= 0 for line in expected]
    requests = [Request("Flow", offset) for offset in offsets]
    if not any(servable):
        message = error_of(RequestIndex, split, requests, boundaries)
        assert f"--boundaries {boundaries}" in message
        return
    index = RequestIndex(split, requests, boundaries)
    assert index.sources.tolist() == expected
    assert index.servable.tolist() == servable
    kept = [row for row, good in enumerate(servable) if good or boundaries != "Strict"]
    assert index.rows.tolist() == kept
    assert len(index) == len(kept)


@settings(deadline=None, derandomize=True, max_examples=100)
@given(index=st.integers(-200, 200), low=st.integers(-20, 20), length=st.integers(0, 9))
def test_bounce_stays_inside_and_is_a_mirror(index, low, length):
    got = int(bounce(index, low, low + length))
    assert low <= got <= low + length
    if low <= index <= low + length:
        assert got == index
    assert got == int(bounce(2 * low - index, low, low + length))


def test_index_reasons(tmp_path):
    split = read_split(write(tmp_path, HEADER + ROWS))
    message = error_of(RequestIndex, split, ["Flow-1", "Flow", "Flow+1"], "Strict")
    assert str(tmp_path) in message
    assert "none of 3 rows" in message
    assert "Flow-1 is missing for 2" in message
    assert "Flow is missing for 1" in message
    assert "available: Sequence" in error_of(RequestIndex, split, ["GtMask"], "Strict")
    assert "--boundaries strict" in error_of(RequestIndex, split, ["Flow"], "strict")
    assert "nothing is requested" in error_of(RequestIndex, split, [])


def test_paths_are_requested_from_their_column():
    split = made([("a", 0), ("a", 1)])
    index = RequestIndex(split, ["FlowPath", "Flow+1Path"], "Strict")
    assert index.sources[index.rows].tolist() == [[0, 1]]


def test_huge_indices_do_not_overflow():
    split = made([("a", 10**17), ("a", 10**17 + 1), ("b", -(10**17)), ("b", 5)])
    assert RequestIndex(split, ["Flow", "Flow+1"], "Strict").rows.tolist() == [0]


def test_dropping_rows_without_flow_makes_sequences_of_flows():
    split = made([("a", i) for i in range(4)], Flow=["0", "1", "2", ""])
    flows = split.take(split.available("Flow"))
    index = RequestIndex(flows, ["Flow-1", "Flow", "Flow+1"], "Periodic")
    assert index.sources.tolist() == [[1, 0, 1], [0, 1, 2], [1, 2, 1]]


def test_require_consecutive():
    require_consecutive(made([("a", 3), ("a", 2), ("b", 9)]))
    message = error_of(require_consecutive, made([("a", 0), ("a", 2), ("b", 5), ("b", 9)]))
    assert "a/0 -> 2, b/5 -> 9" in message
    many = [("a", 2 * i) for i in range(9)]
    assert "8 gaps" in error_of(require_consecutive, made(many))


def test_cells_share_memory_free_of_objects():
    split = made([("a", i) for i in range(3)])
    assert {cells.dtype.kind for cells in split.cells.values()} == {"S"}
    assert RequestIndex(split, ["Flow"]).sources.dtype == np.int64
