"""Every golden case of ReDO, through the importer where there are weights."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from common.makers import cub, flowers, lfw
from common.makers.digit_pictures import DigitDraw, compose_digits
from common.splits import read_split
from redo.checkpoints import import_state, pairs, to_original
from redo.collapse import collapse_decision, min_region_size
from redo.data import SquareImages
from redo.evaluation import hard_regions, image_scores, mean_scores, region_tables
from redo.iteration import make_optimisers, training_iteration
from redo.losses import adversarial_loss, composite, hinge_loss, noise_recovery_loss, redrawn
from redo.model import Discriminator, Generators, MaskNetwork, NetworkOptions, Networks, NoiseEncoder
from redo.model.layers import SelfAttention, SpectralConv2d
from redo.options import DataOptions
from redo.preparation import network_images
from redo.sheet import sheet_picture, sheet_tiles
from redo.square_cache import NO_OBJECT_KNOWN
from tests.golden import Case, chirp_tensor, formula_tensor, parametrize


def fill(network: nn.Module, case: Case, rule: str, bias_gain: float | None = None) -> None:
    """Weights by the manifest's rule under the original's keys, sent through the importer."""
    import_into(network, rule_state(network, case, rule, bias_gain))


def rule_state(network: nn.Module, case: Case, rule: str, bias_gain: float | None = None) -> dict[str, Tensor]:
    tensor = {"formula": formula_tensor, "chirp": chirp_tensor}[rule]
    state = {pair.original: tensor(pair.original, pair.shape) for pair in pairs(network)}
    gamma = case.config.get("attention_gamma")
    for key in state:
        if key.endswith("gamma") and gamma is not None:
            state[key].fill_(gamma)
        if key.endswith("bias") and bias_gain is not None:
            state[key] *= bias_gain
        if rule == "chirp" and key.endswith("weight_orig"):
            settle(state, key.removesuffix("weight_orig"))
    return state


def settle(state: dict[str, Tensor], layer: str) -> None:
    """Thirty power iterations, as the "chirp" rule asks."""
    matrix = state[layer + "weight_orig"].flatten(1)
    u, v = state[layer + "weight_u"], state[layer + "weight_v"]
    for _ in range(30):
        v = nn.functional.normalize(matrix.t() @ u, dim=0)
        u = nn.functional.normalize(matrix @ v, dim=0)
    state[layer + "weight_u"], state[layer + "weight_v"] = u, v


def import_into(network: nn.Module, state: dict[str, Tensor]) -> None:
    network.load_state_dict(import_state(network, state))


def tensors(case: Case) -> dict[str, Tensor]:
    """The inputs; uint8 pictures in the networks' range, uint8 masks in [0, 1]."""
    found = {}
    for key, array in case.arrays().items():
        if key.startswith("in_"):
            found[key] = torch.from_numpy(array)
            if array.dtype == np.uint8:
                found[key] = found[key].float() / (255 if key == "in_m" else 127.5) - (0 if key == "in_m" else 1)
    return found


def original_state(network: nn.Module) -> dict[str, Tensor]:
    return to_original(network, network.state_dict())


def check_netm(case: Case) -> None:
    config = case.config
    network = MaskNetwork(
        num_masks=config["nMasks"],
        width=config["nf"],
        num_blocks=config["nRes"],
        size=config["sizex"],
        temperature=config["temperature"],
    )
    fill(network, case, config["weights"])
    x = tensors(case)["in_x"].requires_grad_()
    masks = network(x)
    (masks[:, 0] * torch.linspace(-1, 1, config["sizex"])).sum().backward()
    stride = config["mask_stride"]
    case.check("out_mask", masks[..., ::stride, ::stride])
    case.check("out_mask_mean", masks.mean(dim=(2, 3)))
    check_input_gradient(case, x)
    assert torch.equal(network.eval()(x), masks)


