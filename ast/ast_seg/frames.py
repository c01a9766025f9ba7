"""Frames for the networks: read from files one by one, or packed as bytes into arrays that all processes map.

An item, and with a leading axis a batch, is a dictionary: ``image`` uint8 (3, H, W); ``background`` uint8 (3, H, W),
``foreground`` uint8 (1, H, W), the mask of step 2, and ``target`` uint8 (H, W) where asked for and there; ``index`` the
position, ``path`` the image's cell, ``weight`` 0 for a repeat that only keeps processes in step.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset
from tqdm import tqdm

from ast_seg.reading import read_background
from common.errors import InputError
from common.files import MaskEncoding, atomic_path, image_size, read_image, read_labels, read_mask
from common.messages import warn
from common.splits import Split

VOID = 255
Item = dict[str, Any]


@dataclass(frozen=True)
class Reading:
    """What is read of each frame, and at what size."""

    height: int
    width: int
    background: bool = False
    foreground: bool = False
    target: bool = True
    mask_encoding: MaskEncoding = "auto"

    @property
    def size(self) -> tuple[int, int]:
        """(H, W)."""
        return self.height, self.width


def working_size(splits: Sequence[Split], height: int | None, width: int | None) -> tuple[int, int]:
    """The size that images are worked on at: as asked for, or the one that all of them have.

    Raises:
        InputError: Only one of the two sides given, images of different sizes, or an image that cannot be read.
    """
    if (height is None) != (width is None):
        raise InputError("--image_height and --image_width: give both, or none for the images' own size")
    if height is not None and width is not None:
        if min(height, width) < 1:
            raise InputError(f"--image_height {height} --image_width {width}: give positive numbers of pixels")
        return height, width
    first: tuple[Path, tuple[int, int]] | None = None
    for split in splits:
        for row in range(len(split)):
            file = split.path(row, "Image")
            size = image_size(file)
            if first is None:
                first = file, size
            elif size != first[1]:
                one, other = (f"{side[0]}x{side[1]}" for side in (first[1], size))
                raise InputError(
                    f"{file}: {other} pixels, but {first[0].name} has {one}; give --image_height and --image_width to "
                    "resize all images"
                )
    assert first is not None
    return first[1]


class FrameFiles(Dataset[Item]):
    """The frames of a split, read from their files."""

    def __init__(self, split: Split, reading: Reading) -> None:
        if "Image" not in split.columns:
            raise InputError(f"{split.file}: no column 'Image'; available: {', '.join(split.columns)}")
        known = "BackgroundMask" in split.columns and split.available("BackgroundMask").all()
        if reading.foreground and not known:
            raise InputError(
                f"{split.file}: no masks of step 2 (column BackgroundMask) for all images; give the split that step 2 "
                "wrote, or another --startup_aid"
            )
        self.split, self.reading = split, reading
        self.paths = [str(cell) for cell in split.column("Image")]
        self.target_column = next((name for name in ("GtInstance", "GtMask") if name in split.columns), None)
        if not reading.target:
            self.target_column = None

    @property
    def has_targets(self) -> bool:
        """Whether any frame has a label map."""
        return self.target_column is not None and bool(self.split.available(self.target_column).any())

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> Item:
        row = index if index >= 0 else ~index
        arrays = {name: torch.from_numpy(array) for name, array in self.arrays(row).items()}
        return {**arrays, "index": row, "path": self.paths[row], "weight": float(index >= 0)}

    def arrays(self, row: int) -> dict[str, NDArray[np.uint8]]:
        """The arrays of a frame.

        Raises:
            InputError: A file that is missing or cannot be read.
        """
        size, split = self.reading.size, self.split
        found = {"image": _planes(read_image(split.path(row, "Image")), size)}
        if self.reading.background:
            found["background"] = _planes(read_background(split.path(row, "Background"))[..., :3], size)
        if self.reading.foreground:
            mask = read_labels(split.path(row, "BackgroundMask")).astype(np.uint8)
            found["foreground"] = _planes(mask[..., None], size)
        if self.has_targets:
            found["target"] = self.target(row)
        return found

    def target(self, row: int) -> NDArray[np.uint8]:
        """Label map (H, W) of a frame, 255 for void; void everywhere when the frame has none."""
        column = self.target_column
        if column is None or not self.split.available(column)[row]:
            return np.full(self.reading.size, VOID, np.uint8)
        file = self.split.path(row, column)
        if column == "GtMask":
            mask = read_mask(file, self.reading.mask_encoding)
            labels = np.where(mask.void, VOID, mask.labels)
        else:
            labels = read_labels(file)
        if labels.max(initial=0) > VOID:
            raise InputError(f"{file}: label {labels.max()}; at most 254 objects per image are known (255 is void)")
        height, width = self.reading.size
        resized = cv2.resize(labels.astype(np.uint8), (width, height), interpolation=cv2.INTER_NEAREST_EXACT)
        return np.asarray(resized, np.uint8)


def _planes(image: NDArray[np.uint8], size: tuple[int, int]) -> NDArray[np.uint8]:
    """(H, W, C) as (C, h, w): averaged when it shrinks, interpolated when it grows."""
    channels = image.shape[2]
    if image.shape[:2] != size:
        shrinks = image.shape[0] > size[0]
        method = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
        image = np.asarray(cv2.resize(image, size[::-1], interpolation=method), np.uint8).reshape(*size, channels)
    return np.ascontiguousarray(image.transpose(2, 0, 1))


class PackedFrames(Dataset[Item]):
    """The frames of a split as memory-mapped bytes, given out in whole batches.

    Args:
        files: Where the frames come from.
        folder: Folder of the arrays; their names tell the files, their times and the reading.
        skip_bad: Leave out frames that cannot be read.
    """

    def __init__(self, files: FrameFiles, folder: Path, skip_bad: bool = False) -> None:
        self.files, self.folder, self.skip_bad = files, folder, skip_bad
        self.paths = files.paths
        self.rows: NDArray[np.int64] = np.arange(len(files))
        self._arrays: dict[str, NDArray[np.uint8]] = {}
        self._key = self._name()

    def _name(self) -> str:
        digest = hashlib.blake2b(repr(self.files.reading).encode(), digest_size=12)
        split = self.files.split
        columns = ["Image", *(["Background"] if self.files.reading.background else [])]
        columns += ["BackgroundMask"] if self.files.reading.foreground else []
        columns += [self.files.target_column] if self.files.target_column else []
        for column in columns:
            known = split.available(column)
            for row in range(len(split)):
                if known[row]:
                    path = split.path(row, column)
                    state = path.stat() if path.exists() else None
                    digest.update(f"{path.absolute()}|{state and (state.st_size, state.st_mtime_ns)}\n".encode())
        return digest.hexdigest()

    def build(self) -> None:
        """Read all frames, unless their arrays stand already; one process does this.

        Raises:
            InputError: A frame that cannot be read, without ``skip_bad``; no frame that can.
        """
        facts = self.folder / f"{self._key}.json"
        if not facts.exists():
            self._write(facts)
        self.open()

    def _write(self, facts: Path) -> None:
        stacks: dict[str, Any] = {}
        bad = []
        total = len(self.files)
        for row in tqdm(range(total), desc="reading frames", unit="frame", disable=None):
            try:
                frame = self.files.arrays(row)
            except InputError as error:
                if not self.skip_bad:
                    raise
                warn(f"left out: {error}")
                bad.append(row)
                continue
            for name, array in frame.items():
                if name not in stacks:
                    stacks[name] = np.zeros((total, *array.shape), np.uint8)
                stacks[name][row] = array
        if len(bad) == total:
            raise InputError(f"{self.files.split.file}: none of its {total} images can be read")
        for name, stack in stacks.items():
            with atomic_path(self.folder / f"{self._key}_{name}.npy") as temporary, temporary.open("wb") as file:
                np.save(file, stack)
        with atomic_path(facts) as temporary:
            temporary.write_text(json.dumps({"arrays": list(stacks), "bad": bad}))

    def open(self) -> None:
        """Map the arrays."""
        facts = json.loads((self.folder / f"{self._key}.json").read_text())
        names = {name: self.folder / f"{self._key}_{name}.npy" for name in facts["arrays"]}
        self._arrays = {name: np.load(file, mmap_mode="r") for name, file in names.items()}
        self.rows = np.setdiff1d(np.arange(len(self.files)), facts["bad"])
        self.paths = [self.files.paths[row] for row in self.rows]

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Item:
        return self.__getitems__([index])

    def __getitems__(self, indices: Sequence[int]) -> Item:
        """A batch at once."""
        given = np.asarray(indices)
        positions = np.where(given >= 0, given, ~given)
        rows = self.rows[positions]
        batch: Item = {name: torch.from_numpy(array[rows]) for name, array in self._arrays.items()}
        batch["index"] = torch.from_numpy(positions)
        batch["path"] = [self.paths[position] for position in positions]
        batch["weight"] = torch.from_numpy((given >= 0).astype(np.float64))
        return batch

    def stack(self, name: str) -> Tensor:
        """All frames of an array, e.g. ``image`` (N, 3, H, W)."""
        return torch.from_numpy(self._arrays[name][self.rows])


def as_batch(batch: Any) -> Any:
    """The collate function of `PackedFrames`, whose batches are ready."""
    return batch
