"""Training of DINO around its step: data, draws, watch, weights and bad input. The contract suite runs the command."""

import dataclasses
import re
import urllib.error
from pathlib import Path

import numpy as np
import pytest
import torch

from common.errors import InputError
from common.files import write_image
from common.options import RunOptions, TrainerFlags
from common.synthetic import SceneOptions
from common.synthetic import run as make_synthetic
from common.video import VideoWriter
from transformer_seg.dino.arch import Architecture, TimmBackbone, freeze
from transformer_seg.dino.data import CropDataset, DinoDataModule, EpochCrops, read_splits
from transformer_seg.dino.drop_path import KeyedDropPath, keyed_draws, replace_drop_path
from transformer_seg.dino.module import Distillation
from transformer_seg.dino.options import DinoDataOptions, DinoOptions, WeightOptions, check_dino_options, warmup_epochs
from transformer_seg.dino.training import check_crops, checked_flags, train
from transformer_seg.dino.watch import collapse
from transformer_seg.dino.weights import load_backbone, load_into, published_file
from transformer_seg.vit import attention_weights

TINY = DinoOptions(
    arch="vit_tiny",
    patch_size=8,
    width=16,
    depth=2,
    heads=2,
    out_dim=32,
    head_hidden=24,
    head_bottleneck=8,
    epochs=1,
    warmup_epochs=0,
    save_checkpoint_every=0,
)
CROPS = {"global_crop_size": 24, "local_crop_size": 16, "local_crops_number": 2, "batch_size": 4}
QUIET = TrainerFlags(accelerator="cpu", enable_progress_bar=False, enable_model_summary=False, log_every_n_steps=1)


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("scenes")
    make_synthetic(SceneOptions(out=folder, num=12, num_val=3, num_test=3, height=32, width=40, style="noise"))
    return folder


def data_of(folder: Path, **options: object) -> DinoDataOptions:
    return DinoDataOptions(**{"data_file": folder / "scenes", "base_dir": folder, **CROPS, **options})


def trained(model: DinoOptions, data: DinoDataOptions, out: Path, **run: object) -> Distillation:
    trainer = train(model, data, RunOptions(out=out, sample_every=0, **run), QUIET)
    assert isinstance(trainer.lightning_module, Distillation)
    return trainer.lightning_module


def test_crops_depend_on_seed_epoch_and_position_alone(scenes: Path) -> None:
    split = read_splits(data_of(scenes), scenes)["train"]
    first, again = (CropDataset(split, data_of(scenes), "train") for _ in range(2))
    torch.manual_seed(5)
    one = first[(1, 3)]
    again[(1, 2)]  # what came before does not matter
    torch.testing.assert_close(one["crops"], again[(1, 3)]["crops"], rtol=0, atol=0)
    assert not torch.equal(one["crops"][0], again[(2, 3)]["crops"][0])
    other = CropDataset(split, data_of(scenes, seed=1), "train")
    assert not torch.equal(one["crops"][0], other[(1, 3)]["crops"][0])
    held_out = CropDataset(split, data_of(scenes), "val")
    assert torch.equal(held_out[(1, 3)]["crops"][0], held_out[(2, 3)]["crops"][0])
    assert [tuple(crop.shape) for crop in one["crops"]] == [(3, 24, 24)] * 2 + [(3, 16, 16)] * 2
    assert held_out[(0, ~3)]["weight"] == 0


def test_sampler_says_the_epoch_and_skips_what_was_done() -> None:
    sampler = EpochCrops(5, shuffle=False, seed=0)
    sampler.set_epoch(7)
    sampler.skip = 3
    assert list(sampler) == [(7, 3), (7, 4)]


def test_stochastic_depth_of_two_processes_is_that_of_one() -> None:
    B, V = 3, 2
    layer = KeyedDropPath(0.5).train()
    images = torch.ones(V, 2 * B, 4)  # crop, image over both processes, width
    with keyed_draws([layer], torch.Generator().manual_seed(1), 2 * B, 0, 1):
        whole = layer(images.flatten(0, 1)).unflatten(0, (V, 2 * B))
    for rank in range(2):
        with keyed_draws([layer], torch.Generator().manual_seed(1), B, rank, 2):
            part = layer(images[:, rank::2].flatten(0, 1)).unflatten(0, (V, B))
        torch.testing.assert_close(part, whole[:, rank::2])
    assert set(whole.unique().tolist()) == {0.0, 2.0}
    assert torch.equal(layer.eval()(images), images)


