"""DINO's commands on pictures: attention masks, k-NN, the chain, recipes."""

import dataclasses
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from common import cli
from common.errors import InputError
from common.evaluate import ScoringOptions, evaluate
from common.files import read_array, read_image, read_labels, read_mask, write_image
from common.metrics.protocol import read_scores
from common.options import TrainerFlags
from common.splits import read_split, write_split
from common.synthetic import SceneOptions
from common.synthetic import run as make_synthetic
from transformer_seg.dino.arch import Architecture, freeze
from transformer_seg.dino.attention_maps import (
    Named,
    at_size,
    check_attention_options,
    head_number,
    point_token,
    read_masks,
    resized_size,
    run_attention,
)
from transformer_seg.dino.classification import run_knn
from transformer_seg.dino.masks import attention_score, mass_masks
from transformer_seg.dino.options import AttentionOptions, DinoOptions, KnnOptions
from transformer_seg.dino.pictures import attention_input
from transformer_seg.dino.weights import load_backbone
from transformer_seg.options import SystemRunOptions, aliases_of, option_class

ROOT = Path(__file__).resolve().parents[2]
CONFIGS = sorted((ROOT / "transformer_seg" / "configs").glob("*dino*.yaml"))
QUIET = TrainerFlags(accelerator="cpu", enable_progress_bar=False)


