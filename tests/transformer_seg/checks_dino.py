"""Golden checks of DINO, by family."""

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from common.metrics.davis import statistics
from common.metrics.pairs import pair_counts
from tests.golden import Case
from tests.transformer_seg.formula import filled, tensors
from transformer_seg.dino.checkpoints import import_backbone, import_dino, import_head
from transformer_seg.dino.crops import SOLARIZE_FROM, CropOptions, MultiCrop, blur, solarize
from transformer_seg.dino.distillation import Rates, Settings, distillation_iteration
from transformer_seg.dino.knn import knn_votes, top_accuracy
from transformer_seg.dino.losses import distillation_loss, updated_center
from transformer_seg.dino.masks import attention_score, mass_masks
from transformer_seg.dino.model import DinoHead, DinoNetwork
from transformer_seg.dino.optimisation import Lars, clip_each, parameter_groups
from transformer_seg.dino.pictures import attention_input, colour_map, mean_attention
from transformer_seg.dino.propagation import (
    LabelPropagator,
    PropagationOptions,
    enlarged,
    hard_labels,
    neighbourhood,
    stretched,
)
from transformer_seg.dino.schedules import cosine_table, teacher_temperatures
from transformer_seg.positions import resize_bicubic
from transformer_seg.vit import VisionTransformer


def blank_backbone(config: dict) -> VisionTransformer:
    return VisionTransformer(
        image_size=config["img_size"],
        patch_size=config["patch"],
        width=config["embed_dim"],
        depth=config["depth"],
        heads=config["heads"],
        eps=config["layernorm_eps"],
        position_rule="bicubic",
    )


def backbone_of(config: dict, weights: str, changed: dict[str, Tensor] | None = None) -> VisionTransformer:
    """The reference's state dict by the weights rule, through the importer."""
    state = filled(blank_backbone(config), weights)
    for key, factor in config.get("weight_scale", {}).items():
        state[key] = state[key] * factor
    backbone = import_backbone(state | (changed or {}), heads=config["heads"])
    assert backbone.norm.eps == config["layernorm_eps"]
    return backbone


def check_loss(case: Case) -> None:
    data, config = tensors(case), case.config
    temperatures = teacher_temperatures(
        config["warmup_teacher_temp"],
        config["teacher_temp"],
        config["warmup_teacher_temp_epochs"],
        config["epochs"],
    )
    case.check("out_teacher_temp", temperatures)
    options = {
        "teacher_temperature": float(temperatures[config["epoch"]]),
        "student_temperature": config["student_temp"],
    }
    student, teacher, momentum = data["in_student"].requires_grad_(), data["in_teacher"], config["center_momentum"]
    assert len(student) == config["ncrops"] * config["batch"]
    loss = distillation_loss(student, teacher, data["in_center"], **options)
    loss.backward()
    case.check("out_loss", loss)
    case.check("out_grad_student", student.grad)
    center = updated_center(data["in_center"], teacher.mean(0, keepdim=True), momentum)
    case.check("out_center_1", center)
    case.check("out_loss_second_call", distillation_loss(student, teacher, center, **options))
    case.check("out_center_2", updated_center(center, teacher.mean(0, keepdim=True), momentum))


def table(options: dict, config: dict, iterations: str = "iters_per_epoch") -> np.ndarray:
    return cosine_table(
        options["base"],
        options["final"],
        config["epochs"],
        config[iterations],
        warmup_epochs=options["warmup_epochs"],
        start=options["start"],
    )


def check_schedules(case: Case) -> None:
    for name, options in case.config["tables"].items():
        case.check(f"out_{name}", table(options, case.config, "niter_per_ep"))


