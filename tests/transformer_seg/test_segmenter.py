"""Segmenter: what holds for every input, bad input, and published layouts."""

import json

import pytest
import timm
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from common.errors import InputError
from tests.golden import SHARED
from transformer_seg.backbones import BACKBONES, backbone
from transformer_seg.segmenter.ade20k import annotation_values, training_labels
from transformer_seg.segmenter.checkpoints import (
    import_segmenter,
    load_backbone,
    load_segmenter,
    read_variant,
)
from transformer_seg.segmenter.losses import pixel_cross_entropy, upsampled_cross_entropy
from transformer_seg.segmenter.model import LinearDecoder, MaskTransformer, Segmenter
from transformer_seg.segmenter.schedule import PolynomialDecay
from transformer_seg.segmenter.windows import View, Windows, class_labels, class_probabilities, sliding_logits
from transformer_seg.vit import VisionTransformer

KEYS = SHARED / "golden" / "transformer_seg" / "segmenter_keys.json"


def encoder(**options) -> VisionTransformer:
    sizes = {"image_size": 32, "patch_size": 8, "width": 64, "depth": 2, "heads": 2}
    return VisionTransformer(**sizes | {"eps": 1e-5, "position_rule": "bilinear"} | options)


@pytest.mark.parametrize("decoder", [MaskTransformer, LinearDecoder])
@pytest.mark.parametrize("size", [(32, 32), (29, 51), (8, 8)])
def test_any_size_and_the_same_prediction_twice(decoder, size):
    torch.manual_seed(0)
    network = Segmenter(encoder(drop_path=0.5), decoder(64, 5)).eval()
    image = torch.randn(2, 3, *size)
    logits = network(image)
    assert logits.shape == (2, 5, *size)
    assert torch.equal(logits, network(image))
    torch.testing.assert_close(logits[:1], network(image[:1]), rtol=1e-4, atol=1e-5)
    network.train()
    assert len({network(image).sum().item() for _ in range(8)}) > 1  # dropout and drop path are on while training


def test_positions_go_by_the_shape_of_the_grid():
    network = encoder(image_size=64)
    assert network.positions((8, 8)) is network.pos_embed
    stretched = network.positions((4, 16))  # as many tokens as 8 x 8
    assert not torch.allclose(stretched, network.pos_embed)


def test_one_pass_and_all_rows_of_attention_agree():
    network = encoder(distilled=True, depth=3).eval()
    image = torch.randn(2, 3, 24, 40)
    rows = network.last_attention(image)
    torch.testing.assert_close(rows.sum(-1), torch.ones(2, 2, 17))
    torch.testing.assert_close(network.class_attention(image), rows[:, :, 0, 2:].unflatten(-1, (3, 5)))
    torch.testing.assert_close(network.last_tokens(image, 2)[-1], network(image))
    assert len(list(network.after_blocks(image))) == 4


def test_image_below_a_patch_is_refused():
    with pytest.raises(InputError, match="image of 7 x 40 pixels is smaller than a patch of 8"):
        encoder()(torch.zeros(1, 3, 7, 40))
    with pytest.raises(InputError, match="image size 30 is no multiple of the patch size 8"):
        encoder(image_size=30)


