"""The original's weight files: ``.pth`` containers and the ``.tar.gz`` archives that they were published in.

A container is a dictionary: a state dict per network (``netEncM``, ``netGenX``, ``netDX``, ``netRecZ``), maybe an Adam
state per network (``optimizerEncM`` ...) and the options of its run (an ``argparse.Namespace``). No code of a file is
run; the member of an archive is read without being unpacked to a name of its own choice.
"""

import argparse
import re
import shutil
import tarfile
import tempfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from common.checkpoints import load_checkpoint
from common.errors import InputError
from common.files import atomic_path
from redo.adam_states import export_adam, import_adam
from redo.checkpoints import export_state, import_state
from redo.iteration import Optimisers
from redo.model import NetworkOptions, Networks
from redo.model.networks import discriminator, mask_network, noise_encoder, region_generators

ARCHIVES = (".tar.gz", ".tgz")
NETWORKS = {"M": "netEncM", "X": "netGenX", "D": "netDX", "Z": "netRecZ"}
OPTIMISERS = {"M": "optimizerEncM", "X": "optimizerGenX", "D": "optimizerDX", "Z": "optimizerRecZ"}
BUILDERS: dict[str, Callable[[NetworkOptions], nn.Module]] = {
    "M": mask_network,
    "X": region_generators,
    "D": discriminator,
    "Z": noise_encoder,
}


@dataclass(frozen=True)
class PublishedNetworks:
    """What containers hold.

    Attributes:
        options: Sizes of the networks.
        networks: Those found, by the letters M, X, D and Z, in evaluation mode.
        optimisers: State dicts for an Adam over each network's parameters, where the files hold them.
        run_options: Options of the original run, as far as recorded.
    """

    options: NetworkOptions
    networks: dict[str, nn.Module]
    optimisers: dict[str, dict[str, Any]]
    run_options: dict[str, Any]


def import_containers(paths: Iterable[str | Path]) -> PublishedNetworks:
    """Read one container with all networks, or one per network; of a network found twice the later one counts.

    The sizes of the networks are read off their tensors; recorded options fill in what does not show.

    Raises:
        InputError: Unreadable or unsafe file, no network in it, or tensors that are not those of the method.
    """
    states: dict[str, Mapping[str, Tensor]] = {}
    moments: dict[str, Any] = {}
    sources: dict[str, Path] = {}
    run_options: dict[str, Any] = {}
    for path in map(Path, paths):
        content = read_container(path)
        found = [letter for letter, key in NETWORKS.items() if key in content]
        if not found:
            raise InputError(f"{path}: holds none of {', '.join(NETWORKS.values())} (keys: {_listed(content)})")
        for letter in found:
            states[letter], sources[letter] = content[NETWORKS[letter]], path
            moments.pop(letter, None)
            if OPTIMISERS[letter] in content:
                moments[letter] = content[OPTIMISERS[letter]]
        recorded = content.get("options", {})
        run_options.update(vars(recorded) if isinstance(recorded, argparse.Namespace) else recorded)
    options = infer_options(states, run_options, sources)
    networks = {letter: _network(letter, options, states[letter], sources[letter]) for letter in states}
    optimisers = {letter: import_adam(networks[letter], moments[letter], sources[letter]) for letter in moments}
    return PublishedNetworks(options, networks, optimisers, run_options)


def read_container(path: str | Path) -> dict[str, Any]:
    """The dictionary that a ``.pth`` file, or the only ``.pth`` file of a ``.tar.gz`` archive, holds.

    Raises:
        InputError: Missing, unreadable, or holding more than tensors, plain values and an option list.
    """
    path = Path(path)
    with torch.serialization.safe_globals([argparse.Namespace]):
        if not path.name.endswith(ARCHIVES):
            return load_checkpoint(path)
        with _member(path) as file:
            try:
                return load_checkpoint(file)
            except InputError as error:
                raise InputError(str(error).replace(str(file), f"{path} ({file.name})")) from error


def write_container(
    path: str | Path,
    networks: Networks,
    optimisers: Optimisers | None = None,
    run_options: Mapping[str, Any] | None = None,
) -> None:
    """Write networks as the original does, readable by it.

    Args:
        path: The ``.pth`` file.
        networks: All of them; without Z, its keys do not exist.
        optimisers: Also their states.
        run_options: Options to record beside the networks' sizes.
    """
    by_letter = {"M": networks.mask, "X": networks.generators, "D": networks.discriminator, "Z": networks.noise}
    content: dict[str, Any] = {}
    for letter, network in by_letter.items():
        if network is not None:
            content[NETWORKS[letter]] = export_state(network)
    if optimisers is not None:
        adams = (optimisers.mask, optimisers.generators, optimisers.discriminator, optimisers.noise)
        for (letter, network), adam in zip(by_letter.items(), adams, strict=True):
            if network is not None and adam is not None:
                content[OPTIMISERS[letter]] = export_adam(network, adam.state_dict())
    content["options"] = argparse.Namespace(**asdict(networks.options), **(run_options or {}))
    with atomic_path(path) as temporary:
        torch.save(content, temporary)