def test_stochastic_depth_replaces_that_of_timm() -> None:
    backbone = Architecture("vit_tiny", 8, 24, 16, 3, 2).build(0.2)
    found = replace_drop_path(backbone)
    assert [round(layer.rate, 6) for layer in found] == [0.1, 0.1, 0.2, 0.2]  # the first block has none


def test_an_epoch_moves_student_teacher_and_centre(scenes: Path, tmp_path: Path) -> None:
    torch.manual_seed(0)
    module = trained(TINY, data_of(scenes), tmp_path)
    start = Distillation(TINY, 24, 4, 0)
    assert module.center.abs().sum() > 0
    difference = [
        (a - b).abs().max() for a, b in zip(module.student.parameters(), module.teacher.parameters(), strict=True)
    ]
    assert max(difference) > 0
    assert (module.teacher.backbone.pos_embed - start.teacher.backbone.pos_embed).abs().max() > 0
    frozen = module.student.head.last_layer.weight_v, module.teacher.head.last_layer.weight_v
    assert torch.equal(*frozen)  # freeze_last_layer 1: the only epoch


@pytest.mark.parametrize(
    ("loss", "components", "expected"),
    [
        (np.log(256), 250.0, "uniform"),
        (0.98 * np.log(256), 200.0, None),
        (0.01, 1.02, "single"),
        (0.01, 40.0, None),
        (3.0, 1.0, None),
    ],
)
def test_signatures_of_collapse(loss: float, components: float, expected: str | None) -> None:
    assert collapse(loss, components, 256) == expected