@settings(deadline=None, max_examples=20)
@given(st.integers(1, 30), st.integers(1, 30), st.sampled_from([4, 8]), st.integers(1, 40), st.integers(0, 99))
def test_strips_give_the_loss_of_all_pixels(H, W, P, rows, seed):
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(2, 4, -(-H // P), -(-W // P), generator=generator, requires_grad=True)
    target = torch.randint(0, 5, (2, H, W), generator=generator)
    target[target == 4] = 255
    full = torch.nn.functional.interpolate(logits, scale_factor=P, mode="bilinear")[..., :H, :W]
    expected = pixel_cross_entropy(full, target)
    (expected_gradient,) = torch.autograd.grad(expected, logits)
    loss = upsampled_cross_entropy(logits, target, P, rows=rows)
    (gradient,) = torch.autograd.grad(loss, logits)
    torch.testing.assert_close(loss, expected, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(gradient, expected_gradient, rtol=1e-4, atol=1e-6)


def test_batch_without_a_label_moves_nothing():
    logits = torch.randn(1, 3, 4, 4, requires_grad=True)
    loss = pixel_cross_entropy(logits, torch.full((1, 4, 4), 255))
    loss.backward()
    assert loss == 0
    assert not logits.grad.any()


@settings(deadline=None, max_examples=30)
@given(st.integers(6, 30), st.integers(6, 30), st.integers(1, 9), st.integers(1, 5))
def test_windows_cover_every_pixel(h, w, stride, batch_size):
    image = torch.rand(1, 3, h, w)
    windows = Windows(6, min(stride, 6), batch_size)
    torch.testing.assert_close(sliding_logits(lambda crops: crops, image, windows), image)


def test_views_are_mirrored_back():
    image = torch.rand(1, 3, 12, 17)
    windows = Windows(12, 6)
    views = [View(image), View(image.flip(-1), mirrored=True)]
    probabilities = class_probabilities(lambda crops: crops, views, (12, 17), windows)
    torch.testing.assert_close(probabilities, image[0].softmax(0))
    assert torch.equal(class_labels(lambda crops: crops, views[1:], (12, 17), windows), image[0].argmax(0))
    with pytest.raises(ValueError, match="no view"):
        class_probabilities(lambda crops: crops, [], (12, 17), windows)


def test_schedule_falls_and_then_stays():
    schedule = PolynomialDecay(0.01, 20)
    rates = [schedule.at(t) for t in range(25)]
    assert rates[0] == 0.01
    assert rates[20] == schedule.minimum
    assert rates[:21] == sorted(rates[:21], reverse=True)
    assert set(rates[20:]) == {schedule.minimum}


def test_ade_labels_there_and_back():
    values = torch.arange(151).reshape(1, -1).numpy()
    labels = training_labels(values)
    assert labels[0, 0] == 255
    assert (annotation_values(labels[:, 1:]) == values[:, 1:]).all()
    with pytest.raises(InputError, match=r"a\.png: value 151 is above 150"):
        training_labels(values + 1, "a.png")


def published_layouts() -> list[str]:
    return list(json.loads(KEYS.read_text())) if KEYS.exists() else []


@pytest.mark.skipif(not KEYS.exists(), reason="golden key manifests not found (set UNSEG_SHARED)")
@pytest.mark.parametrize("layout", published_layouts())
def test_published_layouts_import_to_the_last_name(layout):
    shapes = json.loads(KEYS.read_text())[layout]
    state = {key: torch.empty(shape, device="meta") for key, shape in shapes.items()}
    network = import_segmenter(state)
    assert {key: list(tensor.shape) for key, tensor in network.state_dict().items()} == shapes
    assert network.encoder.blocks[0].attn.num_heads == shapes["encoder.pos_embed"][-1] // 64


def write_model(folder, variant: str) -> Segmenter:
    torch.manual_seed(1)
    network = Segmenter(encoder(num_classes=10), MaskTransformer(64, 5, depth=1)).eval()
    optimiser = torch.optim.SGD(network.parameters(), lr=0.1)
    content = {"model": network.state_dict(), "optimizer": optimiser.state_dict(), "n_cls": 5, "epoch": 3}
    torch.save(content, folder / "checkpoint.pth")
    (folder / "variant.yml").write_text(variant)
    return network


VARIANT = """
net_kwargs:
  backbone: vit_tiny_patch16_384
  image_size: !!python/tuple [32, 32]
  n_heads: 2
  normalization: deit
  drop_path_rate: 0.1
  decoder: {name: mask_transformer, n_layers: 1, dropout: 0.2, drop_path_rate: 0.0}
"""


def test_published_folder(tmp_path):
    network = write_model(tmp_path, VARIANT)
    for path in (tmp_path, tmp_path / "checkpoint.pth"):
        loaded = load_segmenter(path)
        assert loaded.normalisation == "deit"
        assert loaded.variant["net_kwargs"]["image_size"] == (32, 32)
        image = torch.randn(1, 3, 32, 40)
        torch.testing.assert_close(loaded.network(image), network(image))
        assert loaded.network.decoder.blocks[0].attn.attn_drop.p == 0.2
    (tmp_path / "variant.yml").unlink()
    assert load_segmenter(tmp_path).normalisation == "vit"


@pytest.mark.parametrize("text", ["a: !!python/object/apply:os.getcwd []\nnet_kwargs: {}", "- 1", "net_kwargs: [", ""])
def test_unsafe_and_broken_options_are_refused(tmp_path, text):
    (tmp_path / "variant.yml").write_text(text)
    with pytest.raises(InputError, match=r"variant\.yml: n"):
        read_variant(tmp_path / "variant.yml")


def test_weights_that_do_not_fit_are_refused():
    state = Segmenter(encoder(), LinearDecoder(64, 5)).state_dict()
    with pytest.raises(InputError, match=r"1 missing \(encoder\.norm\.bias\)"):
        import_segmenter({key: value for key, value in state.items() if key != "encoder.norm.bias"})
    with pytest.raises(InputError, match="not a Segmenter"):
        import_segmenter({"weight": torch.zeros(1)})
    with pytest.raises(InputError, match="no square grid"):
        import_segmenter(state | {"encoder.pos_embed": torch.zeros(1, 18, 64)})
    with pytest.raises(InputError, match="no decoder"):
        import_segmenter({key: value for key, value in state.items() if key.startswith("encoder")})


@pytest.mark.parametrize("name", ["vit_tiny_patch16_384", "deit_tiny_distilled_patch16_224"])
def test_a_timm_backbone_fits_and_agrees(name):
    published = backbone(name)
    torch.manual_seed(0)
    reference = timm.create_model(name, img_size=64, pretrained=False).eval()
    network = encoder(image_size=64, eps=1e-6, num_classes=1000, **published.sizes()).eval()
    load_backbone(network, reference.state_dict())
    image = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(network(image), reference.forward_features(image), rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(network.classify(image), reference(image), rtol=1e-4, atol=1e-5)
    smaller = encoder(image_size=32, **published.sizes())
    load_backbone(smaller, reference.state_dict())  # positions resized, heads left out
    assert smaller.pos_embed.shape[1] == 4 + smaller.extra


def test_every_backbone_exists_in_timm():
    known = set(timm.list_pretrained())
    assert {found.timm_name for found in BACKBONES.values()} <= known
    with pytest.raises(InputError, match="--arch huge: unknown backbone"):
        backbone("huge")
    assert backbone("tiny") is BACKBONES["vit_tiny_patch16_384"]
