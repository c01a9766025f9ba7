"""Properties of the networks, their folded layers, their initial weights and the training iteration."""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from common.errors import InputError
from redo.initialisation import initialise
from redo.iteration import make_optimisers, player_turn, training_iteration
from redo.losses import composite
from redo.model import MaskNetwork, NetworkOptions, Networks
from redo.model.layers import SpectralConv2d, attend, conv_then_halve, double_then_conv


def small_networks(seed: int = 0, **changes: object) -> Networks:
    options = NetworkOptions(**{"sizex": 32, "nz": 4, "nf": 4, "useSelfAttD": True, "useSelfAttG": True, **changes})
    networks = Networks(options)
    initialise(networks, generator=torch.Generator().manual_seed(seed))
    return networks


def batch(networks: Networks, B: int = 2, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    options, generator = networks.options, torch.Generator().manual_seed(seed)
    images, real = torch.rand(2, B, 3, options.sizex, options.sizex, generator=generator) * 2 - 1
    return images, real, torch.randn(B, options.nMasks, options.nz, 1, 1, generator=generator)


def vectors(network: nn.Module) -> list[Tensor]:
    return [module.u.clone() for module in network.modules() if isinstance(module, SpectralConv2d)]


@settings(deadline=None, max_examples=30)
@given(
    batch_size=st.integers(1, 3),
    channels=st.integers(1, 9),
    out_channels=st.integers(1, 5),
    half=st.integers(1, 6),
    bias=st.booleans(),
)
def test_folded_convolutions_equal_their_textbook_form(
    batch_size: int, channels: int, out_channels: int, half: int, bias: bool
) -> None:
    generator = torch.Generator().manual_seed(channels)
    weight = torch.randn(out_channels, channels, 3, 3, generator=generator)
    offset = torch.randn(out_channels, generator=generator) if bias else None
    small = torch.randn(batch_size, channels, half, half + 1, generator=generator)
    large = torch.randn(batch_size, channels, 2 * half, 2 * half + 2, generator=generator)
    up = F.conv2d(small.repeat_interleave(2, 2).repeat_interleave(2, 3), weight, offset, padding=1)
    down = F.avg_pool2d(F.conv2d(large, weight, offset, padding=1), 2)
    torch.testing.assert_close(double_then_conv(small, weight, offset), up, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(conv_then_halve(large, weight, offset), down, rtol=1e-4, atol=1e-4)


def test_attention_equals_its_textbook_form_with_gradients() -> None:
    parts = [torch.randn(2, places, size, requires_grad=True) for places, size in ((12, 2), (5, 2), (5, 6))]
    query, key, value = parts
    expected = (query @ key.transpose(1, 2)).softmax(dim=2) @ value
    got = attend(query, key, value)
    torch.testing.assert_close(got, expected)
    gradients = torch.autograd.grad(expected.square().sum(), parts)
    torch.testing.assert_close(torch.autograd.grad(got.square().sum(), parts), gradients, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("size", [32, 64])
@pytest.mark.parametrize("num_masks", [2, 3])
def test_shapes_and_ranges(size: int, num_masks: int) -> None:
    networks = small_networks(sizex=size, nMasks=num_masks)
    images, _, noise = batch(networks)
    masks = networks.mask(images)
    drawings = networks.generators(masks, noise)
    assert networks.noise is not None
    assert masks.shape == (2, num_masks, size, size)
    assert drawings.shape == (2, num_masks, 3, size, size)
    assert networks.discriminator(images).shape == (2, 1)
    assert networks.noise(images).shape == noise.shape
    assert masks.min() >= 0
    torch.testing.assert_close(masks.sum(dim=1), torch.ones(2, size, size))


def test_nothing_is_drawn_and_nothing_changes_outside_the_mask() -> None:
    networks = small_networks()
    images, _, noise = batch(networks)
    masks = torch.zeros(2, 2, 32, 32)
    masks[:, 0, 8:20, 5:25] = 1
    masks[:, 1] = 1 - masks[:, 0]
    drawings = networks.generators(masks, noise)
    fakes = composite(drawings, masks, images).unflatten(0, (2, 2))
    outside = (masks == 0).unsqueeze(2).expand_as(drawings)
    assert (drawings[outside] == 0).all()
    assert torch.equal(fakes[outside], images.unsqueeze(1).expand_as(fakes)[outside])


def test_the_batch_equals_its_items() -> None:
    networks = small_networks().eval()
    images, _, noise = batch(networks, B=3)
    with torch.no_grad():
        masks = networks.mask(images)
        drawings = networks.generators(masks, noise)
        scores = networks.discriminator(images)
        for i in range(3):
            one = slice(i, i + 1)
            torch.testing.assert_close(networks.mask(images[one]), masks[one], rtol=1e-4, atol=1e-5)
            torch.testing.assert_close(networks.generators(masks[one], noise[one]), drawings[one], rtol=1e-4, atol=1e-4)
            torch.testing.assert_close(networks.discriminator(images[one]), scores[one], rtol=1e-4, atol=1e-4)


def test_power_iterations_per_iteration() -> None:
    """X moves twice, Z once, D three times; evaluation moves nothing."""
    networks, single = small_networks(), small_networks()
    optimisers = make_optimisers(networks, lrM=0, lrG=0, lrD=0, lrZ=0, wdecay=0)  # weights stay, vectors move
    images, real, noise = batch(networks)
    training_iteration(networks, optimisers, images, real, noise)
    calls: dict[str, tuple[int, Callable[[Networks], object]]] = {
        "generators": (2, lambda n: n.generators(n.mask(images), noise)),
        "noise": (1, lambda n: n.noise(images) if n.noise is not None else None),
        "discriminator": (3, lambda n: n.discriminator(images)),
    }
    for name, (count, call) in calls.items():
        for _ in range(count - 1):
            call(single)
        moved = getattr(networks, name)
        assert any(
            not torch.allclose(a, b) for a, b in zip(vectors(moved), vectors(getattr(single, name)), strict=True)
        )
        call(single)
        for a, b in zip(vectors(moved), vectors(getattr(single, name)), strict=True):
            torch.testing.assert_close(a, b)
    before = vectors(networks)
    networks.eval()
    player_turn(networks, images, noise)
    assert all(torch.equal(a, b) for a, b in zip(before, vectors(networks), strict=True))


@pytest.mark.parametrize(("iteration", "players", "judge"), [(1, True, False), (2, False, True), (3, False, False)])
def test_each_step_moves_its_own_networks(iteration: int, players: bool, judge: bool) -> None:
    networks = small_networks()
    optimisers = make_optimisers(networks)
    before = {name: value.detach().clone() for name, value in networks.named_parameters()}
    frequencies = {1: (1, 2), 2: (5, 2), 3: (2, 2)}[iteration]
    played, judged = training_iteration(
        networks, optimisers, *batch(networks), iteration=iteration, gStepFreq=frequencies[0], dStepFreq=frequencies[1]
    )
    assert (played is not None, judged is not None) == (players, judge)
    moved = {name.partition(".")[0] for name, p in networks.named_parameters() if not torch.equal(p, before[name])}
    expected = ({"mask", "generators", "noise"} if players else set()) | ({"discriminator"} if judge else set())
    assert moved == expected
    assert all(p.requires_grad for p in networks.parameters())


def test_noise_recovery_reaches_the_mask_network() -> None:
    networks = small_networks().eval()
    images, _, noise = batch(networks)
    gradients = []
    for weight in (0.0, 5.0):
        loss = player_turn(networks, images, noise, wrecZ=weight).loss
        gradients.append(torch.autograd.grad(loss, list(networks.mask.parameters()))[0])
    assert not torch.allclose(gradients[0], gradients[1], rtol=1e-3)


def test_training_without_noise_encoder() -> None:
    networks = Networks(NetworkOptions(sizex=32, nz=4, nf=4), recover_noise=False)
    optimisers = make_optimisers(networks)
    assert optimisers.noise is None
    played, _ = training_iteration(networks, optimisers, *batch(networks), wrecZ=0.0)
    assert played is not None
    assert played.noise_error is None
    assert torch.equal(played.loss, played.adversarial)


def test_losses_agree_in_bf16() -> None:
    losses = []
    for autocast in (False, True):
        networks = small_networks(nf=8)
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            turn = player_turn(networks, *(batch(networks)[i] for i in (0, 2)))
        assert turn.loss.dtype == turn.masks.dtype == torch.float32
        losses.append(turn.loss)
    torch.testing.assert_close(losses[1], losses[0], rtol=1e-2, atol=1e-2)


@pytest.mark.parametrize("spectral", ["default", "orthogonal"])
def test_initial_weights(spectral: str) -> None:
    networks = small_networks()
    initialise(networks, gain=0.8, spectral=spectral, generator=torch.Generator().manual_seed(3))  # type: ignore[arg-type]

    def spread(weight: Tensor) -> tuple[float, float]:
        values = torch.linalg.svdvals(weight.detach().flatten(1))
        return float(values.min()), float(values.max())

    region = networks.generators[0]
    plain = [networks.mask.up1.weight, region.dense.weight, networks.discriminator.dense.weight]
    plain += region.modulation.weight.split(region.norm_widths * 2)
    for weight in plain:
        assert spread(weight) == pytest.approx((0.8, 0.8), rel=1e-4)
    conv = networks.discriminator.first.conv2
    low, high = spread(conv.weight)
    assert (high - low < 1e-4) == (spectral == "orthogonal")
    if spectral == "default":
        assert float(conv.weight.detach().abs().max()) <= conv.v.numel() ** -0.5
    assert float(conv.u.norm()) == pytest.approx(1)
    assert networks.discriminator.attention is not None
    assert float(networks.discriminator.attention.gamma.detach()) == 0


def test_initial_weights_depend_on_the_generator_only() -> None:
    torch.manual_seed(1)
    first = small_networks(seed=5).state_dict()
    torch.manual_seed(2)
    second, other = small_networks(seed=5).state_dict(), small_networks(seed=6).state_dict()
    assert all(torch.equal(first[key], second[key]) for key in first)
    assert not all(torch.equal(first[key], other[key]) for key in first)


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"sizex": 48}, "--sizex 48"),
        ({"nMasks": 1}, "--nMasks 1"),
        ({"nfX": 3}, "--nfX"),
        ({"nf": 2}, "--nf"),
        ({"temperature": 0.0}, "--temperature 0.0"),
        ({"temperature": float("nan")}, "--temperature nan"),
        ({"nResM": -1}, "--nResM -1"),
    ],
)
def test_impossible_sizes_are_refused(changes: dict[str, float], named: str) -> None:
    with pytest.raises(InputError, match=named):
        NetworkOptions(**changes).check()  # type: ignore[arg-type]
    NetworkOptions().check()


def test_mask_network_names_a_wrong_size() -> None:
    with pytest.raises(ValueError, match="32 square"):
        MaskNetwork(width=4, size=32)(torch.zeros(1, 3, 40, 40))
