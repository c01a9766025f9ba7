"""The networks: sizes, exactness of the fast forms, robustness of the renderer."""

from itertools import pairwise
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from ast_seg.losses import pixel_entropy_loss, reconstruction_loss
from ast_seg.model.background import BackgroundModel, coordinate_map
from ast_seg.model.background_sizes import encoder_blocks, generator_blocks
from ast_seg.model.glimpses import GlimpseGenerator, glimpse_size
from ast_seg.model.renderer import Renderer, warp
from ast_seg.model.segformer import SegformerMaps, mit_architecture
from ast_seg.model.slots import SlotEncoder, num_feature_maps, position_map, soft_argmax
from ast_seg.model.unet import UNet
from common.errors import InputError

TINY = {
    "hidden_sizes": [8, 16, 24, 32],
    "depths": [1, 1, 1, 1],
    "num_attention_heads": [1, 1, 2, 2],
    "decoder_hidden_size": 16,
}

supported = st.integers(25, 192) | st.integers(200, 600)


@settings(deadline=None, max_examples=200)
@given(longer=supported, shorter=st.integers(1, 600), tall=st.booleans())
def test_blocks_shrink_every_supported_size_to_one_pixel(longer: int, shorter: int, tall: bool) -> None:
    shorter = min(shorter, longer)
    size = (longer, shorter) if tall else (shorter, longer)
    for blocks in (encoder_blocks(*size), generator_blocks(*size)):
        assert len(blocks) in (5, 6, 7)
        assert (blocks[0].size, blocks[-1].shrunk) == (size, (1, 1))
        for block, following in pairwise(blocks):
            assert block.shrunk == following.size
        for step in (step for block in blocks for step in block):
            back = (step.shrunk - 1) * step.stride - 2 * step.padding + step.kernel + step.output_padding
            assert back == step.size


@pytest.mark.parametrize("size", [(24, 24), (8, 20), (193, 100), (150, 199), (3646, 20), (1, 1)])
def test_unsupported_sizes_are_refused_with_the_ranges(size: tuple[int, int]) -> None:
    with pytest.raises(InputError, match=rf"{size[0]}x{size[1]}: .* 25..192 or 200..3645 .* --resize"):
        encoder_blocks(*size)


def test_chains_of_the_specification() -> None:
    assert [block.size for block in encoder_blocks(200, 320)] == [(200, 320), (67, 107), (23, 36), (8, 12), (3, 4)]
    wide = generator_blocks(48, 80)
    assert [block.size for block in wide] == [(48, 80), (24, 40), (12, 20), (6, 10), (3, 5)]
    assert [len(encoder_blocks(*size)) for size in ((48, 80), (64, 128), (72, 112))] == [6, 7, 7]
    assert [len(generator_blocks(*size)) for size in ((64, 128), (72, 112))] == [6, 6]
    assert generator_blocks(64, 128)[-1].size == (2, 4)


@pytest.mark.parametrize("size", [(24, 40), (104, 32), (160, 48)])
def test_sizes_that_the_published_generator_cannot_do_are_built(size: tuple[int, int]) -> None:
    assert generator_blocks(*size) == encoder_blocks(*size)
    model = BackgroundModel(height=size[0], width=size[1], complexity=False)
    with torch.no_grad():
        prediction = model(torch.rand(1, 3, *size) * 255)
    assert prediction.shape == (1, 4, *size)
    assert 0 <= prediction.min() <= prediction.max() <= 255


def test_coordinates_of_the_background_blocks() -> None:
    rows, columns = coordinate_map(3, 1)[0]
    assert rows[:, 0].tolist() == [-0.5, 0.0, 0.5]
    assert columns.tolist() == [[1.0]] * 3


def test_background_of_a_batch_is_that_of_its_items() -> None:
    model, images = BackgroundModel(height=30, width=26, complexity=False), torch.rand(3, 3, 30, 26) * 255
    with torch.no_grad():
        torch.testing.assert_close(
            model(images), torch.cat([model(image[None]) for image in images]), rtol=0, atol=2e-3
        )


def textbook_soft_argmax(maps: Tensor, positions: Tensor, num_slots: int) -> Tensor:
    B, _, h, w = maps.shape
    attention = maps[:, :num_slots].flatten(2).softmax(-1).view(B, num_slots, 1, h, w)
    values = torch.cat([positions.expand(B, -1, -1, -1), maps[:, num_slots:]], 1)[:, None]
    return (attention * values).sum((-1, -2)).transpose(0, 1)