def check_input_gradient(case: Case, x: Tensor) -> None:
    assert x.grad is not None
    stride = case.config["grad_stride"]
    case.check("out_grad_x", x.grad[..., ::stride, ::stride])
    if "out_grad_x_norm" in case.arrays():
        case.check("out_grad_x_norm", x.grad.flatten(1).norm(dim=1))


def check_netx(case: Case) -> None:
    config, inputs = case.config, tensors(case)
    network = Generators(
        num_masks=config["nMasks"],
        width=config["nf"],
        noise_size=config["nc"],
        size=config["sizex"],
        attention=config["selfAtt"],
    )
    fill(network, case, config["weights"])
    network.train(config["mode"] == "train")
    masks, noise = inputs["in_m"].requires_grad_(), inputs["in_z"].requires_grad_()
    h = network(masks, noise)
    (h * torch.linspace(-1, 1, config["sizex"])).sum().backward()
    assert masks.grad is not None
    assert noise.grad is not None
    case.check("out_h", h[..., :: config["h_stride"], :: config["h_stride"]])
    case.check("out_h_mean", h.mean(dim=(3, 4)))
    case.check("out_h_std", h.std(dim=(3, 4)))
    case.check("out_grad_z", noise.grad)
    case.check("out_grad_m", masks.grad[..., :: config["grad_stride"], :: config["grad_stride"]])
    if config["u_after"]:
        state = original_state(network)
        case.check("out_u_after", state["net.0.convOut.weight_u"])
        case.check("out_u_after_convA0", state["net.0.convA.0.1.weight_u"])


def check_netd(case: Case) -> None:
    config = case.config
    network = Discriminator(width=config["nf"], size=config["sizex"], attention=config["selfAtt"])
    fill(network, case, config["weights"], config.get("bias_gain"))
    x = tensors(case)["in_x"].requires_grad_()
    score = network.eval()(x)
    score.sum().backward()
    case.check("out_score_eval", score)
    check_input_gradient(case, x)
    network.train()
    case.check("out_score_train1", network(x))
    case.check("out_score_train2", network(x))
    state = original_state(network)
    case.check("out_u_bloc0_2", state["bloc0.2.weight_u"])
    case.check("out_u_sc3", state["sc.3.1.weight_u"])
    case.check("out_v_bloc0_0", state["bloc0.0.weight_v"])


def check_netz(case: Case) -> None:
    config = case.config
    network = NoiseEncoder(
        num_masks=config["nMasks"], noise_size=config["nc"], width=config["nf"], size=config["sizex"]
    )
    fill(network, case, config["weights"], config.get("bias_gain"))
    x = tensors(case)["in_x"].requires_grad_()
    z = network.eval()(x)
    (z.flatten(2) * torch.linspace(-1, 1, config["nc"])).sum().backward()
    case.check("out_z_eval", z)
    check_input_gradient(case, x)
    case.check("out_z_train1", network.train()(x))


def check_selfatt(case: Case) -> None:
    network = SelfAttention(case.config["nf"])
    assert network.query.weight.shape[0] == case.config["heads_dim"]
    fill(network, case, case.config["weights"])
    network.train(case.config["mode"] == "train")
    x = tensors(case)["in_x"].requires_grad_()
    y = network(x)
    y.square().sum().backward()
    case.check("out_y", y)
    case.check("out_grad_x", x.grad)
    case.check("out_grad_gamma", network.gamma.grad)
    case.check("out_grad_f", network.query.weight.grad)
    case.check("out_grad_g", network.key.weight.grad)


def check_spectral_norm(case: Case) -> None:
    inputs = tensors(case)
    weight = inputs["in_weight_orig"]
    conv = SpectralConv2d(weight.shape[1], weight.shape[0], weight.shape[2])
    assert conv.padding == case.config["padding"]
    conv.load_state_dict(
        {"weight": weight, "bias": inputs["in_bias"], "u": inputs["in_weight_u"], "v": inputs["in_weight_v"]}
    )
    conv.eval()
    case.check("out_y_eval", conv(inputs["in_x"]))
    case.check("out_weight_eval", conv.normalised_weight())
    y = conv.train()(inputs["in_x"])
    y.square().sum().backward()
    case.check("out_y_train", y)
    case.check("out_u_after", conv.u)
    case.check("out_v_after", conv.v)
    used = conv.eval().normalised_weight()
    case.check("out_weight_train", used)
    case.check("out_sigma_train", (weight.norm() / used.norm()).reshape(()))
    case.check("out_grad_weight_orig", conv.weight.grad)


