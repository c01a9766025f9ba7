"""Resized flow fields of a split in one memory-mapped array, read from the ``.flo`` files once.

A window of T fields touches each file T times per epoch, at 3.3 MB per 480p field for 0.2 MB of resized data. The
array is keyed by the files (path, size, time of change) and the target size, so a changed file makes a new one. It is
shared by loader workers, runs and processes; bad files are listed beside it.
"""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from common.errors import InputError
from common.files import atomic_path
from common.flow_files import read_flow
from common.resize import resize_flow


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
        self.bad_path = self.array_path.with_suffix(".bad.json")
        self._array: np.ndarray | None = None

    def _key(self) -> str:
        digest = hashlib.blake2b(digest_size=10)
        for file in self.files:
            try:
                stat = file.stat()
            except FileNotFoundError as error:
                raise InputError(f"{file}: no such flow file; compute it first (stflow/compute_flow.py)") from error
            digest.update(f"{file.resolve()}|{stat.st_size}|{stat.st_mtime_ns}\n".encode())
        return digest.hexdigest()

    def build(self) -> None:
        """Read and resize every file, unless the array stands already.

        Raises:
            InputError: more than ``max_bad`` files cannot be read; names the first.
        """
        if not (self.array_path.exists() and self.bad_path.exists()):
            shape = (len(self.files), 2, *self.size)
            bad: dict[int, str] = {}
            with atomic_path(self.array_path) as temporary:
                array = np.lib.format.open_memmap(temporary, mode="w+", dtype=np.float32, shape=shape)
                for index, file in enumerate(tqdm(self.files, desc="reading flow", unit="file", disable=None)):
                    try:
                        array[index] = resize_flow(torch.from_numpy(read_flow(file)), self.size).numpy()
                    except InputError as error:
                        bad[index] = str(error)
                        if len(bad) > self.max_bad:
                            raise
                array.flush()
                del array
            with atomic_path(self.bad_path) as temporary:
                temporary.write_text(json.dumps(bad))
        if len(self.bad) > self.max_bad:
            raise InputError(next(iter(self.bad.values())))

    @property
    def bad(self) -> dict[int, str]:
        """Index -> message of the files that could not be read."""
        return {int(index): message for index, message in json.loads(self.bad_path.read_text()).items()}

    def __getitem__(self, index: int | np.ndarray) -> torch.Tensor:
        """Flow field(s): (2, I, J) for an index, (n, 2, I, J) for an array of indices."""
        if self._array is None:
            self._array = np.load(self.array_path, mmap_mode=None if self.preload else "r")
        return torch.from_numpy(np.array(self._array[index]))

    def __getstate__(self) -> dict[str, object]:
        """Workers open the array themselves; a mapped array would be copied into them."""
        return {**self.__dict__, "_array": None}
