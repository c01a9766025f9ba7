"""The detectron2 backend against the library itself, and what is said where it is absent."""

import json
from pathlib import Path

import pytest
import torch
import yaml

from common.cli import BAD_INPUT, DONE
from common.synthetic import SceneOptions
from common.synthetic import run as make_data
from maskdistill import detectron2_backend
from maskdistill.convert_voc import main as convert_voc
from maskdistill.detectron2_backend import available, configuration, register_heads
from maskdistill.detectron2_weights import mask_rcnn_from_detectron2, resnet_to_detectron2
from maskdistill.model.detector import c4_detector
from maskdistill.options import DetectorOptions, SolverOptions
from maskdistill.predict_mask_rcnn import main as predict
from maskdistill.train_mask_rcnn import main as train

needs_detectron2 = pytest.mark.skipif(
    not available(), reason="detectron2 is not installed (maskdistill/README.md says how)"
)
TINY = [
    *("--backend", "detectron2", "--architecture", "c4", "--freeze_at", "0", "--min_size_train", "32"),
    *("--min_size_test", "32", "--max_size", "64", "--rois_per_image", "8", "--rpn_pre_nms", "50", "20"),
    *("--rpn_post_nms", "20", "4", "--reference_batch", "0", "--lr", "0.001", "--batch_size", "2", "--gpus", "0"),
    *("--precise_bn", "0", "--score_threshold", "0.0"),
]


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "scenes"
    make_data(SceneOptions(out=folder, num=3, num_val=0, num_test=0, num_classes=3, height=32, width=48))
    files = ["--dataset_root", str(folder), "--classes", str(folder / "scenes_classes.csv")]
    assert convert_voc([*files, "--segmentation_format", "rle", "--out_file", str(folder / "gt.json")]) == DONE
    return folder


def arguments(scenes: Path, out: Path) -> list[str]:
    return ["--input_file", str(scenes / "gt.json"), "--image_dir", str(scenes), "--out", str(out), *TINY]


def test_absence_is_one_line(
    scenes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(detectron2_backend, "available", lambda: False)
    assert train(arguments(scenes, tmp_path / "run")) == BAD_INPUT
    lines = capsys.readouterr().err.strip().splitlines()
    assert "--backend detectron2 needs detectron2, which is not installed" in lines[-1]
    assert "--backend torchvision" in lines[-1]
    (tmp_path / "model_final.pth").write_bytes(b"x")
    files = ["--images", str(scenes / "gt.json"), "--image_dir", str(scenes)]
    assert predict(["--model_dir", str(tmp_path / "model_final.pth"), *files]) == BAD_INPUT
    assert "is detectron2's and needs detectron2" in capsys.readouterr().err


@pytest.mark.detectron2
@needs_detectron2
def test_configuration_is_the_recipe() -> None:
    options = DetectorOptions(architecture="c4", backend="detectron2")
    cfg = configuration(options, SolverOptions(), 20, 16, devices=4, cuda=True)
    assert cfg.MODEL.RESNETS.NORM == "SyncBN"
    assert cfg.MODEL.BACKBONE.NAME == "build_resnet_backbone"
    assert (cfg.MODEL.RESNETS.OUT_FEATURES, cfg.MODEL.RESNETS.STRIDE_IN_1X1) == (["res4"], False)
    assert cfg.MODEL.ROI_HEADS.NAME == "Res5ROIHeadsExtraNorm"
    assert (cfg.SOLVER.BASE_LR, cfg.SOLVER.STEPS, cfg.SOLVER.MAX_ITER) == (0.02, (18000, 22000), 24000)
    assert (cfg.SOLVER.WEIGHT_DECAY_NORM, cfg.SOLVER.GAMMA, cfg.SOLVER.WARMUP_FACTOR) == (0.0, 0.1, 0.001)
    assert (cfg.MODEL.RPN.POST_NMS_TOPK_TRAIN, cfg.MODEL.RPN.PRE_NMS_TOPK_TEST) == (2000, 6000)
    assert list(cfg.MODEL.ROI_BOX_HEAD.BBOX_REG_WEIGHTS) == [10.0, 10.0, 5.0, 5.0]
    assert pytest.approx([123.675, 116.28, 103.53]) == cfg.MODEL.PIXEL_MEAN
    assert cfg.INPUT.MASK_FORMAT == "bitmask"
    half = configuration(options, SolverOptions(), 20, 8, devices=1, cuda=False)
    assert (half.SOLVER.BASE_LR, half.SOLVER.MAX_ITER, half.MODEL.RESNETS.NORM) == (0.01, 48000, "BN")


@pytest.mark.slow
@pytest.mark.detectron2
@needs_detectron2
def test_both_libraries_compute_the_same_from_the_same_weights() -> None:
    from detectron2.modeling import build_model

    register_heads()
    torch.manual_seed(0)
    options = DetectorOptions(architecture="c4", backend="detectron2", freeze_at=0)
    theirs = build_model(configuration(options, SolverOptions(), 3, 1, devices=0, cuda=False)).eval()
    ours = c4_detector(3, freeze_at=0).eval()
    ours.load_state_dict(mask_rcnn_from_detectron2(theirs.state_dict()))
    image = torch.randint(0, 255, (3, 64, 96), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        packed = theirs.preprocess_image([{"image": image.float()}])
        expected = theirs.backbone(packed.tensor)["res4"]
        found = ours.backbone(ours.batched([image]).tensors)["0"]
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5 * float(expected.abs().max()))
        (logits,), _ = theirs.proposal_generator.rpn_head([expected])
        (own,), _ = ours.rpn.head([found])
        swapped = own.view(1, 3, 5, *own.shape[2:]).transpose(1, 2).flatten(1, 2)
        torch.testing.assert_close(swapped, logits, rtol=1e-3, atol=1e-4)


@pytest.mark.slow
@pytest.mark.detectron2
@needs_detectron2
def test_trains_goes_on_and_predicts(scenes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import pickle

    from torchvision.models import resnet50

    torch.manual_seed(0)
    trunk = {key: value for key, value in resnet50(weights=None).state_dict().items() if not key.startswith("fc.")}
    (tmp_path / "trunk.pkl").write_bytes(pickle.dumps(resnet_to_detectron2(trunk)))
    out = tmp_path / "run"
    base = [*arguments(scenes, out), "--init", str(tmp_path / "trunk.pkl")]
    assert train([*base, "--max_steps", "1"]) == DONE
    log = [json.loads(line) for line in (out / "metrics.json").read_text().splitlines()]
    assert log[-1]["iteration"] == 0
    assert yaml.safe_load((out / "config.yaml").read_text())["backend"] == "detectron2"
    assert train(base) == BAD_INPUT
    assert "add --resume to continue it" in capsys.readouterr().err
    assert train([*base, "--max_steps", "1", "--resume"]) == DONE
    assert "finished already" in capsys.readouterr().out
    files = ["--images", str(scenes / "gt.json"), "--image_dir", str(scenes), "--gpus", "0"]
    assert predict(["--model_dir", str(out), *files, "--set", "own"]) == DONE
    found = json.loads((out / "mask_rcnn_own.json").read_text())
    truth = json.loads((out / "gt_own.json").read_text())
    ids = {image["id"] for image in truth["images"]}
    assert found
    assert all(entry["image_id"] in ids and entry["segmentation"]["size"] == [32, 48] for entry in found)
    assert {entry["category_id"] for entry in found} <= {0, 1, 2}
    (out / "categories.json").unlink()
    assert predict(["--model_dir", str(out), *files, "--set", "other"]) == BAD_INPUT
    assert "categories.json: is missing beside model_final.pth" in capsys.readouterr().err
