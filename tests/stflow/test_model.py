import copy
import json

import pytest
import torch

from common.errors import InputError
from stflow.augment import parse_global_motion, perturb_flow, random_global_motion, random_perturb_flow
from stflow.checkpoints import PublishedModel, import_state_dict
from stflow.model import UNet3D
from stflow.normalisation import NAMES, BlockNorm, SlidingBlockNorm, SmoothBlockNorm
from tests.golden import SHARED
from tests.stflow.published import PREFIX, published_names


def published_weights(L=4, prefix=PREFIX, **options):
    network = UNet3D(L, **options)
    names = published_names(options.get("num_layers", 3), ())
    state_dict = network.state_dict()
    return network, {prefix + key: state_dict[ours] for key, ours in names.items()}


@pytest.mark.parametrize("norm", NAMES)
@pytest.mark.parametrize("size", [(9, 4, 4), (5, 13, 6)])
def test_logits_have_the_size_of_the_flow(norm, size):
    network = UNet3D(3, features_start=4, inner_normalisation=norm)
    logits, features = network.features(torch.randn(2, 2, *size))
    assert logits.shape == (2, 3, *size)
    assert features.shape == (2, 4, *size)
    assert logits.isfinite().all()


@pytest.mark.parametrize("norm", [name for name in NAMES if name != "BatchNorm"])
def test_a_prediction_does_not_depend_on_its_batch(norm):
    network = UNet3D(2, features_start=4, inner_normalisation=norm).eval()
    flow = torch.randn(3, 2, 5, 8, 8)
    torch.testing.assert_close(network(flow)[1:2], network(flow[1:2]), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("train_bn", [False, True])
@pytest.mark.parametrize("norm", NAMES)
@pytest.mark.parametrize("B", [1, 2, 5])
def test_computing_in_parts_changes_nothing(B, norm, train_bn):
    torch.manual_seed(0)
    network = UNet3D(3, features_start=4, inner_normalisation=norm, train_bn=train_bn).double()
    flow, weight = torch.randn(B, 2, 5, 9, 12).double(), torch.randn(B, 3, 5, 9, 12).double()
    for training in (True, False):
        network.train(training)
        state = copy.deepcopy(network.state_dict())
        expected, features = network._layers(flow)
        updated = copy.deepcopy(network.state_dict())
        gradients = torch.autograd.grad((expected * weight).sum(), network.parameters())
        for grad in (True, False):
            network.load_state_dict(state)
            with torch.set_grad_enabled(grad):
                logits = network(flow)
            torch.testing.assert_close(logits, expected)
            torch.testing.assert_close(dict(network.state_dict()), dict(updated))
            if grad:
                found = torch.autograd.grad((logits * weight).sum(), network.parameters())
                torch.testing.assert_close(found, gradients)
            torch.testing.assert_close(network.features(flow)[1], features)


def test_block_norm_is_that_of_blocks_of_nine_frames():
    x = torch.randn(2, 3, 18, 4, 5, generator=torch.Generator().manual_seed(0)) * 3 + 1
    x[:, :, 9:] *= 10
    out = BlockNorm()(x)
    for block in (out[:, :, :9], out[:, :, 9:]):
        torch.testing.assert_close(block.mean((2, 3, 4)), torch.zeros(2, 3), rtol=0, atol=1e-5)
        torch.testing.assert_close(block.var((2, 3, 4), correction=0), torch.ones(2, 3), rtol=0, atol=1e-3)


def test_smooth_norms_look_at_nine_frames_reflected_at_the_ends():
    x = torch.randn(2, 3, 6, 4, 5, generator=torch.Generator().manual_seed(0)).double() * 3 + 1
    reflected = torch.cat([x[:, :, [4, 3, 2, 1]], x, x[:, :, [4, 3, 2, 1]]], dim=2)
    smooth, sliding = SmoothBlockNorm(3)(x), SlidingBlockNorm()(x)
    for t in range(6):
        window = reflected[:, :, t : t + 9]
        mean = window.mean((2, 3, 4))[..., None, None]
        deviation = window.var((2, 3, 4), correction=0)[..., None, None].sqrt()
        torch.testing.assert_close(smooth[:, :, t], x[:, :, t] - mean, rtol=0, atol=1e-6)
        torch.testing.assert_close(sliding[:, :, t], (x[:, :, t] - mean) / deviation)


def test_weights_of_the_smooth_norm_are_stored_and_not_learned():
    network = UNet3D(2, features_start=4, inner_normalisation="cBlockNorm3dSmooth")
    stored = {key: value for key, value in network.state_dict().items() if key.endswith("conv_gaussian.weight")}
    assert len(stored) == 10, "two per double convolution"
    assert all(value.shape[1:] == (1, 9) for value in stored.values())
    assert not any("conv_gaussian" in name for name, _ in network.named_parameters())


@pytest.mark.parametrize(
    ("options", "size", "message"),
    [
        ({}, (3, 3, 8), "3 x 8 is too small for 3 levels"),
        ({"padding_mode": "reflect"}, (3, 4, 8), "at least 8 x 8"),
        ({"padding_mode": "reflect"}, (1, 8, 8), "reflect needs at least 2 frames"),
        ({"inner_normalisation": "cBlockNorm3d"}, (3, 8, 8), "3 frames are too few"),
        ({"inner_normalisation": "cBlockNorm3dSmooth"}, (4, 8, 8), "4 frames are too few"),
        ({"inner_normalisation": "cBlockNorm3dSmoothV2"}, (4, 8, 8), "4 frames are too few"),
    ],
)
def test_windows_that_are_too_small(options, size, message):
    with pytest.raises(InputError, match=message):
        UNet3D(2, features_start=4, **options)(torch.zeros(1, 2, *size))


def test_unknown_normalisation():
    with pytest.raises(InputError, match=r"inner_normalisation.*'LayerNorm'"):
        UNet3D(2, inner_normalisation="LayerNorm")


@pytest.mark.parametrize("manifest", ["ckpt_L2_keys.json", "ckpt_L4_keys.json", "ckpt_L4_BatchNorm_keys.json"])
def test_published_keys_are_all_matched(manifest):
    path = SHARED / "golden" / "stflow" / manifest
    if not path.exists():
        pytest.skip(f"golden fixtures not found at {path} (set UNSEG_SHARED)")
    content = json.loads(path.read_text())
    weights = {key: torch.zeros(shape) for key, shape in content["state_dict"].items()}
    known = content.get("hyper_parameters_example", {})
    options, state_dict = import_state_dict(weights, known | {"gpus": 1})
    assert options["num_classes"] == weights[PREFIX + "layers.final_layer.weight"].shape[0]
    assert options["inner_normalisation"] == ("BatchNorm" if "BatchNorm" in manifest else "InstanceNorm")
    assert options["train_bn"] == ("BatchNorm" in manifest)
    summary = PublishedModel(options, state_dict, known).summary()
    assert f"L={options['num_classes']}" in summary
    assert ("128x224" in summary) == ("img_size" in known)


@pytest.mark.parametrize("prefix", ["", PREFIX, "module.x."])
def test_a_bare_state_dict_brings_its_sizes(prefix):
    network, weights = published_weights(3, prefix, features_start=4, num_layers=4)
    model = PublishedModel(*import_state_dict(weights | {"grid": torch.zeros(1)}), {})
    assert model.options["num_layers"] == 4
    flow = torch.randn(1, 2, 3, 16, 16)
    assert torch.equal(model.network()(flow), network.eval()(flow))


def test_hyper_parameters_decide_what_tensors_do_not_show():
    _, weights = published_weights(features_start=4)
    known = {"unet.inner_normalisation": "cInstanceNorm2d", "unet.padding_mode": "reflect", "unet.new": 1}
    options, _ = import_state_dict(weights, known)
    assert (options["inner_normalisation"], options["padding_mode"]) == ("cInstanceNorm2d", "reflect")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda w: w.pop("layers.level_1.up.upsample.bias"), r"missing ups.0.bias; unexpected none"),
        (lambda w: w.update({"layers.level_1.convr.net.1.weight": torch.zeros(8)}), "unexpected decoders.1.1.weight"),
        (lambda w: w.update({"head.weight": torch.zeros(8)}), "unexpected head.weight"),
        (lambda w: w.update({"layers.final_layer.bias": torch.zeros(8)}), r"head.bias \(8,\) instead of \(4,\)"),
        (lambda w: w.clear(), "no first and last convolution"),
    ],
)
def test_a_foreign_checkpoint_is_refused(change, message):
    _, weights = published_weights(prefix="", features_start=4)
    change(weights)
    with pytest.raises(InputError, match=message):
        import_state_dict(weights)


