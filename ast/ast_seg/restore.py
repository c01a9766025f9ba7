"""Trained networks from files: a run directory, a checkpoint of ours, or a file of the published code."""

import hashlib
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, Literal

from torch import Tensor

from ast_seg.background_module import BackgroundLearner, background_options
from ast_seg.checkpoints import export_state, foreground_sizes, import_background, import_foreground
from ast_seg.foreground_module import SlotLearner
from ast_seg.model.background import BackgroundModel
from ast_seg.networks import LARGEST_GLIMPSE
from ast_seg.options import BackgroundOptions, LossOptions, ModelOptions
from common.checkpoints import best_checkpoint, load_checkpoint, state_dict_of
from common.errors import InputError


def checkpoint_file(path: Path) -> Path:
    """The file of a checkpoint: the path itself, or a run directory's last state.

    The last one, not that of the smallest validation loss: both stages go through phases whose losses differ.

    Raises:
        InputError: No checkpoint there.
    """
    if not path.is_dir():
        return path
    last = path / "checkpoints" / "last.ckpt"
    return last if last.is_file() else best_checkpoint(path)


def file_hash(path: Path) -> str:
    """Content hash of the checkpoint that would be read."""
    file = checkpoint_file(path)
    if not file.is_file():
        raise InputError(f"{file}: no such checkpoint file")
    digest = hashlib.sha256()
    with file.open("rb") as stream:
        while part := stream.read(1 << 20):
            digest.update(part)
    return digest.hexdigest()


def restore_background(path: Path) -> BackgroundLearner:
    """The background stage's networks, with their options, in evaluation mode.

    Raises:
        InputError: No such file, or no background networks in it.
    """
    file = checkpoint_file(path)
    content = load_checkpoint(file)
    known = dict(content.get("hyper_parameters", {}))
    if "background_complexity" in known and "size" in known and "max_set_size" not in known:
        learner = BackgroundLearner(background_options(known), known["size"], known["num_updates"])
        learner.model.load_state_dict(network_state(content, "model.", learner.model.state_dict(), file))
        return learner.eval()
    return learner_of(_background_of_foreground(content, known, file) or import_background(content, file))


def _background_of_foreground(content: dict[str, Any], known: dict[str, Any], file: Path) -> BackgroundModel | None:
    """The background networks inside a foreground checkpoint of ours."""
    state = {key: value for key, value in content.get("state_dict", {}).items() if key.startswith("background.")}
    if "max_set_size" not in known:
        return None
    if not state:
        raise InputError(f"{file}: trained on frozen backgrounds, holds no background network; name the background run")
    height, width = known["size"]
    model = BackgroundModel(
        height=height,
        width=width,
        complexity=known["live_complexity"],
        input_offset=known["live_input_offset"],
        from_start=known.get("live_from_start", False),
    )
    model.load_state_dict(network_state(content, "background.", model.state_dict(), file))
    return model


def learner_of(model: BackgroundModel) -> BackgroundLearner:
    """A network without options of its own, with the default ones."""
    options = BackgroundOptions(
        background_complexity=model.complexity,
        input_offset=model.input_offset,
        background_start="median" if model.from_start else "random",
    )
    learner = BackgroundLearner(options, (model.height, model.width), 1)
    learner.model = model
    return learner.eval()


def network_state(content: dict[str, Any], prefix: str, expected: dict[str, Tensor], file: Path) -> dict[str, Tensor]:
    """The tensors of one network in a checkpoint of ours.

    Raises:
        InputError: Tensors missing or of another shape.
    """
    state = state_dict_of(content, file)
    found = {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}
    for key, value in expected.items():
        if key not in found or found[key].shape != value.shape:
            what = tuple(found[key].shape) if key in found else "missing"
            raise InputError(f"{file}: {key} is {what}, the network has {tuple(value.shape)}; other options made it")
    return {key: found[key] for key in expected}


