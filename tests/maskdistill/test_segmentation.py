"""Stages E and F: networks, data, losses and scores in training, label maps, the original's files."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from torch import nn
from torch.nn import functional as F

from common import cli
from common.errors import InputError
from common.files import read_labels, write_image, write_labels
from common.options import RunOptions, TrainerFlags
from common.sampling import EpochSampler
from common.splits import Split, read_split, write_split
from common.synthetic import SceneOptions
from common.synthetic import run as make_scenes
from maskdistill.chain_options import ChainDataOptions, ChainOptions, StageOptions
from maskdistill.model.deeplab import (
    FCN,
    DeepLabV3,
    LinearProbe,
    SampleDropout,
    _RateConv2d,
    make_trunk,
    upsample,
)
from maskdistill.onnx_export import largest_difference, write_onnx
from maskdistill.segmentation.crf_pool import CrfJob, crf_labels
from maskdistill.segmentation.data import LabelledImages, read_label_map, readable
from maskdistill.segmentation.experiment import original_defaults
from maskdistill.segmentation.label_writer import LabelRule
from maskdistill.segmentation.labelling import Machine, label_images
from maskdistill.segmentation.linear_finetune import OPTIONS as LINEAR_OPTIONS
from maskdistill.segmentation.module import LinearProbeModule, SegmentationModule, miou
from maskdistill.segmentation.multi_gpu import without_distribution
from maskdistill.segmentation.networks import import_network, make_network
from maskdistill.segmentation.options import (
    ALIASES,
    PROBE_DEFAULTS,
    DbKwargs,
    LossKwargs,
    ModelKwargs,
    OptimizerKwargs,
    SchedulerKwargs,
    SegmentationDataOptions,
    SegmentationOptions,
)
from maskdistill.segmentation.restore import restore, save_original
from maskdistill.segmentation.scoring import PUBLISHED, score_labels
from maskdistill.segmentation.sources import VOC_NAMES, label_files, label_names, voc_split
from maskdistill.segmentation.train import OPTIONS
from maskdistill.segmentation.training import check_training
from maskdistill.single import regions

CONFIGS = sorted((Path(__file__).resolve().parents[2] / "maskdistill" / "configs").glob("*.yaml"))
SMALL = ModelKwargs(pretraining="random", trunk="small")
QUIET = TrainerFlags(accelerator="cpu", enable_progress_bar=False)


def small_options(**more) -> SegmentationOptions:
    return SegmentationOptions(model_kwargs=SMALL, freeze_layers=0, **more)


@pytest.fixture(scope="module")
def scenes(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("scenes")
    make_scenes(SceneOptions(out=folder, num=4, num_val=2, height=40, width=48, num_classes=2))
    return folder


@pytest.fixture(scope="module")
def model_file(tmp_path_factory) -> Path:
    torch.manual_seed(0)
    file = tmp_path_factory.mktemp("model") / "model.pth.tar"
    save_original(DeepLabV3(3, "small"), file)
    return file


# Networks


@pytest.mark.parametrize("size", [(5, 40), (40, 5), (12, 12), (13, 12)])
def test_kernel_rows_in_the_padding_change_nothing(size):
    torch.manual_seed(0)
    plain = nn.Conv2d(4, 3, 3, padding=12, dilation=12, bias=False).double()
    ours = _RateConv2d(4, 3, 3, padding=12, dilation=12, bias=False).double()
    ours.load_state_dict(plain.state_dict())
    features = torch.randn(2, 4, *size, dtype=torch.float64)
    torch.testing.assert_close(ours(features), plain(features))
    for conv in (plain, ours):
        conv(features).square().sum().backward()
    torch.testing.assert_close(ours.weight.grad, plain.weight.grad)


def test_dropout_of_a_sample_is_its_own():
    dropout = SampleDropout(0.5)
    features = torch.ones(2, 8, 50, 50)
    dropout.keys = [7, 9]
    first = dropout(features)
    dropout.keys = [9, 7]
    assert torch.equal(dropout(features), first.flip(0))
    assert set(first.unique().tolist()) == {0.0, 2.0}
    assert first.mean() == pytest.approx(1.0, abs=0.02)
    assert torch.equal(dropout.eval()(features), features)


@pytest.mark.parametrize(("trunk", "width"), [("resnet18", 512), ("small", 128)])
def test_small_trunks_keep_an_eighth(trunk, width):
    images = torch.randn(1, 3, 64, 48)
    with torch.no_grad():
        assert make_trunk(trunk).eval()(images).shape == (1, width, 8, 6)
        assert make_trunk(trunk, 16).eval()(images).shape == (1, width, 4, 3)


@pytest.mark.parametrize("trunk", ["resnet18", "small"])
def test_a_file_names_its_trunk(trunk):
    assert type(import_network(DeepLabV3(4, trunk).state_dict()).backbone) is type(make_trunk(trunk))


@pytest.mark.parametrize("kind", [DeepLabV3, FCN, LinearProbe])
@pytest.mark.parametrize("prefix", ["", "module."])
def test_published_files_name_their_network(kind, prefix):
    torch.manual_seed(0)
    network = kind(5, "small")
    weights = {f"{prefix}{key}": value for key, value in network.state_dict().items()}
    found = import_network(weights)
    assert type(found) is kind
    assert all(torch.equal(value, found.state_dict()[key]) for key, value in network.state_dict().items())


def test_resumable_file_of_the_original(tmp_path):
    network = DeepLabV3(5, "small")
    weights = {f"module.{key}": value for key, value in network.state_dict().items()}
    content = {"optimizer": {}, "model": weights, "epoch": 3, "best_epoch": 2, "best_iou": np.float64(0.4)}
    torch.save(content, tmp_path / "checkpoint.pth.tar")
    restored = restore(tmp_path / "checkpoint.pth.tar")
    assert restored.num_classes == 5
    assert torch.equal(restored.network.state_dict()["head.4.weight"], network.state_dict()["head.4.weight"])


def test_a_file_of_something_else_is_named(tmp_path):
    torch.save({"blocks.0.attn.qkv.weight": torch.zeros(3, 3)}, tmp_path / "vit.pth")
    with pytest.raises(InputError, match="the file is a ViT, a DeepLabV3 is needed"):
        restore(tmp_path / "vit.pth")


@pytest.mark.parametrize(
    ("options", "part"),
    [
        (ModelKwargs(), "name its file with --model_kwargs.pretraining_path"),
        (ModelKwargs(pretraining="dino", trunk="resnet18"), "give --model_kwargs.trunk resnet50"),
    ],
)
def test_pretraining_that_cannot_be(options, part):
    with pytest.raises(InputError, match=part):
        make_network(options, 21)


@pytest.mark.slow
@pytest.mark.parametrize("prefix", ["module.encoder_q.", "module.base_encoder.", ""], ids=["moco", "moco-v3", "dino"])
def test_trunks_of_self_supervised_files(tmp_path, prefix):
    trunk = DeepLabV3(21).backbone.state_dict()
    weights = {f"{prefix}{key}": value for key, value in trunk.items()}
    if prefix:
        weights |= {f"{prefix}fc.weight": torch.zeros(2, 2), "module.queue": torch.zeros(2)}
    torch.save({"state_dict": weights} if prefix else weights, tmp_path / "file.pth.tar")
    kind = "moco" if prefix else "dino"
    network = make_network(ModelKwargs(pretraining=kind, pretraining_path=tmp_path / "file.pth.tar"), 21)
    assert all(torch.equal(value, trunk[key]) for key, value in network.backbone.state_dict().items())


# The module


def batch(target: torch.Tensor, size: int = 32) -> dict:
    n = len(target)
    return {"image": torch.randn(n, 3, size, size), "semseg": target, "index": torch.arange(n), "weight": torch.ones(n)}


@pytest.mark.parametrize("loss", ["ohem", "CE", "trimmed"])
def test_a_batch_of_void_trains_nothing(loss):
    torch.manual_seed(0)
    module = SegmentationModule(small_options(loss=loss), 3, 3).train()
    value = module.loss(module.network(torch.randn(2, 3, 32, 32)), torch.full((2, 32, 32), 255, dtype=torch.uint8))
    value.backward()
    assert value == 0
    assert not any(p.grad.any() for p in module.network.parameters() if p.grad is not None)


def test_batch_of_one_is_scored_like_its_image_in_a_larger_batch():
    torch.manual_seed(0)
    module = SegmentationModule(small_options(), 3, 3).eval()
    images = torch.randn(3, 3, 32, 40)
    with torch.no_grad():
        torch.testing.assert_close(module(images[:1]), module(images)[:1], rtol=1e-4, atol=1e-5)
        low, side = module.predict_step({"image": images[:1]}, 0)
    assert low.shape == (1, 3, 4, 5)
    assert side == (32, 40)


def test_rate_falls_in_the_epoch_after():
    module = SegmentationModule(small_options(scheduler_kwargs=SchedulerKwargs(lr_decay_epochs=[2])), 3, 3)
    assert [module.rate(epoch) for epoch in range(4)] == pytest.approx([0.002, 0.002, 0.002, 0.0002])


def test_an_average_is_what_is_validated():
    module = SegmentationModule(small_options(use_ema=True, alpha_ema=0.5), 3, 3)
    before = module.averaged_network.state_dict()["head.4.bias"].clone()
    with torch.no_grad():
        module.network.head[4].bias += 1.0
    module.on_train_batch_end(None, None, 0)
    torch.testing.assert_close(module.evaluated.state_dict()["head.4.bias"], before + 0.5)
    assert any(key.startswith("averaged_network.") for key in module.state_dict())


def test_a_probe_trains_its_classifier_alone():
    torch.manual_seed(0)
    options = small_options(loss="CE", freeze_batchnorm="all", optimizer_kwargs=OptimizerKwargs(lr=0.1))
    module = LinearProbeModule(options, 4, 4, network=DeepLabV3(3, "small")).train()
    assert not any(child.training for child in module.network.modules())
    module.training_step(batch(torch.randint(0, 4, (2, 32, 32)).to(torch.uint8)), 0).backward()
    assert [name for name, p in module.network.named_parameters() if p.grad is not None] == [
        "head.4.weight",
        "head.4.bias",
    ]
    with pytest.raises(InputError, match="a linear probe needs a DeepLab-v3"):
        LinearProbeModule(options, 4, 4, network=FCN(3, "small"))


def test_classifier_commutes_with_upsampling():
    torch.manual_seed(0)
    network = DeepLabV3(4, "small").eval()
    images = torch.randn(1, 3, 48, 48)
    with torch.no_grad():
        late = network.classifier(upsample(network.features(images), (48, 48)))
        torch.testing.assert_close(network(images), late, rtol=1e-4, atol=1e-5)


def test_clusters_are_matched_with_the_background_fixed():
    counts = np.array([[50, 0, 0], [0, 0, 10], [0, 20, 0]])
    assert miou(counts, "none")[0] == pytest.approx(1 / 3)
    assert miou(counts, "val")[0] == 1.0


# Data


def test_label_maps_are_checked(tmp_path):
    write_labels(tmp_path / "a.png", np.array([[0, 2], [255, 1]]))
    assert read_label_map(tmp_path / "a.png", (2, 2), 3).tolist() == [[0, 2], [255, 1]]
    with pytest.raises(InputError, match=r"a\.png: value\(s\) 2 are none of 2 classes"):
        read_label_map(tmp_path / "a.png", (2, 2), 2)
    with pytest.raises(InputError, match=r"label map of 2x2 pixels, but its image has 4x4"):
        read_label_map(tmp_path / "a.png", (4, 4), 3)
    assert read_label_map(tmp_path / "a.png", (4, 4), 3, resize=True).shape == (4, 4)
    write_image(tmp_path / "rgb.png", np.dstack([np.full((2, 2), value, np.uint8) for value in (1, 2, 3)]))
    with pytest.raises(InputError, match="a colour picture, not a label map"):
        read_label_map(tmp_path / "rgb.png", (2, 2), 3)


def test_augmentation_depends_on_epoch_and_image_only(scenes):
    split = read_split(scenes / "scenes", "train", scenes)
    options = SegmentationDataOptions(image_px=32)
    files = [split.path(row, "GtSemantic") for row in range(len(split))]
    sampler = EpochSampler(len(split), shuffle=True, seed=1)
    data = LabelledImages(split, files, 3, options, sampler)
    first = data[1]["image"]
    assert torch.equal(data[1]["image"], first)
    sampler.set_epoch(1)
    assert not torch.equal(data[1]["image"], first)
    assert data[~1]["weight"] == 0.0


def test_unreadable_images_are_left_out_where_asked_for(scenes, tmp_path, capsys):
    split = read_split(scenes / "scenes", "train", scenes)
    (tmp_path / "bad.jpg").write_bytes(split.path(0, "Image").read_bytes()[:300])
    rows = split.frame.to_dict("records")
    rows[0]["Image"] = str(tmp_path / "bad.jpg")
    kept = readable(Split.from_rows(rows, scenes))
    assert len(kept) == len(split) - 1
    assert "bad.jpg" in capsys.readouterr().err


def voc_folder(root: Path) -> Path:
    for name in ("images", "SegmentationClassAug", "SegmentationClass", "sets"):
        (root / "VOCSegmentation" / name).mkdir(parents=True)
    for stem in ("a", "b", "c"):
        write_image(root / "VOCSegmentation" / "images" / f"{stem}.jpg", np.zeros((4, 4, 3), np.uint8))
        write_labels(root / "VOCSegmentation" / "SegmentationClassAug" / f"{stem}.png", np.zeros((4, 4), np.int64))
    (root / "VOCSegmentation" / "sets" / "val.txt").write_text("c\n")
    return root


def test_voc_folders_give_their_lists(tmp_path):
    root = voc_folder(tmp_path)
    assert voc_split(root, "val").column("Sequence").tolist() == ["c"]
    trainaug = voc_split(root, "trainaug")
    assert trainaug.column("Sequence").tolist() == ["a", "b"]
    assert "SegmentationClassAug" in trainaug.column("GtSemantic")[0]
    (root / "VOCSegmentation" / "sets" / "train.txt").write_text("a 1\nx\ny\n")
    with pytest.raises(InputError, match=r"2 of 3 images are not in .*images \(first: x, y\)"):
        voc_split(root, "train")
    with pytest.raises(InputError, match="neither VOCSegmentation"):
        voc_split(tmp_path / "nothing", "val")


def test_label_maps_of_an_earlier_stage(scenes, tmp_path):
    split = read_split(scenes / "scenes", "train", scenes)
    for name in label_names(split):
        write_labels(tmp_path / name, np.zeros((4, 4), np.int64))
    options = SegmentationDataOptions(data_file=scenes / "scenes", base_dir=scenes, distill_dir=tmp_path)
    assert [file.name for file in label_files(options, split)] == label_names(split)
    (tmp_path / label_names(split)[2]).unlink()
    with pytest.raises(InputError, match=r"1 of 4 label maps are not there \(first: scenes_00002.png\)"):
        label_files(options, split)
    with pytest.raises(InputError, match="name the label maps with --distill_dir"):
        label_files(SegmentationDataOptions(data_file=scenes / "scenes", base_dir=scenes), split)
    assert label_files(
        SegmentationDataOptions(train_db_name="VOCSegmentation", train_db_kwargs=DbKwargs(split="train")), split
    ) == [split.path(row, "GtSemantic") for row in range(4)]


def test_label_maps_of_a_prediction_split_are_found_by_image(scenes, tmp_path):
    split = read_split(scenes / "scenes", "train", scenes)
    rows = []
    for row in reversed(range(len(split))):
        write_labels(tmp_path / f"map{row}.png", np.zeros((4, 4), np.int64))
        rows.append({"Sequence": f"s{row}", "Sequence_Index": "0", "Image": str(split.path(row, "Image"))})
        rows[-1]["Pred"] = str(tmp_path / f"map{row}.png")
    write_split(tmp_path / "maps.csv", rows)
    options = SegmentationDataOptions(data_file=scenes / "scenes", base_dir=scenes, distill_dir=tmp_path / "maps.csv")
    assert [file.name for file in label_files(options, split)] == [f"map{row}.png" for row in range(4)]


# Label maps and scores


def test_label_maps_are_written_resumed_and_guarded(scenes, model_file, tmp_path):
    split = read_split(scenes / "scenes", "val", scenes)
    machine = Machine(QUIET, batch_size=2, crf_workers=0)
    written = label_images(restore(model_file), split, tmp_path / "p", LabelRule(), machine, image_px=32)
    predicted = read_split(written, base_dir=scenes)
    first = predicted.path(0, "Pred")
    assert read_labels(first).shape == (40, 48)
    assert (tmp_path / "p" / "overlays" / f"{first.stem}.jpg").exists()
    before = first.read_bytes()
    first.unlink()
    label_images(restore(model_file), split, tmp_path / "p", LabelRule(), machine, image_px=32)
    assert first.read_bytes() == before
    with pytest.raises(InputError, match="predictions of another rule"):
        label_images(restore(model_file), split, tmp_path / "p", LabelRule(crf=True), machine, image_px=32)
    label_images(restore(model_file), split, tmp_path / "p", LabelRule(crf=True), machine, image_px=32, overwrite=True)
    assert len(list((tmp_path / "p").glob("*.png"))) == 2


@pytest.mark.slow
def test_crf_in_a_pool_equals_the_crf_here(scenes, model_file, tmp_path):
    split = read_split(scenes / "scenes", "train", scenes)
    for workers in (0, 2):
        machine = Machine(QUIET, batch_size=2, crf_workers=workers)
        label_images(
            restore(model_file),
            split,
            tmp_path / str(workers),
            LabelRule(crf=True),
            machine,
            image_px=32,
            overlay=False,
        )
    for name in label_names(split):
        assert np.array_equal(read_labels(tmp_path / "0" / name), read_labels(tmp_path / "2" / name))


def test_crf_leaves_out_classes_that_nowhere_matter(scenes):
    split = read_split(scenes / "scenes", "val", scenes)
    truth = torch.from_numpy(np.where(read_labels(split.path(0, "GtSemantic")) == 255, 0, 1).astype(np.int64))
    logits = F.one_hot(truth, 6).permute(2, 0, 1).float() * 8.0
    logits[2:] -= 8.0
    low = F.interpolate(logits[None], size=(10, 12), mode="bilinear")[0].numpy()
    job = CrfJob(split.path(0, "Image"), Path("unused"), low, (40, 48), 0.0)
    assert (crf_labels(job) == crf_labels(CrfJob(job.image, job.out, low, (40, 48), 1e-3))).mean() > 0.999


def scored(tmp_path: Path, predicted: np.ndarray, truth: np.ndarray, names: dict[int, str], match="none"):
    write_labels(tmp_path / "pred.png", predicted)
    write_labels(tmp_path / "gt.png", truth)
    row = {"Sequence": "a", "Sequence_Index": "0", "Pred": "pred.png", "GtSemantic": "gt.png"}
    return score_labels(Split.from_rows([row], tmp_path), names, match=match)


def test_scores_of_four_pixels(tmp_path):
    names = {0: "background", 1: "cat", 2: "dog"}
    found = scored(tmp_path, np.array([[0, 1, 1, 1]]), np.array([[0, 1, 255, 0]]), names)
    # background 1/2, cat 1/2, dog absent counts 0
    assert found.lines() == [
        "mIoU is 33.33",
        "IoU class background is 50.00",
        "IoU class cat is 50.00",
        "IoU class dog is 0.00",
    ]
    assert {score.name for score in found.scores} >= {"miou_dataset_none", "miou_dataset_hungarian"}
    assert found.per_image["miou"][0] == pytest.approx(0.5)


def test_both_clustering_protocols_are_scored(tmp_path):
    names = {0: "background", 1: "cat", 2: "dog"}
    found = scored(tmp_path, np.array([[0, 2, 1, 3]]), np.array([[0, 1, 2, 2]]), names)
    values = {score.name: score.value for score in found.scores}
    assert values["miou_dataset_none"] == pytest.approx(1 / 3)
    assert values["miou_dataset_hungarian"] == pytest.approx((1 + 1 + 0.5) / 3)
    assert values["pixel_clustering_miou"] == pytest.approx(1.0)  # by majority: clusters 1 and 3 are both dogs


def test_a_class_without_a_name_is_refused(tmp_path):
    with pytest.raises(InputError, match="class 4 is none of the 2 classes"):
        scored(tmp_path, np.array([[0]]), np.array([[4]]), {0: "background", 1: "cat"})


def test_published_tables_have_the_published_means():
    assert np.mean(PUBLISHED["linear_crf"]) == pytest.approx(62.77, abs=0.005)
    assert np.mean(PUBLISHED["clustering"]) == pytest.approx(48.46, abs=0.005)
    assert all(len(values) == len(VOC_NAMES) == 21 for values in PUBLISHED.values())


def test_connected_regions_are_instances():
    labels = np.array([[1, 1, 0, 1], [0, 0, 0, 1], [2, 0, 255, 1]])
    found = regions(labels)
    assert found.tolist() == [[2, 2, 0, 1], [0, 0, 0, 1], [3, 0, 0, 1]]


# The original's files


def test_experiment_files_are_defaults(tmp_path):
    (tmp_path / "multi_obj").mkdir()
    (tmp_path / "env.yml").write_text("root_dir: outputs\n")
    experiment = {
        "train_db_name": "VOCSegmentationDistill",
        "train_db_kwargs": {"split": "trainaug", "distill_dir": "maps/"},
        "model_kwargs": {"pretraining": "moco", "use_fcn": True},
        "scheduler_kwargs": {"lr_decay_epochs": [7]},
        "epochs": 9,
    }
    file = tmp_path / "multi_obj" / "deeplab.yml"
    file.write_text(yaml.safe_dump(experiment))
    argv = ["--config_exp", str(file), f"--config_env={tmp_path / 'env.yml'}", "--epochs", "3", "--crf-postprocess"]
    defaults = original_defaults(argv, OPTIONS)
    _, model, data, labels, run, _ = cli.parse(OPTIONS, argv, ALIASES, defaults=defaults)
    assert (model.epochs, model.scheduler_kwargs.lr_decay_epochs, model.model_kwargs.use_fcn) == (3, [7], True)
    assert (data.distill_dir, labels.crf_postprocess) == (Path("maps"), True)
    assert run.out == Path("outputs/multi_obj/deeplab")
    file.write_text("epoch: 3\n")
    with pytest.raises(InputError, match="unknown key epoch; did you mean epochs"):
        original_defaults(argv, OPTIONS)
    with pytest.raises(InputError, match="no such configuration file"):
        original_defaults(["--config_exp", str(tmp_path / "none.yml")], OPTIONS)


def test_distribution_flags_of_the_original_are_left_out(capsys):
    argv = ["--multiprocessing-distributed", "--rank", "0", "--world-size=1", "--config_exp", "x.yml"]
    assert without_distribution(argv) == ["--config_exp", "x.yml"]
    assert "--devices" in capsys.readouterr().err


def recipe_classes(file: Path):
    if file.stem.startswith("linear"):
        return LINEAR_OPTIONS
    if file.stem in ("embedded", "voc"):
        return (ChainOptions, StageOptions, ChainDataOptions, RunOptions, TrainerFlags)
    return OPTIONS


RECIPES = [file for file in CONFIGS if not file.stem.startswith("maskrcnn")]


@pytest.mark.parametrize("file", RECIPES, ids=lambda file: file.stem)
def test_recipe_loads_with_its_values(file):
    options = cli.parse(recipe_classes(file), ["--config", str(file)], ALIASES)
    flat = {name: getattr(part, name) for part in options for name in part.__dataclass_fields__}
    for key, value in yaml.safe_load(file.read_text()).items():
        if isinstance(value, dict):
            for inner, expected in value.items():
                if not isinstance(expected, dict):
                    assert getattr(flat[key], inner) == expected or str(getattr(flat[key], inner)) == str(expected)
        else:
            assert flat[key] == value or str(flat[key]) == str(value), key


def test_the_defaults_are_the_publication():
    recipe = yaml.safe_load((CONFIGS[0].parent / "deeplab_voc.yaml").read_text())
    _, model, data, labels, *_ = cli.parse(OPTIONS, [])
    assert (recipe["loss"], recipe["epochs"], recipe["batch_size"]) == (model.loss, model.epochs, data.batch_size)
    assert recipe["optimizer_kwargs"] == vars(model.optimizer_kwargs)
    assert recipe["scheduler_kwargs"] == vars(model.scheduler_kwargs)
    assert (recipe["freeze_layers"], recipe["select"]) == (model.freeze_layers, labels.select)
    linear = yaml.safe_load((CONFIGS[0].parent / "linear_voc.yaml").read_text())
    assert linear["optimizer_kwargs"]["lr"] == PROBE_DEFAULTS["optimizer_kwargs.lr"]
    assert linear["epochs"] == PROBE_DEFAULTS["epochs"]


@pytest.mark.parametrize("file", RECIPES, ids=lambda file: file.stem)
def test_recipes_are_commented(file):
    assert sum(line.startswith("#") for line in file.read_text().splitlines()) >= 4


@pytest.mark.slow
def test_onnx_export_says_the_same(model_file, tmp_path):
    pytest.importorskip("onnxscript", reason="needs the export extra")
    network = restore(model_file).network
    write_onnx(network, torch.randn(2, 3, 48, 48), tmp_path / "net.onnx")
    assert largest_difference(network, tmp_path / "net.onnx", torch.randn(1, 3, 48, 48)) < 1e-3


def test_a_run_needs_its_flags(tmp_path):
    shutil.rmtree(tmp_path / "none", ignore_errors=True)
    for module, argv, part in (
        ("train", ["--crf_train"], "--crf_train: needs --crf_postprocess"),
        ("train", [], "give either --data_file"),
        ("linear_finetune", ["--dataset_root", str(tmp_path)], "--pretrained: name the trained DeepLab-v3"),
    ):
        assert exit_of(module, [*argv, "--out", str(tmp_path / "run")], part)
    assert not (tmp_path / "run").exists()


def exit_of(module: str, argv: list[str], part: str) -> bool:
    import contextlib
    import importlib
    import io

    errors = io.StringIO()
    with contextlib.redirect_stderr(errors):
        code = importlib.import_module(f"maskdistill.segmentation.{module}").main(argv)
    assert part in errors.getvalue(), errors.getvalue()
    return code == cli.BAD_INPUT


def test_scores_file_is_strict_json(tmp_path):
    found = scored(tmp_path, np.array([[0, 1]]), np.array([[0, 1]]), {0: "background", 1: "cat"})
    assert json.loads(json.dumps([score.to_dict() for score in found.scores], allow_nan=False))


def toy(folder: Path, noisy: float, loss: str) -> float:
    """mIoU after 70 steps on 160 scenes of discs, squares and ellipses on noise, a share of them labelled wrongly."""
    import contextlib
    import io

    from maskdistill.segmentation.train import main

    scenes = folder / "scenes"
    make_scenes(SceneOptions(out=scenes, num=160, num_val=40, height=64, width=64, style="noise", void_px=0))
    split = read_split(scenes / "scenes", "train", scenes)
    draw = np.random.default_rng(0)
    wrong = set(draw.permutation(160)[: round(160 * noisy)].tolist())
    for row, name in enumerate(label_names(split)):
        labels = read_labels(split.path(row, "GtSemantic"))
        if row in wrong:
            labels = np.where(labels > 0, draw.integers(1, 4), 0)
        write_labels(folder / "maps" / name, labels)
    argv = ["--data_file", str(scenes / "scenes"), "--base_dir", str(scenes), "--distill_dir", str(folder / "maps")]
    argv += ["--model_kwargs.pretraining", "random", "--model_kwargs.trunk", "resnet18", "--freeze_layers", "0"]
    argv += ["--image_px", "64", "--batch_size", "8", "--num_workers", "0", "--max_steps", "70", "--transforms", "none"]
    argv += ["--optimizer_kwargs.lr", "0.02", "--scheduler", "constant", "--loss", loss, "--overlay", "false"]
    argv += ["--accelerator", "cpu", "--enable_progress_bar", "false", "--out", str(folder / "run")]
    with contextlib.redirect_stdout(io.StringIO()):
        assert main(argv) == cli.DONE
    scores = json.loads((folder / "run" / "scores.json").read_text())
    return next(score["value"] for score in scores if score["name"] == "miou_dataset_none")


@pytest.mark.slow
@pytest.mark.parametrize(("noisy", "loss", "bar"), [(0.0, "ohem", 0.65), (0.4, "CE", 0.64)])
def test_toy_scenes_are_learnt(tmp_path, noisy, loss, bar):
    torch.set_num_threads(1)
    assert toy(tmp_path, noisy, loss) >= bar


@pytest.mark.parametrize(
    ("kind", "changes", "part"),
    [
        (SegmentationModule, {"data": {"batch_size": 0}}, "--batch_size 0: give at least 1"),
        (SegmentationModule, {"data": {"batch_size": 1}}, "the batch norm over pooled images needs two"),
        (SegmentationModule, {"loss_kwargs": LossKwargs(threshold=0.0)}, "a share, above 0 and up to 1"),
        (SegmentationModule, {"epochs": 0}, "--epochs 0: give at least 1"),
        (LinearProbeModule, {}, "--pretrained: name the trained DeepLab-v3"),
    ],
    ids=["batch", "batch norm", "threshold", "epochs", "probe"],
)
def test_trainings_that_cannot_work(kind: type[SegmentationModule], changes: dict[str, object], part: str) -> None:
    given = dict(changes)
    data = SegmentationDataOptions(**given.pop("data", {}))
    check_training(SegmentationModule, SegmentationOptions(), SegmentationDataOptions())
    with pytest.raises(InputError) as refused:
        check_training(kind, SegmentationOptions(**given), data)
    assert part in str(refused.value)