def check_head(case: Case) -> None:
    config = case.config
    blank = DinoHead(
        config["in_dim"],
        config["out_dim"],
        use_bn=config["use_bn"],
        norm_last_layer=config["norm_last_layer"],
        num_layers=config["nlayers"],
        hidden=config["hidden_dim"] or 1,
        bottleneck=config["bottleneck_dim"],
    )
    state = filled(blank, config["weights"])
    for key in config["linear_keys"] + config["batchnorm_keys"]:
        assert f"{key}.weight" in state
    head = import_head(state, norm_last_layer=config["norm_last_layer"])
    x = tensors(case)["in_x"].requires_grad_()
    y = head(x)
    y.square().sum().backward()
    case.check("out_y", y)
    case.check("out_grad_x", x.grad)
    assert head.last_layer.weight_g.requires_grad != config["norm_last_layer"]


@torch.no_grad()
def check_vit(case: Case) -> None:
    data, config = tensors(case), case.config
    backbone = backbone_of(config, config["weights"], {"pos_embed": data["in_pos_embed"]})
    image, stride, extra = data["in_x"], config["channel_stride"], backbone.extra
    before, last = backbone.last_tokens(image, 2)
    case.check("out_cls", backbone(image)[:, 0])
    case.check("out_inter_m2", before[..., ::stride])
    case.check("out_inter_m1", last[..., ::stride])
    case.check("out_attn", backbone.last_attention(image))
    rows = data["out_attn"][:, :, 0, extra:]
    case.check("out_attn", backbone.class_attention(image).flatten(2), rows.numpy())
    grid = (image.shape[-2] // config["patch"], image.shape[-1] // config["patch"])
    case.check("out_pos", backbone.positions(grid)[..., ::stride])


def check_posembed(case: Case) -> None:
    data, patch = tensors(case), case.config["patch"]
    for key in (key for key in data if key.startswith("out_")):
        height, width = map(int, key.removeprefix("out_pos_").split("x"))
        case.check(key, resize_bicubic(data["in_pos"], (height // patch, width // patch)))


@torch.no_grad()
def check_attention_script(case: Case) -> None:
    config, data = case.config, case.arrays()
    vit = config["vit"]
    state = filled(blank_backbone(vit), config["weights"])
    container = {"teacher": {f"module.backbone.{key}": tensor for key, tensor in state.items()}}
    backbone = import_dino(container).backbone
    image = attention_input(data["in_image"], tuple(config["image_size"]), vit["patch"])
    attention = backbone.class_attention(image[None])[0]
    case.check("out_tensor", image)
    case.check("out_attn", attention)
    stored = torch.from_numpy(data["out_attn"])
    masks = mass_masks(stored.flatten(1), config["threshold"]).view_as(stored)
    case.check("out_mask", masks.to(torch.uint8))
    assert attention.shape[0] == sum(name.startswith("attn-head") for name in config["files_written"])


def check_mass_masks(case: Case) -> None:
    attention = tensors(case)["in_attn"]
    masks = [mass_masks(attention, fraction).to(torch.uint8) for fraction in case.config["thresholds"]]
    case.check("out_masks", torch.stack(masks))


def check_attention_jaccard(case: Case) -> None:
    data, config = tensors(case), case.config
    masks = mass_masks(data["in_attn"], config["threshold"]).unflatten(1, tuple(config["grid"]))
    found = attention_score(masks, data["in_gt"], config["patch"])
    case.check("out_iou", found.iou)
    case.check("out_score", found.score)


def check_video_frame(case: Case) -> None:
    config = case.config
    attention = tensors(case)["in_attn"].unflatten(1, tuple(config["grid"]))
    mean = mean_attention(attention, config["patch"])
    case.check("out_mean", mean)
    case.check("out_rgb", colour_map(mean.numpy(), config["cmap"]))


def check_knn(case: Case) -> None:
    data, config = tensors(case), case.config
    votes = knn_votes(
        data["in_train"],
        data["in_train_label"],
        data["in_test"],
        num_classes=config["num_classes"],
        neighbours=config["k"],
        temperature=config["T"],
    )
    case.check("out_votes", votes)
    case.check("out_top1", 100 * top_accuracy(votes, data["in_test_label"], 1))
    case.check("out_top5", 100 * top_accuracy(votes, data["in_test_label"], 5))


@torch.no_grad()
def check_propagation(case: Case) -> None:
    data, config = tensors(case), case.config
    options = PropagationOptions(
        config["n_last_frames"], config["size_mask_neighborhood"], config["topk"], config["temperature"]
    )
    backbone = backbone_of(config["vit"], config["weights"])
    divisor = float(config["frames"].split("/")[1])
    features = []
    for frame, stored in zip(data["in_frames_q"], data["in_features"], strict=True):
        tokens = backbone(frame[None].float() / divisor)[0, backbone.extra :].T
        case.check("in_features", tokens, stored.numpy())
        features.append(tokens.unflatten(1, tuple(data["in_first_seg"].shape[-2:])))
    propagator = LabelPropagator(features[0], data["in_first_seg"][0], options)
    soft = torch.stack([propagator.step(target) for target in features[1:]])
    case.check("out_soft", soft)
    case.check("out_labels", torch.stack([hard_labels(one, config["patch"]) for one in data["out_soft"]]))
    rtol, atol = case.tolerance("out_soft")
    for one, expected in zip(soft, data["out_labels"], strict=True):  # ties may fall either way
        strength = enlarged(one, config["patch"])
        chosen = strength.gather(0, expected[None].long())[0]
        assert (strength.amax(0) - chosen <= 2 * (rtol + atol)).all()


def check_neighbourhood(case: Case) -> None:
    config = case.config
    rows, columns = range(config["h"]), range(config["w"])
    case.check("out_mask", neighbourhood(rows, columns, rows, columns, config["radius"]).to(torch.uint8))


def check_norm_mask(case: Case) -> None:
    case.check("out_mask", stretched(tensors(case)["in_mask"]))


def check_davis_jf(case: Case) -> None:
    data = case.arrays()
    counts = [
        pair_counts(predicted > 0, target > 0, num_predicted=1, num_objects=1, tolerance=case.config["bound_th"])
        for predicted, target in zip(data["in_pred"], data["in_gt"], strict=True)
    ]
    for letter, values in (("J", [c.j()[0, 0] for c in counts]), ("F", [c.f()[0, 0] for c in counts])):
        found = statistics(np.array(values))
        case.check(f"out_{letter}", values)
        case.check(f"out_{letter}_stats", [found.mean, found.recall, found.decay])


def check_aug_pieces(case: Case) -> None:
    image, config = Image.fromarray(case.arrays()["in_image"]), case.config
    case.check("out_blur", np.stack([np.array(blur(image, radius)) for radius in config["radii"]]))
    assert config["threshold"] == SOLARIZE_FROM
    case.check("out_solar", np.array(solarize(image)))


def check_multicrop_layout(case: Case) -> None:
    config = case.config
    options = CropOptions(
        tuple(config["global_scale"]),
        tuple(config["local_scale"]),
        config["local_crops_number"],
        config["global_size"],
        config["local_size"],
    )
    torch.manual_seed(0)
    picture = np.random.default_rng(0).integers(0, 256, (150, 200, 3), dtype=np.uint8)
    crops = MultiCrop(options)(Image.fromarray(picture))
    case.check("out_sizes", np.array([crop.shape for crop in crops]))


def check_train(case: Case) -> None:
    data, config = tensors(case), case.config
    student, teacher = trained_network(config), trained_network(config)
    optimiser = optimiser_of(config, student)
    decayed = [value for value in student.parameters() if value.requires_grad and value.ndim >= 2]
    assert len(decayed) == len(optimiser.param_groups[0]["params"]) == config["regularised"]
    tables = {name: table(options, config) for name, options in config["schedules"].items()}
    heat = config["teacher_temp_schedule"]
    temperatures = teacher_temperatures(
        heat["warmup_teacher_temp"], heat["teacher_temp"], heat["warmup_teacher_temp_epochs"], config["epochs"]
    )
    settings = Settings(config["clip_grad"], config["student_temp"], config["center_momentum"])
    divisor = float(config["crops"].split(";")[0].split("/")[1])
    center = torch.full((1, config["head"]["out_dim"]), config["center_start"])
    losses, centers = [], []
    for iteration in range(config["epochs"] * config["iters_per_epoch"]):
        epoch, step = divmod(iteration, config["iters_per_epoch"])
        rates = Rates(*(float(tables[name][iteration]) for name in ("lr", "wd", "momentum")), temperatures[epoch])
        crops = [crop / divisor for name in ("global", "local") for crop in data[f"in_{name}_crops_q"][epoch, step]]
        frozen = epoch < config["freeze_last_layer"]
        outcome = distillation_iteration(
            student, teacher, optimiser, crops, center, rates, settings, freeze_last_layer=frozen
        )
        center = outcome.center
        losses.append(float(outcome.loss))
        centers.append(center[0])
    case.check("out_loss", losses)
    case.check("out_centers", torch.stack(centers))
    for name, values in tables.items():
        case.check(f"out_{name}", values)
    networks = {"student": student.state_dict(), "teacher": teacher.state_dict()}
    for key in (key for key in data if key.startswith(("out_student.", "out_teacher."))):
        who, _, name = key.removeprefix("out_").partition(".")
        case.check(key, networks[who][name])


def trained_network(config: dict) -> DinoNetwork:
    head = config["head"]
    blank = DinoNetwork(
        blank_backbone(config["vit"]),
        DinoHead(
            config["vit"]["embed_dim"],
            head["out_dim"],
            use_bn=head["use_bn"],
            norm_last_layer=head["norm_last_layer"],
            num_layers=head["nlayers"],
            hidden=head["hidden"],
            bottleneck=head["bottleneck"],
        ),
    )
    state = filled(blank, config["weights"])
    parts = {
        name: {key.removeprefix(f"{name}."): value for key, value in state.items() if key.startswith(f"{name}.")}
        for name in ("backbone", "head")
    }
    backbone = import_backbone(parts["backbone"], heads=config["vit"]["heads"], drop_path=config["drop_path"])
    return DinoNetwork(backbone, import_head(parts["head"], norm_last_layer=head["norm_last_layer"])).train()


def optimiser_of(config: dict, network: DinoNetwork) -> torch.optim.Optimizer:
    kind = {"adamw": torch.optim.AdamW, "sgd": torch.optim.SGD, "lars": Lars}[config["optimizer"]]
    options = config["optimizer_args"]
    return kind(parameter_groups(network), **{k: tuple(v) if isinstance(v, list) else v for k, v in options.items()})


def check_clip(case: Case) -> None:
    data = tensors(case)
    parameters = []
    for gradient in (data["in_gw"], data["in_gb"]):
        parameters.append(torch.nn.Parameter(torch.zeros_like(gradient)))
        parameters[-1].grad = gradient.clone()
    case.check("out_norms", clip_each(parameters, case.config["clip"]))
    case.check("out_gw", parameters[0].grad)
    case.check("out_gb", parameters[1].grad)


CHECKS = {
    "dino_loss": check_loss,
    "dino_schedules": check_schedules,
    "dino_head": check_head,
    "dino_vit": check_vit,
    "dino_posembed": check_posembed,
    "dino_attention_script": check_attention_script,
    "dino_mass_masks": check_mass_masks,
    "dino_attention_jaccard": check_attention_jaccard,
    "dino_video_frame": check_video_frame,
    "dino_knn": check_knn,
    "dino_propagation": check_propagation,
    "dino_neighbourhood": check_neighbourhood,
    "dino_norm_mask": check_norm_mask,
    "dino_davis_jf": check_davis_jf,
    "dino_aug_pieces": check_aug_pieces,
    "dino_multicrop_layout": check_multicrop_layout,
    "dino_train": check_train,
    "dino_clip": check_clip,
}
