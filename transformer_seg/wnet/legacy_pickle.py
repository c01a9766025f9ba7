"""Tensors out of a PyTorch file of 2019 that holds a whole pickled module, without running anything in it.

Such a file is a sequence of pickles (magic number, version, system, the module, its storage names) and then the raw
storages. PyTorch's own safe loader refuses it, because it names the classes of the module. Here these classes become
inert shells, and every other name stops the reading.
"""

import pickle
import struct
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from torch import Tensor

from common.errors import InputError

MAGIC = 0x1950A86A20F9469CFC6C
STORAGES: dict[str, np.dtype[Any]] = {
    "FloatStorage": np.dtype("<f4"),
    "DoubleStorage": np.dtype("<f8"),
    "HalfStorage": np.dtype("<f2"),
    "LongStorage": np.dtype("<i8"),
    "IntStorage": np.dtype("<i4"),
    "ByteStorage": np.dtype("u1"),
}
DAMAGED = (pickle.UnpicklingError, EOFError, struct.error, ValueError, TypeError, AttributeError, LookupError)
TENSOR_MAKERS = {"_rebuild_tensor_v2", "_rebuild_tensor", "_rebuild_parameter"}


class Shell:
    """Stands for an object of the file: it takes the state and does nothing."""


class _Lazy:
    """A tensor whose storage has not been read yet."""

    def __init__(self, storage: str, offset: int, size: tuple[int, ...], stride: tuple[int, ...]):
        self.storage, self.offset, self.size, self.stride = storage, offset, size, stride


class _StorageKind:
    def __init__(self, dtype: np.dtype[Any]):
        self.dtype = dtype


class _Reader(pickle.Unpickler):
    def __init__(self, file: BinaryIO, modules: tuple[str, ...]):
        super().__init__(file)
        self.modules = modules
        self.storages: dict[str, np.dtype[Any]] = {}

    def find_class(self, module: str, name: str) -> Any:
        """The shell or maker of a name; the only way from the file to code."""
        if (module, name) in {("collections", "OrderedDict"), ("builtins", "set"), ("__builtin__", "set")}:
            return OrderedDict if name == "OrderedDict" else set
        if module == "torch" and name in STORAGES:
            return _StorageKind(STORAGES[name])
        if module == "torch._utils" and name in TENSOR_MAKERS:
            return _first if name == "_rebuild_parameter" else _lazy
        if module in self.modules or module.startswith(("torch.nn.modules.", "torch.nn.backends.")):
            return Shell
        raise pickle.UnpicklingError(f"{module}.{name} is not a part of a network")

    def persistent_load(self, pid: Any) -> Any:
        """A storage's key, or the shell of a class."""
        kind = pid[0].decode() if isinstance(pid[0], bytes) else pid[0]
        if kind == "module":  # a class with its source code, which is not looked at
            return pid[1]
        if kind == "storage" and isinstance(pid[1], _StorageKind) and not any(pid[5:]):  # no views of storages
            self.storages[pid[2]] = pid[1].dtype
            return pid[2]
        raise pickle.UnpicklingError(f"unknown entry {kind!r}")


def _lazy(storage: str, offset: int, size: tuple[int, ...], stride: tuple[int, ...], *_: Any) -> _Lazy:
    return _Lazy(storage, offset, tuple(size), tuple(stride))


def _first(tensor: _Lazy, *_: Any) -> _Lazy:
    return tensor


def is_legacy(path: Path | str) -> bool:
    """Whether a file is of this format; a bare state dict in it can also be read by PyTorch's safe loader."""
    with open(path, "rb") as file:
        head = file.read(20)
    return head[2:3] == b"\x8a" and head[4:14] == MAGIC.to_bytes(10, "little")


def read_legacy_module(path: Path | str, modules: tuple[str, ...]) -> dict[str, Tensor]:
    """The state dict of the module that a file holds, or that the file is.

    Args:
        path: The file.
        modules: Python modules whose classes may occur, besides ``torch.nn.modules``.

    Raises:
        InputError: Another kind of file, a truncated one, or one with other classes in it.
    """
    path = Path(path)
    try:
        with path.open("rb") as file:
            module, storages = _read(file, modules)
        if isinstance(module, Mapping):
            return {name: _tensor(lazy, storages[lazy.storage]) for name, lazy in module.items()}
        return _state_dict(module, storages)
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from error
    except DAMAGED as error:
        raise InputError(f"{path}: not a pickled network that can be read safely ({error})") from error


def _read(file: BinaryIO, modules: tuple[str, ...]) -> tuple[Any, dict[str, np.ndarray]]:
    if _Reader(file, ()).load() != MAGIC:
        raise pickle.UnpicklingError("no magic number")
    _Reader(file, ()).load()  # version
    _Reader(file, ()).load()  # system
    reader = _Reader(file, modules)
    module = reader.load()
    storages = {}
    for key in _Reader(file, ()).load():
        (count,) = struct.unpack("<q", file.read(8))
        dtype = reader.storages[key]
        storages[key] = np.frombuffer(file.read(count * dtype.itemsize), dtype=dtype, count=count)
    return module, storages


def _state_dict(module: Any, storages: Mapping[str, np.ndarray], prefix: str = "") -> dict[str, Tensor]:
    """Parameters and buffers of a shell and of the shells below it, under dotted names."""
    state = module.__dict__
    found = {}
    for group in ("_parameters", "_buffers"):
        for name, lazy in state.get(group, {}).items():
            if lazy is not None:
                found[prefix + name] = _tensor(lazy, storages[lazy.storage])
    for name, child in state.get("_modules", {}).items():
        if child is not None:
            found |= _state_dict(child, storages, f"{prefix}{name}.")
    return found


def _tensor(lazy: _Lazy, storage: np.ndarray) -> Tensor:
    last = lazy.offset + sum((n - 1) * step for n, step in zip(lazy.size, lazy.stride, strict=True))
    if min((lazy.offset, *lazy.size, *lazy.stride), default=0) < 0 or last >= len(storage):
        raise pickle.UnpicklingError("a tensor reaches beyond its storage")
    return torch.as_strided(torch.from_numpy(storage.copy()), lazy.size, lazy.stride, lazy.offset).clone()