def generators(*seeds):
    return [torch.Generator().manual_seed(seed) for seed in seeds]


def test_augmentation_does_not_depend_on_the_split_of_the_batch():
    flow = torch.randn(3, 2, 3, 6, 7)
    name = "globalmotion.QuadraticFullPT.light"
    whole = random_global_motion(flow, name, generators(1, 2, 3))
    parts = [
        random_global_motion(flow[:1], name, generators(1)),
        random_global_motion(flow[1:], name, generators(2, 3)),
    ]
    torch.testing.assert_close(whole, torch.cat(parts))
    assert not torch.equal(whole, flow)


def test_added_motion_has_alpha_times_the_speed():
    flow = torch.randn(2, 2, 3, 6, 7)
    augmentation = parse_global_motion("globalmotion.Affine.medium")
    theta, _ = augmentation.draw(generators(1, 2))
    added = augmentation(flow, theta, torch.ones(2)) - flow
    speed, own = added.norm(dim=1).mean((1, 2, 3)), flow.norm(dim=1).mean((1, 2, 3))
    torch.testing.assert_close(speed, 4 * own, rtol=1e-4, atol=0)
    assert torch.equal(augmentation(flow, theta, torch.zeros(2)), flow)


@pytest.mark.parametrize("name", ["globalmotion.Cubic.light", "globalmotion.Affine", "Affine.light", "none"])
def test_unknown_augmentation(name):
    with pytest.raises(InputError, match="flow_augmentation"):
        parse_global_motion(name)


