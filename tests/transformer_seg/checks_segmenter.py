"""Golden checks of Segmenter, by family."""

import numpy as np
import torch

from common.metrics.confusion import class_accuracy, class_iou, contingency, mean_over_classes, pixel_accuracy
from tests.golden import Case
from tests.transformer_seg.formula import filled, tensors
from transformer_seg.positions import resize_bilinear
from transformer_seg.segmenter.ade20k import training_labels
from transformer_seg.segmenter.checkpoints import import_segmenter
from transformer_seg.segmenter.losses import pixel_cross_entropy
from transformer_seg.segmenter.model import LinearDecoder, MaskTransformer, Segmenter
from transformer_seg.segmenter.schedule import PolynomialDecay
from transformer_seg.segmenter.windows import (
    View,
    Windows,
    class_labels,
    class_probabilities,
    fit_to_window,
    keep_ratio_size,
    window_anchors,
)
from transformer_seg.vit import VisionTransformer, attention_weights

IMAGENET_CLASSES = 1000  # rows of the unused head of every published backbone


def network_of(case: Case, dropout: float = 0.0) -> Segmenter:
    """The reference's state dict by the weights rule, through the importer."""
    config = case.config
    encoder = VisionTransformer(
        image_size=config["image_size"],
        patch_size=config["patch"],
        width=config["d"],
        depth=config["layers"],
        heads=config["heads"],
        eps=config["layernorm_eps"],
        position_rule="bilinear",
        distilled=config["distilled"],
        num_classes=IMAGENET_CLASSES,
    )
    if config["dec"] == "mask":
        decoder: torch.nn.Module = MaskTransformer(config["d"], config["ncls"], depth=config["dec_layers"])
    else:
        decoder = LinearDecoder(config["d"], config["ncls"])
    state = filled(Segmenter(encoder, decoder), config["weights"])
    if "in_pos_embed" in case.arrays():
        state["encoder.pos_embed"] = tensors(case)["in_pos_embed"]
    network = import_segmenter(state, {"n_heads": config["heads"], "decoder": {"dropout": dropout}})
    assert network.encoder.norm.eps == config["layernorm_eps"]
    if "dec_heads" in config:
        assert network.decoder.blocks[0].attn.num_heads == config["dec_heads"]
    return network


@torch.no_grad()
def check_forward(case: Case) -> None:
    network, data, config = network_of(case), tensors(case), case.config
    image, stride = data["in_x"], config["subsample"]
    case.check("out_logits", network(image)[..., ::stride, ::stride])
    H, W = image.shape[-2:]
    padded = torch.nn.functional.pad(image, (0, -W % config["patch"], 0, -H % config["patch"]))
    tokens = network.encoder(padded)
    case.check("out_tokens", tokens[..., :: config["token_channel_stride"]])
    if "out_attn_enc_last" in data:
        case.check("out_attn_enc_last", network.encoder.last_attention(padded))
    if "out_attn_dec_0" in data:
        joint = network.decoder.joint_tokens(tokens[:, network.encoder.extra :])
        case.check("out_attn_dec_0", attention_weights(network.decoder.blocks[0], joint))
    if "out_imagenet_logits_first16" in data:
        case.check("out_imagenet_logits_first16", network.encoder.classify(padded)[:, :16])


def check_posembed(case: Case) -> None:
    config = case.config
    grids = tuple(config["old"]), tuple(config["new"])
    case.check("out_pos", resize_bilinear(tensors(case)["in_pos"], *grids, config["extra_tokens"]))


