"""Segmenter from data to scores: the commands, published containers, windows, class names, bad input."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from common.errors import InputError
from common.files import read_labels, write_image
from common.metrics.confusion import class_iou, contingency
from common.options import TrainerFlags
from common.splits import read_split
from common.synthetic import SceneOptions
from common.synthetic import run as make_data
from transformer_seg import evaluate, predict, train
from transformer_seg.options import SystemRunOptions
from transformer_seg.prediction import legend
from transformer_seg.segmenter.apply import views_of
from transformer_seg.segmenter.data import normalised, resized_picture
from transformer_seg.segmenter.losses import pixel_cross_entropy
from transformer_seg.segmenter.module import SegmenterModule, make_network
from transformer_seg.segmenter.options import SegmenterDataOptions, SegmenterOptions, stride_of
from transformer_seg.segmenter.restore import load_pretrained, load_weights, restore_segmenter
from transformer_seg.segmenter.schedule import PolynomialDecay
from transformer_seg.segmenter.sizes import encoder_sizes
from transformer_seg.segmenter.training import train as train_segmenter

ROOT = Path(__file__).resolve().parents[2]
NETWORK = ["--arch", "custom", "--patch_size", "8", "--embed_dim", "64", "--depth", "1", "--heads", "2"]
TINY = ["--model=segmenter", *NETWORK, "--image_size", "32", "--crop_size", "24", "--enable_progress_bar", "false"]


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("scenes")
    sizes = {"height": 32, "width": 44, "void_px": 1}
    make_data(SceneOptions(out=folder, num=8, num_val=2, num_test=2, style="shaded", image_format="png", **sizes))
    return folder


@pytest.fixture(scope="module")
def trained(scenes: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "segmenter"
    data = ["--data_file", str(scenes / "scenes"), "--base_dir", str(scenes)]
    more = ["--batch-size", "2", "--epochs", "2", "--learning-rate", "0.01", "--save-model", "--save-logs"]
    assert train.main([*TINY, *data, *more, "--out", str(out), "--log_every_n_steps", "1"]) == 0
    return out


def test_logs_and_the_authors_container(trained: Path) -> None:
    lines = [json.loads(line) for line in (trained / "log.txt").read_text().splitlines()]
    wanted = {"train_loss", "train_learning_rate", "val_pixel_accuracy", "val_mean_accuracy", "val_mean_iou"}
    assert wanted | {"epoch", "num_updates"} == set(lines[1])
    variant = yaml.safe_load((trained / "variant.yml").read_text())
    assert variant["net_kwargs"]["n_heads"] == 2
    ours = restore_segmenter(trained / "checkpoints" / "last.ckpt")
    theirs = restore_segmenter(trained / "checkpoint.pth")
    for key, value in ours.model.state_dict().items():
        assert torch.equal(theirs.model.state_dict()[key], value), key
    assert theirs.windows.size == ours.windows.size == 24
    assert theirs.windows.stride == ours.windows.stride == stride_of(24, None)
    image = torch.randn(1, 3, 40, 24)
    assert torch.equal(ours(image), theirs(image))  # heads and normalisation came along
    assert ours.classes == {0: "background", 1: "disc", 2: "rectangle"}


def test_rate_follows_the_published_decay(trained: Path) -> None:
    lines = [json.loads(line) for line in (trained / "log.txt").read_text().splitlines()]
    decay = PolynomialDecay(base=0.01, iterations=8)
    assert lines[0]["train_learning_rate"] == pytest.approx(decay.at(3))
    assert lines[1]["train_learning_rate"] == pytest.approx(decay.at(7))


def test_split_to_scores_and_legend(trained: Path, scenes: Path, tmp_path: Path) -> None:
    out, scores = tmp_path / "predicted", tmp_path / "scores"
    data = ["--data_file", str(scenes / "scenes_test.csv"), "--model_dir", str(trained), "--out", str(out)]
    assert predict.main([*data, "--enable_progress_bar", "false"]) == 0
    assert (out / "legend.png").exists()
    assert len(list((out / "overlays").glob("*.jpg"))) == 2
    assert evaluate.main([str(out / "scenes_test.csv"), "--base_dir", str(scenes), "--out", str(scores)]) == 0
    found = {score["name"]: score for score in json.loads((scores / "scores.json").read_text())}
    split = read_split(out / "scenes_test.csv", base_dir=scenes)
    counts = sum(
        contingency(
            read_labels(split.path(row, "Pred")),
            read_labels(split.path(row, "GtSemantic")),
            num_predicted=3,
            num_classes=3,
        )
        for row in range(2)
    )
    assert found["miou_dataset_none"]["value"] == pytest.approx(float(np.nanmean(class_iou(counts))))
    assert {"pixel_accuracy_dataset_none", "mean_accuracy_dataset_none"} <= set(found)


def test_video_and_folder_of_frames(trained: Path, scenes: Path, tmp_path: Path) -> None:
    from common.video import VideoWriter

    generator = np.random.default_rng(0)
    with VideoWriter(tmp_path / "clip.mp4", 5) as writer:
        for _ in range(3):
            writer.write(generator.integers(0, 255, (48, 64, 3), dtype=np.uint8))
    done = subprocess.run(
        [
            *(sys.executable, str(ROOT / "transformer_seg" / "predict.py"), "clip.mp4"),
            *("--model_dir", str(trained), "--out", "out"),
        ],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "out" / "overlays" / "clip.mp4").exists()
    assert len(list((tmp_path / "out" / "Pred" / "clip").glob("*.png"))) == 3


def test_multi_scale_differs_and_repeats_itself(trained: Path, scenes: Path, tmp_path: Path) -> None:
    picture = str(next((scenes / "JPEGImages").iterdir()))
    maps = []
    for name in ("a", "b"):
        arguments = [picture, "--model_dir", str(trained), "--out", str(tmp_path / name), "--multi_scale"]
        assert predict.main([*arguments, "--enable_progress_bar", "false"]) == 0
        maps.append(next((tmp_path / name / "Pred").rglob("*.png")).read_bytes())
    assert maps[0] == maps[1]  # no dropout and no drop path is left on


def test_views_are_six_sizes_plain_and_mirrored() -> None:
    picture = np.random.default_rng(0).integers(0, 255, (60, 90, 3), dtype=np.uint8)
    views = views_of(picture, "vit", 32, 4, multi_scale=True)
    assert [(tuple(view.shape[1:]), mirrored) for view, mirrored in views[:4]] == [
        ((16, 24), False),
        ((16, 24), True),
        ((24, 36), False),
        ((24, 36), True),
    ]
    assert len(views) == 12
    assert torch.equal(views[5][0].flip(-1), views[4][0])
    ((plain, mirrored),) = views_of(picture, "vit", 32, 4, multi_scale=False)
    assert not mirrored
    assert torch.equal(plain, normalised(resized_picture(picture, 32, 4), "vit"))


def test_the_loss_is_that_of_all_pixels_and_void_counts_for_nothing(monkeypatch) -> None:
    options = SegmenterOptions(
        arch="custom", patch_size=8, embed_dim=64, depth=1, heads=1, num_classes=3, drop_path=0, decoder_dropout=0
    )
    torch.manual_seed(0)
    module = SegmenterModule(options, SegmenterDataOptions(image_size=24, crop_size=24))

    class Trainer:
        world_size, num_training_batches, estimated_stepping_batches, global_rank, global_step = 1, 1, 10, 0, 0
        optimizers = (module.configure_optimizers(),)

    monkeypatch.setattr(SegmenterModule, "trainer", Trainer())
    monkeypatch.setattr(SegmenterModule, "global_step", 0)
    monkeypatch.setattr(SegmenterModule, "global_rank", 0)
    image, label = torch.randn(2, 3, 24, 24), torch.randint(0, 3, (2, 24, 24))
    label[0, :10] = 255
    batch = {"image": image, "label": label, "weight": torch.ones(2)}
    found = module.training_step(batch, 0)
    assert found is not None
    torch.testing.assert_close(found["loss"], pixel_cross_entropy(module.model(image), label))
    assert module.training_step({**batch, "label": torch.full_like(label, 255)}, 0) is None


def test_continuing_with_the_same_and_with_other_classes(trained: Path) -> None:
    options = SegmenterOptions(arch="custom", patch_size=8, embed_dim=64, depth=1, heads=2, num_classes=3)
    module = SegmenterModule(options, SegmenterDataOptions(image_size=32, crop_size=40))  # a larger grid
    load_weights(module, trained / "checkpoint.pth", reset_head=False)
    before = restore_segmenter(trained / "checkpoint.pth").model
    assert torch.equal(module.model.decoder.proj_dec.weight, before.decoder.proj_dec.weight)
    assert module.model.encoder.pos_embed.shape[1] == 26
    other = SegmenterOptions(arch="custom", patch_size=8, embed_dim=64, depth=1, heads=2, num_classes=7)
    module = SegmenterModule(other, SegmenterDataOptions(image_size=32, crop_size=24))
    with pytest.raises(InputError, match="3 classes there and 7 here; add --reset_head"):
        load_weights(module, trained / "checkpoint.pth", reset_head=False)
    fresh = module.model.decoder.cls_emb.clone()
    load_weights(module, trained / "checkpoint.pth", reset_head=True)
    assert torch.equal(module.model.decoder.cls_emb, fresh)
    assert torch.equal(module.model.encoder.norm.weight, before.encoder.norm.weight)


def test_a_timm_file_fills_the_backbone(tmp_path: Path) -> None:
    import timm
    from safetensors.torch import save_file

    state = timm.create_model("vit_tiny_patch16_384", pretrained=False).state_dict()
    save_file(state, tmp_path / "model.safetensors")
    options = SegmenterOptions(arch="tiny", num_classes=4, backbone_weights=tmp_path / "model.safetensors")
    module = SegmenterModule(options, SegmenterDataOptions(crop_size=64))
    load_pretrained(module)
    assert torch.equal(module.model.encoder.blocks[3].attn.qkv.weight, state["blocks.3.attn.qkv.weight"])
    (tmp_path / "model.safetensors").write_bytes(b"version https://git-lfs.github.com/spec/v1")
    with pytest.raises(InputError, match=r"model\.safetensors: not a readable"):
        load_pretrained(module)


def test_pretrained_offline_says_where_to_put_the_file(monkeypatch) -> None:
    import timm

    def offline(*_: object, **__: object) -> None:
        raise OSError("no network")

    monkeypatch.setattr(timm, "create_model", offline)
    options = SegmenterOptions(arch="deit_tiny_distilled_patch16_224", num_classes=4, pretrained=True)
    module = SegmenterModule(options, SegmenterDataOptions(crop_size=32))
    assert module.normalisation == "deit"
    with pytest.raises(InputError, match=r"deit_tiny_distilled_patch16_224\.fb_in1k.*--backbone_weights"):
        load_pretrained(module)
    custom = SegmenterModule(
        SegmenterOptions(arch="custom", num_classes=4, embed_dim=64, depth=1, heads=1),
        SegmenterDataOptions(crop_size=32),
    )
    with pytest.raises(InputError, match="--arch custom has no published weights"):
        load_pretrained(custom)


@pytest.mark.parametrize(("arch", "patch", "width"), [("tiny", 16, 192), ("standard", 8, 768)])
def test_presets(arch: str, patch: int, width: int) -> None:
    options = SegmenterOptions(arch=arch, num_classes=150)
    arguments = encoder_sizes(options).arguments
    assert (arguments["patch_size"], arguments["width"]) == (patch, width)
    with torch.device("meta"):
        network = make_network(options, 512)
    assert network.encoder.grid == (512 // patch, 512 // patch)


@pytest.mark.parametrize(
    ("more", "part"),
    [
        (["--crop_size", "20"], "--crop_size 20: give a multiple of the patch size 8"),
        (["--arch", "vit_huge"], "--arch vit_huge: unknown backbone"),
        (["--embed_dim", "96"], "the mask transformer needs a multiple of 64"),
        (["--heads", "3"], "give a multiple of --heads 3"),
        (["--num_classes", "2"], "label 2, but there are 2 classes"),
        (["--window_stride", "30"], "--window_stride 30: give 1 to 24"),
        (["--random_scale", "2", "1"], "--random_scale"),
        (["--cat_max_ratio", "0"], "--cat_max_ratio 0.0: give a share above 0"),
        (["--ckpt_path", "none.ckpt"], "none.ckpt"),
        (["--warmup", "50"], "--warmup 50: the training has "),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_bad_options_are_one_line(scenes, tmp_path, capsys, more, part):
    data = ["--data_file", str(scenes / "scenes"), "--base_dir", str(scenes)]
    assert train.main([*TINY, *data, "--out", str(tmp_path / "run"), "--epochs", "1", *more]) == 2
    assert part in capsys.readouterr().err


def test_no_labels_and_no_class_names(scenes, tmp_path, capsys):
    picture = np.zeros((32, 32, 3), np.uint8)
    for step in ("train", "val"):
        write_image(tmp_path / f"{step}.png", picture)
        (tmp_path / f"plain_{step}.csv").write_text(f"Sequence,Sequence_Index,Image\na,0,{step}.png\n")
    data = ["--data_file", str(tmp_path / "plain"), "--base_dir", str(tmp_path), "--out", str(tmp_path / "run")]
    assert train.main([*TINY, *data]) == 2
    assert "no class names beside the split" in capsys.readouterr().err
    assert train.main([*TINY, *data, "--num-classes", "3"]) == 2
    assert "Segmenter learns from labels" in capsys.readouterr().err


def test_prediction_names_what_is_wrong(trained, scenes, tmp_path, capsys):
    picture = str(next((scenes / "JPEGImages").iterdir()))
    for arguments, part in (
        (["--window_size", "4"], "--window_size 4"),
        (["--window_stride", "99"], "--window_stride 99"),
        (["--short_side", "4"], "--short_side 4"),
        (["--classes", "none.csv"], "none"),
    ):
        assert predict.main([picture, "--model_dir", str(trained), "--out", str(tmp_path / "out"), *arguments]) == 2
        assert part in capsys.readouterr().err


def test_legend_has_a_field_per_class() -> None:
    picture = legend({0: "background", 1: "disc", 2: "rectangle"})
    assert picture.ndim == 3
    assert (picture == [128, 0, 0]).all(axis=2).any()  # VOC's colour of class 1


def test_options_reach_the_run_from_code(scenes: Path, tmp_path: Path) -> None:
    options = SegmenterOptions(arch="custom", patch_size=8, embed_dim=64, depth=1, heads=1, optim="AdamW")
    data = SegmenterDataOptions(
        data_file=scenes / "scenes", base_dir=scenes, image_size=32, crop_size=24, batch_size=4, augment=False
    )
    run = SystemRunOptions(model="segmenter", out=tmp_path / "run")
    trainer = train_segmenter(options, data, run, TrainerFlags(fast_dev_run=True, enable_progress_bar=False))
    assert trainer.global_step == 1


def test_a_resumed_run_drops_the_same_values(scenes: Path, tmp_path: Path) -> None:
    data = ["--data_file", str(scenes / "scenes"), "--base_dir", str(scenes), "--batch_size", "4"]
    common = [*TINY, *data, "--schedule_epochs", "2", "--drop_path", "0.5", "--log_every_n_steps", "1"]
    assert train.main([*common, "--epochs", "2", "--out", str(tmp_path / "whole")]) == 0
    for epochs in ("1", "2"):
        assert train.main([*common, "--epochs", epochs, "--resume", "--out", str(tmp_path / "parts")]) == 0
    runs = [torch.load(tmp_path / run / "checkpoints" / "last.ckpt", weights_only=True) for run in ("whole", "parts")]
    for key, value in runs[0]["state_dict"].items():
        assert torch.equal(runs[1]["state_dict"][key], value), key
    assert (tmp_path / "whole" / "metrics.csv").read_text() == (tmp_path / "parts" / "metrics.csv").read_text()