@pytest.mark.parametrize("name", ["PerturbInputFlowNoise", "PerturbInputFlowNoiseStd"])
def test_perturbation_replaces_one_frame_and_depends_on_no_split(name):
    flow = torch.randn(3, 2, 3, 20, 20) * 5 + 7
    opened = next(seed for seed in range(100) if torch.rand(1, generator=generators(seed)[0]) > 0.8)
    whole = random_perturb_flow(flow, name, generators(opened)[0], generators(1, 2, 3))
    part = random_perturb_flow(flow[2:], name, generators(opened)[0], generators(3))
    torch.testing.assert_close(whole[2:], part)
    changed = [t for t in range(3) if not torch.equal(whole[:, :, t], flow[:, :, t])]
    assert len(changed) == 1
    spread = whole[:, :, changed[0]].std().item()
    assert spread == pytest.approx(25 if name == "PerturbInputFlowNoise" else 5, rel=0.2)


def test_shut_gate_leaves_the_flow():
    flow = torch.randn(2, 2, 3, 4, 4)
    assert perturb_flow(flow, "PerturbInputFlowNoise", 0.8, 1, torch.ones(2, 2, 4, 4)) is flow
    with pytest.raises(InputError, match="experimental_flag"):
        perturb_flow(flow, "PerturbInputFlowZero", 0.9, 1, torch.ones(2, 2, 4, 4))