def test_uniform_collapse_is_named_in_the_epoch_that_shows_it(
    scenes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    blunt = dataclasses.replace(TINY, teacher_temp=1e4, warmup_teacher_temp=1e4, student_temp=1e4, learning_rate=1e-9)
    trained(blunt, data_of(scenes), tmp_path)
    assert "collapse: train/loss 3.466 stands at ln 32 = 3.466" in capsys.readouterr().err


def test_collapse_onto_one_dimension_is_named_in_the_epoch_that_shows_it(
    scenes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    module = Distillation(TINY, 24, 4, 0)
    with torch.no_grad():  # a student and a teacher that answer the same to everything
        module.student.head.last_layer.weight_v.zero_()[:] = -torch.ones(8)
        module.student.head.last_layer.weight_v[5] = torch.ones(8)
        module.student.head.mlp[-1].weight.zero_()
        module.student.head.mlp[-1].bias.fill_(1.0)
    module.start_teacher()
    torch.save({"state_dict": module.state_dict(), "hyper_parameters": dict(module.hparams)}, tmp_path / "one.ckpt")
    sharp = dataclasses.replace(TINY, center_momentum=1.0, learning_rate=1e-9)
    trained(sharp, data_of(scenes), tmp_path / "run", ckpt_path=tmp_path / "one.ckpt")
    assert "near 0 and the teacher gives every image the same one of 32 dimensions" in capsys.readouterr().err


def test_published_container_holds_the_same_teacher(scenes: Path, tmp_path: Path) -> None:
    from transformer_seg.options import SystemRunOptions

    run = SystemRunOptions(out=tmp_path, sample_every=0, model="dino", save_model=True, save_logs=True)
    train(TINY, data_of(scenes), run, QUIET)
    both = [
        load_backbone(WeightOptions(pretrained_weights=path)).state_dict()
        for path in (tmp_path, tmp_path / "checkpoint.pth")
    ]
    torch.testing.assert_close(*both, rtol=0, atol=0)
    assert re.match(
        r'\{"train_loss": [\d.]+, "train_lr": .*"epoch": 0, "num_updates": 3\}', (tmp_path / "log.txt").read_text()
    )
    student = load_backbone(WeightOptions(pretrained_weights=tmp_path, checkpoint_key="student")).state_dict()
    assert any(not torch.equal(both[0][key], student[key]) for key in student)


def test_training_starts_from_weights(scenes: Path, tmp_path: Path) -> None:
    module = Distillation(TINY, 24, 4, 0)
    torch.save({"state_dict": module.state_dict(), "hyper_parameters": dict(module.hparams)}, tmp_path / "ours.ckpt")
    flat = {key: value.clone() for key, value in module.teacher.backbone.state_dict().items()}
    torch.save(flat, tmp_path / "flat.pth")
    for name in ("ours.ckpt", "flat.pth"):
        other = Distillation(TINY, 24, 4, 0)
        with torch.no_grad():
            other.student.backbone.pos_embed.zero_()
        load_into(other, tmp_path / name)
        torch.testing.assert_close(other.student.backbone.state_dict(), flat, rtol=0, atol=0)
        torch.testing.assert_close(other.teacher.backbone.state_dict(), flat, rtol=0, atol=0)
    wide = Distillation(dataclasses.replace(TINY, width=32), 24, 4, 0)
    with pytest.raises(InputError, match="weights of another shape"):
        load_into(wide, tmp_path / "flat.pth")


def test_weights_of_timm_are_taken_from_files(tmp_path: Path) -> None:
    """As a .pth and as .safetensors, with timm's classifier left out, for features and for a training."""
    import timm
    from safetensors.torch import save_file

    name = "vit_tiny_patch16_224"
    torch.manual_seed(3)
    network = timm.create_model(name, num_classes=5, img_size=224)
    state = {key: value.contiguous() for key, value in network.state_dict().items()}
    torch.save(state, tmp_path / "model.pth")
    save_file(state, tmp_path / "model.safetensors")
    image = torch.randn(1, 3, 32, 48)
    found = [
        load_backbone(WeightOptions(arch=name, pretrained_weights=tmp_path / file))(image)
        for file in ("model.pth", "model.safetensors")
    ]
    torch.testing.assert_close(*found, rtol=0, atol=0)
    square = torch.randn(1, 3, 224, 224)
    ours = load_backbone(WeightOptions(arch=name, pretrained_weights=tmp_path / "model.pth"))(square)
    torch.testing.assert_close(ours, network.eval().forward_features(square), rtol=1e-4, atol=1e-4)
    model = dataclasses.replace(TINY, arch=name, patch_size=None, width=None, depth=None, heads=None)
    module = Distillation(model, 224, 4, 0)
    load_into(module, tmp_path / "model.safetensors")
    torch.testing.assert_close(module.teacher.backbone.network.state_dict()["pos_embed"], state["pos_embed"])
    (tmp_path / "model.safetensors").write_bytes(b"\x08" + bytes(15))
    with pytest.raises(InputError, match="not a readable safetensors file"):
        load_backbone(WeightOptions(arch=name, pretrained_weights=tmp_path / "model.safetensors"))


def test_training_starts_from_a_published_checkpoint_of_another_size(tmp_path: Path) -> None:
    """Positions are resized as DINO does, and the head comes along where it fits."""
    large = Distillation(TINY, 48, 4, 0)
    prefixed = {f"module.{key}": value for key, value in large.student.state_dict().items()}
    torch.save({"student": prefixed, "teacher": prefixed}, tmp_path / "checkpoint.pth")
    small = Distillation(TINY, 24, 4, 1)
    load_into(small, tmp_path / "checkpoint.pth")
    resized = large.student.backbone.positions(small.student.backbone.grid)
    torch.testing.assert_close(small.student.backbone.pos_embed, resized)
    torch.testing.assert_close(small.student.head.state_dict(), large.student.head.state_dict())
    torch.testing.assert_close(small.teacher.state_dict(), small.student.state_dict())


def test_timm_weights_that_cannot_be_had(monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub

    def offline(*_: object, **__: object) -> str:
        raise OSError("no network")

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", offline)
    with pytest.raises(InputError, match=r"cannot be fetched \(OSError\); get its model.safetensors"):
        published_file("vit_tiny_patch16_224", None)
    with pytest.raises(InputError, match="timm has no weights of no_such_network"):
        published_file("no_such_network", None)


def test_pretrained_without_a_network_says_where_to_put_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def offline(*_: object, **__: object) -> None:
        raise urllib.error.URLError("no network")

    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    monkeypatch.setattr(torch.hub, "download_url_to_file", offline)
    expected = tmp_path / "checkpoints" / "dino_deitsmall8_pretrain.pth"
    with pytest.raises(InputError, match=f"put it at {re.escape(str(expected))}"):
        published_file("vit_small", 8)
    assert list(tmp_path.rglob("*.pth")) == []
    torch.save(Architecture("vit_tiny", 8, width=64, depth=1, heads=1).build().state_dict(), expected)
    assert published_file("dino_vits8", None) == expected  # what lies there is used as it is
    with pytest.raises(InputError, match="no weights were published for --arch vit_tiny"):
        published_file("vit_tiny", 16)


def test_a_network_must_be_named() -> None:
    with pytest.raises(InputError, match="--random_weights"):
        load_backbone(WeightOptions())


@pytest.mark.parametrize("name", ["vit_tiny_patch16_224", "vit_small_patch14_reg4_dinov2"])
def test_any_vit_of_timm_gives_tokens_and_attention(name: str) -> None:
    torch.manual_seed(0)
    backbone = freeze(Architecture(name, image_size=56 if "14" in name else 64).build())
    assert isinstance(backbone, TimmBackbone)
    image = torch.randn(2, 3, 3 * backbone.patch_size, 2 * backbone.patch_size)
    tokens = backbone(image)
    assert tokens.shape == (2, backbone.extra + 6, backbone.width)
    *_, before_last, last = backbone.after_blocks(image)
    torch.testing.assert_close(backbone.network.norm(last), tokens)
    whole = attention_weights(backbone.blocks[-1], before_last)
    torch.testing.assert_close(whole.sum(dim=-1), torch.ones_like(whole[..., 0]))
    expected = whole[:, :, 0, backbone.extra :].unflatten(-1, (3, 2))
    torch.testing.assert_close(backbone.class_attention(image), expected)


@pytest.mark.parametrize(
    ("arch", "part"),
    [
        ("resnet50", "only vision transformers"),
        ("vit_smal", "neither one of ours"),
        ("xcit_nano_12_p8_224", "only vision transformers"),
    ],
)
def test_other_networks_are_refused(arch: str, part: str) -> None:
    with pytest.raises(InputError, match=part):
        Architecture(arch).build()


def test_patch_size_that_the_name_contradicts_is_refused() -> None:
    with pytest.raises(InputError, match="--arch dino_vits8 has patches of 8"):
        Architecture("dino_vits8", 16).build()
    with pytest.raises(InputError, match="--heads 3: must divide --width 16"):
        Architecture("vit_tiny", 8, width=16, heads=3).build()


def pictures(folder: Path, count: int) -> Path:
    generator = np.random.default_rng(0)
    for number in range(count):
        write_image(folder / f"{number}.png", generator.integers(0, 256, (30, 40, 3), dtype=np.uint8))
    return folder


def test_flat_folder_holds_out_a_share(tmp_path: Path) -> None:
    options = DinoDataOptions(data_path=pictures(tmp_path / "a", 10), val_share=0.2)
    sets = {step: set(split.column("Image")) for step, split in read_splits(options, tmp_path).items()}
    assert (len(sets["train"]), len(sets["val"])) == (8, 2)
    assert not sets["train"] & sets["val"]


def test_train_and_val_folders_are_taken_as_they_are(tmp_path: Path) -> None:
    pictures(tmp_path / "a" / "train" / "cat", 3)
    pictures(tmp_path / "a" / "val" / "cat", 2)
    sets = read_splits(DinoDataOptions(data_path=tmp_path / "a"), tmp_path)
    assert {step: len(split) for step, split in sets.items()} == {"train": 3, "val": 2}


def test_video_holds_out_its_end(tmp_path: Path) -> None:
    with VideoWriter(tmp_path / "clip.mp4", 10) as video:
        for number in range(10):
            video.write(np.full((32, 32, 3), 20 * number, np.uint8))
    sets = read_splits(DinoDataOptions(data_path=tmp_path / "clip.mp4", val_share=0.2), tmp_path / "run")
    assert sets["train"].index.tolist() == list(range(8))
    assert sets["val"].index.tolist() == [8, 9]


def test_few_unreadable_pictures_are_left_out_and_many_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = pictures(tmp_path / "a", 120)
    options = DinoDataOptions(data_path=folder, **CROPS)
    split = read_splits(options, tmp_path)["train"]
    data = CropDataset(split, options, "train")
    data.files[3].write_bytes(b"no picture")
    item = data[(0, 3)]
    assert item["path"] == str(data.files[4])
    assert "left out" in capsys.readouterr().err
    data.files[5].write_bytes(b"no picture")
    with pytest.raises(InputError, match="2 of 114 pictures unreadable, 1 % is the limit"):
        data[(0, 5)]


def test_fewer_pictures_than_a_batch(scenes: Path, tmp_path: Path) -> None:
    data = DinoDataModule(data_of(scenes, batch_size=8), tmp_path)
    data.check(1)
    with pytest.raises(
        InputError, match="12 training pictures, but a batch takes 16 on 2 processes; give --batch_size 6"
    ):
        data.check(2)


@pytest.mark.parametrize(
    ("model", "data", "part"),
    [
        ({"out_dim": 0}, {}, "--out_dim 0: give at least 1"),
        ({"teacher_temp": 0.0}, {}, "--teacher_temp 0.0: give a positive number"),
        ({"momentum_teacher": 1.2}, {}, "--momentum_teacher 1.2: give a number from 0 to 1"),
        ({"warmup_epochs": 3}, {}, "--warmup_epochs 3: give 0 to --epochs, 1"),
        ({"warmup_teacher_temp_epochs": 2}, {}, "longer than --epochs 1"),
        ({}, {"local_crops_scale": [0.4, 0.1]}, "--local_crops_scale 0.4 0.1: give two rising shares"),
        ({}, {"val_share": 0.0}, "--val_share 0.0"),
        ({}, {"data_path": Path("x")}, "give either --data_file"),
        ({}, {"data_file": None}, "give either --data_file"),
    ],
)
def test_bad_options(model: dict, data: dict, part: str) -> None:
    options = DinoDataOptions(**{"data_file": Path("x"), **data})
    with pytest.raises(InputError, match=re.escape(part)):
        check_dino_options(dataclasses.replace(TINY, **model), options)


@pytest.mark.parametrize(
    ("flags", "part"),
    [
        ({"max_epochs": 5}, "--max_epochs 5: the schedules end after --epochs 1"),
        ({"precision": "16-mixed"}, "use bf16-mixed"),
        ({"accumulate_grad_batches": 2}, "use a larger --batch_size"),
        ({"gradient_clip_val": 1.0}, "use --clip_grad"),
    ],
)
def test_trainer_flags_that_do_not_go(flags: dict, part: str) -> None:
    with pytest.raises(InputError, match=part):
        checked_flags(TINY, TrainerFlags(**flags))
    assert checked_flags(TINY, TrainerFlags()).max_epochs == 1


def test_crops_are_whole_patches() -> None:
    module = Distillation(TINY, 24, 4, 0)
    with pytest.raises(InputError, match="--local_crop_size 20: no multiple of the patch size 8; give 16"):
        check_crops(module, DinoDataOptions(data_file=Path("x"), **{**CROPS, "local_crop_size": 20}))


def test_warm_up_of_short_runs() -> None:
    assert [warmup_epochs(DinoOptions(epochs=epochs)) for epochs in (1, 2, 15, 100)] == [0, 1, 7, 10]
    assert warmup_epochs(DinoOptions(epochs=100, warmup_epochs=0)) == 0


def test_bf16_trains_weights_of_full_precision(scenes: Path, tmp_path: Path) -> None:
    flags = dataclasses.replace(QUIET, precision="bf16-mixed", max_steps=2)
    train(TINY, data_of(scenes), RunOptions(out=tmp_path, sample_every=0), flags)
    saved = torch.load(tmp_path / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
    assert saved["student.backbone.pos_embed"].dtype == torch.float32
    assert all(torch.isfinite(value).all() for value in saved.values() if value.is_floating_point())


def test_a_network_of_timm_trains_and_is_restored(scenes: Path, tmp_path: Path) -> None:
    model = DinoOptions(
        arch="vit_tiny_patch16_224", out_dim=16, head_hidden=16, head_bottleneck=8, epochs=1, warmup_epochs=0
    )
    data = data_of(scenes, global_crop_size=32, local_crop_size=16, local_crops_number=1)
    module = trained(model, data, tmp_path)
    restored = load_backbone(WeightOptions(pretrained_weights=tmp_path))
    assert isinstance(restored, TimmBackbone)
    image = torch.randn(1, 3, 32, 48)
    torch.testing.assert_close(restored(image), module.teacher.backbone.eval()(image))
