"""DINO: what holds for every input, textbook forms beside the fast ones, and published containers."""

import argparse
import json
import math

import numpy as np
import pytest
import timm
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file
from torch import nn
from transformers import ViTConfig, ViTModel

from common.errors import InputError
from common.metrics.jaccard import binary_jaccard
from tests.golden import SHARED
from transformer_seg.dino import knn
from transformer_seg.dino.checkpoints import import_backbone, import_head, load_dino
from transformer_seg.dino.crops import CropOptions, MultiCrop
from transformer_seg.dino.distillation import Rates, Settings, distillation_iteration
from transformer_seg.dino.losses import distillation_loss, entropy, teacher_probabilities
from transformer_seg.dino.masks import attention_score, mass_masks
from transformer_seg.dino.model import EPS, DinoHead, DinoNetwork
from transformer_seg.dino.optimisation import Lars, clip_each, follow, parameter_groups
from transformer_seg.dino.propagation import (
    LabelPropagator,
    PropagationOptions,
    first_labels,
    frame_input,
    frame_size,
    hard_labels,
    propagate,
    stretched,
)
from transformer_seg.dino.schedules import cosine_table, teacher_temperatures
from transformer_seg.vit import VisionTransformer

KEYS = SHARED / "golden" / "transformer_seg" / "dino_keys.json"


def backbone(**options) -> VisionTransformer:
    sizes = {"image_size": 32, "patch_size": 8, "width": 64, "depth": 2, "heads": 1}
    return VisionTransformer(**sizes | {"eps": EPS, "position_rule": "bicubic"} | options)


def network(**options) -> DinoNetwork:
    return DinoNetwork(backbone(), DinoHead(64, 20, hidden=16, bottleneck=8, **options))


@pytest.mark.parametrize("V", [2, 5])
def test_loss_is_the_mean_over_all_pairs(V):
    torch.manual_seed(0)
    B, K = 3, 7
    student = (4 * torch.randn(V * B, K)).requires_grad_()
    teacher, center = torch.randn(2 * B, K), torch.randn(1, K)
    targets = teacher_probabilities(teacher, center, 0.05).chunk(2)
    logs = (student / 0.1).log_softmax(-1).chunk(V)
    pairs = [-(targets[t] * logs[s]).sum(-1).mean() for t in range(2) for s in range(V) if s != t]
    assert len(pairs) == 2 * V - 2
    found = distillation_loss(student, teacher, center, teacher_temperature=0.05)
    expected = torch.stack(pairs).mean()
    torch.testing.assert_close(found, expected)
    (gradient,) = torch.autograd.grad(3 * expected, student)
    torch.testing.assert_close(torch.autograd.grad(3 * found, student)[0], gradient, rtol=1e-4, atol=1e-6)


def test_loss_of_low_precision_outputs_is_computed_in_float32():
    torch.manual_seed(0)
    student, teacher = (20 * torch.randn(10, 32)).bfloat16().requires_grad_(), torch.randn(4, 32)
    expected = distillation_loss(student.float(), teacher, torch.zeros(1, 32), teacher_temperature=0.04)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = distillation_loss(student, teacher, torch.zeros(1, 32), teacher_temperature=0.04)
    assert torch.equal(found, expected)
    assert torch.autograd.grad(found, student)[0].dtype == torch.bfloat16


def test_signatures_of_collapse():
    K = 256
    uniform = torch.zeros(6, K)
    loss = distillation_loss(uniform, uniform[:4], torch.zeros(1, K), teacher_temperature=0.04)
    assert loss == pytest.approx(math.log(K), rel=1e-5)
    assert entropy(teacher_probabilities(uniform[:4], torch.zeros(1, K), 0.04)) == pytest.approx(math.log(K), rel=1e-5)
    single = torch.zeros(4, K)
    single[:, 3] = 10
    assert entropy(teacher_probabilities(single, torch.zeros(1, K), 0.04)) == pytest.approx(0, abs=1e-6)


def test_crops_of_one_size_go_together():
    torch.manual_seed(0)
    model = network().eval()
    crops = [torch.randn(2, 3, side, side) for side in (32, 32, 16, 16, 16)]
    separate = torch.cat([model([crop]) for crop in crops])
    torch.testing.assert_close(model(crops), separate, rtol=1e-4, atol=1e-6)


