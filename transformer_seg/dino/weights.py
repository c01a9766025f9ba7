"""A backbone from whatever holds one: a run directory, our checkpoints, published files, timm, or random numbers."""

import argparse
import urllib.error
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from common.checkpoints import load_checkpoint, state_dict_of
from common.errors import InputError
from common.files import atomic_path, check_file
from transformer_seg.backbones import BACKBONES
from transformer_seg.dino.arch import AnyBackbone, Architecture, TimmBackbone, freeze
from transformer_seg.dino.checkpoints import PublishedDino, import_dino
from transformer_seg.dino.module import Distillation
from transformer_seg.dino.options import Part, WeightOptions
from transformer_seg.fitting import check_fits

PUBLISHED = {
    "dino_vits16": "dino_deitsmall16_pretrain",
    "dino_vits8": "dino_deitsmall8_pretrain",
    "dino_vitb16": "dino_vitbase16_pretrain",
    "dino_vitb8": "dino_vitbase8_pretrain",
}
URL = "https://dl.fbaipublicfiles.com/dino/{name}/{name}.pth"


@dataclass(frozen=True)
class Named:
    """A network that is at hand already.

    Attributes:
        backbone: In evaluation mode.
        weights: What identifies it, as of `weights_name`.
    """

    backbone: AnyBackbone
    weights: dict[str, Any]


def load_named(options: WeightOptions) -> Named:
    """The backbone that the options name, and what identifies it; errors as of `load_backbone`."""
    return Named(load_backbone(options), weights_name(options))


def load_backbone(options: WeightOptions) -> AnyBackbone:
    """The backbone that the options name, in evaluation mode and without gradients.

    Raises:
        InputError: none or several named, no such file, not a network that is known here.
    """
    named = [options.pretrained_weights is not None, options.pretrained, options.random_weights]
    if sum(named) != 1:
        raise InputError(
            "give one of --pretrained_weights FILE (or a run directory), --pretrained (the published weights), or"
            " --random_weights"
        )
    if options.pretrained_weights is not None:
        return freeze(_read(options.pretrained_weights, options))  # type: ignore[return-value]
    if options.pretrained:
        return freeze(_read(published_file(options.arch, options.patch_size), options))  # type: ignore[return-value]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(options.seed)
        return freeze(Architecture(options.arch, options.patch_size).build())  # type: ignore[return-value]


def weights_name(options: WeightOptions) -> dict[str, Any]:
    """What identifies the weights, for ``source.json`` and notes."""
    if options.random_weights:
        return {"weights": f"random, {options.arch}/{options.patch_size or ''}, seed {options.seed}"}
    path = options.pretrained_weights
    file = checkpoint_file(path) if path is not None else published_file(options.arch, options.patch_size)
    return {"weights": f"{file.name} {file_hash(file)}", "part": options.checkpoint_key}


def file_hash(path: Path) -> str:
    """SHA-256 of a file."""
    import hashlib

    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def checkpoint_file(path: Path) -> Path:
    """The checkpoint that a path names: of a run directory the last one, since the loss does not rank teachers.

    Raises:
        InputError: no checkpoint there.
    """
    if not path.is_dir():
        return check_file(path, "checkpoint", "give --pretrained_weights a file, or the --out of a training")
    for file in (path / "checkpoints" / "last.ckpt", path / "last.ckpt", path / "checkpoint.pth"):
        if file.exists():
            return file
    raise InputError(f"{path}: no checkpoints/last.ckpt in this folder; train first, or name a file")


def _read(path: Path, options: WeightOptions) -> AnyBackbone:
    file = checkpoint_file(path)
    content = read_content(file)
    known = content.get("hyper_parameters")
    if isinstance(known, Mapping) and known.get("method") == "dino":
        return _ours(content, known, options.checkpoint_key, file)
    architecture = Architecture(options.arch, options.patch_size)
    if architecture.sizes() is None:  # timm's own networks differ too much to be told from their tensors
        return _timm(content, architecture, file)
    backbone = import_dino(content, options.checkpoint_key, file).backbone
    if options.patch_size not in (None, backbone.patch_size):
        raise InputError(f"--patch_size {options.patch_size}: {file} has patches of {backbone.patch_size}")
    return backbone


def read_content(file: Path) -> dict[str, Any]:
    """The content of a checkpoint file, without running code from it.

    Raises:
        InputError: not readable, or not a checkpoint.
    """
    if file.suffix == ".safetensors":
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        try:
            return dict(load_file(file))
        except (SafetensorError, OSError) as error:
            raise InputError(f"{file}: not a readable safetensors file ({error})") from error
    with torch.serialization.safe_globals([argparse.Namespace]):  # the options in the authors' training checkpoints
        return load_checkpoint(file)


