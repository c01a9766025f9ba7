"""Split makers of single-object data sets on look-alikes in the real layouts; the golden cases cover their squares."""

import gzip
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy.io import savemat

from common.errors import InputError
from common.files import read_image, read_labels, read_mask, write_image
from common.makers import cub, flowers, lfw, two_digits, weizmann
from common.splits import Split, read_split
from redo.named_data import with_split
from redo.options import DataOptions
from tests.golden import need_data

Options = cub.Options | flowers.Options | lfw.Options | weizmann.Options


def picture(path: Path, rows: int = 12, columns: int = 16, value: int = 90) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_image(path, np.full((rows, columns, 3), value, np.uint8))


def block(path: Path, inside: tuple[int, int, int], outside: tuple[int, int, int]) -> None:
    """An annotation of 12 x 16 whose left half is the object."""
    path.parent.mkdir(parents=True, exist_ok=True)
    values = np.empty((12, 16, 3), np.uint8)
    values[:, :8], values[:, 8:] = inside, outside
    Image.fromarray(values).save(path)


def make_flowers(root: Path) -> None:
    for number in range(1, 6):
        picture(root / "jpg" / f"image_{number:05d}.jpg")
        block(root / "segmim" / f"segmim_{number:05d}.jpg", (200, 180, 60), (0, 0, 254))
    savemat(root / "setid.mat", {"trnid": [[1]], "valid": [[2]], "tstid": [[5, 3, 4]]})


def make_cub(root: Path) -> None:
    names = ["001.A/A_1.jpg", "001.A/A_2.jpg", "002.B/B_1.jpg"]
    for name in names:
        picture(root / "images" / name)
        block((root / "segmentations" / name).with_suffix(".png"), (128, 0, 0), (127, 255, 255))
    (root / "images.txt").write_text("".join(f"{k} {name}\n" for k, name in enumerate(names, 1)))
    (root / "train_val_test_split.txt").write_text("1 0\n2 1\n3 2")  # no newline at the end


def make_lfw(root: Path, lists: bool = True) -> None:
    people = ["Ann_Bee", "Cy", "Di", "Ed"]
    for person in people:
        picture(root / "lfw_funneled" / person / f"{person}_0001.jpg")
    for person in people[1:]:
        block(root / "parts_lfw_funneled_gt_images" / f"{person}_0001.ppm", (255, 0, 0), (0, 0, 255))
    if lists:
        for step, who in {"train": "Ann_Bee", "val": "Cy", "test": "Di"}.items():
            (root / f"{step}.txt").write_text(f"{who} {who}_0001")


MAKERS = {"flowers": (make_flowers, flowers), "cub": (make_cub, cub), "lfw": (make_lfw, lfw)}


def made(name: str, folder: Path, **options: object) -> dict[str, Split]:
    maker = MAKERS[name][1]
    out = folder / "out" / name
    maker.make(maker.Options(input=str(folder / "root"), out=str(out), base_dir=str(folder), **options))  # type: ignore[arg-type]
    return {file.stem.rpartition("_")[2]: read_split(file, base_dir=folder) for file in out.parent.glob("*.csv")}


@pytest.mark.parametrize("name", MAKERS)
def test_layout_becomes_splits_with_plain_masks(name: str, tmp_path: Path) -> None:
    MAKERS[name][0](tmp_path / "root")
    splits = made(name, tmp_path)
    assert set(splits) == {"train", "val", "test"}
    for step, split in splits.items():
        for row in range(len(split)):
            assert split.path(row, "Image").is_file()
            if name == "lfw" and step == "train":
                assert "GtMask" not in split.columns
                continue
            mask = read_mask(split.path(row, "GtMask")).foreground  # plain black and white: nothing to be told
            inner = (slice(1, -1), [*range(1, 6), *range(11, 15)])  # JPEG blurs the edge
            np.testing.assert_array_equal(mask[inner], np.broadcast_to(np.arange(16) < 8, mask.shape)[inner])


