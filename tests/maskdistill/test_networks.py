"""Losses, frozen stages, averages, the detector, and files that are something else."""

import pickle

import numpy as np
import pytest
import torch
from torch import nn
from torchvision.models.detection.anchor_utils import AnchorGenerator

from common.errors import InputError
from maskdistill.checkpoints import import_resnet50, import_segmentation, import_vit, read_published, weights_of
from maskdistill.detectron2_weights import mask_rcnn_from_detectron2
from maskdistill.ema import AveragedNetwork
from maskdistill.losses import cross_entropy, ohem_cross_entropy, trimmed_cross_entropy
from maskdistill.model.deeplab import FCN, DeepLabV3
from maskdistill.model.mask_rcnn import ANCHOR_SIZES_PX, ASPECT_RATIOS, MaskRCNNC4
from maskdistill.model.vit import VisionTransformer
from maskdistill.transforms import train_pascal, train_vanilla


@pytest.mark.parametrize("loss", [cross_entropy, ohem_cross_entropy, trimmed_cross_entropy])
def test_no_valid_pixel_gives_zero_and_a_zero_gradient(loss):
    logits = torch.randn(2, 5, 3, 3, requires_grad=True)
    value = loss(logits, torch.full((2, 3, 3), 255, dtype=torch.uint8))
    value.backward()
    assert value == 0
    assert not logits.grad.any()


def test_ohem_keeps_the_hardest_share_of_all_pixels():
    logits = torch.zeros(1, 2, 1, 10)
    logits[0, 0, 0] = torch.arange(10.0)
    target = torch.ones(1, 1, 10, dtype=torch.long)
    target[0, 0, :6] = 255
    losses = torch.nn.functional.cross_entropy(logits, target, ignore_index=255, reduction="none")[0, 0]
    assert ohem_cross_entropy(logits, target, 0.2) == losses[-2:].mean()  # 2 of 10 pixels, not of the 4 valid ones
    assert ohem_cross_entropy(logits, target, 1.0) == losses[6:].mean()
    assert trimmed_cross_entropy(logits, target, 0.5) == losses[6:8].mean()


def test_frozen_stages_stay_as_they_are():
    torch.set_num_threads(1)
    network = DeepLabV3(num_classes=3)
    network.backbone.freeze(2)
    network.train()
    assert not network.backbone.bn1.training
    assert network.backbone.layer3[0].bn1.training
    network(torch.randn(2, 3, 16, 16)).sum().backward()
    with_gradient = {
        name.split(".")[1] for name, p in network.backbone.named_parameters(prefix="b") if p.grad is not None
    }
    assert with_gradient == {"layer3", "layer4"}
    assert network.eval()(torch.randn(1, 3, 16, 16)).shape == (1, 3, 16, 16)  # a batch of one keeps its dimension


def test_average_trails_the_network():
    network = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    average = AveragedNetwork(network, alpha=0.9)
    before = network[0].weight.detach().clone()
    with torch.no_grad():
        network[0].weight += 1.0
        network[1].running_mean += 3.0
    average.update(network)
    torch.testing.assert_close(average.network[0].weight, before + 0.1)
    torch.testing.assert_close(average.network[1].running_mean, network[1].running_mean)
    torch.testing.assert_close(network[0].weight, before + 1.0)


def test_vit_batch_equals_its_images_and_wants_whole_patches():
    torch.manual_seed(0)
    network = VisionTransformer("small", 16, depth=2).eval()
    images = torch.randn(2, 3, 32, 48)
    with torch.no_grad():
        torch.testing.assert_close(network(images)[1:], network(images[1:]))
        queries, keys = network.queries_keys(images)
    assert queries.shape == keys.shape == (2, 6, 7, 64)
    with pytest.raises(ValueError, match="pad first"):
        network(images[..., :40])


def test_detector_trains_and_detects():
    torch.manual_seed(0)
    torch.set_num_threads(1)
    network = MaskRCNNC4(3, min_size_px=(64,), max_size_px=96, score_threshold=0.0)
    network.roi_heads.fg_bg_sampler.batch_size_per_image = 16
    network.rpn._post_nms_top_n = {"training": 32, "testing": 32}
    for stage in (network.backbone.conv1, network.backbone.layer1):
        assert not any(p.requires_grad for p in stage.parameters())
    assert sum("layer4.0.conv1.weight" in key for key in network.state_dict()) == 1
    masks = torch.zeros(1, 64, 80, dtype=torch.uint8)
    masks[0, 10:40, 20:60] = 1
    target = {"boxes": torch.tensor([[20.0, 10.0, 60.0, 40.0]]), "labels": torch.tensor([2]), "masks": masks}
    losses = network.train()([torch.rand(3, 64, 80)], [target])
    assert set(losses) >= {"loss_mask", "loss_classifier", "loss_objectness"}
    sum(losses.values()).backward()
    assert network.backbone.layer1[0].conv1.weight.grad is None
    assert network.roi_heads.box_head.layer4[0].conv1.weight.grad is not None
    with torch.no_grad():
        (found,) = network.eval()([torch.rand(3, 64, 80)])
    assert found["masks"].shape[1:] == (1, 64, 80)
    assert len(found["scores"]) <= 100


