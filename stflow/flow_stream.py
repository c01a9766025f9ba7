"""Resized flow fields read when they are asked for: a prediction of many frames starts at once and keeps no array."""

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch

from common.errors import InputError
from common.flow_files import read_flow
from common.resize import resize_flow
from stflow.flow_cache import FlowFacts

KEPT = 64  # fields held in memory: windows that follow each other share all but one


class FlowStream:
    """What a `FlowCache` gives, without looking at all files first.

    Args:
        files: Flow files; index ``i`` is ``files[i]``.
        size: Rows and columns after resizing.
    """

    def __init__(self, files: Sequence[Path], size: tuple[int, int]) -> None:
        self.files, self.size = list(files), size
        self.facts = FlowFacts()  # nothing is known
        self._keep()

    def _keep(self) -> None:
        self._field = lru_cache(KEPT)(self._read)

    def _read(self, index: int) -> tuple[torch.Tensor, tuple[int, int]]:
        flow = read_flow(self.files[index])
        return resize_flow(torch.from_numpy(flow), self.size), (flow.shape[1], flow.shape[2])

    def __getitem__(self, indices: np.ndarray) -> torch.Tensor:
        """Flow fields (n, 2, I, J) of an array of indices.

        Raises:
            InputError: a file that cannot be read, or fields of different sizes.
        """
        fields = [self._field(int(index)) for index in indices]
        for index, (_, size) in zip(indices, fields, strict=True):
            if size != fields[0][1]:
                raise InputError(
                    f"{self.files[index]}: flow of {size[0]}x{size[1]} pixels, but {fields[0][1][0]}x{fields[0][1][1]}"
                    f" in {self.files[indices[0]].name}; the frames of a sequence must have one size"
                )
        return torch.stack([flow for flow, _ in fields])

    def __getstate__(self) -> dict[str, object]:
        """Workers read for themselves."""
        return {**self.__dict__, "_field": None}

    def __setstate__(self, state: dict[str, object]) -> None:
        self.__dict__.update(state)
        self._keep()
