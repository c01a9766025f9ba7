"""The original's containers: names and shapes, reading and writing, Adam states, damaged and unsafe files."""

import argparse
import io
import json
import tarfile
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from common.errors import InputError
from redo.checkpoints import export_state, import_state, pairs
from redo.containers import NETWORKS, import_containers, infer_options, read_container, write_container
from redo.iteration import Optimisers, make_optimisers, training_iteration
from redo.model import NetworkOptions, Networks
from tests.golden import SHARED

MANIFESTS = sorted((SHARED / "golden" / "redo").glob("keys_*.json"))
SMALL = NetworkOptions(sizex=32, nz=4, nf=4, nfX=6, nMasks=3, nResM=2, useSelfAttG=True, temperature=0.5)


def by_letter(networks: Networks) -> dict[str, nn.Module]:
    assert networks.noise is not None
    return {"M": networks.mask, "X": networks.generators, "D": networks.discriminator, "Z": networks.noise}


@pytest.fixture
def trained() -> tuple[Networks, Optimisers]:
    torch.manual_seed(0)
    networks = Networks(SMALL)
    optimisers = make_optimisers(networks)
    step(networks, optimisers)
    return networks, optimisers


def step(networks: Networks, optimisers: Optimisers) -> None:
    generator = torch.Generator().manual_seed(1)
    images, real = torch.rand(2, 2, 3, 32, 32, generator=generator) * 2 - 1
    training_iteration(networks, optimisers, images, real, torch.randn(2, 3, 4, 1, 1, generator=generator))


def assert_same(first: nn.Module, second: nn.Module) -> None:
    a, b = first.state_dict(), second.state_dict()
    assert list(a) == list(b)
    for key in a:
        assert torch.equal(a[key], b[key]), key


@pytest.mark.skipif(not MANIFESTS, reason="golden fixtures not found (set UNSEG_SHARED)")
@pytest.mark.parametrize("manifest", MANIFESTS, ids=lambda path: path.stem)
def test_published_names_shapes_and_order(manifest: Path) -> None:
    """Options are inferred from the manifest's shapes; names, shapes and order must be the published ones."""
    nets = json.loads(manifest.read_text())["nets"]
    with torch.device("meta"):
        states = {
            letter: {key: torch.empty(shape) for key, shape in nets[name]["state_dict"].items()}
            for letter, name in NETWORKS.items()
        }
        options = infer_options(states)
        networks = by_letter(Networks(options))
    for letter, network in networks.items():
        expected = nets[NETWORKS[letter]]
        listed = pairs(network)
        assert [(pair.original, list(pair.shape)) for pair in listed] == list(expected["state_dict"].items())
        assert [pair.original for pair in pairs(network, parameters_only=True)] == expected["parameters"]
        assert set(import_state(network, states[letter])) == {pair.ours for pair in listed}


def test_round_trip_of_a_container(tmp_path: Path, trained: tuple[Networks, Optimisers]) -> None:
    networks, optimisers = trained
    write_container(tmp_path / "state.pth", networks, optimisers, {"wrecZ": 5.0})
    published = import_containers([tmp_path / "state.pth"])
    assert published.run_options["wrecZ"] == 5.0
    shapes = {"nx", "sizex", "nz", "nMasks", "nResM", "useSelfAttD", "useSelfAttG", "temperature"}
    assert all(getattr(published.options, name) == getattr(SMALL, name) for name in shapes)
    assert [published.options.width(letter) for letter in "MXDZ"] == [4, 6, 4, 4]
    for letter, network in by_letter(networks).items():
        assert_same(network, published.networks[letter])


def test_training_goes_on_from_a_container_as_if_never_stopped(
    tmp_path: Path, trained: tuple[Networks, Optimisers]
) -> None:
    networks, optimisers = trained
    write_container(tmp_path / "state.pth", networks, optimisers)
    published = import_containers([tmp_path / "state.pth"])
    resumed = Networks(published.options)
    adams = make_optimisers(resumed)
    for letter, adam in zip("MXDZ", vars(adams).values(), strict=True):
        by_letter(resumed)[letter].load_state_dict(published.networks[letter].state_dict())
        adam.load_state_dict(published.optimisers[letter])
    step(networks, optimisers)
    step(resumed, adams)
    assert_same(networks, resumed)


def test_single_nets_join_and_a_later_one_counts(tmp_path: Path, trained: tuple[Networks, Optimisers]) -> None:
    networks, _ = trained
    write_container(tmp_path / "all.pth", networks)
    mask = {key: tensor + 1 for key, tensor in export_state(networks.mask).items()}
    torch.save({"netEncM": mask}, tmp_path / "m.pth")
    torch.save({"netGenX": export_state(networks.generators)}, tmp_path / "x.pth")
    published = import_containers([tmp_path / "m.pth", tmp_path / "x.pth"])
    assert set(published.networks) == {"M", "X"}
    assert published.options.sizex == SMALL.sizex
    joined = import_containers([tmp_path / "all.pth", tmp_path / "m.pth"])
    assert torch.equal(joined.networks["M"].state_dict()["head.bias"], networks.mask.head.bias + 1)
    assert_same(joined.networks["Z"], by_letter(networks)["Z"])


