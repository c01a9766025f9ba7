"""Published tensor names, both spellings of SegFormer's, and what a checkpoint of the wrong kind says."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from ast_seg.checkpoints import (
    export_state,
    foreground_sizes,
    import_background,
    import_foreground,
    import_state,
    transformers4_name,
)
from ast_seg.model.background import BackgroundModel
from ast_seg.model.renderer import Renderer
from ast_seg.model.segformer import SegformerMaps
from ast_seg.model.slots import SlotEncoder, num_feature_maps, position_map
from ast_seg.model.unet import UNet, published_widths
from common.checkpoints import load_checkpoint
from common.errors import InputError
from tests.golden import SHARED

TINY = {
    "hidden_sizes": [8, 16, 24, 32],
    "depths": [1, 2, 1, 1],
    "num_attention_heads": [1, 1, 2, 2],
    "sr_ratios": [8, 4, 2, 1],
    "mlp_ratios": [2, 2, 2, 2],
    "decoder_hidden_size": 32,
}


def manifest(name: str) -> dict[str, Any]:
    path = SHARED / "golden" / "ast" / name
    return json.loads(path.read_text())["keys"] if path.exists() else {}


def names(file: str) -> list[Any]:
    found = list(manifest(file))
    reason = f"{file} not found below {SHARED} (set UNSEG_SHARED)"
    return found or [pytest.param("absent", marks=pytest.mark.skip(reason=reason))]


def shapes(state: dict[str, Tensor]) -> dict[str, list[int]]:
    return {key: list(tensor.shape) for key, tensor in state.items()}


def num_parameters(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


def small_foreground(
    num_slots: int = 3, isotropic: bool = False, segformer: bool = False
) -> tuple[SlotEncoder, Renderer]:
    channels = num_feature_maps(num_slots, 5, isotropic)
    maps = SegformerMaps(channels, architecture=TINY) if segformer else UNet(channels, (4, 6, 8))
    encoder = SlotEncoder(
        maps,
        num_slots=num_slots,
        what_dim=5,
        isotropic=isotropic,
        dim=16,
        num_heads=2,
        num_layers=2,
        feedforward_dim=24,
    )
    return encoder, Renderer(height=16, width=20, what_dim=5, isotropic=isotropic, variable_background=True)


def published(encoder: SlotEncoder, renderer: Renderer) -> dict[str, Any]:
    """The file that the published code would write."""
    return {
        "encoder_state_dict": export_state(encoder) | {"position_map": position_map(16, 20)[None]},
        "generator_state_dict": export_state(renderer) | {"background_mask": torch.ones(1, 1, 1, 1, 1)},
        "trainer_state_dict": {"step": 3, "epoch": 1},
    }


@pytest.mark.parametrize("name", names("background_keys.json"))
def test_background_names_and_shapes_are_the_published_ones(name: str) -> None:
    entry, (size, kind) = manifest("background_keys.json")[name], name.split("_")
    height, width = map(int, size.split("x"))
    model = BackgroundModel(height=height, width=width, complexity=kind == "complex")
    listed = entry["encoder_state_dict"] | entry["generator_state_dict"]
    maps = {key: shape for key, shape in listed.items() if key.endswith("positional_encoding")}
    assert shapes(export_state(model)) == {key: shape for key, shape in listed.items() if key not in maps}
    ours = [list(block.coordinates.shape) for net in (model.encoder, model.generator) for block in net.blocks]
    assert ours == list(maps.values())
    assert num_parameters(model.encoder) == entry["encoder_params"]
    assert num_parameters(model.generator) == entry["generator_params"]


@pytest.mark.parametrize("name", names("foreground_keys.json"))
def test_foreground_names_and_shapes_are_the_published_ones(name: str) -> None:
    entry = manifest("foreground_keys.json")[name]
    config = entry["config"]
    K, Z, isotropic = config["max_set_size"], config["z_what_dim"], config["isotropic_scaling"]
    size = (config["image_height"], config["image_width"])
    with torch.device("meta"):
        channels = num_feature_maps(K, Z, isotropic)
        unet = config["feature_map_generator_name"] == "Unet"
        maps = UNet(channels, published_widths(*size)) if unet else SegformerMaps(channels)
        encoder = SlotEncoder(maps, num_slots=K, what_dim=Z, isotropic=isotropic)
        renderer = Renderer(
            height=size[0],
            width=size[1],
            what_dim=Z,
            isotropic=isotropic,
            variable_background=config["variable_background_activation"],
        )
    constant = {"position_map", "background_mask", "background_mask_logit"}
    for network, part, count in ((encoder, "encoder", "encoder_params"), (renderer, "generator", "generator_params")):
        listed = {key: shape for key, shape in entry[f"{part}_state_dict"].items() if key not in constant}
        assert shapes(export_state(network)) == listed
        assert num_parameters(network) == entry[count]
    found = foreground_sizes(
        {
            f"{part}_state_dict": {
                key: torch.empty(shape, device="meta") for key, shape in entry[f"{part}_state_dict"].items()
            }
            for part in ("encoder", "generator")
        }
    )
    assert (found.max_set_size, found.z_what_dim, found.isotropic_scaling) == (K, Z, isotropic)
    assert found.feature_map_generator_name == config["feature_map_generator_name"]
    assert found.variable_background_activation == config["variable_background_activation"]
    assert (found.map_height, found.map_width) == maps.map_size(*size)


def test_both_spellings_of_segformer_are_read() -> None:
    keys = manifest("segformer_tiny_keys.json")
    if not keys:
        pytest.skip(f"segformer_tiny_keys.json not found below {SHARED} (set UNSEG_SHARED)")
    renamed = {old: new for old, (_, new) in keys.items()}
    assert {transformers4_name(new) for new in renamed.values()} == set(renamed)
    assert all(transformers4_name(old) == old for old in renamed)


def test_segformer_imports_from_either_spelling() -> None:
    encoder, _ = small_foreground(segformer=True)
    old = export_state(encoder)
    new = {
        f"feature_and_attention_map_generator.complete_model.{key}": tensor
        for key, tensor in encoder.feature_maps.network.state_dict().items()
    }
    rest = {key: tensor for key, tensor in old.items() if "complete_model" not in key}
    for state in (old, new | rest):
        other, _ = small_foreground(segformer=True)
        other.load_state_dict(import_state(other, state))
        assert all(torch.equal(a, b) for a, b in zip(encoder.parameters(), other.parameters(), strict=True))


@pytest.mark.parametrize("stored", [{}, {"complexity": True}, {"complexity": False}])
@pytest.mark.parametrize("complexity", [True, False])
def test_background_file_is_read_whatever_its_flag_says(
    tmp_path: Path, stored: dict[str, bool], complexity: bool
) -> None:
    model = BackgroundModel(height=32, width=26, complexity=complexity)
    first = {"background_encoder.0.positional_encoding": model.encoder.blocks[0].coordinates}
    path = tmp_path / "trained_model.pth"
    state = export_state(model)
    halves = {
        "encoder_state_dict": first | {key: value for key, value in state.items() if "encoder" in key},
        "generator_state_dict": {key: value for key, value in state.items() if "generator" in key},
    }
    torch.save(halves | stored, path)
    found = import_background(load_checkpoint(path), path)
    assert (found.height, found.width, found.complexity) == (32, 26, complexity)
    images = torch.rand(2, 3, 32, 26) * 255
    torch.testing.assert_close(found(images), model(images))
    inside = {f"background_{key}": value for key, value in halves.items()}
    torch.testing.assert_close(import_background(inside)(images), model(images))


def test_background_errors_name_the_file() -> None:
    with pytest.raises(InputError, match=r"^some.pth: holds no background network"):
        import_background({"state_dict": {}}, "some.pth")


def test_foreground_round_trip_is_exact() -> None:
    (encoder, renderer), (other, drawn) = small_foreground(), small_foreground()
    renderer.local_background_logit.data.normal_()
    import_foreground(other, drawn, published(encoder, renderer))
    for network, copy in ((encoder, other), (renderer, drawn)):
        for key, tensor in network.state_dict().items():
            assert torch.equal(tensor, copy.state_dict()[key]), key


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_slots": 4}, "max_set_size is 3, the model's is 4"),
        ({"isotropic": True}, "isotropic_scaling is False, the model's is True"),
        ({"segformer": True}, "feature_map_generator_name is Unet, the model's is Segformer"),
    ],
)
def test_foreground_errors_name_what_differs(change: dict[str, Any], message: str) -> None:
    checkpoint = published(*small_foreground())
    with pytest.raises(InputError, match=message):
        import_foreground(*small_foreground(**change), checkpoint, "some.pth")


def test_missing_and_extra_tensors_are_refused() -> None:
    encoder, renderer = small_foreground()
    checkpoint = published(encoder, renderer)
    del checkpoint["encoder_state_dict"]["latents_projection.bias"]
    checkpoint["encoder_state_dict"]["stray"] = torch.zeros(1)
    with pytest.raises(InputError, match=r"missing 1 \(latents_projection.bias\); unexpected 1 \(stray\)"):
        import_foreground(encoder, renderer, checkpoint)
    with pytest.raises(InputError, match="not a foreground checkpoint, it has no encoder_state_dict"):
        foreground_sizes({})


def test_local_background_logit_follows_the_image_size() -> None:
    encoder, renderer = small_foreground()
    renderer.local_background_logit.data.fill_(0.25)
    larger = Renderer(height=24, width=32, what_dim=5, variable_background=True)
    import_foreground(encoder, larger, published(encoder, renderer))
    assert torch.equal(larger.local_background_logit, torch.full((1, 1, 1, 24, 32), 0.25))