def test_only_matrices_decay_and_the_frozen_layer_stays():
    student, teacher = network(norm_last_layer=False), network(norm_last_layer=False)
    decayed, exempt = (group["params"] for group in parameter_groups(student))
    assert all(value.ndim >= 2 for value in decayed)
    assert all(value.ndim == 1 for value in exempt)
    assert any(value is student.backbone.pos_embed for value in decayed)
    optimiser = torch.optim.AdamW(parameter_groups(student), lr=0.1)
    last = {name: value.clone() for name, value in student.head.last_layer.state_dict().items()}
    first = student.head.mlp[0].weight.clone()
    crops = [torch.randn(2, 3, 32, 32), torch.randn(2, 3, 32, 32)]
    rates = Rates(learning_rate=0.01, weight_decay=0.4, teacher_momentum=0.9, teacher_temperature=0.04)
    outcome = distillation_iteration(
        student, teacher, optimiser, crops, torch.zeros(1, 20), rates, Settings(), freeze_last_layer=True
    )
    assert all(torch.equal(last[name], value) for name, value in student.head.last_layer.state_dict().items())
    assert not torch.equal(first, student.head.mlp[0].weight)
    assert optimiser.param_groups[0]["weight_decay"] == 0.4
    assert optimiser.param_groups[1]["weight_decay"] == 0.0
    torch.testing.assert_close(outcome.center, 0.1 * outcome.teacher.mean(0, keepdim=True))


def test_teacher_follows_and_copies_buffers():
    student, teacher = nn.BatchNorm1d(3), nn.BatchNorm1d(3)
    nn.init.constant_(student.weight, 3.0)
    student.running_mean.fill_(5.0)
    follow(teacher, student, 0.75)
    torch.testing.assert_close(teacher.weight.detach(), torch.full((3,), 1.5))
    assert torch.equal(teacher.running_mean, student.running_mean)


@settings(deadline=None, max_examples=20)
@given(st.floats(0.01, 10), st.integers(0, 99))
def test_clipping_bounds_each_tensor(limit, seed):
    generator = torch.Generator().manual_seed(seed)
    parameters = [nn.Parameter(torch.zeros(size)) for size in (3, 7, 1)]
    for value in parameters[:2]:
        value.grad = torch.randn(value.shape, generator=generator) * 5
    before = [value.grad.clone() for value in parameters[:2]]
    norms = clip_each(parameters, limit)
    assert len(norms) == 2
    for value, old in zip(parameters, before, strict=False):
        assert value.grad.norm() <= limit * (1 + 1e-5)
        torch.testing.assert_close(value.grad / value.grad.norm(), old / old.norm())
        if old.norm() < limit * 0.99:
            assert torch.equal(value.grad, old)
    assert clip_each(parameters[2:], limit) == []


def test_lars_by_hand():
    matrix, vector = nn.Parameter(torch.tensor([[3.0, 4.0]])), nn.Parameter(torch.tensor([3.0, 4.0]))
    zero = nn.Parameter(torch.zeros(1, 2))
    for value in (matrix, vector, zero):
        value.grad = torch.tensor([0.0, 2.0]).view_as(value)
    Lars([matrix, vector, zero], lr=1.0, weight_decay=0.0).step()
    torch.testing.assert_close(matrix.detach(), torch.tensor([[3.0, 4.0 - 0.001 * 5]]))
    torch.testing.assert_close(vector.detach(), torch.tensor([3.0, 2.0]))
    torch.testing.assert_close(zero.detach(), torch.tensor([[0.0, -2.0]]))


def test_tables_have_the_length_of_the_run():
    table = cosine_table(1.0, 0.1, 10, 7, warmup_epochs=2)
    assert len(table) == 70
    assert table[13] == table[14] == table.max() == 1.0
    assert table[-1] > 0.1
    assert list(teacher_temperatures(0.04, 0.07, 3, 5)) == pytest.approx([0.04, 0.055, 0.07, 0.07, 0.07])
    assert list(teacher_temperatures(0.04, 0.07, 0, 2)) == [0.07, 0.07]
    with pytest.raises(ValueError, match="warm-up of 11 epochs"):
        cosine_table(1.0, 0.1, 10, 7, warmup_epochs=11)