def archive(path: Path, *members: tuple[str, bytes]) -> Path:
    with tarfile.open(path, "w:gz") as file:
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            file.addfile(info, io.BytesIO(content))
    return path


def saved(content: Any, **options: Any) -> bytes:
    buffer = io.BytesIO()
    torch.save(content, buffer, **options)
    return buffer.getvalue()


def published_content(networks: Networks) -> dict[str, Any]:
    """As old files are: a Namespace with a device, a tuple around an optimiser state, `weight` but no `weight_v`."""
    content: dict[str, Any] = {name: export_state(by_letter(networks)[letter]) for letter, name in NETWORKS.items()}
    disc = content["netDX"]
    for key in [key for key in disc if key.endswith("weight_v")]:
        disc[key.replace("weight_v", "weight")] = disc[key.replace("weight_v", "weight_orig")].clone()
        del disc[key]
    content["options"] = argparse.Namespace(nf=4, device=torch.device("cuda:0"), temperature=0.5, bestValIoU=0.1)
    return content


@pytest.mark.parametrize("zipped", [True, False], ids=["current", "2019"])
def test_archives_of_old_files(tmp_path: Path, trained: tuple[Networks, Optimisers], zipped: bool) -> None:
    networks, optimisers = trained
    content = published_content(networks)
    assert optimisers.noise is not None
    write_container(tmp_path / "new.pth", networks, optimisers)
    adam = read_container(tmp_path / "new.pth")["optimizerRecZ"]
    adam["param_groups"][0]["betas"] = (0, 0.9)
    content["optimizerRecZ"] = (adam,)
    data = saved(content, _use_new_zipfile_serialization=zipped)
    # a member's own path is never used
    path = archive(
        tmp_path / "flowers_nets_state.tar.gz", ("../../evil/x.pth", data), ("._x.pth", b"macOS"), ("a", b"")
    )
    published = import_containers([path])
    assert not (tmp_path.parent.parent / "evil").exists()
    assert published.options.temperature == 0.5
    assert published.run_options["bestValIoU"] == 0.1
    assert_same(published.networks["X"], networks.generators)
    resumed = torch.optim.Adam(published.networks["Z"].parameters(), betas=(0.0, 0.9))
    resumed.load_state_dict(published.optimisers["Z"])
    # v = W^T u / |.|, the step that training does first, of the stored u
    first = published.networks["D"].get_submodule("first.conv1")
    expected = nn.functional.normalize(first.weight.detach().flatten(1).t() @ first.u, dim=0)  # type: ignore[operator]
    torch.testing.assert_close(first.v, expected)


def test_bad_files_are_refused_in_one_line(tmp_path: Path, trained: tuple[Networks, Optimisers]) -> None:
    networks, _ = trained
    state = export_state(networks.mask)
    lacking = {key: tensor for key, tensor in state.items() if key != "psp.2.1.bias"}
    reshaped: dict[str, Tensor] = {**state, "psp.2.1.bias": torch.zeros(2)}

    class Unsafe:
        def __reduce__(self) -> tuple[Any, ...]:
            return (print, ("run",))

    good = saved({"netEncM": state})
    contents = {
        "absent.pth": (None, "no such checkpoint"),
        "absent.tar.gz": (None, "no such archive"),
        "text.pth": (b"hello", "not a readable"),
        "text.tar.gz": (b"hello", "not a readable"),
        "unsafe.pth": (saved({"netEncM": state, "x": Unsafe()}), "refused"),
        "other.pth": (saved({"state_dict": state}), "holds none of netEncM"),
        "lacking.pth": (saved({"netEncM": lacking}), "1 missing: psp.2.1.bias"),
        "reshaped.pth": (saved({"netEncM": reshaped}), r"psp.2.1.bias \[2\] instead of \[1\]"),
        "more.pth": (saved({"netEncM": {**state, "extra": torch.zeros(1)}}), "1 unexpected: extra"),
        "wrong.pth": (saved({"netEncM": {"a": torch.zeros(1)}}), "lacks out.mods.9.weight"),
    }
    for name, (data, _) in contents.items():
        if data is not None:
            (tmp_path / name).write_bytes(data)
    archive(tmp_path / "two.tar.gz", ("a.pth", good), ("b.pth", good))
    archive(tmp_path / "none.tar.gz", ("a.txt", b""))
    archive(tmp_path / "unsafe.tar.gz", ("a.pth", contents["unsafe.pth"][0] or b""))
    whole = archive(tmp_path / "cut.tar.gz", ("a.pth", good)).read_bytes()
    (tmp_path / "cut.tar.gz").write_bytes(whole[: len(whole) // 2])
    messages = {name: message for name, (_, message) in contents.items()}
    messages |= {"two.tar.gz": "found a.pth, b.pth", "none.tar.gz": "found none", "cut.tar.gz": "truncated"}
    messages["unsafe.tar.gz"] = r"unsafe.tar.gz \(a.pth\): refused"
    for name, message in messages.items():
        with pytest.raises(InputError, match=message) as caught:
            import_containers([tmp_path / name])
        assert "\n" not in str(caught.value)
        assert str(tmp_path / name) in str(caught.value)
