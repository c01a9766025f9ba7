"""A trained Segmenter from a file: ours or a published one; and backbones from timm."""

from collections.abc import Mapping
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from common.checkpoints import load_checkpoint, state_dict_of
from common.errors import InputError
from transformer_seg.fitting import check_fits
from transformer_seg.segmenter.checkpoints import import_segmenter, load_backbone, load_segmenter
from transformer_seg.segmenter.model import LinearDecoder, Segmenter
from transformer_seg.segmenter.module import SegmenterModule
from transformer_seg.segmenter.options import SegmenterDataOptions, SegmenterOptions
from transformer_seg.segmenter.sizes import encoder_sizes

OURS = "model."  # every network key of our own checkpoints begins so


def restore_segmenter(file: Path) -> SegmenterModule:
    """The segmenter of a checkpoint file, in evaluation mode.

    Raises:
        InputError: no such file, not a Segmenter, weights that do not fit.
    """
    content = load_checkpoint(file)
    known = dict(content.get("hyper_parameters", {}))
    if known.get("system") == "segmenter":
        return _ours(content, known, file)
    published = load_segmenter(file)
    variant, network = published.variant, published.network
    side = network.encoder.grid[0] * network.encoder.patch_size
    inference = variant.get("inference_kwargs", {})
    data = SegmenterDataOptions(
        image_size=int(inference.get("im_size", side)),
        crop_size=side,
        window_size=int(inference.get("window_size", side)),
        window_stride=int(inference.get("window_stride", max(side - 32, 1))),
    )
    options = SegmenterOptions(**sizes_of(network))
    return SegmenterModule(
        options, data, published_classes(options), network=network, normalisation=published.normalisation
    ).eval()


def _ours(content: Mapping[str, Any], known: dict[str, Any], file: Path) -> SegmenterModule:
    weights = {
        key.removeprefix(OURS): value for key, value in state_dict_of(content, file).items() if key.startswith(OURS)
    }
    values = {item.name: known[item.name] for item in fields(SegmenterOptions) if item.name in known}
    values["backbone_weights"] = None
    options = SegmenterOptions(**values)
    heads = encoder_sizes(options).arguments["heads"]
    network = import_segmenter(weights, {"n_heads": heads, "drop_path_rate": options.drop_path}, file)
    view = ("image_size", "max_ratio", "crop_size", "window_size", "window_stride")
    data = SegmenterDataOptions(**{name: known[name] for name in view})
    classes = {int(index): str(name) for index, name in known.get("classes", {}).items()}
    return SegmenterModule(options, data, classes, network=network, normalisation=known["normalisation"]).eval()


def sizes_of(network: Segmenter) -> dict[str, Any]:
    """The options that a network shows."""
    encoder, decoder = network.encoder, network.decoder
    linear = isinstance(decoder, LinearDecoder)
    count = len(decoder.head.weight) if isinstance(decoder, LinearDecoder) else decoder.num_classes
    return {
        "arch": "custom",
        "patch_size": encoder.patch_size,
        "embed_dim": encoder.pos_embed.shape[2],
        "depth": len(encoder.blocks),
        "heads": encoder.blocks[0].attn.num_heads,  # type: ignore[union-attr]
        "decoder": "linear" if linear else "mask_transformer",
        "num_classes": int(count),  # type: ignore[arg-type]
    }


def published_classes(options: SegmenterOptions) -> dict[int, str]:
    """Class names that a published checkpoint does not hold: numbers."""
    assert options.num_classes is not None
    return {index: f"class {index + 1}" for index in range(options.num_classes)}


def load_weights(module: SegmenterModule, file: Path, *, reset_head: bool) -> None:
    """Put the weights of a checkpoint into a module made from other options.

    Args:
        module: The module.
        file: Ours, a published one, or its folder.
        reset_head: Keep the module's own decoder.

    Raises:
        InputError: as ``restore_segmenter``, or a network of another size.
    """
    found = restore_segmenter(file).model.state_dict()
    expected = module.model.state_dict()
    found = {key: value for key, value in found.items() if key in expected or not key.startswith("encoder.head")}
    if reset_head:
        found = {key: value for key, value in found.items() if key.startswith("encoder.")}
        found |= {key: value for key, value in expected.items() if not key.startswith("encoder.")}
    elif not reset_head and len(classes := _class_counts(found, expected)) == 2 and classes[0] != classes[1]:
        raise InputError(
            f"{file}: {classes[0]} classes there and {classes[1]} here; add --reset_head for a new decoder"
        )
    positions = "encoder.pos_embed"
    if positions in found and found[positions].shape != expected[positions].shape:
        load_backbone(module.model.encoder, _below(found, "encoder."), file)
        found[positions] = module.model.state_dict()[positions]
    check_fits(found, expected, file)
    module.model.load_state_dict(found)


def _below(state: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}


def _class_counts(*states: Mapping[str, Tensor]) -> list[int]:
    counts = []
    for state in states:
        if "decoder.cls_emb" in state:
            counts.append(int(state["decoder.cls_emb"].shape[1]))
        elif "decoder.head.weight" in state:
            counts.append(len(state["decoder.head.weight"]))
    return counts


def load_pretrained(module: SegmenterModule) -> None:
    """Fill the encoder with ImageNet weights: from --backbone_weights, else from timm, which may download them.

    Raises:
        InputError: no weights for this backbone, none to be had offline, or weights of another size.
    """
    options = module.options
    file = options.backbone_weights
    if file is not None:
        state, source = _backbone_state(file), str(file)
    else:
        name = encoder_sizes(options).timm_name
        if name is None:
            raise InputError("--pretrained: --arch custom has no published weights; name a backbone, or a file")
        state, source = _timm_state(name), name
    load_backbone(module.model.encoder, state, source)


def _backbone_state(file: Path) -> dict[str, Tensor]:
    if file.suffix != ".safetensors":
        return state_dict_of(load_checkpoint(file), file)
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(file)
    except (OSError, SafetensorError) as error:
        raise InputError(f"{file}: not a readable .safetensors file ({str(error).splitlines()[0]})") from error


def _timm_state(name: str) -> dict[str, Tensor]:
    import timm

    try:
        return timm.create_model(name, pretrained=True).state_dict()
    except Exception as error:  # whatever the hub's client raises without a network
        reason = type(error).__name__
        raise InputError(
            f"--pretrained: timm cannot get {name} ({reason}); download model.safetensors of timm/{name} from the"
            " Hugging Face hub and pass it as --backbone_weights FILE"
        ) from error


def with_classes(options: SegmenterOptions, classes: Mapping[int, str]) -> SegmenterOptions:
    """The options with the number of classes, from the names beside the split where it is not given.

    Raises:
        InputError: neither is there.
    """
    if options.num_classes is not None:
        return options
    if not classes:
        raise InputError("--num_classes: give the number of classes, or write NAME_classes.csv beside the split")
    return replace(options, num_classes=max(classes) + 1)