def check_loss_hinge_d(case: Case) -> None:
    inputs = tensors(case)
    real, fake = inputs["in_d_real"].requires_grad_(), inputs["in_d_fake"].requires_grad_()
    loss = hinge_loss(real, fake)
    loss.backward()
    case.check("out_loss", loss)
    case.check("out_grad_real", real.grad)
    case.check("out_grad_fake", fake.grad)


def check_loss_generator(case: Case) -> None:
    inputs = tensors(case)
    scores, recovered = inputs["in_d_fake"].requires_grad_(), inputs["in_z_rec"].requires_grad_()
    adversarial, error = adversarial_loss(scores), noise_recovery_loss(inputs["in_z"], recovered)
    loss = adversarial + case.config["wrecZ"] * error
    loss.backward()
    case.check("out_loss_adv", adversarial)
    case.check("out_err_recz", error)
    case.check("out_loss", loss)
    case.check("out_grad_d_fake", scores.grad)
    case.check("out_grad_z_rec", recovered.grad)


def check_composite(case: Case) -> None:
    inputs = tensors(case)
    h, m = inputs["in_h"].requires_grad_(), inputs["in_m"].requires_grad_()
    fakes = composite(h, m, inputs["in_x"])
    fakes.backward(inputs["in_upstream"])
    case.check("out_x_fake", fakes)
    case.check("out_all_redrawn", redrawn(h))
    case.check("out_grad_h", h.grad)
    case.check("out_grad_m", m.grad)


def check_train(case: Case) -> None:
    config, inputs, arrays = case.config, tensors(case), case.arrays()
    options = NetworkOptions(
        sizex=config["sizex"],
        nz=config["nz"],
        nMasks=config["nMasks"],
        nResM=config["nResM"],
        nfM=config["nfM"],
        nfX=config["nfX"],
        nfD=config["nfD"],
        nfZ=config["nfZ"],
        useSelfAttD=config["selfAtt"],
        useSelfAttG=config["selfAtt"],
        temperature=config["temperature"],
    )
    networks = Networks(options, recover_noise=config["wrecZ"] > 0)
    named = {"netM": networks.mask, "netX": networks.generators, "netD": networks.discriminator, "netZ": networks.noise}
    named = {name: network for name, network in named.items() if network is not None}
    assert set(named) == set(config["weights"])
    for name, network in named.items():
        rule = config["weights"][name]
        state = rule_state(network, case, rule["rule"], rule["bias_gain"])
        if name == "netD":
            state["dense.weight"] *= config["netD_dense"]["weight_gain"]
            state["dense.bias"].fill_(config["netD_dense"]["bias"])
        import_into(network, state)
    rates = {name: config[name] for name in ("lrM", "lrG", "lrD", "lrZ", "wdecay", "eps")}
    optimisers = make_optimisers(networks, **rates, betas=tuple(config["betas"]))

    for i in range(config["iterations"]):
        played, judged = training_iteration(
            networks,
            optimisers,
            inputs[f"in_x_{i}"],
            inputs[f"in_xreal_{i}"],
            inputs[f"in_z_{i}"],
            iteration=i,
            wrecZ=config["wrecZ"],
            gStepFreq=config["gStepFreq"],
            dStepFreq=config["dStepFreq"],
        )
        values: dict[str, Any] = {}
        if played is not None:
            values = {"loss_g": played.loss, "loss_adv": played.adversarial, "err_recz": played.noise_error}
            values["mask_mean"] = played.masks.mean(dim=(2, 3))
            values |= {f"gradnorm_g_{name}": net for name, net in named.items() if name != "netD"}
        if judged is not None:
            values |= {"loss_d": judged.loss, "d_real": judged.real_scores, "d_fake": judged.fake_scores}
            values["gradnorm_d_netD"] = named["netD"]
        expected = {key for key in arrays if key.startswith("out_") and key.endswith(f"_{i}")}
        assert expected == {f"out_{name}_{i}" for name, value in values.items() if value is not None}
        for name, value in values.items():
            if isinstance(value, nn.Module):
                check_gradient_norms(case, f"out_{name}_{i}", value)
            elif value is not None:
                case.check(f"out_{name}_{i}", value)
    check_after_training(case, named, inputs)