def infer_options(
    states: Mapping[str, Mapping[str, Tensor]],
    recorded: Mapping[str, Any] | None = None,
    sources: Mapping[str, Any] | None = None,
) -> NetworkOptions:
    """Sizes of the networks from their tensors.

    Args:
        states: State dicts of the original by the letters M, X, D and Z, at least one.
        recorded: The container's options. They give the temperature, and what the networks present leave open (a mask
            network does not show its image size, a lone Z not its regions).
        sources: Files to name in errors.

    Raises:
        InputError: A tensor that every such network has is missing.
    """
    recorded = recorded or {}
    shapes = {
        letter: _Shapes(letter, state, (sources or {}).get(letter, "container")) for letter, state in states.items()
    }
    values: dict[str, Any] = {
        name: recorded[name] for name in ("sizex", "nMasks", "nz", "temperature") if name in recorded
    }
    if m := shapes.get("M"):
        logits = m.of("out.mods.9.weight")[0]
        values["nMasks"] = 2 if logits == 1 else logits
        values["nx"] = m.of("cnn.0.mods.1.weight")[1]
        values["nfM"] = m.of("cnn.0.mods.7.weight")[0]
        values["nResM"] = m.count(r"cnn\.\d+\.blocs\.0\.weight")
    if x := shapes.get("X"):
        values["nMasks"] = x.count(r"net\.\d+\.dense\.weight")
        values["nx"] = x.of("net.0.convOut.weight_orig")[0]
        values["nz"] = x.of("net.0.dense.weight")[1]
        values["nfX"] = x.of("net.0.gammaOut.weight")[0]
        values["sizex"] = 4 * 2 ** x.count(r"net\.0\.convB\.\d+\.weight_orig")
        values["useSelfAttG"] = x.count(r"net\.0\.selfAtt\.gamma") == 1
    if d := shapes.get("D"):
        values["nfD"], values["nx"] = d.of("bloc0.0.weight_orig")[:2]
        values["sizex"] = 8 * 2 ** d.count(r"sc\.\d+\.1\.weight_orig")
        values["useSelfAttD"] = d.count(r"selfAtt\.gamma") == 1
    if z := shapes.get("Z"):
        values["nfZ"], values["nx"] = z.of("net.blocs.0.0.weight_orig")[:2]
        values["sizex"] = 4 * 2 ** z.count(r"net\.sc\.\d+\.1\.weight_orig")
        values["nz"] = z.of("net.dense.weight")[0] // values.setdefault("nMasks", 2)
    return NetworkOptions(**values)


class _Shapes:
    """The shapes of one state dict."""

    def __init__(self, letter: str, state: Mapping[str, Tensor], source: object) -> None:
        self.letter, self.state, self.source = letter, state, source

    def of(self, key: str) -> tuple[int, ...]:
        if key not in self.state:
            raise InputError(
                f"{self.source}: {NETWORKS[self.letter]} is no network of this method, it lacks {key} "
                f"(keys: {_listed(self.state)})"
            )
        return tuple(self.state[key].shape)

    def count(self, pattern: str) -> int:
        return sum(re.fullmatch(pattern, key) is not None for key in self.state)


def _network(letter: str, options: NetworkOptions, state: Mapping[str, Tensor], source: Path) -> nn.Module:
    with torch.device("meta"):  # no memory and no random numbers for weights that are replaced at once
        network = BUILDERS[letter](options)
    weights = {key: tensor.float() for key, tensor in import_state(network, state, source).items()}
    network.load_state_dict(weights, assign=True)
    return network.eval()


@contextmanager
def _member(path: Path) -> Iterator[Path]:
    """A temporary copy of the archive's only ``.pth`` file."""
    if not path.is_file():
        raise InputError(f"{path}: no such archive")
    try:
        with tarfile.open(path, "r:gz") as archive, tempfile.TemporaryDirectory() as folder:
            members = [m for m in archive if m.isfile() and m.name.endswith(".pth") and not _hidden(m.name)]
            if len(members) != 1:
                names = ", ".join(member.name for member in members) or "none"
                raise InputError(f"{path}: needs exactly one .pth file inside, found {names}")
            file = Path(folder) / Path(members[0].name).name
            source = archive.extractfile(members[0])
            assert source is not None  # it is a regular file
            with source, file.open("wb") as target:
                shutil.copyfileobj(source, target)
            yield file
    except (tarfile.TarError, zlib.error, EOFError, OSError) as error:
        raise InputError(f"{path}: not a readable .tar.gz archive, perhaps truncated ({error})") from error


def _hidden(name: str) -> bool:
    return Path(name).name.startswith(".")  # what macOS adds to archives


def _listed(content: Iterable[str]) -> str:
    keys = list(content)
    return ", ".join(map(str, keys[:5])) + (" ..." if len(keys) > 5 else "")
