"""Golden checks of WNet, by family."""

import json

import numpy as np
import torch
from torch import nn

from tests.golden import SHARED, Case
from tests.transformer_seg.formula import filled, tensors
from transformer_seg.wnet.alternation import alternating_iteration
from transformer_seg.wnet.checkpoints import import_wnet
from transformer_seg.wnet.crf import CrfOptions, refine
from transformer_seg.wnet.lite import LiteWNet
from transformer_seg.wnet.lite_losses import ClassMeanKernel, JointWeights, class_mean_ncut, joint_loss, opening_loss
from transformer_seg.wnet.losses import NcutKernel, ncut_parts
from transformer_seg.wnet.model import WNet
from transformer_seg.wnet.region_scores import region_scores


def published(manifest: str) -> set[str]:
    return set(json.loads((SHARED / "golden" / "transformer_seg" / manifest).read_text()))


def network_of(case: Case) -> WNet | LiteWNet:
    config = case.config
    if config["arch"] == "wnet_lite":
        blank: nn.Module = LiteWNet(num_segments=config["num_classes"], channels=config["num_channels"])
        assert set(blank.state_dict()) == published("wnet_lite_keys.json")
    else:
        blank = WNet(num_segments=config["squeeze"], width=config["ch_mul"], channels=config["in_chans"])
        assert set(blank.state_dict()) == published("wnet_keys.json")
    network = import_wnet(filled(blank, config["weights"]))
    return network.train(config.get("train", False))


def kernel_of(config: dict) -> NcutKernel:
    return NcutKernel(config["radius"], config["sigma_I"], config["sigma_X"], config["value_scale"])


def check_ncut_exact(case: Case) -> None:
    data = tensors(case)
    p = data["in_prob"].requires_grad_()
    parts = ncut_parts(data["in_image"], p, kernel_of(case.config))
    parts.per_image().mean().backward()
    case.check("out_loss", parts.per_image())
    case.check("out_num", parts.association)
    case.check("out_den", parts.mass)
    case.check("out_degree", parts.degree[:, 0])
    case.check("out_grad_prob", p.grad)


def check_ncut_classmean(case: Case) -> None:
    data, config = tensors(case), case.config
    kernel = ClassMeanKernel(config["radius"], config["sigma_1"], config["sigma_2"])
    p = data["in_prob"].requires_grad_()
    loss = class_mean_ncut(data["in_image"], p, kernel)
    loss.backward()
    profile = kernel.profile(p.detach())
    case.check("out_kernel", torch.outer(profile, profile)[None, None])
    case.check("out_loss", loss)
    case.check("out_grad_prob", p.grad)


def check_opening(case: Case) -> None:
    p = tensors(case)["in_prob"].requires_grad_()
    loss = opening_loss(p, case.config["size"])
    loss.backward()
    case.check("out_loss", loss)
    case.check("out_grad_prob", p.grad)


@torch.no_grad()
def check_forward(case: Case) -> None:
    network, image = network_of(case), tensors(case)["in_x"]
    logits, reconstruction = network(image)
    names = ("out_logit", "out_rec") if isinstance(network, LiteWNet) else ("out_enc", "out_dec")
    case.check(names[0], logits)
    case.check(names[1], reconstruction)
    if "out_mask" in case.arrays():
        case.check("out_mask", logits.softmax(dim=1))
    check_state(case, network)


def check_state(case: Case, network: nn.Module) -> None:
    state = network.state_dict()
    for key, name in case.config.get("state_outputs", {}).items():
        case.check(key, state[name])


def check_lite_loss(case: Case) -> None:
    network, image, config = network_of(case), tensors(case)["in_x"], case.config
    assert config["ncut"] == "class_mean"
    options = config["ncut_params"]
    weights = config["loss_weights"]
    loss = joint_loss(
        image,
        *network(image),
        kernel=ClassMeanKernel(options["radius"], options["sigma_1"], options["sigma_2"]),
        opening_size=config["opening"],
        weights=JointWeights(weights["ncut"], weights["mse"], weights["opening"]),
    )
    loss.backward()
    case.check("out_loss", loss)
    parameters = dict(network.named_parameters())
    for key, name in config["grad_outputs"].items():
        case.check(key, parameters[name].grad)


def check_alternating_step(case: Case) -> None:
    network, image, config = network_of(case), tensors(case)["in_x"], case.config
    assert config["optimizer"] == "SGD plain"
    optimiser = torch.optim.SGD(network.parameters(), lr=config["lr"])
    losses = [alternating_iteration(network, optimiser, image, kernel_of(config)) for _ in range(config["iterations"])]
    case.check("out_losses", np.array([[float(loss) for loss in pair] for pair in losses]))
    check_state(case, network)


def check_crf(case: Case) -> None:
    data, config = case.arrays(), case.config
    bilateral = config["bilateral"]
    (sigma,) = set(bilateral["sxy"])
    options = CrfOptions(config["niter"], sigma, tuple(bilateral["schan"]), bilateral["compat"])
    marginals = refine(data["in_prob"], data["in_image"], options)
    case.check("out_q", marginals)
    case.check("out_label", marginals.argmax(0))


def check_bsds_metrics(case: Case) -> None:
    data = case.arrays()
    assert case.config["vi_log"] == "log2"
    scores = region_scores(list(data["in_seg"]), list(data["in_gt"]))
    case.check("out_cover_num", scores.cover_num)
    case.check("out_cover_den", scores.cover_den)
    case.check("out_covering", scores.covering)
    case.check("out_pri", scores.rand_index)
    case.check("out_vi", scores.information)


CHECKS = {
    "wnet_ncut_exact": check_ncut_exact,
    "wnet_ncut_classmean": check_ncut_classmean,
    "wnet_opening": check_opening,
    "wnet_forward": check_forward,
    "wnet_lite_loss": check_lite_loss,
    "wnet_alternating_step": check_alternating_step,
    "wnet_crf": check_crf,
    "wnet_bsds_metrics": check_bsds_metrics,
}