@settings(deadline=None, max_examples=25)
@given(
    K=st.integers(1, 5), rest=st.integers(1, 6), h=st.integers(2, 9), w=st.integers(2, 9), seed=st.integers(0, 2**16)
)
def test_soft_argmax_equals_the_textbook_form(K: int, rest: int, h: int, w: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    maps = torch.randn(2, K + rest, h, w, generator=generator).requires_grad_()
    positions = position_map(h, w)
    fast, slow = soft_argmax(maps, positions, K), textbook_soft_argmax(maps, positions, K)
    torch.testing.assert_close(fast, slow, rtol=1e-5, atol=1e-6)
    weight = torch.randn(fast.shape, generator=generator)
    gradients = [torch.autograd.grad((pooled * weight).sum(), maps)[0] for pooled in (fast, slow)]
    torch.testing.assert_close(*gradients, rtol=1e-4, atol=1e-6)


def test_a_sharp_attention_returns_position_and_features_of_its_pixel() -> None:
    maps = torch.randn(1, 1 + 4, 5, 7)
    maps[0, 0] = 0
    maps[0, 0, 4, 3] = 1e4
    pooled = soft_argmax(maps, position_map(5, 7), num_slots=1)[0, 0]
    torch.testing.assert_close(pooled, torch.cat([torch.tensor([0.0, 1.0]), maps[0, 1:, 4, 3]]))


def test_exact_positions_are_those_of_the_renderer() -> None:
    assert position_map(2, 4)[0, 0].tolist() == pytest.approx([-1, -1 / 3, 1 / 3, 1])
    assert position_map(2, 4, exact=True)[0, 0].tolist() == pytest.approx([-0.75, -0.25, 0.25, 0.75])
    assert position_map(1, 3)[1].tolist() == [[0.0] * 3]


def test_soft_argmax_stays_in_float32_under_autocast() -> None:
    maps = torch.randn(1, 6, 8, 8)
    with torch.autocast("cpu", torch.bfloat16):
        pooled = soft_argmax(maps, position_map(8, 8), 2)
    torch.testing.assert_close(pooled, soft_argmax(maps, position_map(8, 8), 2), rtol=0, atol=0)


def test_encoder_of_either_network_gives_latents_of_every_slot() -> None:
    channels = num_feature_maps(3, 5, isotropic=True)
    for maps in (UNet(channels, (4, 6, 8)), SegformerMaps(channels, architecture=TINY)):
        encoder = SlotEncoder(
            maps, num_slots=3, what_dim=5, isotropic=True, dim=16, num_heads=2, num_layers=1, feedforward_dim=8
        ).eval()
        images = torch.rand(2, 3, 35, 50)
        with torch.no_grad():
            assert maps(images).shape == (2, channels, *maps.map_size(35, 50))
            together, alone = encoder(images), torch.cat([encoder(image[None]) for image in images], dim=1)
        assert together.shape == (3, 2, 9)
        torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-5)


def test_too_small_an_image_for_the_unet_is_refused() -> None:
    with pytest.raises(InputError, match="8x20: the U-Net halves it 4 times and needs at least 16 pixels"):
        UNet(7, (4, 4, 4, 4, 4))(torch.rand(1, 3, 8, 20))


def test_segformer_takes_its_encoder_from_a_folder(tmp_path: Path) -> None:
    first = SegformerMaps(7, architecture=TINY)
    first.network.save_pretrained(tmp_path)
    second = SegformerMaps(9, pretrained=str(tmp_path))
    state, other = first.network.segformer.state_dict(), second.network.segformer.state_dict()
    assert all(torch.equal(state[key], other[key]) for key in state)
    assert second(torch.rand(1, 3, 32, 32)).shape == (1, 9, 8, 8)


def test_segformer_without_weights_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"--pretrained_backbone_weights_reference .*local folder, or none"):
        SegformerMaps(7, pretrained=str(tmp_path / "absent"))
    with pytest.raises(InputError, match="SegFormer architecture mit-b9: unknown"):
        mit_architecture("mit-b9")


def test_imagenet_normalisation_is_a_switch() -> None:
    maps = SegformerMaps(7, architecture=TINY, imagenet_norm=True).eval()
    images = torch.rand(1, 3, 32, 32)
    with torch.no_grad():
        normalised = maps(images)
        maps.imagenet_norm = False
        mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
        torch.testing.assert_close(normalised, maps((images - mean.view(3, 1, 1)) / std.view(3, 1, 1)))