def _ours(content: Mapping[str, Any], known: Mapping[str, Any], part: Part, file: Path) -> AnyBackbone:
    backbone = Architecture.of(known).build()
    _fill(backbone, _part(state_dict_of(content, file), f"{part}.backbone."), file)
    return backbone


def _timm(content: Mapping[str, Any], architecture: Architecture, file: Path) -> TimmBackbone:
    backbone = architecture.build()
    assert isinstance(backbone, TimmBackbone)
    state = {key: value for key, value in state_dict_of(content, file).items() if not key.startswith("head.")}
    from timm.models.vision_transformer import checkpoint_filter_fn

    _fill(backbone.network, checkpoint_filter_fn(state, backbone.network), file)
    return backbone


def _part(state: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}


def _fill(network: torch.nn.Module, state: Mapping[str, Tensor], file: Path) -> None:
    check_fits(state, network.state_dict(), file)
    network.load_state_dict(dict(state))


def load_into(module: Distillation, path: Path) -> None:
    """Put the weights of a checkpoint into a training: backbone and, where the file has one that fits, the head.

    Raises:
        InputError: no such file, or another backbone.
    """
    file = checkpoint_file(path)
    content = read_content(file)
    known = content.get("hyper_parameters")
    if isinstance(known, Mapping) and known.get("method") == "dino":
        state = _part(state_dict_of(content, file), "student.")
        _fill(module.student.backbone, _part(state, "backbone."), file)
        if known.get("out_dim") == module.options.out_dim:
            _fill(module.student.head, _part(state, "head."), file)
    elif isinstance(module.student.backbone, TimmBackbone):
        network = _timm(content, Architecture.of(module.hparams), file).network
        _fill(module.student.backbone.network, network.state_dict(), file)
    else:
        published = import_dino(content, "student" if "student" in content else "teacher", file)
        _published_into(module, published, file)
    module.start_teacher()


def _published_into(module: Distillation, published: PublishedDino, file: Path) -> None:
    ours, theirs = module.student.backbone.state_dict(), published.backbone.state_dict()
    if theirs["pos_embed"].shape[1] != ours["pos_embed"].shape[1]:  # trained at another size: resized DINO's way
        theirs["pos_embed"] = published.backbone.positions(module.student.backbone.grid)
    _fill(module.student.backbone, theirs, file)
    if published.head is not None and published.head.last_layer.weight_v.shape[0] == module.options.out_dim:
        _fill(module.student.head, published.head.state_dict(), file)


def published_file(arch: str, patch_size: int | None) -> Path:
    """The file of published weights, in torch's cache; downloaded if it is not there.

    Raises:
        InputError: none were published for this network, or they cannot be fetched; says where to put the file.
    """
    name = arch if arch in PUBLISHED else _published_name(Architecture(arch, patch_size))
    if name is None:
        return _timm_file(arch)
    stem = PUBLISHED[name]
    path = Path(torch.hub.get_dir()) / "checkpoints" / f"{stem}.pth"
    if path.is_file():
        return path
    url = URL.format(name=stem)
    try:
        with atomic_path(path) as temporary:
            torch.hub.download_url_to_file(url, str(temporary), progress=False)
    except (urllib.error.URLError, OSError) as error:
        raise InputError(
            f"--pretrained: {url} cannot be fetched ({error}); get {path.name} elsewhere and put it at {path}, or pass"
            " --pretrained_weights FILE"
        ) from error
    return path


def _published_name(architecture: Architecture) -> str | None:
    """The published network of the same sizes, if there is one."""
    sizes = architecture.sizes()
    for name in PUBLISHED:
        found = BACKBONES[name]
        if sizes == (found.width, found.heads, found.depth, found.patch_size):
            return name
    if sizes is not None:
        patch = sizes[3]
        raise InputError(
            f"--pretrained: no weights were published for --arch {architecture.arch} with patches of {patch}; there are"
            f" vit_small and vit_base with --patch_size 8 and 16, and those of timm's networks"
        )
    return None


def _timm_file(arch: str) -> Path:
    """The file of timm's weights in Hugging Face's cache; downloaded if it is not there."""
    import timm
    from huggingface_hub import hf_hub_download

    config = timm.get_pretrained_cfg(arch) if timm.is_model_pretrained(arch) else None
    if config is None or config.hf_hub_id is None:
        raise InputError(f"--pretrained: timm has no weights of {arch}; see timm.list_pretrained('vit_*')")
    repository = config.hf_hub_id
    try:
        return Path(hf_hub_download(repository, "model.safetensors"))
    except (OSError, ValueError) as error:
        raise InputError(
            f"--pretrained: {repository} cannot be fetched ({type(error).__name__}); get its model.safetensors"
            " elsewhere and pass --pretrained_weights FILE"
        ) from error