def gradient_norms(network: nn.Module) -> np.ndarray:
    gradients = {name: p.grad for name, p in network.named_parameters() if p.grad is not None}
    return np.array([float(g.double().norm()) for g in to_original(network, gradients).values()])


def check_gradient_norms(case: Case, key: str, network: nn.Module) -> None:
    """Where the true gradient is zero, both sides hold rounding noise below the floor."""
    got, expected = gradient_norms(network), case.arrays()[key]
    assert got.shape == expected.shape
    floor = case.entry["tolerance"]["noise_floor"] * expected.max()
    noise = expected < floor
    assert (got[noise] < 10 * floor).all()
    case.check(key, np.where(noise, 0.0, got), np.where(noise, 0.0, expected))


def check_after_training(case: Case, named: dict[str, nn.Module], inputs: dict[str, Tensor]) -> None:
    arrays, config = case.arrays(), case.config
    turns = {"netD": "d"}
    for name, network in named.items():
        values = to_original(network, dict(network.named_parameters()))
        norms = [key for key in arrays if key.startswith(f"out_gradnorm_{turns.get(name, 'g')}_{name}_")]
        floor = case.entry["tolerance"]["noise_floor"]
        noise = np.any([arrays[key] < floor * arrays[key].max() for key in norms], axis=0)
        sums = np.array([float(value.detach().double().sum()) for value in values.values()])
        expected = arrays[f"out_param_sum_{name}"]
        case.check(f"out_param_sum_{name}", np.where(noise, 0.0, sums), np.where(noise, 0.0, expected))
        case.check(f"out_param_norm_{name}", np.array([float(v.detach().double().norm()) for v in values.values()]))
    vectors = {"netD": "blocs.0.1.weight_u", "netX": "net.0.convOut.weight_u", "netZ": "net.blocs.1.1.weight_u"}
    for name in named.keys() & vectors.keys():
        case.check(f"out_u_{name}", original_state(named[name])[vectors[name]])
    stride = config["mask_after_stride"]
    with torch.no_grad():
        masks = named["netM"].eval()(inputs["in_x_0"])
    case.check("out_mask_after", masks[..., ::stride, ::stride])


def check_eval(case: Case) -> None:
    inputs = tensors(case)
    masks, truth = inputs["in_m_pred"], inputs["in_gt"] > 0.5
    batches = [
        region_tables(hard_regions(m, case.config["threshold"]), g[:, 0], m.shape[1])
        for m, g in zip(masks, truth, strict=True)
    ]
    tables = np.concatenate(batches)
    legacy = "switch" in case.entry
    scores = image_scores(tables, legacy)
    case.check("out_iou_direct", scores.iou[:, 0])
    case.check("out_iou_inverted", scores.iou[:, 1])
    case.check("out_acc_direct", scores.accuracy[:, 0])
    accuracy, iou = mean_scores(tables, "per_image", legacy)  # batches of one size: the mean of means is the mean
    case.check("out_acc", np.float64(accuracy))
    case.check("out_iou", np.float64(iou))
    case.check("out_min_region", np.float64(min_region_size(masks[-1])))
    if legacy:
        default = image_scores(tables).iou
        assert (default[np.isnan(scores.iou)] == 1).all()
        assert np.isfinite(mean_scores(tables)).all()


def check_autorestart(case: Case) -> None:
    rows = case.arrays()["in_cases"]
    case.check("out_action", np.array([int(collapse_decision(*row[:3], int(row[3]))) for row in rows]))