def test_flowers_train_on_the_largest_list(tmp_path: Path) -> None:
    make_flowers(tmp_path / "root")
    assert {step: len(split) for step, split in made("flowers", tmp_path).items()} == {"train": 3, "val": 1, "test": 1}
    assert list(made("flowers", tmp_path)["train"].column("Sequence")) == ["image_00005", "image_00003", "image_00004"]
    official = made("flowers", tmp_path, lists="official")
    assert {step: len(split) for step, split in official.items()} == {"train": 1, "val": 1, "test": 3}


def test_flower_specks_can_be_cleaned() -> None:
    segmentation = np.zeros((30, 30, 3), np.uint8)
    segmentation[..., 2] = 254
    segmentation[5:25, 5:25] = (200, 150, 30)
    segmentation[12:15, 12:15] = (0, 150, 30)  # a dark heart is background by the rule
    segmentation[1, 1] = (3, 3, 240)  # noise
    assert not flowers.flower_of(segmentation)[13, 13]
    assert flowers.flower_of(segmentation)[1, 1]
    found = flowers.cleaned(segmentation)
    assert found[13, 13]
    assert not found[1, 1]
    assert found.sum() == 400


def test_lfw_without_lists_takes_the_annotated_for_val_and_test(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make_lfw(tmp_path / "root", lists=False)
    splits = made("lfw", tmp_path)
    assert list(splits["train"].column("Sequence")) == ["Ann_Bee_0001"]
    held_out = [str(name) for step in ("val", "test") for name in splits[step].column("Sequence")]
    assert sorted(held_out) == ["Cy_0001", "Di_0001", "Ed_0001"]
    assert "not the published" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("name", "removed", "named"),
    [
        ("flowers", "setid.mat", r"setid\.mat: not there; expected are jpg"),
        ("flowers", "jpg/image_00003.jpg", r"image_00003\.jpg: listed in setid\.mat, but not there"),
        ("flowers", "segmim/segmim_00001.jpg", r"segmim_00001\.jpg"),
        ("cub", "images.txt", r"images\.txt: not there; expected are images\.txt"),
        ("cub", "train_val_test_split.txt", r"train_val_test_split\.txt: not there"),
        ("cub", "images/002.B/B_1.jpg", r"B_1\.jpg: listed in images\.txt, but not there"),
        ("cub", "segmentations/002.B/B_1.png", r"B_1\.png"),
        ("lfw", "val.txt", r"val\.txt: not there; expected are lfw_funneled"),
        ("lfw", "lfw_funneled/Cy/Cy_0001.jpg", r"Cy_0001\.jpg: listed in val\.txt, but not there"),
        ("lfw", "parts_lfw_funneled_gt_images/Di_0001.ppm", r"Di_0001\.ppm"),
    ],
)
def test_what_is_missing_is_named(name: str, removed: str, named: str, tmp_path: Path) -> None:
    MAKERS[name][0](tmp_path / "root")
    (tmp_path / "root" / removed).unlink()
    with pytest.raises(InputError, match=named):
        made(name, tmp_path)
    assert not list((tmp_path / "out").glob("*.csv"))


@pytest.mark.parametrize(
    ("name", "file", "content", "named"),
    [
        ("flowers", "setid.mat", "no matlab", r"setid\.mat"),
        ("cub", "train_val_test_split.txt", "1 0\n2 1\n", "image 3 is not in both"),
        ("cub", "train_val_test_split.txt", "1 0\n2 1\n3 7\n", "image 3 has step '7'"),
        ("cub", "images.txt", "1 a.jpg\nnonsense\n", "line 2 is 'nonsense'"),
        ("lfw", "val.txt", "Cy Cy_0001 more\n", "line 1 is"),
    ],
)
def test_damaged_lists_are_named(name: str, file: str, content: str, named: str, tmp_path: Path) -> None:
    MAKERS[name][0](tmp_path / "root")
    (tmp_path / "root" / file).write_text(content)
    with pytest.raises(InputError, match=named):
        made(name, tmp_path)


