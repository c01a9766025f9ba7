"""Mask R-CNN: losses against torchvision's, exact sharing over processes, training, prediction."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torchvision.models.detection.roi_heads import fastrcnn_loss, maskrcnn_loss

from common import cli
from common.cli import BAD_INPUT, DONE
from common.errors import InputError
from common.options import RunOptions, TrainerFlags
from common.synthetic import SceneOptions
from common.synthetic import run as make_data
from maskdistill.coco_files import read_coco
from maskdistill.convert_voc import main as convert_voc
from maskdistill.detection import restore
from maskdistill.detection_data import MaskImages, resized_size
from maskdistill.detector_module import build_detector, check_detector
from maskdistill.detector_training import load_detector, load_trunk
from maskdistill.detectron2_weights import mask_rcnn_to_detectron2, resnet_to_detectron2
from maskdistill.model.detector import Detector, SeededSampler
from maskdistill.options import DetectionDataOptions, DetectorOptions, SolverOptions
from maskdistill.predict_mask_rcnn import main as predict
from maskdistill.train_mask_rcnn import main as train

TINY = [
    *("--trunk", "resnet18", "--norm", "group", "--freeze_at", "0", "--width", "8", "--rois_per_image", "8"),
    *("--anchor_px", "8", "16", "32", "64", "128", "--min_size_train", "32", "40", "--min_size_test", "32"),
    *("--max_size", "64", "--rpn_pre_nms", "50", "30", "--rpn_post_nms", "20", "10", "--score_threshold", "0.0"),
    *("--reference_batch", "0", "--lr", "0.01", "--warmup_iters", "2", "--batch_size", "2", "--gpus", "0"),
    *("--enable_progress_bar", "false", "--enable_model_summary", "false"),
]
SMALL = DetectorOptions(
    trunk="resnet18",
    norm="group",
    freeze_at=0,
    width=8,
    anchor_px=[8, 16, 32, 64, 128],
    rois_per_image=8,
    rpn_pre_nms=[50, 30],
    rpn_post_nms=[20, 10],
)


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "scenes"
    make_data(SceneOptions(out=folder, num=6, num_val=2, num_test=0, num_classes=3, height=32, width=48))
    for name in ("train", "val"):
        files = ["--dataset_root", str(folder), "--image_list", str(folder / f"ImageSets/Segmentation/{name}.txt")]
        classes = ["--classes", str(folder / "scenes_classes.csv"), "--segmentation_format", "rle"]
        assert convert_voc([*files, *classes, "--out_file", str(folder / f"{name}.json")]) == DONE
    return folder


@pytest.fixture(scope="module")
def trained(scenes: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("run") / "small"
    assert train([*arguments(scenes), *TINY, "--max_epochs", "1", "--out", str(out)]) == DONE
    return out


def arguments(scenes: Path) -> list[str]:
    files = ["--input_file", str(scenes / "train.json"), "--val_file", str(scenes / "val.json")]
    return [*files, "--image_dir", str(scenes)]


def batch(count: int = 2) -> tuple[list[torch.Tensor], list[dict[str, torch.Tensor]]]:
    draw = torch.Generator().manual_seed(0)
    images = [torch.randint(0, 255, (3, 32, 48), dtype=torch.uint8, generator=draw) for _ in range(count)]
    targets = []
    for k in range(count):
        masks = torch.zeros(1 + k, 32, 48, dtype=torch.uint8)
        boxes = torch.tensor([[4.0 + 3 * n, 5.0, 20.0 + 3 * n, 25.0] for n in range(1 + k)])
        for mask, box in zip(masks, boxes.int().tolist(), strict=True):
            mask[box[1] : box[3], box[0] : box[2]] = 1
        targets.append({"boxes": boxes, "labels": torch.arange(1 + k) % 3 + 1, "masks": masks})
    return images, targets


def generators(count: int) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(7 + k) for k in range(count)]


def small(**changes: object) -> Detector:
    torch.manual_seed(0)
    return build_detector(replace(SMALL, **changes), 3)


def test_losses_of_a_batch_are_shared_sums() -> None:
    """Two processes of one image each, with shared counts, give together what one batch of two gives."""
    detector, (images, targets) = small(), batch()
    whole = detector.losses(images, targets, generators(2))
    counts: list[torch.Tensor] = []

    def note(found: torch.Tensor) -> torch.Tensor:
        counts.append(found)
        return found

    for k in range(2):
        detector.losses(images[k : k + 1], targets[k : k + 1], generators(2)[k : k + 1], note)
    mean = torch.stack(counts).mean(0)
    parts = [
        detector.losses(images[k : k + 1], targets[k : k + 1], generators(2)[k : k + 1], lambda _: mean)
        for k in range(2)
    ]
    for name, value in whole.items():
        torch.testing.assert_close((parts[0][name] + parts[1][name]) / 2, value, rtol=1e-5, atol=1e-6)


def test_region_losses_are_torchvisions(monkeypatch: pytest.MonkeyPatch) -> None:
    detector, (images, targets) = small(smooth_l1_beta=1 / 9), batch()
    heads, seen = detector.roi_heads, {}
    choose = heads.select_training_samples

    def remember(*given: object) -> object:
        seen["chosen"] = choose(*given)
        return seen["chosen"]

    monkeypatch.setattr(heads, "select_training_samples", remember)
    ours = detector.losses(images, targets, generators(2))
    proposals, matched, labels, goals = seen["chosen"]
    packed = detector.batched(images)
    features = detector.backbone(packed.tensors)
    logits, deltas = heads.box_predictor(heads.box_head(heads.box_roi_pool(features, proposals, packed.image_sizes)))
    classification, box = fastrcnn_loss(logits, deltas, labels, goals)
    positive = [torch.where(label > 0)[0] for label in labels]
    boxes = [proposal[index] for proposal, index in zip(proposals, positive, strict=True)]
    pooled = heads.mask_roi_pool(features, boxes, packed.image_sizes)
    mask = maskrcnn_loss(
        heads.mask_predictor(heads.mask_head(pooled)),
        boxes,
        [target["masks"] for target in targets],
        [target["labels"] for target in targets],
        [found[index] for found, index in zip(matched, positive, strict=True)],
    )
    for name, expected in (("class", classification), ("box", box), ("mask", mask)):
        torch.testing.assert_close(ours[name], expected, rtol=1e-4, atol=1e-6)


def test_proposal_losses_are_torchvisions(monkeypatch: pytest.MonkeyPatch) -> None:
    detector, (images, targets) = small(smooth_l1_beta=1 / 9), batch()
    ours = detector.losses(images, targets, generators(2))
    detector.rpn_sampler.generators = generators(2)
    packed = detector.batched(images)
    _, objectness, deltas, anchors = detector._propose(packed, detector.backbone(packed.tensors))
    labels, boxes = detector.rpn.assign_targets_to_anchors(anchors, targets)
    goals = detector.rpn.box_coder.encode(boxes, anchors)
    expected = detector.rpn.compute_loss(objectness, deltas, labels, goals)
    for name, value in zip(("objectness", "rpn_box"), expected, strict=True):
        torch.testing.assert_close(ours[name], value, rtol=1e-4, atol=1e-6)


def test_sampler_keeps_the_shares() -> None:
    sampler = SeededSampler(8, 0.25)
    sampler.generators = generators(2)
    labels = [torch.tensor([1] * 5 + [0] * 20 + [-1] * 5), torch.tensor([0] * 3)]
    positive, negative = sampler(labels)
    assert [int(mask.sum()) for mask in positive] == [2, 0]
    assert [int(mask.sum()) for mask in negative] == [6, 3]
    allowed = (labels[0] == 1, labels[0] == 0)
    for chosen, pool in zip((positive[0], negative[0]), allowed, strict=True):
        assert not chosen[~pool].any()


def descend(detector: Detector, images: list[torch.Tensor], targets: list, lr: float, steps: int) -> list[float]:
    trained = [parameter for parameter in detector.parameters() if parameter.requires_grad]
    optimizer = torch.optim.SGD(trained, lr=lr, momentum=0.9)
    totals = []
    for _ in range(steps):
        loss = torch.stack(list(detector.losses(images, targets, generators(len(images))).values())).sum()
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, 10)
        optimizer.step()
        totals.append(float(loss.detach()))
    return totals


def test_a_few_steps_lower_the_loss_by_a_third() -> None:
    totals = descend(small(), *batch(), lr=0.01, steps=8)
    assert totals[-1] < 2 / 3 * totals[0], totals


@pytest.mark.slow
def test_c4_learns_two_squares_with_its_first_stages_frozen() -> None:
    images, targets = [], []
    for k, colour in enumerate(((220, 40, 40), (40, 40, 220))):
        image = torch.full((3, 64, 64), 100, dtype=torch.uint8)
        masks = torch.zeros(1, 64, 64, dtype=torch.uint8)
        masks[0, 12:46, 10 + 10 * k : 42 + 10 * k] = 1
        image[:, masks[0] > 0] = torch.tensor(colour, dtype=torch.uint8)[:, None]
        boxes = torch.tensor([[10.0 + 10 * k, 12.0, 42.0 + 10 * k, 46.0]])
        images.append(image)
        targets.append({"boxes": boxes, "labels": torch.tensor([k + 1]), "masks": masks})
    detector = small(architecture="c4", freeze_at=2, rois_per_image=16, anchor_px=[16, 32, 64, 128, 256]).train()
    before = detector.state_dict()["backbone.layer1.0.conv1.weight"].clone()
    totals = descend(detector, images, targets, lr=0.005, steps=20)  # half by 14, on two processors
    assert totals[-1] < totals[0] / 2, totals
    assert torch.equal(detector.state_dict()["backbone.layer1.0.conv1.weight"], before)


def test_data_are_flipped_and_scaled_together(scenes: Path) -> None:
    content = read_coco(scenes / "train.json")
    data = MaskImages(content, scenes, min_sizes=[32, 64], max_size=128, flip=0.5, seed=1)
    seen = set()
    for epoch in range(8):
        item = data[(epoch, 0)]
        again = data[(epoch, 0)]
        assert torch.equal(item["image"], again["image"])
        masks, boxes = item["target"]["masks"], item["target"]["boxes"]
        assert masks.shape[1:] == item["image"].shape[1:]
        for mask, box in zip(masks, boxes, strict=True):
            rows, columns = mask.nonzero(as_tuple=True)
            tight = torch.tensor([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1])
            assert (tight - box).abs().max() <= 2
        seen.add((tuple(masks.shape[1:]), float(boxes[0, 0])))
    assert len(seen) == 4  # two sizes, flipped or not


def test_longer_side_is_bounded() -> None:
    assert resized_size((96, 128), 480, 1333) == (480, 640)
    assert resized_size((100, 1000), 480, 1333) == (133, 1333)


def test_trained_run_predicts_and_goes_on(scenes: Path, trained: Path, tmp_path: Path) -> None:
    images, results = scenes / "val.json", tmp_path / "mask_rcnn_val.json"
    base = ["--model_dir", str(trained), "--image_dir", str(scenes), "--gpus", "0", "--enable_progress_bar", "false"]
    assert predict([*base, "--images", str(images), "--set", "val", "--out", str(tmp_path)]) == DONE
    found, truth = json.loads(results.read_text()), json.loads((tmp_path / "gt_val.json").read_text())
    assert [image["id"] for image in truth["images"]] == [
        image["id"] for image in json.loads(images.read_text())["images"]
    ]
    assert found
    assert {entry["image_id"] for entry in found} <= {image["id"] for image in truth["images"]}
    assert all(entry["segmentation"]["size"] == [32, 48] and entry["category_id"] in (0, 1, 2) for entry in found)
    before = results.read_bytes()
    results.unlink()  # as if killed before the list was written, with one image done
    parts = tmp_path / "mask_rcnn_val.json.parts"
    parts.mkdir()
    source = (tmp_path / "mask_rcnn_val.json.source.json").read_text()
    (parts / "source.json").write_text(source)
    first = truth["images"][0]["id"]
    record = {"key": 0, "entries": [entry for entry in found if entry["image_id"] == first]}
    (parts / "1-a.jsonl").write_text(json.dumps(record) + "\n")
    assert predict([*base, "--images", str(images), "--set", "val", "--out", str(tmp_path)]) == DONE
    again = json.loads(results.read_text())
    assert [(entry["image_id"], entry["category_id"]) for entry in again] == [
        (entry["image_id"], entry["category_id"]) for entry in json.loads(before)
    ]


def test_validation_is_logged(trained: Path) -> None:
    header = (trained / "metrics.csv").read_text().splitlines()[0].split(",")
    assert {"train/loss", "val/loss", "val/ap50", "train/mask"} <= set(header)


def test_weights_come_from_every_kind_of_file(trained: Path, tmp_path: Path) -> None:
    import pickle

    from torchvision.models import resnet50

    trunk = {k: v for k, v in resnet50(weights=None).state_dict().items() if not k.startswith("fc.")}
    torch.save(trunk, tmp_path / "dino.pth")
    torch.save({"state_dict": {f"module.encoder_q.{k}": v for k, v in trunk.items()}}, tmp_path / "moco.pth")
    (tmp_path / "d2.pkl").write_bytes(pickle.dumps(resnet_to_detectron2(trunk)))
    from maskdistill.detector_module import MaskRCNNModule

    classes = [{"id": 0, "name": "a"}]
    for architecture, norm, name in (
        ("c4", "batch", "moco.pth"),
        ("fpn", "batch", "d2.pkl"),
        ("fpn", "frozen", "dino.pth"),
    ):
        options = DetectorOptions(architecture=architecture, norm=norm, width=8)
        module = MaskRCNNModule(options, SolverOptions(), classes)
        load_trunk(module, tmp_path / name)
        body = module.model.backbone if architecture == "c4" else module.model.backbone.body
        assert torch.equal(body.state_dict()["layer3.0.conv1.weight"], trunk["layer3.0.conv1.weight"]), name
    whole = MaskRCNNModule(DetectorOptions(architecture="c4"), SolverOptions(), classes)
    torch.save({"model": mask_rcnn_to_detectron2(whole.model.state_dict())}, tmp_path / "model_final.pth")
    other = MaskRCNNModule(DetectorOptions(architecture="c4"), SolverOptions(), classes)
    load_detector(other, tmp_path / "model_final.pth")
    loaded = mask_rcnn_to_detectron2(other.model.state_dict())
    for key, value in mask_rcnn_to_detectron2(whole.model.state_dict()).items():
        assert torch.equal(loaded[key], value), key


def test_restored_weights_are_those_that_were_saved(trained: Path) -> None:
    module = restore(trained / "checkpoints" / "last.ckpt", 0.3)
    saved = torch.load(trained / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
    assert module.model.roi_heads.score_thresh == 0.3
    for key, value in module.model.state_dict().items():
        assert torch.equal(value, saved[f"model.{key}"])


def test_rate_and_steps_follow_the_batch() -> None:
    from types import SimpleNamespace

    from maskdistill.detector_module import MaskRCNNModule

    module = MaskRCNNModule(SMALL, SolverOptions(), [{"id": 0, "name": "a"}])
    data = SimpleNamespace(options=SimpleNamespace(batch_size=2))
    module._trainer = SimpleNamespace(datamodule=data, world_size=2, accumulate_grad_batches=1)  # type: ignore[assignment]
    setup = module.configure_optimizers()
    assert [group["weight_decay"] for group in setup["optimizer"].param_groups] == [1e-4, 0.0]
    factor = setup["lr_scheduler"]["scheduler"].lr_lambdas[0]
    assert setup["optimizer"].defaults["lr"] == pytest.approx(0.02 * 4 / 16)
    assert [factor(step) for step in (0, 50, 100, 71999, 72000, 88000)] == pytest.approx(
        [1e-3, 0.5005, 1, 1, 0.1, 0.01]
    )


@pytest.mark.parametrize(
    ("more", "part"),
    [
        (["--freeze_at", "2"], "--freeze_at 2: would freeze random weights"),
        (["--anchor_px", "8"], "fpn has five levels"),
        (["--architecture", "c4"], "--trunk resnet18: c4 has a ResNet-50"),
        (["--image_dir", "nowhere"], "lacks 6 of 6 images"),
        (["--num_classes", "20"], "has 3 categories"),
        (["--norm", "frozen"], "needs --init"),
        (["--backend", "detectron2"], "give --architecture c4"),
        (["--width", "9"], "--width 9: give a multiple of 8"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_bad_options_are_one_line(
    scenes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], more: list[str], part: str
) -> None:
    assert train([*arguments(scenes), *TINY, *more, "--out", str(tmp_path / "bad")]) == BAD_INPUT
    assert part in capsys.readouterr().err.strip().splitlines()[-1]
    assert not (tmp_path / "bad" / "checkpoints").exists()


def test_a_checkpoint_of_another_kind_is_refused(
    scenes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.save({"state_dict": {"a": torch.zeros(1)}}, tmp_path / "other.ckpt")
    files = ["--images", str(scenes / "val.json"), "--image_dir", str(scenes)]
    assert predict(["--model_dir", str(tmp_path / "other.ckpt"), *files]) == BAD_INPUT
    assert "no checkpoint of train_mask_rcnn.py" in capsys.readouterr().err
    assert predict(["--model_dir", str(tmp_path / "none"), *files]) == BAD_INPUT
    assert "no such run directory" in capsys.readouterr().err


CONFIGS = sorted((Path(__file__).resolve().parents[2] / "maskdistill" / "configs").glob("maskrcnn_*.yaml"))
CLASSES = (DetectorOptions, SolverOptions, DetectionDataOptions, RunOptions, TrainerFlags)


@pytest.mark.parametrize("file", CONFIGS, ids=lambda file: file.stem)
def test_recipe_loads(file: Path) -> None:
    import yaml

    needed = ["--input_file", "a.json", "--image_dir", "."]
    options = cli.parse(CLASSES, ["--config", str(file), *needed])
    flat = {name: getattr(part, name) for part in options for name in part.__dataclass_fields__}
    for key, value in yaml.safe_load(file.read_text()).items():
        assert flat[key] == value, key


def test_the_defaults_are_the_recipe_of_prior_work() -> None:
    options, solver = DetectorOptions(architecture="c4"), SolverOptions()
    assert np.allclose([solver.lr, solver.weight_decay, solver.momentum], [0.02, 1e-4, 0.9])
    assert (solver.steps, solver.max_iter, solver.reference_batch) == ([18000, 22000], 24000, 16)
    assert (options.rpn_pre_nms, options.rpn_post_nms, options.rois_per_image) == ([12000, 6000], [2000, 1000], 512)


@pytest.mark.parametrize("length", [("--max_epochs", "1"), ("--max_steps", "2")], ids=["epochs", "steps"])
def test_batch_norms_are_measured_anew_when_training_ends(
    scenes: Path, tmp_path: Path, length: tuple[str, str]
) -> None:
    out, more = tmp_path / "run", ["--norm", "batch", "--precise_bn", "1"]
    assert train([*arguments(scenes), *TINY, *more, *length, "--out", str(out)]) == DONE
    state = torch.load(out / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
    counts = {key: int(value) for key, value in state.items() if key.endswith("num_batches_tracked")}
    assert counts
    assert set(counts.values()) == {1}  # of the measurement alone, not of the training


def test_a_measured_mean_is_that_of_the_batches() -> None:
    from types import SimpleNamespace

    from maskdistill.detector_module import MaskRCNNModule

    torch.manual_seed(0)
    module = MaskRCNNModule(
        replace(SMALL, norm="batch"), SolverOptions(precise_bn=2), [{"id": 1}, {"id": 2}, {"id": 3}]
    )
    module.train()
    images, targets = batch(4)
    loader = [
        {"image": images[k : k + 2], "target": targets[k : k + 2], "index": torch.arange(k, k + 2)} for k in (0, 2)
    ]
    module._trainer = SimpleNamespace(train_dataloader=[*loader, None], current_epoch=0, world_size=1)  # type: ignore[assignment]
    module.transfer_batch_to_device = lambda found, *_: found  # type: ignore[method-assign]
    layer = next(m for m in module.model.modules() if isinstance(m, torch.nn.BatchNorm2d))
    seen: list[torch.Tensor] = []
    layer.register_forward_hook(lambda _, inputs, __: seen.append(inputs[0].detach().mean((0, 2, 3))))
    momentum, weights = layer.momentum, {key: value.clone() for key, value in module.named_parameters()}
    module._precise_batch_norm()
    assert len(seen) == 2
    torch.testing.assert_close(layer.running_mean, torch.stack(seen).mean(0))
    assert layer.momentum == momentum
    assert all(torch.equal(value, weights[key]) for key, value in module.named_parameters())


@pytest.mark.parametrize(
    ("changes", "part"),
    [
        ({"anchor_px": [8, 16]}, "fpn has five levels, give five sizes"),
        ({"architecture": "c4"}, "--trunk resnet18: c4 has a ResNet-50"),
        ({"architecture": "c4", "trunk": "resnet50"}, "--norm group: c4 has batch norms"),
        ({"freeze_at": 2}, "--freeze_at 2: would freeze random weights"),
        ({"norm": "frozen"}, "--norm frozen: needs --init"),
        ({"init": Path("r50.pth")}, "--init r50.pth: is for a ResNet-50 with batch norms"),
        ({"rpn_pre_nms": [5]}, "--rpn_pre_nms [5]: give two numbers"),
        ({"min_size_train": [16]}, "--min_size_train [16]: sides are at least 32 px"),
        ({"width": 12}, "--width 12: give a multiple of 8"),
    ],
    ids=lambda value: "" if isinstance(value, str) else "-".join(value),
)
def test_detectors_that_cannot_work(changes: dict[str, object], part: str) -> None:
    check_detector(SMALL)
    with pytest.raises(InputError) as refused:
        check_detector(replace(SMALL, **changes))
    assert part in str(refused.value)