def check_min_region(case: Case) -> None:
    case.check("out_value", np.float64(min_region_size(tensors(case)["in_m"])))


def check_grid(case: Case) -> None:
    inputs = tensors(case)
    masks = inputs["in_mask"]
    shared = inputs["in_h_noise"] * masks.transpose(0, 1)[:, None, :, None]
    tiles = sheet_tiles(inputs["in_x"], inputs["in_gt"], masks, inputs["in_h_z"], shared)
    picture = sheet_picture(tiles)
    case.check("out_tiles", tiles)
    case.check("out_grid", picture)
    pixels = (picture * 255 + 0.5).clamp(0, 255).byte().permute(1, 2, 0).numpy()
    case.check("out_png", pixels)
    for file in case.entry["files"]:
        np.testing.assert_array_equal(pixels, np.asarray(Image.open(case.folder / file)))


def check_data(case: Case, folder: Path) -> None:
    """The maker's split holds the listed files, and gives the reference's squares."""
    size, root = case.config["sizex"], case.folder / case.config["root"]
    maker = {"flowers": flowers, "cub": cub, "lfw": lfw}[root.name]
    maker.make(maker.Options(input=str(root), out=str(folder / "split"), base_dir=str(folder)))
    split = read_split(folder / "split", case.config["split"], folder)
    stems = [re.split(r"[ /]", str(name))[-1].removesuffix(".jpg") for name in case.config["files"]]
    stems = [f"image_{int(stem):05d}" if stem.isdigit() else stem for stem in stems]
    assert list(split.column("Sequence")) == stems
    options = DataOptions(cache_dir=folder / "cache")
    images = SquareImages(split, size, 3, options, scored=True)
    images.build()
    batch = images.__getitems__(range(len(images)))
    case.check("out_img", network_images(batch["image"]))
    if "out_seg" in case.entry.get("not_compared", []):
        assert images.objects is None
        assert (batch["object"] == NO_OBJECT_KNOWN).all()
        return
    case.check("out_seg", batch["object"][:, None].float())


def check_c2mnist(case: Case) -> None:
    arrays = case.arrays()
    images, masks = [], []
    for i, (row_e, column_e, row_o, column_o) in enumerate(arrays["in_pos"].tolist()):
        draw = DigitDraw(
            background=arrays["in_bg"][i],
            even_colour=arrays["in_color_even"][i],
            odd_colour=arrays["in_color_odd"][i],
            even_place=(row_e, column_e),
            odd_place=(row_o, column_o),
            odd_on_top=int(arrays["in_order"][i]) == 0,
        )
        image, mask = compose_digits(arrays["in_even"][i], arrays["in_odd"][i], draw)
        images.append(image)
        masks.append(mask)
    case.check("out_img", np.stack(images))
    case.check("out_seg", np.stack(masks).astype(np.uint8))


CHECKS: dict[str, Callable[[Case], None]] = {
    "netm": check_netm,
    "netx": check_netx,
    "netd": check_netd,
    "netz": check_netz,
    "selfatt": check_selfatt,
    "spectral_norm": check_spectral_norm,
    "loss_hinge_d": check_loss_hinge_d,
    "loss_generator": check_loss_generator,
    "composite": check_composite,
    "train": check_train,
    "eval": check_eval,
    "autorestart": check_autorestart,
    "min_region": check_min_region,
    "grid": check_grid,
    "c2mnist": check_c2mnist,
}


@parametrize("redo", families=(*CHECKS, "data"))
def test_golden(case: Case, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    compared, check = set(), Case.check

    def recording_check(self: Case, key: str, *values: Any) -> None:
        compared.add(key)
        check(self, key, *values)

    monkeypatch.setattr(Case, "check", recording_check)
    if case.family == "data":
        check_data(case, tmp_path)
    else:
        CHECKS[case.family](case)
    outputs = {key for key in case.arrays() if key.startswith("out_")}
    assert compared == outputs - set(case.entry.get("not_compared", []))