def published_background(model: BackgroundModel, optimizer_state: dict[str, Any]) -> dict[str, Any]:
    """The dictionary that the published code stores for a background model, constant maps included."""
    state = export_state(model)
    parts: dict[str, dict[str, Tensor]] = {"encoder": {}, "generator": {}}
    for key, value in state.items():
        parts["encoder" if key.startswith("background_encoder") else "generator"][key] = value
    for name, blocks in (("encoder", model.encoder.blocks), ("generator", model.generator.blocks)):
        for number, block in enumerate(blocks):
            coordinates: Any = block.coordinates
            parts[name][f"background_{name}.{number}.positional_encoding"] = coordinates
    return {
        "optimizer_state_dict": optimizer_state,
        "encoder_state_dict": parts["encoder"],
        "generator_state_dict": parts["generator"],
        "complexity": model.complexity,
        **({"input_offset": model.input_offset} if model.input_offset else {}),
    }


def options_of(kind: type, values: dict[str, Any]) -> Any:
    """An option class from a checkpoint's hyper-parameters."""
    return kind(**{item.name: values[item.name] for item in fields(kind) if item.name in values})


def restore_slots(path: Path, **published: Any) -> SlotLearner:
    """The foreground stage's networks, with their options, in evaluation mode.

    Args:
        path: Run directory or checkpoint file, ours or the authors'.
        **published: Model options that a published file does not tell: ``max_scaling_factor`` ...

    Raises:
        InputError: No such file, or no foreground networks in it.
    """
    file = checkpoint_file(path)
    content = load_checkpoint(file)
    known = dict(content.get("hyper_parameters", {}))
    if "max_set_size" not in known:
        return _published_slots(content, file, published)
    model = replace(options_of(ModelOptions, known), pretrained_backbone_weights_reference="none")
    background = _background_of_foreground(content, known, file) if _has_background(content) else None
    learner = SlotLearner(model, options_of(LossOptions, known), known["size"], background)
    _load(learner, content, file)
    return learner.eval()


def load_slots(learner: SlotLearner, path: Path) -> None:
    """Put the weights of a checkpoint into a learner made from other options.

    Raises:
        InputError: Sizes that differ: all are named, with both values.
    """
    other = restore_slots(path)
    theirs, ours = other.hparams, learner.hparams
    names = ("max_set_size", "z_what_dim", "isotropic_scaling", "feature_map_generator_name", "transformer_dim")
    differing = [f"{name} is {theirs[name]}, here {ours[name]}" for name in names if theirs[name] != ours[name]]
    if differing:
        raise InputError(f"{path}: {'; '.join(differing)}")
    if learner.size != other.size:
        raise InputError(
            f"{path}: for images of {other.size[0]}x{other.size[1]}, not {learner.size[0]}x{learner.size[1]}"
        )
    for name in ("encoder", "renderer"):
        state = getattr(other, name).state_dict()
        network_state({"state_dict": state}, "", getattr(learner, name).state_dict(), path)
        getattr(learner, name).load_state_dict(state)


def _has_background(content: dict[str, Any]) -> bool:
    return any(key.startswith("background.") for key in content["state_dict"])


def _load(learner: SlotLearner, content: dict[str, Any], file: Path) -> None:
    for name in ("encoder", "renderer"):
        network = getattr(learner, name)
        network.load_state_dict(network_state(content, f"{name}.", network.state_dict(), file))


def _published_slots(content: dict[str, Any], file: Path, published: dict[str, Any]) -> SlotLearner:
    """A model of the published code; what its tensors do not tell has the published defaults."""
    sizes = foreground_sizes(content, file)
    factor = 4 if sizes.feature_map_generator_name == "Segformer" else 1
    size = sizes.map_height * factor, sizes.map_width * factor
    background = import_background(content, file) if "background_encoder_state_dict" in content else None
    if background is not None:
        size = background.height, background.width
    values = {item.name: getattr(sizes, item.name) for item in fields(sizes) if item.name in _MODEL_NAMES}
    scenario = "frozen_weights" if background is None else "curriculum_training"
    version: Literal[1, 2] = 1 if sizes.glimpse_size == LARGEST_GLIMPSE[1] and max(size) > 128 else 2
    model = ModelOptions(**{**values, "background_model_training_scenario": scenario, **published})
    learner = SlotLearner(model, LossOptions(paper_version=version), size, background)
    import_foreground(learner.encoder, learner.renderer, content, file)
    return learner.eval()


_MODEL_NAMES = {item.name for item in fields(ModelOptions)}