def command(script: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    line = [sys.executable, str(ROOT / "transformer_seg" / script), *map(str, arguments)]
    return subprocess.run(line, capture_output=True, text=True, timeout=240)


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("scenes")
    make_synthetic(SceneOptions(out=folder, num=12, num_val=3, num_test=4, height=40, width=56, style="noise"))
    return folder


@pytest.fixture
def tiny() -> Named:
    torch.manual_seed(0)
    return Named(freeze(Architecture("vit_tiny", 8, 32, 16, 2, 2).build()), {"weights": "tiny"})


def options_of(scenes: Path, out: Path, **more: object) -> AttentionOptions:
    given = {"data_file": scenes / "scenes_test.csv", "base_dir": scenes, "out": out, "image_size": [40, 60]}
    return AttentionOptions(**{**given, "batch_size": 3, "pictures": 1, **more})


def test_masks_and_score_are_those_of_the_attention(scenes: Path, tiny: Named, tmp_path: Path) -> None:
    file = run_attention(options_of(scenes, tmp_path, raw=True), QUIET, tiny)
    split = read_split(file, base_dir=scenes)
    scores = []
    for row in range(len(split)):
        name = f"{split.column('Sequence')[row]}/{split.index[row]:05d}"
        picture = read_image(split.path(row, "Image"))
        attention = tiny.backbone.class_attention(attention_input(picture, (40, 60), 8)[None])[0]  # 5 x 7 patches
        torch.testing.assert_close(torch.from_numpy(read_array(tmp_path / f"attention/{name}.npz")), attention)
        masks = mass_masks(attention.flatten(1), 0.6).view_as(attention)
        np.testing.assert_array_equal(read_masks(tmp_path / f"heads/{name}.npz").masks[:-1], masks.numpy())
        labels = Image.fromarray(read_labels(split.path(row, "GtSemantic")).astype(np.uint8))
        small = np.array(labels.resize((60, 40), Image.Resampling.NEAREST))[:40, :56].astype(np.int64)
        scores.append(float(attention_score(masks, torch.from_numpy(small), 8).score))
        written = read_labels(split.path(row, "Pred"))
        assert written.shape == picture.shape[:2]
        mean = mass_masks(attention.mean(0).flatten(), 0.6).view(5, 7).numpy()
        np.testing.assert_array_equal(written, at_size(mean, 8, (40, 60), picture.shape[:2]))
    (score,) = read_scores(tmp_path / "scores.json")
    assert score.value == pytest.approx(np.mean(scores))
    assert score.protocol.oracle
    assert evaluate(split, ScoringOptions(task="foreground")).scores


def test_what_stands_is_kept_and_other_weights_are_refused(scenes: Path, tiny: Named, tmp_path: Path) -> None:
    file = run_attention(options_of(scenes, tmp_path), QUIET, tiny)
    heads = sorted((tmp_path / "heads").rglob("*.npz"))
    before = {path: path.stat().st_mtime_ns for path in heads[1:]}
    again = heads[0].read_bytes()
    heads[0].unlink()
    assert run_attention(options_of(scenes, tmp_path), QUIET, tiny) == file
    assert read_masks(heads[0]).masks.shape == (3, 5, 7)
    assert heads[0].read_bytes() == again
    assert before == {path: path.stat().st_mtime_ns for path in heads[1:]}
    with pytest.raises(InputError, match="holds predictions of another weights"):
        run_attention(options_of(scenes, tmp_path), QUIET, Named(tiny.backbone, {"weights": "other"}))


def test_the_best_head_is_an_oracle_and_not_worse(scenes: Path, tiny: Named, tmp_path: Path) -> None:
    values = {}
    for head in ("best", "0", "1"):
        file = run_attention(options_of(scenes, tmp_path / head, head=head), QUIET, tiny)
        split = read_split(file, base_dir=scenes)
        scores = {score.name: score for score in evaluate(split, ScoringOptions(task="foreground")).scores}
        values[head] = scores["j_mean_frame"].value
        assert scores["j_mean_frame"].protocol.oracle == (head == "best")
    assert values["best"] >= max(values["0"], values["1"]) - 0.02  # chosen at the network's size
    with pytest.raises(InputError, match="--head 2: give mean, best, or a head from 0 to 1"):
        head_number("2", 2)


def test_attention_command_on_a_picture_and_a_folder(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    for number in range(2):
        write_image(tmp_path / "in" / f"{number}.png", generator.integers(0, 256, (50, 70, 3), dtype=np.uint8))
    sizes = ["--random_weights", "--arch", "vit_tiny", "--image_size", "48"]
    one = tmp_path / "one"
    done = command(
        "attention.py", tmp_path / "in" / "0.png", *sizes, "--points", 0, 0, 47, 63, "--layers", "--out", one
    )
    assert done.returncode == 0, done.stderr
    expected = {
        "img.png",
        "overview.png",
        "attn-mean.png",
        "mask_th0.6_mean.png",
        "attn-point1.png",
        "attn-layer11.png",
    }
    expected |= {f"attn-head{head}.png" for head in range(3)} | {f"mask_th0.6_head{head}.png" for head in range(3)}
    assert expected <= {path.name for path in one.glob("*.png")}
    assert read_image(one / "img.png").shape == (48, 64, 3)  # 67 columns without the margin
    folder = AttentionOptions(
        input=tmp_path / "in", random_weights=True, arch="vit_tiny", image_size=[48], out=tmp_path / "two"
    )
    run_attention(folder, QUIET)
    assert len(list((tmp_path / "two" / "masks").rglob("*.png"))) == 2
    assert not (tmp_path / "two" / "scores.json").exists()


@pytest.mark.parametrize(
    ("more", "part"),
    [
        ({"threshold": 0.0}, "--threshold 0.0"),
        ({"threshold": 1.5}, "--threshold 1.5"),
        ({"points": [3]}, "--points 3: give pairs"),
        ({"head": "third"}, "--head third"),
        ({"input": Path("x")}, "give either"),
        ({"data_file": None}, "give either"),
        ({"data_file": None, "input": Path("no-such.jpg")}, "no-such.jpg: no such picture"),
    ],
)
def test_bad_attention_options(tmp_path: Path, more: dict, part: str) -> None:
    with pytest.raises(InputError, match=part):
        check_attention_options(options_of(tmp_path, tmp_path, **more))


def test_a_missing_weights_file_says_what_to_give(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"none\.pth: no such checkpoint file; give --pretrained_weights"):
        load_backbone(AttentionOptions(pretrained_weights=tmp_path / "none.pth"))


def test_sizes_and_points() -> None:
    assert resized_size((100, 150), [48]) == (48, 72)
    assert resized_size((100, 150), [32, 40]) == (32, 40)
    assert point_token(9, 17, 8, (2, 3)) == 5
    with pytest.raises(InputError, match="--points 16 0: outside the picture of 16 rows and 24 columns"):
        point_token(16, 0, 8, (2, 3))


def coloured(folder: Path, count: int) -> None:
    """Three classes, each of one colour."""
    generator = np.random.default_rng(0)
    for number, name in enumerate(("blue", "green", "red")):
        for place in range(count):
            picture = generator.integers(0, 60, (36, 40, 3), dtype=np.uint8)
            picture[..., 2 - number] += 180
            write_image(folder / name / f"{place}.png", picture)


def test_neighbours_know_colours(tiny: Named, tmp_path: Path) -> None:
    coloured(tmp_path / "set" / "train", 6)
    coloured(tmp_path / "set" / "val", 3)
    options = KnnOptions(
        data_path=tmp_path / "set",
        out=tmp_path / "out",
        nb_knn=[3, 100],
        resize=32,
        crop=32,
        batch_size=4,
        dump_features=True,
    )
    scores = {score.name: score for score in run_knn(options, QUIET, tiny)}
    assert set(scores) == {"knn3_top1", "knn100_top1"}  # three classes have no top 5
    assert (scores["knn3_top1"].value, scores["knn3_top1"].n) == (1.0, 9)
    next((tmp_path / "out" / "features" / "val").glob("*.npz")).unlink()
    assert [score.value for score in run_knn(options, QUIET, tiny)] == [score.value for score in scores.values()]
    kept = dataclasses.replace(options, data_path=None, load_features=tmp_path / "out", out=tmp_path / "again")
    assert [score.value for score in run_knn(kept, QUIET)] == [score.value for score in scores.values()]


def test_classes_of_a_split_are_those_of_most_pixels(scenes: Path, tmp_path: Path) -> None:
    more = ["--random_weights", "--arch", "vit_tiny", "--resize", "32", "--crop", "32", "--nb_knn", "5"]
    done = command(
        "eval_knn.py", "--data_file", scenes / "scenes", "--base_dir", scenes, *more, "--out", tmp_path / "knn"
    )
    assert done.returncode == 0, done.stderr
    (score,) = read_scores(tmp_path / "knn" / "scores.json")
    assert (score.name, score.n) == ("knn5_top1", 3)


def test_a_class_without_training_pictures_is_refused(tiny: Named, tmp_path: Path) -> None:
    coloured(tmp_path / "set" / "train", 1)
    coloured(tmp_path / "set" / "val", 1)
    (tmp_path / "set" / "val" / "red").rename(tmp_path / "set" / "val" / "rose")
    with pytest.raises(InputError, match="class 'rose' of the val set is not in the train set"):
        run_knn(KnnOptions(data_path=tmp_path / "set", out=tmp_path / "out"), QUIET, tiny)


@pytest.mark.slow
def test_the_chain_leaves_a_report_and_goes_on_from_what_stands(scenes: Path, tmp_path: Path) -> None:
    sizes = [
        *("--arch", "vit_tiny", "--width", "16", "--depth", "1", "--heads", "2", "--patch_size", "8"),
        *("--global_crop_size", "24", "--local_crop_size", "16", "--local_crops_number", "1", "--out_dim", "16"),
        *("--head_hidden", "16", "--head_bottleneck", "8", "--epochs", "1", "--batch_size", "4"),
        *("--image_size", "40", "56", "--knn_size", "32", "--nb_knn", "3", "--gpus", "0"),
    ]
    line = [
        "--model",
        "dino",
        "--data_file",
        scenes / "scenes",
        "--base_dir",
        scenes,
        *sizes,
        "--out",
        tmp_path / "run",
    ]
    done = command("run.py", *line)
    assert done.returncode == 0, done.stderr
    scores = {score.name: score for score in read_scores(tmp_path / "run" / "scores.json")}
    names = {"attention_jaccard", "j_mean_frame", "knn3_top1"}
    assert names | {f"baseline_{name}" for name in names} <= set(scores)
    assert (tmp_path / "run" / "report.html").stat().st_size > 10_000
    split = read_split(tmp_path / "run" / "predictions" / "scenes_test.csv", base_dir=scenes)
    assert read_mask(split.path(0, "Pred")).labels.shape == (40, 56)
    again = command("run.py", *line, "--resume")
    assert again.returncode == 0, again.stderr
    assert {score.name: score.value for score in read_scores(tmp_path / "run" / "scores.json")} == {
        name: score.value for name, score in scores.items()
    }


def test_untrained_baseline_is_where_the_training_started(scenes: Path, tmp_path: Path) -> None:
    from transformer_seg.dino.chain import untrained
    from transformer_seg.dino.options import DinoDataOptions

    model = DinoOptions(arch="vit_tiny", width=16, depth=1, heads=2, out_dim=8, head_hidden=8, head_bottleneck=4)
    data = DinoDataOptions(data_file=scenes / "scenes", seed=3)
    one, again = (untrained(model, data).backbone.state_dict() for _ in range(2))
    torch.testing.assert_close(one, again, rtol=0, atol=0)
    other = untrained(model, dataclasses.replace(data, seed=4)).backbone.state_dict()
    assert not torch.equal(one["cls_token"], other["cls_token"])


@pytest.mark.parametrize("file", CONFIGS, ids=lambda file: file.stem)
def test_recipe_loads_and_says_what_each_key_is(file: Path) -> None:
    parts = ("ChainOptions", "Options", "DataOptions") if "embedded" in file.name else ("Options", "DataOptions")
    classes = [*(option_class("dino", part) for part in parts), SystemRunOptions, TrainerFlags]
    options = cli.parse(classes, ["--config", str(file)], aliases_of("dino"))
    flat = {name: getattr(part, name) for part in options for name in part.__dataclass_fields__}
    for key, value in yaml.safe_load(file.read_text()).items():
        assert flat[key] == value or str(flat[key]) == str(value), key
    previous = ""
    for text in file.read_text().splitlines():
        if text and not text.startswith("#"):
            assert previous.startswith(("#", "warmup_teacher_temp", "weight_decay")), text
        previous = text


def test_the_defaults_are_the_published_command() -> None:
    recipe = yaml.safe_load((CONFIGS[0].parent / "dino_vits16_100ep.yaml").read_text())
    classes = [option_class("dino", part) for part in ("Options", "DataOptions")]
    options = cli.parse(classes, [], aliases_of("dino"))
    flat = {name: getattr(part, name) for part in options for name in part.__dataclass_fields__}
    ours = {"model", "num_workers", "patch_size", "warmup_epochs", "precision", "strategy"}  # None here, or a machine's
    for key, value in recipe.items():
        assert key in ours or flat[key] == value, key


def test_prediction_split_of_an_empty_image_column_is_refused(scenes: Path, tiny: Named, tmp_path: Path) -> None:
    table = read_split(scenes / "scenes_test.csv", base_dir=scenes).frame
    table["Image"] = ""
    write_split(tmp_path / "empty.csv", table)
    with pytest.raises(InputError, match="the 'Image' column is empty"):
        run_attention(options_of(scenes, tmp_path / "out", data_file=tmp_path / "empty.csv"), QUIET, tiny)