def test_anchors_and_background_change_places():
    pairs = [(size, ratio) for size in ANCHOR_SIZES_PX for ratio in ASPECT_RATIOS]  # detectron2: 3 * size + ratio
    key = "proposal_generator.rpn_head.objectness_logits"
    imported = mask_rcnn_from_detectron2(
        {
            f"{key}.weight": torch.tensor([size for size, _ in pairs])[:, None, None, None],
            f"{key}.bias": torch.tensor([ratio for _, ratio in pairs]),
            "proposal_generator.rpn_head.anchor_deltas.bias": torch.arange(60),
            "roi_heads.box_predictor.cls_score.bias": torch.tensor([1, 2, 3, 0]),
            "roi_heads.mask_head.predictor.bias": torch.tensor([1, 2, 3]),
        }
    )
    (cells,) = AnchorGenerator((ANCHOR_SIZES_PX,), (ASPECT_RATIOS,)).cell_anchors
    widths, heights = (cells[:, 2:] - cells[:, :2]).T
    torch.testing.assert_close(imported["rpn.head.cls_logits.bias"], heights / widths, rtol=0.05, atol=0)
    sizes = imported["rpn.head.cls_logits.weight"].flatten().float()
    torch.testing.assert_close(sizes, (heights * widths).sqrt(), rtol=0.05, atol=0)
    deltas = imported["rpn.head.bbox_pred.bias"].view(15, 4)
    torch.testing.assert_close(deltas % 4, torch.arange(4).expand(15, 4))
    order = [pairs[index] for index in (deltas[:, 0] // 4).tolist()]
    assert order == list(zip(sizes.int().tolist(), imported["rpn.head.cls_logits.bias"].tolist(), strict=True))
    assert imported["roi_heads.box_predictor.cls_score.bias"].tolist() == [0, 1, 2, 3]
    assert imported["roi_heads.mask_predictor.mask_fcn_logits.bias"].tolist() == [0, 1, 2, 3]


def test_foreign_detectors_are_refused():
    with pytest.raises(InputError, match="no weight of a Mask R-CNN R50-C4"):
        mask_rcnn_from_detectron2({"roi_heads.box_head.fc1.weight": torch.zeros(2)})


def test_wrong_files_are_named():
    vit = VisionTransformer("small", 16, depth=1).state_dict()
    with pytest.raises(InputError, match=r"x\.pth: .* the file is a ViT, a FCN is needed"):
        import_segmentation(FCN(), vit, "x.pth")
    with pytest.raises(InputError, match="this is of no kind known here, a DINO ViT is needed"):
        import_vit({"a": torch.zeros(2)})
    with pytest.raises(InputError, match="this is a ViT, a MoCo or DINO ResNet-50 is needed"):
        import_resnet50(vit)
    with pytest.raises(InputError, match="tokens are 192 wide"):
        import_vit({**vit, "patch_embed.proj.weight": torch.zeros(192, 3, 16, 16)})
    network = DeepLabV3()
    weights = {**network.state_dict(), "head.4.bias": torch.zeros(7)}
    with pytest.raises(InputError, match=r"1 weights of another shape \(head\.4\.bias \[7\] for \[21\]\)"):
        import_segmentation(network, weights)


def test_published_files_open_without_running_code(tmp_path):
    path = tmp_path / "checkpoint.pth.tar"
    torch.save({"epoch": 44, "best_iou": np.float64(48.46), "model": {"module.a": torch.ones(2)}}, path)
    content = read_published(path)
    assert content["best_iou"] == 48.46
    assert list(weights_of(content)) == ["a"]
    path = tmp_path / "resnet.pkl"
    path.write_bytes(pickle.dumps({"model": {"stem.conv1.weight": np.ones((2, 3), np.float32)}}))
    assert weights_of(read_published(path))["stem.conv1.weight"].shape == (2, 3)


class Harmful:
    def __reduce__(self):
        return print, ("harm done",)


def test_a_pickle_with_code_is_refused(tmp_path, capsys):
    path = tmp_path / "model.pkl"
    path.write_bytes(pickle.dumps({"model": Harmful()}))
    with pytest.raises(InputError, match="print is not allowed"):
        read_published(path)
    assert capsys.readouterr().out == ""


def test_transforms_keep_the_pair_aligned():
    labels = np.zeros((40, 60), dtype=np.uint8)
    labels[10:30, 5:25] = 7
    image = np.repeat(labels[..., None] * 30, 3, axis=2)
    for seed in range(4):
        draw = np.random.default_rng(seed).random
        turned, turned_labels = train_pascal(image, labels, draw, size_px=64, border_label=255)
        inside = turned_labels != 255
        agree = (turned[..., 0] > 105) == (turned_labels == 7)
        assert agree[inside].mean() > 0.95
        cropped, cropped_labels = train_vanilla(image, labels, draw, size_px=50)
        assert cropped.shape == (50, 50, 3)
        assert ((cropped[..., 0] > 105) == (cropped_labels == 7)).mean() > 0.95


def test_vanilla_draws_no_crop_when_the_size_fits():
    image, labels = np.zeros((40, 40, 3), dtype=np.uint8), np.zeros((40, 40), dtype=np.uint8)
    draws = iter([1 / 3, 0.9])  # scale 1, then the flip; a third draw would fail
    assert train_vanilla(image, labels, draws.__next__, size_px=40)[0].shape == (40, 40, 3)