def test_a_newer_annotation_is_converted_again(tmp_path: Path) -> None:
    make_cub(tmp_path / "root")
    mask = made("cub", tmp_path)["val"].path(0, "GtMask")
    before = mask.stat().st_mtime_ns
    made("cub", tmp_path)
    assert mask.stat().st_mtime_ns == before, "kept"
    annotation = tmp_path / "root" / "segmentations" / "001.A" / "A_2.png"
    block(annotation, (0, 0, 0), (255, 0, 0))
    made("cub", tmp_path)
    assert read_mask(mask).foreground[0, 12]


def test_horses_masks_get_the_size_of_their_photos(tmp_path: Path) -> None:
    root = need_data("weizmann_horse/weizmann_horse_db")
    weizmann.make(weizmann.Options(input=str(root), out=str(tmp_path / "horses"), base_dir=str(tmp_path)))
    splits = [read_split(tmp_path / "horses", step, tmp_path) for step in ("train", "val", "test")]
    assert [len(split) for split in splits] == [28, 6, 6]
    for row in range(len(splits[1])):
        mask = read_mask(splits[1].path(row, "GtMask")).foreground
        assert mask.shape == read_image(splits[1].path(row, "Image")).shape[:2]
        assert 0.02 < mask.mean() < 0.6


def test_two_digits_from_idx_files(tmp_path: Path) -> None:
    glyphs = np.zeros((8, 28, 28), np.uint8)
    glyphs[:, 4:24, 10:18] = 255
    for part in ("train", "t10k"):
        header = bytes([0, 0, 8, 3]) + np.array([8, 28, 28], ">u4").tobytes()
        (tmp_path / f"{part}-images-idx3-ubyte.gz").write_bytes(gzip.compress(header + glyphs.tobytes()))
        labels = bytes([0, 0, 8, 1]) + np.array([8], ">u4").tobytes() + bytes(range(8))
        (tmp_path / f"{part}-labels-idx1-ubyte").write_bytes(labels)
    sizes = {"num": 3, "num_val": 2, "num_test": 1}
    options = two_digits.Options(input=str(tmp_path), out=str(tmp_path / "d"), base_dir=str(tmp_path), **sizes)
    two_digits.make(options)
    split = read_split(tmp_path / "d", "train", tmp_path)
    assert len(split) == 3
    for row in range(3):
        labels, image = read_labels(split.path(row, "GtSemantic")), read_image(split.path(row, "Image"))
        assert labels.shape == (128, 128)
        on_top = max((labels == 1).sum(), (labels == 2).sum())
        assert on_top == 4 * 20 * 8
        for label in (0, 1, 2):
            assert len(np.unique(image[labels == label], axis=0)) <= 1, "a region has one colour"
    (tmp_path / "t10k-labels-idx1-ubyte").unlink()
    with pytest.raises(InputError, match="t10k-labels-idx1-ubyte: not there"):
        two_digits.make(options)


def test_a_mix_pools_both_and_remembers_the_parts(tmp_path: Path) -> None:
    make_lfw(tmp_path / "faces")
    make_flowers(tmp_path / "flowers")
    roots = f"{tmp_path / 'faces'}+{tmp_path / 'flowers'}"
    data = with_split(DataOptions(dataset="lfw+flowers", dataroot=roots, cache_dir=tmp_path / "cache"))
    assert data.data_file is not None
    split = read_split(data.data_file, "train", data.base_dir)
    assert list(split.column("Part")) == ["lfw", "flowers", "flowers", "flowers"]
    assert all(split.path(row, "Image").is_file() for row in range(len(split)))
    assert read_split(data.data_file, "test", data.base_dir).available("GtMask").all()


@pytest.mark.parametrize(
    ("dataset", "dataroot", "named"),
    [
        ("birds", ".", "'birds' is not known; choose from flowers, cub, lfw, cmnist, folder"),
        ("flowers", "no/where", "--dataroot no/where: no such folder"),
        ("lfw+flowers", ".", "1 folders for 2 data sets"),
    ],
)
def test_unknown_data_sets_are_refused(dataset: str, dataroot: str, named: str) -> None:
    with pytest.raises(InputError, match=named):
        with_split(DataOptions(dataset=dataset, dataroot=dataroot))
