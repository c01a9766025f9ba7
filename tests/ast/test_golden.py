"""Every golden case of AST-Seg, through the importer where there are weights."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.optimize import linear_sum_assignment
from torch import Tensor, nn

from ast_seg.background_files import write_frame
from ast_seg.background_masks import foreground_masks, to_bytes
from ast_seg.checkpoints import export_state, import_state
from ast_seg.complexity import background_motion, frames_used, is_complex
from ast_seg.losses import background_loss, object_entropy_loss, pixel_entropy_loss, reconstruction_loss
from ast_seg.model.background import BackgroundModel
from ast_seg.model.renderer import Renderer
from ast_seg.model.rendering import DenseRendering, Rendering, pixel_entropy
from ast_seg.model.segformer import SegformerMaps
from ast_seg.model.slots import SlotEncoder, num_feature_maps, position_map, soft_argmax
from ast_seg.model.sparse_rendering import SparseRendering
from ast_seg.model.unet import UNet, published_widths
from ast_seg.reading import (
    image_paths,
    paired_by_rank,
    read_background,
    stage_folder,
)
from ast_seg.sample_grid import grid_order, sample_stack
from ast_seg.schedules import background_is_live, background_rate, entropy_weight, foreground_rate
from ast_seg.scores import active_slots, image_scores, label_counts, published_batch
from common.clevr_files import clevr_files, clevr_parts, clevr_view
from common.files import read_image, read_labels
from common.metrics.confusion import iou_matrix
from common.object_records import objects_room, read_frames
from tests.golden import Case, formula_tensor, parametrize

LATER: dict[str, str] = {}

# What the original does and we do not: it saves two updates late, as the specification (4.5) and the case's note say.
NOT_COMPARED = {"bg_schedule": {"out_saves_after_updates", "out_saves_name"}}


def rule_weights(network: nn.Module, keep: tuple[str, ...] = ()) -> None:
    """Formula weights under the published names, sent through the importer; integer buffers and ``keep`` stay."""
    state = {
        key: formula_tensor(key, tensor.shape) if tensor.is_floating_point() and key not in keep else tensor
        for key, tensor in export_state(network).items()
    }
    network.load_state_dict(import_state(network, state))


def inputs(case: Case) -> dict[str, Tensor]:
    """Numeric inputs by key without ``in_``; the pictures stored as bytes become float32."""
    found = {}
    for key, array in case.arrays().items():
        if key.startswith("in_") and array.dtype.kind not in "US":
            tensor = torch.from_numpy(array)
            found[key[3:]] = tensor.float() if array.dtype == np.uint8 and "images" in key else tensor
    return found


def statistics(values: Tensor) -> np.ndarray:
    values = values.detach().double()
    return np.array([values.mean(), values.std(correction=0), values.min(), values.max()])


def renderer_of(config: Any) -> Renderer:
    renderer = Renderer(
        height=config["image_height"],
        width=config["image_width"],
        what_dim=config["z_what_dim"],
        isotropic=config["isotropic_scaling"],
        max_scale=config["max_scaling_factor"],
        min_scale=config["min_scaling_factor"],
        background_logit=config["initial_background_activation_logit"],
        variable_background=config["variable_background_activation"],
        mask_floor=config.get("eps_mask", 0.0),
    )
    rule_weights(renderer, keep=("background_activation_logit", "local_background_activation_logit"))
    return renderer


def check_bgnet(case: Case) -> None:
    config = case.config
    model = BackgroundModel(height=config["height"], width=config["width"], complexity=config["complexity"])
    rule_weights(model)
    blocks = inputs(case)["images_u8_blocks"]
    if "out_loss" not in case.arrays():  # rounding alone is beyond the tolerance on some processors, not in float64
        model, blocks = model.double(), blocks.double()
    images = blocks.repeat_interleave(config["block"][0], 2).repeat_interleave(config["block"][1], 3)
    images = images[..., : config["height"], : config["width"]]
    latents = model.encoder(images)
    prediction = model.generator(latents)
    case.check("out_latents", latents)
    case.check("out_rgbe_strided", prediction[..., :: config["stride"], :: config["stride"]])
    case.check("out_rgbe_stats", statistics(prediction))
    if "out_loss" not in case.arrays():
        return
    loss = background_loss(prediction, images, beta=config["beta"], r=config["r"], tau_1=config["tau_1"])
    loss.backward()
    grads = {}
    for (name, parameter), published in zip(model.named_parameters(), export_state(model), strict=True):
        grads[f"{name.split('.')[0]}.{published}"] = parameter.grad
    keys = case.arrays()["out_grad_keys"].tolist()
    case.check("out_loss", loss)
    case.check("out_grad_keys", np.array([key for key in keys if key in grads]))
    assert set(keys) == set(grads)
    case.check("out_grad_norms", np.array([grads[key].norm().item() for key in keys]))
    first, last = grads["encoder.background_encoder.0.downsample.0.weight"], model.generator.blocks[-1].conv.weight.grad
    case.check("out_grad_enc_first", first[: case.arrays()["out_grad_enc_first"].shape[0]])
    case.check("out_grad_gen_last", last[: case.arrays()["out_grad_gen_last"].shape[0]])


def check_bgloss(case: Case) -> None:
    given, config = inputs(case), case.config
    prediction = given["prediction"].requires_grad_()
    loss = background_loss(prediction, given["images"], beta=config["beta"], r=config["r"], tau_1=config["tau_1"])
    loss.backward()
    case.check("out_loss", loss)
    case.check("out_grad", prediction.grad)


def check_bgmask(case: Case) -> None:
    given, config = inputs(case), case.config
    found = foreground_masks(given["images"], given["prediction"], alpha_1=config["alpha_1"], alpha_2=config["alpha_2"])
    rgba = to_bytes(given["prediction"]).transpose(0, 2, 3, 1)
    case.check("out_l1", found.difference)
    case.check("out_noise", found.noise)
    case.check("out_thresholded", found.thresholded)
    case.check("out_mask", found.masks)
    case.check("out_rgba", rgba)
    case.check("out_background_bgr", rgba[..., 2::-1])
    assert config["postprocess"] == (found.masks != found.thresholded).any()


def check_bg_complexity(case: Case) -> None:
    config, backgrounds = case.config, inputs(case)["backgrounds"]
    used = frames_used(len(backgrounds), config["batch_size"])
    assert used == config["frames_used"]
    motion = background_motion(backgrounds[:used], config["tau_1"])
    case.check("out_statistic", motion)
    case.check("out_complex", is_complex(motion, config["tau_0"]))


def check_bg_schedule(case: Case) -> None:
    total, expected = int(inputs(case)["n_iterations"]), case.arrays()["out_lr"]
    rates = [background_rate(i, total, case.config["learning_rate"]) for i in range(len(expected))]
    case.check("out_lr", np.array(rates))


def check_encoder(case: Case) -> None:
    config = case.config
    K, Z, isotropic = config["max_set_size"], config["z_what_dim"], config["isotropic_scaling"]
    channels, size = num_feature_maps(K, Z, isotropic), (config["image_height"], config["image_width"])
    maps: nn.Module
    if config["feature_map_generator_name"] == "Unet":
        maps = UNet(channels, published_widths(*size))
    else:
        maps = SegformerMaps(channels, architecture=dict(config["segformer"]))
    encoder = SlotEncoder(
        maps,
        num_slots=K,
        what_dim=Z,
        isotropic=isotropic,
        dim=config["transformer_dim"],
        num_heads=config["transformer_nhead"],
        num_layers=config["transformer_nlayers"],
        feedforward_dim=config["transformer_dim_feedforward"],
    )
    rule_weights(encoder)
    encoder.eval()
    images = inputs(case)["images_low"]
    images = images.repeat_interleave(config["upsample"][0], 2).repeat_interleave(config["upsample"][1], 3)
    stride = config["feature_stride"]
    with torch.no_grad():
        drawn = maps(images)
        pooled = encoder.pooled(drawn)
        case.check("out_feature_map_strided", drawn[..., ::stride, ::stride])
        case.check("out_feature_map_stats", statistics(drawn))
        case.check("out_pooled", pooled)
        logits, pooled = encoder.attended(images)
        torch.testing.assert_close(logits, drawn[:, :K], rtol=0, atol=0)
        case.check("out_pooled", pooled)
        case.check("out_latents", encoder(images))
    positions = position_map(*maps.map_size(*size))
    assert positions.shape[1:] == drawn.shape[2:]
    case.check("out_position_map_strided", positions[None, :, ::stride, ::stride])


def check_softargmax(case: Case) -> None:
    given, config = inputs(case), case.config
    maps = given["feature_map"].requires_grad_()
    assert maps.shape[1] == num_feature_maps(config["K"], config["z_what_dim"], config["isotropic_scaling"])
    pooled = soft_argmax(maps, position_map(*maps.shape[2:]), config["K"])
    (pooled * given["weight"]).sum().backward()
    case.check("out_pooled", pooled)
    case.check("out_grad_feature_map", maps.grad)


def check_glimpse(case: Case) -> None:
    config = case.config
    renderer = Renderer(height=config["height"], width=config["width"], what_dim=config["z_what_dim"])
    rule_weights(renderer)
    case.check("out_rgba", renderer.glimpses(inputs(case)["z_what"]))


def check_render(case: Case) -> None:
    """Whole layers and covered pixels only, whatever the case would take."""
    for covered in (0.0, 2.0):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("ast_seg.model.renderer.SPARSE_BELOW", covered)
            check_one_render(case, DenseRendering if covered == 0 else SparseRendering)


def check_one_render(case: Case, form: type[Rendering]) -> None:
    given, renderer = inputs(case), renderer_of(case.config)
    latents, backgrounds = given["latents"].requires_grad_(), given["backgrounds"].requires_grad_()
    local = renderer.local_background_logit
    if local is not None:
        local.data.copy_(given["local_background_activation_logit"])
    assert renderer.activation_index == case.config["activation_index"]
    rendered = renderer(latents, backgrounds)
    assert isinstance(rendered, form)
    case.check("out_reconstruction", rendered.reconstruction)
    case.check("out_foreground_mask", rendered.foreground)
    case.check("out_weights", rendered.weights)
    case.check("out_layers_sum_abs", rendered.layers().abs().sum((2, 3, 4)))
    loss = (rendered.reconstruction * given["w_rec"]).sum() + (rendered.weights * given["w_weights"]).sum()
    loss.backward()
    first, last = renderer.glimpses.layers[0], renderer.glimpses.layers[-2]
    case.check("out_grad_latents", latents.grad)
    case.check("out_grad_backgrounds", backgrounds.grad)
    case.check("out_grad_bg_logit", renderer.background_logit.grad)
    case.check("out_grad_glimpse_last_bias", last.bias.grad)
    case.check("out_grad_glimpse_first", first.weight.grad[: case.arrays()["out_grad_glimpse_first"].shape[0]])
    if local is not None:
        case.check("out_grad_local_bg_logit", local.grad)


def check_v1_render(case: Case) -> None:
    given = inputs(case)
    rendered = renderer_of(case.config)(given["latents"], given["backgrounds"])
    case.check("out_reconstruction", rendered.reconstruction)
    case.check("out_weights", rendered.weights)


def check_fgloss(case: Case) -> None:
    given = inputs(case)
    reconstruction, weights = given["reconstruction"].requires_grad_(), given["weights"].requires_grad_()
    first, second = reconstruction_loss(reconstruction, given["images"]), pixel_entropy_loss(pixel_entropy(weights))
    (first + second).backward()
    case.check("out_reconstruction_loss", first)
    case.check("out_pixel_entropy_loss", second)
    case.check("out_grad_reconstruction", reconstruction.grad)
    case.check("out_grad_weights", weights.grad)


def check_v1_loss(case: Case) -> None:
    given = inputs(case)
    reconstruction, weights = given["reconstruction"].requires_grad_(), given["weights"].requires_grad_()
    first = reconstruction_loss(reconstruction, given["images"], case.config["threshold"])
    objects = object_entropy_loss(weights)
    (first + objects).backward()
    case.check("out_reconstruction_loss", first)
    case.check("out_pixel_entropy_loss", pixel_entropy_loss(pixel_entropy(weights)))
    case.check("out_object_entropy_loss", objects)
    case.check("out_grad_reconstruction", reconstruction.grad)
    case.check("out_grad_weights_object", weights.grad)


def check_fg_schedule(case: Case) -> None:
    config, updates = case.config, inputs(case)["update"].tolist()
    steps, rate, warmup = config["number_of_training_steps"], config["learning_rate"], config["warmup"]
    full, weight = config["pixel_entropy_loss_full_activation_step"], config["pixel_entropy_loss_weight"]
    frozen = config["background_weights_freeze_duration"]
    case.check("out_lr", np.array([foreground_rate(t, steps, rate, warmup) for t in updates]))
    case.check("out_entropy_weight", np.array([entropy_weight(t, full, weight) for t in updates]))
    case.check("out_background_live", np.array([background_is_live(t, frozen) for t in updates]))


def check_metrics(case: Case) -> None:
    given, num_labels = inputs(case), case.config["K"] + 1
    weights, targets = given["weights"], given["gt"].long()
    scores = image_scores(given["images"], given["reconstruction"], weights, targets, void=None)
    names = {"mIoU": "miou"}
    for name in ("mse", "mIoU", "msc", "scaled_sc", "msc_fg", "scaled_sc_fg", "ari", "ari_fg"):
        case.check(f"out_{name}", published_batch(scores)[names.get(name, name)])
    in_batch, per_image = active_slots(weights)
    case.check("out_active_heads", in_batch)
    case.check("out_mean_active_heads", per_image)
    if "out_iou_matrix" not in case.arrays():
        return
    labels = weights[:, :, 0].argmax(0)
    case.check("out_pred_labels", labels)
    iou = iou_matrix(label_counts(labels, targets, num_labels, void=None))[..., :num_labels]
    case.check("out_iou_matrix", iou)
    matches = np.stack([linear_sum_assignment(image.T, maximize=True)[1] for image in iou])
    case.check("out_match_pred_index", matches)
    case.check(
        "out_match_iou", np.stack([image[match, range(num_labels)] for image, match in zip(iou, matches, strict=True)])
    )


def check_grid(case: Case) -> None:
    given = inputs(case)
    stack = sample_stack(
        given["images"],
        given["reconstruction"],
        given["weights"],
        given["foreground_mask"] if case.config["training"] else None,
        given["gt"][:, 0].long() if given["gt"].numel() else None,
        case.config["palette"],
    )
    case.check("out_stack", stack)


def check_grid_reorder(case: Case) -> None:
    case.check("out_order", grid_order(int(inputs(case)["n"]), case.config["div"]))


def check_reader_frames(case: Case) -> None:
    folder, mask_folder = (case.folder / name for name in case.arrays()["in_files"])
    images, masks = image_paths(folder, recursive=True), image_paths(mask_folder)
    case.check("out_order", np.array([path.relative_to(folder).as_posix() for path in images]))
    case.check("out_mask_order", np.array([path.name for path in masks]))
    pairs = paired_by_rank(images, masks)
    case.check("out_images", np.stack([read_image(image).transpose(2, 0, 1) for image, _ in pairs]))
    case.check("out_masks", np.stack([read_labels(mask)[None] for _, mask in pairs]))


def check_reader_clevr(case: Case) -> None:
    config, size = case.config, tuple(case.config["resize"])
    files = clevr_files(case.folder / str(case.arrays()["in_files"][0]), config["dataset_name"], config["variant"])
    for part, indices in clevr_parts(len(files), config["variant"]).items():
        members = [files[i] for i in indices]
        case.check(f"out_{part}_index", np.array([file.number for file in members]))
        pictures = [clevr_view(Image.open(file.image), size).transpose(2, 0, 1) for file in members]
        case.check(f"out_{part}_images", np.stack(pictures).astype(np.float32))
        labels = [clevr_view(Image.open(file.labels), size, labels=True)[None] for file in members]
        case.check(f"out_{part}_masks", np.stack(labels))


def check_reader_triple(case: Case) -> None:
    root = case.folder / str(case.arrays()["in_files"][0])
    names = ("input_images_train", "backgrounds_rgba_train", "GT_masks_train")
    triples = paired_by_rank(*(image_paths(stage_folder(root / name)) for name in names))
    images = np.stack([read_image(image) for image, _, _ in triples]).transpose(0, 3, 1, 2)
    backgrounds = np.stack([read_background(background) for _, background, _ in triples]).transpose(0, 3, 1, 2)
    with Image.open(triples[0][1]) as stored:
        assert len(stored.getbands()) == case.config["background_channels"]
    case.check("out_images", images.astype(np.float32) / 255)
    case.check("out_backgrounds", backgrounds.astype(np.float32) / 255)
    case.check("out_masks", np.stack([read_labels(mask)[None] for _, _, mask in triples]))


def check_writer(case: Case, folder: Path) -> None:
    given, config = inputs(case), case.config
    found = foreground_masks(given["images"], given["prediction"], alpha_1=config["alpha_1"], alpha_2=config["alpha_2"])
    images, prediction = (to_bytes(given[key]).transpose(0, 2, 3, 1) for key in ("images", "prediction"))
    targets = given["masks"][:, 0].numpy()
    for i in range(len(images)):
        write_frame(folder, config["split"], i + 1, images[i], prediction[i], found.masks[i], targets[i])
    written = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*.png"))
    case.check("out_files", np.array(written))
    for name in written:
        with Image.open(folder / name) as ours, Image.open(case.folder / config["folder"] / name) as theirs:
            assert ours.mode == theirs.mode, name
            np.testing.assert_array_equal(np.asarray(ours), np.asarray(theirs), err_msg=name)
            if ours.mode == "P":
                stored = theirs.getpalette() or []
                assert (ours.getpalette() or [])[: len(stored)] == stored, name


def check_tfrecord_objects_room(case: Case) -> None:
    layout = objects_room("train")
    assert layout.num_entities == case.config["entities"]
    frames = list(read_frames(case.folder / str(case.arrays()["in_file"]), layout))
    case.check("out_images", np.stack([image for image, _ in frames]))
    case.check("out_labels", np.stack([labels for _, labels in frames]))


CHECKS: dict[str, Callable[..., None]] = {
    "bgnet": check_bgnet,
    "bgloss": check_bgloss,
    "bgmask": check_bgmask,
    "bg_complexity": check_bg_complexity,
    "bg_schedule": check_bg_schedule,
    "encoder": check_encoder,
    "softargmax": check_softargmax,
    "glimpse": check_glimpse,
    "render": check_render,
    "fgloss": check_fgloss,
    "fg_schedule": check_fg_schedule,
    "metrics": check_metrics,
    "grid": check_grid,
    "grid_reorder": check_grid_reorder,
    "reader_frames": check_reader_frames,
    "reader_clevr": check_reader_clevr,
    "reader_triple": check_reader_triple,
    "writer": check_writer,
    "tfrecord_objects_room": check_tfrecord_objects_room,
    "v1_loss": check_v1_loss,
    "v1_render": check_v1_render,
}


@parametrize("ast", families=(*CHECKS, *LATER))
def test_golden(case: Case, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    if case.family in LATER:
        pytest.skip(f"{case.family}: {LATER[case.family]}")
    compared, check = set(), Case.check

    def recording_check(self: Case, key: str, *values: Any) -> None:
        compared.add(key)
        check(self, key, *values)

    monkeypatch.setattr(Case, "check", recording_check)
    arguments = (case, tmp_path) if case.family == "writer" else (case,)
    CHECKS[case.family](*arguments)
    outputs = {key for key in case.arrays() if key.startswith("out_")}
    assert compared == outputs - NOT_COMPARED.get(case.family, set())