def check_sliding(case: Case) -> None:
    data, config = tensors(case), case.config
    size, windows = tuple(config["ori_shape"]), Windows(config["window"], config["stride"], batch_size=2)

    def network(crops: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.conv2d(crops, data["in_conv_w"], data["in_conv_b"], padding=1)

    views = []
    for view in config["views"]:
        name, mirrored = view["input"].split()[0], view["flip"]
        assert ("mirrored" in view["input"]) == mirrored
        views.append(View(data[name].flip(-1) if mirrored else data[name], mirrored))
    resized = fit_to_window(views[0].image, windows.size)
    case.check("out_resized", resized)
    case.check("out_anchors", np.array(window_anchors(tuple(resized.shape[-2:]), windows)))
    case.check("out_prob_single", class_probabilities(network, views[:1], size, windows))
    case.check("out_prob_three", class_probabilities(network, views, size, windows))
    case.check("out_label_three", class_labels(network, views, size, windows))
    assert torch.equal(class_labels(network, views[:1], size, windows), data["out_prob_single"].argmax(0))


def check_loss(case: Case) -> None:
    data = tensors(case)
    logits = data["in_logits"].requires_grad_()
    loss = pixel_cross_entropy(logits, data["in_target"])
    loss.backward()
    case.check("out_loss", loss)
    case.check("out_grad", logits.grad)


def check_train(case: Case) -> None:
    data, config = tensors(case), case.config
    network = network_of(case).train()
    schedule = PolynomialDecay(config["lr"], config["iter_max"], config["min_lr"], config["power"])
    optimiser = torch.optim.SGD(
        network.parameters(),
        lr=config["lr"],
        momentum=config["momentum"],
        nesterov=config["nesterov"],
        weight_decay=config["weight_decay"],
    )
    losses, rates = [], []
    for iteration, (image, target) in enumerate(zip(data["in_x"], data["in_target"], strict=True)):
        rates.append(schedule.at(iteration))
        optimiser.param_groups[0]["lr"] = rates[-1]
        loss = pixel_cross_entropy(network(image), target, config["ignore"])
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    case.check("out_loss", losses)
    case.check("out_lr", rates)
    case.check("out_lr_end", schedule.at(len(rates)))
    state = network.state_dict()
    for key, text in config["state_outputs"].items():
        name, _, part = text.partition(", first ")
        case.check(key, state[name][: int(part.split()[0])] if part else state[name])


def check_poly_schedule(case: Case) -> None:
    config = case.config
    for key, table in config["tables"].items():
        schedule = PolynomialDecay(
            config["base_lr"],
            config["iter_max"],
            config["min_lr"],
            config["power"],
            warmup=table["warmup_iters"],
            step=table["step_size"],
        )
        case.check(key, [schedule.at(iteration) for iteration in range(config["total"])])


def check_metrics(case: Case) -> None:
    data, config = case.arrays(), case.config
    K = config["n_cls"]
    confusion = sum(
        contingency(data[f"in_pred_{i}"], data[f"in_gt_{i}"], num_predicted=K, num_classes=K)
        for i in range(config["images"])
    )
    case.check("out_cat_iou", class_iou(confusion))
    case.check("out_pixel_accuracy", np.round(100 * pixel_accuracy(confusion), 2))
    case.check("out_mean_accuracy", np.round(100 * mean_over_classes(class_accuracy(confusion)), 2))
    case.check("out_mean_iou", np.round(100 * mean_over_classes(class_iou(confusion)), 2))


def check_ade_labels(case: Case) -> None:
    case.check("out_label", training_labels(case.arrays()["in_raw"]))


def check_resize_geometry(case: Case) -> None:
    config, sizes = case.config, case.arrays()["in_hw"].tolist()
    found = [
        [keep_ratio_size(tuple(size), config["long_side"] * ratio, config["short_side"] * ratio) for size in sizes]
        for ratio in config["ratios"]
    ]
    case.check("out_hw", np.array(found))


CHECKS = {
    "segmenter_forward": check_forward,
    "segmenter_posembed": check_posembed,
    "segmenter_sliding": check_sliding,
    "segmenter_loss": check_loss,
    "segmenter_train": check_train,
    "segmenter_poly_schedule": check_poly_schedule,
    "segmenter_metrics": check_metrics,
    "segmenter_ade_labels": check_ade_labels,
    "segmenter_resize_geometry": check_resize_geometry,
}
