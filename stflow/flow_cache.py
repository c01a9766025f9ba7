"""Resized flow fields of a split in one memory-mapped array, read from the ``.flo`` files once.

A window of T fields touches each file T times per epoch, at 3.3 MB per 480p field for 0.2 MB of resized data. The
array is keyed by the files (path, size, time of change) and the target size, so a changed file makes a new one. It is
shared by loader workers, runs and processes; what reading the files told is kept beside it.
"""

import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from common.errors import InputError
from common.files import atomic_path
from common.flow_files import read_flow
from common.resize import resize_flow


@dataclass
class FlowFacts:
    """What reading the files told.

    Attributes:
        bad: Index -> message of the files that could not be read.
        still: Indices of fields that are zero everywhere.
        sizes: (H, W) of each file, (0, 0) of a bad one.
    """

    bad: dict[int, str] = field(default_factory=dict)
    still: list[int] = field(default_factory=list)
    sizes: list[tuple[int, int]] = field(default_factory=list)


class FlowCache:
    """Flow fields of the given files at one size.

    Args:
        files: Flow files; index ``i`` of the cache is ``files[i]``.
        size: Rows and columns after resizing (bilinear; values keep the unit of the original pixels).
        folder: Where the array is stored.
        max_bad: Unreadable files to accept.
        preload: Hold the array in memory instead of mapping it.
    """

    def __init__(
        self, files: Sequence[Path], size: tuple[int, int], folder: Path, max_bad: int = 0, preload: bool = False
    ) -> None:
        self.files, self.size, self.max_bad, self.preload = list(files), size, max_bad, preload
        self.array_path = folder / f"flows-{size[0]}x{size[1]}-{self._key()}.npy"
        self.facts_path = self.array_path.with_suffix(".json")
        self._array: np.ndarray | None = None
        self._facts: FlowFacts | None = None

    def _key(self) -> str:
        digest = hashlib.blake2b(digest_size=10)
        missing = 0
        folders = {folder: os.path.realpath(folder) for folder in {os.path.dirname(file) for file in self.files}}
        for file in self.files:
            try:
                stat = os.stat(file)
            except OSError as error:
                missing += 1
                if missing > self.max_bad:
                    raise InputError(f"{file}: no such flow file; compute it first (stflow/compute_flow.py)") from error
                digest.update(f"{file}|missing\n".encode())
            else:
                place = f"{folders[os.path.dirname(file)]}/{file.name}"
                digest.update(f"{place}|{stat.st_size}|{stat.st_mtime_ns}\n".encode())
        return digest.hexdigest()

    def stands(self) -> bool:
        """Whether the array has been built."""
        return self.array_path.exists() and self.facts_path.exists()

    def build(self) -> None:
        """Read and resize every file, unless the array stands already.

        Raises:
            InputError: more than ``max_bad`` files cannot be read; names one.
        """
        if not self.stands():
            facts = FlowFacts()
            with atomic_path(self.array_path) as temporary:
                shape = (len(self.files), 2, *self.size)
                array = np.lib.format.open_memmap(temporary, mode="w+", dtype=np.float32, shape=shape)
                for index, file in enumerate(tqdm(self.files, desc="reading flow", unit="file", disable=None)):
                    array[index] = self._read(index, file, facts)
                array.flush()
                del array
            with atomic_path(self.facts_path) as temporary:
                temporary.write_text(json.dumps(asdict(facts)))
        if len(self.facts.bad) > self.max_bad:
            raise InputError(next(iter(self.facts.bad.values())))

    def _read(self, index: int, file: Path, facts: FlowFacts) -> np.ndarray:
        """One field at the cache's size, zeros when it cannot be read; the facts are noted."""
        try:
            flow = read_flow(file)
        except InputError as error:
            facts.bad[index] = str(error)
            facts.sizes.append((0, 0))
            if len(facts.bad) > self.max_bad:
                raise
            return np.zeros((2, *self.size), np.float32)
        if not flow.any():
            facts.still.append(index)
        facts.sizes.append((flow.shape[1], flow.shape[2]))
        return resize_flow(torch.from_numpy(flow), self.size).numpy()

    @property
    def facts(self) -> FlowFacts:
        """What reading the files told; the cache must be built."""
        if self._facts is None:
            stored = json.loads(self.facts_path.read_text())
            bad = {int(index): message for index, message in stored["bad"].items()}
            self._facts = FlowFacts(bad, stored["still"], [(rows, columns) for rows, columns in stored["sizes"]])
        return self._facts

    def __getitem__(self, index: int | np.ndarray) -> torch.Tensor:
        """Flow field(s): (2, I, J) for an index, (n, 2, I, J) for an array of indices."""
        if self._array is None:
            self._array = np.load(self.array_path, mmap_mode=None if self.preload else "r")
        return torch.from_numpy(np.array(self._array[index]))

    def __getstate__(self) -> dict[str, object]:
        """Workers open the array themselves; a mapped array would be copied into them."""
        return {**self.__dict__, "_array": None}