def test_multicrop_is_repeatable_and_normalised():
    from PIL import Image

    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (60, 80, 3), dtype=np.uint8))
    multicrop = MultiCrop(CropOptions(num_local=1, global_size_px=32, local_size_px=16))
    drawn = []
    for _ in range(2):
        torch.manual_seed(5)
        drawn.append(multicrop(picture))
    for first, second in zip(*drawn, strict=True):
        assert torch.equal(first, second)
        assert first.dtype == torch.float32
        assert -2.2 < first.min() < first.max() < 2.7


def test_votes_are_those_of_a_loop_in_chunks_too(monkeypatch):
    generator = torch.Generator().manual_seed(0)
    train, test = (nn.functional.normalize(torch.randn(n, 4, generator=generator), dim=1) for n in (12, 9))
    labels = torch.randint(0, 3, (12,), generator=generator)
    expected = torch.zeros(9, 3)
    for row, feature in enumerate(test):
        similarities = train @ feature
        for index in similarities.argsort(descending=True)[:5].tolist():
            expected[row, labels[index]] += math.exp(float(similarities[index]) / 0.07)
    for limit in (knn.MAX_SIMILARITIES, 24):
        monkeypatch.setattr(knn, "MAX_SIMILARITIES", limit)
        votes = knn.knn_votes(train, labels, test, num_classes=3, neighbours=5)
        torch.testing.assert_close(votes, expected, rtol=1e-4, atol=1e-4)
    assert knn.knn_votes(train, labels, test, num_classes=3, neighbours=50).shape == (9, 3)
    assert knn.top_accuracy(expected, expected.argmax(1), 1) == 1.0
    assert knn.top_accuracy(expected, labels[:9], 5) == 1.0  # fewer than five classes