@pytest.mark.parametrize(("size", "glimpse"), [((64, 64), 32), ((64, 65), 64), ((128, 20), 64), ((200, 320), 128)])
def test_glimpse_sizes(size: tuple[int, int], glimpse: int) -> None:
    assert glimpse_size(*size) == glimpse
    assert glimpse_size(*size, largest=64) == min(glimpse, 64)
    with torch.no_grad():
        assert GlimpseGenerator(4, glimpse)(torch.randn(1, 4)).shape == (1, 4, glimpse, glimpse)


@settings(deadline=None, max_examples=25)
@given(seed=st.integers(0, 2**16), H=st.integers(5, 24), W=st.integers(5, 24))
def test_warp_equals_the_affine_grid(seed: int, H: int, W: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    glimpses = torch.rand(3, 4, 8, 8, generator=generator)
    centre, scale = torch.rand(3, 2, generator=generator) * 2 - 1, torch.rand(3, 2, generator=generator) * 4 + 1
    theta = torch.zeros(3, 2, 3)
    theta[:, [0, 1], [0, 1]], theta[:, :, 2] = scale, -centre * scale
    grid = F.affine_grid(theta, [3, 4, H, W], align_corners=False)
    expected = F.grid_sample(glimpses, grid, align_corners=False)
    torch.testing.assert_close(warp(glimpses, centre, scale, H, W), expected, rtol=0, atol=1e-4)


def test_an_object_covers_the_stated_share_of_the_image() -> None:
    placed = warp(torch.ones(1, 1, 32, 32), torch.zeros(1, 2), torch.tensor([[4.0, 2.0]]), 64, 64)[0, 0]
    assert abs(float(placed[32].sum()) - 64 / 4) < 0.1
    assert abs(float(placed[:, 32].sum()) - 64 / 2) < 0.1


def latents(K: int, B: int, L: int, seed: int = 0) -> Tensor:
    return torch.randn(K, B, L, generator=torch.Generator().manual_seed(seed))


def test_layers_add_up_to_the_reconstruction() -> None:
    renderer, background = Renderer(height=20, width=28, what_dim=6, background_logit=1.0), torch.rand(2, 3, 20, 28)
    rendered = renderer(latents(4, 2, 11), background)
    torch.testing.assert_close(rendered.weights.sum(0), torch.ones(2, 1, 20, 28))
    torch.testing.assert_close(rendered.layers().sum(0), rendered.reconstruction)
    torch.testing.assert_close(rendered.foreground, 1 - rendered.weights[0])
    assert torch.equal(rendered.labels, rendered.weights[:, :, 0].argmax(0))
    assert rendered.labels.max() > 0


@settings(deadline=None, max_examples=20)
@given(seed=st.integers(0, 2**16), scale=st.floats(-6, 6), local=st.booleans())
def test_covered_pixels_only_draw_the_same(seed: int, scale: float, local: bool) -> None:
    """Both forms of a rendering agree, in all they give and in the gradients."""
    torch.manual_seed(seed)
    renderer = Renderer(height=20, width=28, what_dim=6, background_logit=1.0, variable_background=local)
    background, x = torch.rand(2, 3, 20, 28), latents(3, 2, 11, seed)
    x[..., 2:4] += scale
    x.requires_grad_()
    found = []
    for covered in (0.0, 2.0):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("ast_seg.model.renderer.SPARSE_BELOW", covered)
            rendered = renderer(x, background)
        loss = rendered.reconstruction.square().mean() + rendered.entropy.square().mean()
        loss = loss + (rendered.log_weights.clamp(min=-20) * rendered.log_weights.detach().exp().sin()).mean()
        loss = loss + rendered.colours.square().mean()
        gradients = torch.autograd.grad(loss, [x, *renderer.parameters()])
        parts = (rendered.reconstruction, rendered.log_weights, rendered.colours, rendered.entropy, rendered.peaks)
        found.append((*parts, rendered.layers(), *gradients))
    for whole, sparse in zip(*found, strict=True):
        torch.testing.assert_close(sparse, whole, rtol=1e-3, atol=2e-5)


def test_slots_beyond_the_picture_draw_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """A tiny slot between two pixel centres covers none; the picture is the background."""
    monkeypatch.setattr("ast_seg.model.renderer.SPARSE_BELOW", 2.0)
    renderer, x = Renderer(height=20, width=20, what_dim=6, max_scale=1e4), latents(1, 1, 11)
    x[..., :2], x[..., 2:4] = 0.0, 30.0
    background = torch.rand(1, 3, 20, 20)
    rendered = renderer(x, background)
    torch.testing.assert_close(rendered.reconstruction, background)
    assert rendered.peaks.item() == 0


def test_permuting_slots_permutes_layers_and_keeps_the_picture() -> None:
    renderer, background = Renderer(height=20, width=20, what_dim=6, background_logit=1.0), torch.rand(1, 3, 20, 20)
    order = [2, 0, 1]
    first, second = (renderer(x, background) for x in (latents(3, 1, 11), latents(3, 1, 11)[order]))
    torch.testing.assert_close(first.reconstruction, second.reconstruction)
    torch.testing.assert_close(first.weights[1:][order], second.weights[1:])


@pytest.mark.parametrize("activation", [-1e4, -90.0, 90.0, 1e4])
def test_extreme_activations_give_finite_values_and_gradients(activation: float) -> None:
    renderer = Renderer(height=20, width=20, what_dim=6)
    given_latents = latents(3, 1, 11)
    given_latents[..., 4] = activation
    given_latents[..., :2] *= 3  # some centres beyond the image
    given_latents.requires_grad_()
    rendered = renderer(given_latents, torch.rand(1, 3, 20, 20))
    (rendered.reconstruction.sum() + rendered.weights.square().sum()).backward()
    assert rendered.reconstruction.isfinite().all()
    torch.testing.assert_close(rendered.weights.sum(0), torch.ones(1, 1, 20, 20))
    assert given_latents.grad.isfinite().all()
    assert all(parameter.grad.isfinite().all() for parameter in renderer.parameters())


def test_centres_are_clamped_without_gradient_outside() -> None:
    renderer = Renderer(height=20, width=20, what_dim=6, background_logit=0.0)
    given_latents = latents(1, 1, 11)
    given_latents[..., :2] = torch.tensor([1.5, 0.2])
    given_latents.requires_grad_()
    renderer(given_latents, torch.rand(1, 3, 20, 20)).reconstruction.square().sum().backward()
    assert given_latents.grad[0, 0, 0] == 0
    assert given_latents.grad[0, 0, 1] != 0


@pytest.mark.parametrize("legacy", [True, False])
def test_isotropic_activation_is_read_where_the_switch_says(legacy: bool) -> None:
    renderer = Renderer(
        height=20, width=20, what_dim=6, isotropic=True, background_logit=0.0, legacy_isotropic_activation=legacy
    )
    x = latents(1, 1, 10)
    before = renderer(x, torch.zeros(1, 3, 20, 20)).foreground.mean()
    x[..., 3] += 20  # the slot's own activation, dead in the published code
    after = renderer(x, torch.zeros(1, 3, 20, 20)).foreground.mean()
    assert (after == before) if legacy else (after > before)


def test_the_v1_floor_of_masks_reaches_beyond_the_glimpse() -> None:
    x = latents(1, 1, 11)
    x[..., 2:4] = 10  # small
    x[..., 4] = 5
    background = torch.zeros(1, 3, 20, 20)
    for floor, expected in ((0.0, 0.0), (1e-5, 1e-5 * torch.tensor(5.0).exp() / torch.tensor(11.0).exp())):
        renderer = Renderer(height=20, width=20, what_dim=6, mask_floor=floor)
        smallest = renderer(x, background).weights[1].min().detach()
        assert float(smallest) == pytest.approx(float(expected), rel=1e-3)


def test_renderer_computes_in_float32_under_autocast() -> None:
    renderer, x, background = Renderer(height=20, width=20, what_dim=6), latents(2, 1, 11), torch.rand(1, 3, 20, 20)
    expected = renderer(x, background)
    with torch.autocast("cpu", torch.bfloat16):
        rendered = renderer(x, background)
    assert rendered.log_weights.dtype == torch.float32
    torch.testing.assert_close(rendered.reconstruction, expected.reconstruction, rtol=0, atol=1e-2)


def test_one_loss_reaches_every_parameter_of_the_foreground_model() -> None:
    channels = num_feature_maps(3, 6, isotropic=False)
    encoder = SlotEncoder(
        UNet(channels, (4, 6, 8)), num_slots=3, what_dim=6, dim=16, num_heads=2, num_layers=1, feedforward_dim=8
    )
    renderer = Renderer(height=20, width=24, what_dim=6, background_logit=0.0, variable_background=True)
    images, background = torch.rand(2, 3, 20, 24), torch.rand(2, 3, 20, 24)
    rendered = renderer(encoder(images), background)
    (reconstruction_loss(rendered.reconstruction, images) + pixel_entropy_loss(rendered.entropy)).backward()
    for network in (encoder, renderer):
        for name, parameter in network.named_parameters():
            assert parameter.grad is not None, name
            assert parameter.grad.isfinite().all(), name
            assert parameter.grad.abs().sum() > 0, name