@settings(deadline=None, max_examples=30)
@given(st.integers(1, 40), st.floats(0.05, 0.95), st.integers(0, 999))
def test_mask_is_the_smallest_that_holds_the_mass(N, fraction, seed):
    attention = torch.rand(2, N, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    masks = mass_masks(attention, fraction)
    for row, mask in zip(attention / attention.sum(1, keepdim=True), masks, strict=True):
        kept = row[mask]
        assert kept.sum() >= fraction - 1e-9
        assert kept.sum() - kept.min() <= fraction + 1e-9  # one less would not do
        assert mask.all() or kept.min() >= row[~mask].max()


def test_a_fraction_outside_its_range_is_refused():
    for fraction in (0.0, 1.1):
        with pytest.raises(ValueError, match="outside"):
            mass_masks(torch.ones(3), fraction)
    assert mass_masks(torch.ones(3), 1.0).all()


def test_attention_score_is_that_of_enlarged_masks():
    generator = torch.Generator().manual_seed(0)
    masks = torch.rand(3, 4, 5, generator=generator) > 0.5
    labels = torch.randint(0, 4, (12, 15), generator=generator)
    labels[0, :5] = 255
    found = attention_score(masks, labels, 3)
    large = masks.repeat_interleave(3, 1).repeat_interleave(3, 2)
    expected = torch.stack([torch.stack([binary_jaccard(mask, labels == k) for mask in large]) for k in (1, 2, 3)])
    torch.testing.assert_close(found.iou, expected)
    torch.testing.assert_close(found.score, expected.amax(1).mean())
    assert attention_score(masks, torch.zeros_like(labels), 3).score.isnan()
    with pytest.raises(ValueError, match="labels of"):
        attention_score(masks, labels, 4)


def dense_propagation(target, sources, labels, options: PropagationOptions):
    """The textbook form: one affinity of all pairs, the mask multiplied, everything below the k-th largest zeroed."""
    h, w = target.shape[-2:]
    y, x = (axis.flatten() for axis in torch.meshgrid(torch.arange(h), torch.arange(w), indexing="ij"))
    near = torch.ones(h * w, h * w)
    if options.radius:
        near = ((y[:, None] - y).abs() <= options.radius) & ((x[:, None] - x).abs() <= options.radius)
    affinity = torch.cat(
        [(target.flatten(1).T @ source.flatten(1) / options.temperature).exp() * near for source in sources], 1
    )
    kth = affinity.topk(min(options.top, affinity.shape[1]), dim=1).values[:, -1:]
    affinity = torch.where(affinity >= kth, affinity, 0)
    weights = affinity / affinity.sum(1, keepdim=True)
    mixed = torch.cat([one.flatten(1) for one in labels], 1) @ weights.T
    return mixed.view(-1, h, w)


@settings(deadline=None, max_examples=25)
@given(
    st.integers(1, 11),
    st.integers(1, 11),
    st.sampled_from([0, 1, 2, 5]),
    st.integers(1, 7),
    st.booleans(),
    st.integers(0, 99),
)
def test_tiles_give_the_dense_form(h, w, radius, top, tied, seed):
    generator = torch.Generator().manual_seed(seed)
    options = PropagationOptions(radius=radius, top=top)

    def features(*shape):
        values = torch.randn(*shape, 6, h, w, generator=generator, dtype=torch.float64)
        return nn.functional.normalize(values, dim=-3)

    target, sources = features(), features(3)
    if tied:  # a still camera: all sources are the same frame
        sources = sources[:1].expand(3, -1, -1, -1)
    labels = torch.rand(3, 4, h, w, generator=generator, dtype=torch.float64).softmax(1)
    found = propagate(target, sources, labels, options)
    torch.testing.assert_close(found.sum(0), torch.ones(h, w, dtype=torch.float64))
    if not tied:  # exact ties may be broken by rounding in either form
        torch.testing.assert_close(found, dense_propagation(target, sources, labels, options))


def test_a_moving_object_keeps_its_label():
    torch.manual_seed(0)
    texture = torch.randn(16, 12, 30)
    annotation = torch.zeros(12, 20, dtype=torch.int64)
    annotation[3:8, 4:9] = 1
    frames = [texture[:, :, shift : shift + 20] for shift in range(6)]  # the camera moves to the right
    options = PropagationOptions(previous_frames=2, radius=3)
    one_hot = nn.functional.one_hot(annotation).permute(2, 0, 1).float()
    propagator = LabelPropagator(frames[0], one_hot, options)
    soft = [propagator.step(frame) for frame in frames[1:]][-1]
    assert len(propagator.recent) == 2
    expected = torch.zeros_like(annotation)
    expected[3:8, :4] = 1
    assert (soft.argmax(0) == expected).double().mean() > 0.97
    assert hard_labels(soft, 8).shape == (96, 160)


def test_first_labels_keep_an_object_that_vanishes():
    annotation = np.zeros((32, 32), np.uint8)
    annotation[:20] = 1
    annotation[31, 31] = 4
    labels = first_labels(annotation, (4, 4))
    assert labels.shape == (5, 4, 4)
    assert torch.equal(labels.sum(0), torch.ones(4, 4))
    assert not labels[4].any()


def test_constant_channels_are_left_alone():
    soft = torch.stack([torch.ones(2, 2), torch.zeros(2, 2), torch.tensor([[0.2, 0.4], [0.3, 0.2]])])
    found = stretched(soft)
    torch.testing.assert_close(found[:2], soft[:2])
    torch.testing.assert_close(found[2], torch.tensor([[0.0, 1.0], [0.5, 0.0]]))


def test_frame_size_and_input():
    assert frame_size((480, 854)) == (480, 832)
    assert frame_size((854, 480)) == (832, 480)
    tensor = frame_input(np.full((60, 107, 3), 255, np.uint8), 64)
    assert tensor.shape == (3, 64, 64)
    torch.testing.assert_close(tensor[0, 0, 0], torch.tensor((1 - 0.485) / 0.228))
    with pytest.raises(InputError, match="short side 32 is below 64"):
        frame_input(np.zeros((60, 107, 3), np.uint8), 32)


def layouts() -> list[str]:
    return [name for name in json.loads(KEYS.read_text()) if "head" not in name] if KEYS.exists() else []


@pytest.mark.skipif(not KEYS.exists(), reason="golden key manifests not found (set UNSEG_SHARED)")
@pytest.mark.parametrize("layout", layouts())
def test_published_layouts_import_to_the_last_name(layout):
    shapes = json.loads(KEYS.read_text())[layout]
    found = import_backbone({key: torch.empty(shape, device="meta") for key, shape in shapes.items()})
    assert {key: list(tensor.shape) for key, tensor in found.state_dict().items()} == shapes
    assert found.blocks[0].attn.num_heads == shapes["cls_token"][-1] // 64


@pytest.mark.skipif(not KEYS.exists(), reason="golden key manifests not found (set UNSEG_SHARED)")
def test_published_head_imports_to_the_last_name():
    (shapes,) = [value for name, value in json.loads(KEYS.read_text()).items() if "head" in name]
    found = import_head({key: torch.empty(shape, device="meta") for key, shape in shapes.items()})
    assert {key: list(tensor.shape) for key, tensor in found.state_dict().items()} == shapes


@torch.no_grad()
def test_timm_weights_agree_with_timm():
    torch.manual_seed(0)
    reference = timm.create_model("vit_tiny_patch16_224", img_size=64, pretrained=False).eval()
    found = import_backbone(reference.state_dict())
    image = torch.randn(1, 3, 64, 64)
    torch.testing.assert_close(found(image), reference.forward_features(image), rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_hugging_face_file_agrees_with_transformers(tmp_path):
    torch.manual_seed(0)
    sizes = {"hidden_size": 128, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 512}
    reference = ViTModel(ViTConfig(**sizes, image_size=32, patch_size=8, layer_norm_eps=EPS)).eval()
    reference.save_pretrained(tmp_path)  # the file has the published names, which differ from those in memory
    state = load_file(tmp_path / "model.safetensors")
    found = import_backbone(state)
    image = torch.randn(1, 3, 32, 32)
    torch.testing.assert_close(found(image), reference(image).last_hidden_state, rtol=1e-4, atol=1e-5)
    del state["encoder.layer.1.attention.attention.key.bias"]
    with pytest.raises(InputError, match="are not complete"):
        import_backbone(state)


def test_full_checkpoint(tmp_path):
    torch.manual_seed(0)
    student, teacher = network(norm_last_layer=False), network(norm_last_layer=False)
    content = {
        "student": {f"module.{key}": value for key, value in student.state_dict().items()},
        "teacher": teacher.state_dict(),
        "epoch": 3,
        "args": argparse.Namespace(arch="vit_small", norm_last_layer=False),
        "dino_loss": {"center": torch.ones(1, 20)},
    }
    torch.save(content, tmp_path / "full.pth")
    for part, expected in (("teacher", teacher), ("student", student)):
        found = load_dino(tmp_path / "full.pth", part)
        torch.testing.assert_close(found.backbone.state_dict(), expected.backbone.state_dict())
        torch.testing.assert_close(found.head.state_dict(), expected.head.state_dict())
        assert found.head.last_layer.weight_g.requires_grad
        assert torch.equal(found.center, torch.ones(1, 20))
        assert found.arguments["arch"] == "vit_small"
    torch.save(teacher.backbone.state_dict(), tmp_path / "flat.pth")
    assert load_dino(tmp_path / "flat.pth").head is None


def test_weight_norm_of_either_spelling():
    head = DinoHead(8, 5, hidden=6, bottleneck=4).eval()
    state = head.state_dict()
    newer = {
        key.replace("weight_g", "parametrizations.weight.original0").replace(
            "weight_v", "parametrizations.weight.original1"
        ): value
        for key, value in state.items()
    }
    assert newer.keys() != state.keys()
    x = torch.randn(3, 8)
    torch.testing.assert_close(import_head(newer)(x), head(x))
    layer = nn.utils.parametrizations.weight_norm(nn.Linear(4, 5, bias=False))
    layer.load_state_dict({key.removeprefix("last_layer."): v for key, v in newer.items() if "last_layer" in key})
    bottleneck = nn.functional.normalize(head.mlp(x), dim=-1)
    torch.testing.assert_close(layer(bottleneck), head(x))


def test_wrong_files_are_refused():
    state = backbone().state_dict()
    with pytest.raises(InputError, match="this is a ResNet"):
        import_backbone({"layer1.0.conv1.weight": torch.zeros(1)})
    with pytest.raises(InputError, match="this is XCiT"):
        import_backbone(state | {"cls_attn_blocks.0.norm1.weight": torch.zeros(1)})
    with pytest.raises(InputError, match=r"1 unexpected \(my\.backbone\.x\)"):  # only prefixes are taken off
        import_backbone(state | {"my.backbone.x": torch.zeros(1)})
    with pytest.raises(InputError, match="not a vision transformer"):
        import_backbone({"weight": torch.zeros(1)})
    with pytest.raises(InputError, match="no projection head"):
        import_head({"mlp.0.weight": torch.zeros(2, 2)})
