"""Windows of consecutive flow fields from CSV splits, as a LightningDataModule.

A sample is a dictionary: ``flow`` (2, T, I, J) in pixels of the original image, ``gt`` (I, J) uint8 in {0, 1} or 255
everywhere when the frame has no ground truth, ``index`` its position, ``path`` the centre field's path, ``weight`` 0
for a repeat that only keeps processes in step.
"""

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from numpy.typing import NDArray
from torch.utils.data import Dataset
from tqdm import tqdm

from common.errors import InputError
from common.files import read_mask
from common.flow_files import flow_size
from common.messages import warn
from common.resize import resize_mask
from common.sampling import EpochSampler, ResumableLoader, generator, ranks, resumable_loader
from common.splits import Split, read_split
from common.windows import RequestIndex, parse_request, require_consecutive
from stflow.flow_cache import FlowCache
from stflow.flow_stream import FlowStream
from stflow.options import Boundaries, DataOptions, MaskEncoding, UNetOptions

NO_GT = 255


def volume_requests(inputs: list[str], flows_volume: list[str]) -> list[str]:
    """The flow requests of both lists, each once, in ascending time order."""
    return sorted(dict.fromkeys([*inputs, *flows_volume]), key=lambda request: parse_request(request).offset)


class FlowWindows(Dataset[dict[str, Any]]):
    """The windows of one split that every request can be served for."""

    def __init__(
        self, split: Split, requests: list[str], options: DataOptions, boundaries: Boundaries | None = None
    ) -> None:
        self.requests, self.options = requests, options
        self.size = (options.img_size[0], options.img_size[1])
        with_flow = split.available("Flow")
        if not with_flow.any():
            raise InputError(
                f"{split.file}: the 'Flow' column is empty; compute the flow first (stflow/compute_flow.py)"
            )
        split = split.take(with_flow)  # the last frame of a sequence has no forward flow
        require_consecutive(split)
        self.split = split
        index = RequestIndex(split, requests, boundaries or options.boundaries)
        cells = split.column("Flow")
        rows = index.sources[index.servable]
        self.source_rows = np.unique(rows)
        files = [split.path(row, "Flow") for row in self.source_rows]
        self.cache: FlowCache | FlowStream = FlowCache(
            files, self.size, options.cache_dir, options.max_bad_samples, options.preload_cache
        )
        self.windows = np.searchsorted(self.source_rows, rows)  # (n, T) positions in the cache
        self.centres = rows[:, [parse_request(r).offset for r in requests].index(0)]
        self.paths = [str(cells[row]) for row in self.centres]
        self.has_gt = "GtMask" in split.columns
        self._masks: dict[int, torch.Tensor] = {}

    def build(self, most_read_first: int | None = None) -> None:
        """Fill the flow cache and leave out the windows over unreadable files.

        Args:
            most_read_first: When there are more files than this, and no cache of them yet, they are read when they are
                asked for, and what is wrong with one is known only then.

        Raises:
            InputError: too many unreadable files, or no window without one; a sequence whose fields differ in size.
        """
        if isinstance(self.cache, FlowStream):
            return
        if most_read_first is not None and len(self.cache.files) > most_read_first and not self.cache.stands():
            self.cache = FlowStream(self.cache.files, self.size)
            return
        self.cache.build()
        bad = list(self.cache.facts.bad)
        if bad:
            self._keep(np.flatnonzero(~np.isin(self.windows, bad).any(axis=1)))
        if not len(self):
            raise InputError(f"{self.split.file}: no window without an unreadable flow file; estimate the flow again")
        self._check_sizes()

    def _check_sizes(self) -> None:
        known = self.cache.facts.sizes
        sizes = np.array(known)[self.windows]  # (n,T,2)
        wrong = (sizes != sizes[:, :1]).any(axis=2)
        if wrong.any():
            window, place = np.argwhere(wrong)[0]
            first, other = (int(self.windows[window, t]) for t in (0, place))
            raise InputError(
                f"{self.cache.files[other]}: flow of {known[other][0]}x{known[other][1]} pixels, but"
                f" {known[first][0]}x{known[first][1]} in {self.cache.files[first].name}; the frames of a sequence must"
                " have one size"
            )

    def tell(self) -> None:
        """Warn of what trains nothing: files left out, short sequences, fields that are zero everywhere."""
        facts, names = self.cache.facts, self.split.column("Sequence")
        for message in facts.bad.values():
            warn(f"left out: {message}")
        counts = Counter(names.tolist())
        for name in sorted(counts.keys() - set(names[self.centres].tolist())):
            count = counts[name]
            warn(f"sequence {name}: {count} flow fields give no window of {len(self.requests)}")
        owners = names[self.source_rows].tolist()
        fields, still = Counter(owners), Counter(owners[index] for index in facts.still)
        first = {owners[index]: self.cache.files[index] for index in reversed(sorted(facts.still))}
        for name, count in still.items():
            warn(
                f"sequence {name}: {count} of {fields[name]} flow fields are zero everywhere (first {first[name]});"
                " nothing can be segmented there"
            )

    def read_masks(self) -> None:
        """Read the ground truth of all windows now; loader processes that are forked later share it.

        Raises:
            InputError: a mask that cannot be read, of another size than the flow, or with values of no one meaning.
        """
        if self.has_gt:
            for position in tqdm(range(len(self)), desc="reading masks", unit="file", disable=None):
                self._mask(position)

    def subsample(self, share: float, seed: int) -> None:
        """Keep a random share of the windows."""
        chosen = torch.randperm(len(self), generator=generator(seed, "subsample"))[: max(1, round(share * len(self)))]
        self._keep(np.sort(chosen.numpy()))

    def _keep(self, windows: NDArray[np.int64]) -> None:
        self.windows, self.centres = self.windows[windows], self.centres[windows]
        self.paths = [self.paths[i] for i in windows]

    def __len__(self) -> int:
        return len(self.windows)

    def __getitem__(self, index: int) -> dict[str, Any]:
        position = index if index >= 0 else ~index
        flow = self.cache[self.windows[position]].transpose(0, 1)  # (T,2,I,J) -> (2,T,I,J)
        return {
            "flow": flow.contiguous(),
            "gt": self._mask(position),
            "index": position,
            "path": self.paths[position],
            "weight": float(index >= 0),
        }

    def _mask(self, position: int) -> torch.Tensor:
        """Ground truth of the centre frame at the working size; kept in memory, it is 28 kB."""
        row = int(self.centres[position])
        if row not in self._masks:
            if self.has_gt and self.split.available("GtMask")[row]:
                mask = read_mask_of_flow(self.split, row, self.options.mask_encoding)
                resized = resize_mask(torch.from_numpy(mask.astype(np.int64)), self.size)
                self._masks[row] = resized.to(torch.uint8)
            else:
                self._masks[row] = torch.full(self.size, NO_GT, dtype=torch.uint8)
        return self._masks[row]


class FlowDataModule(pl.LightningDataModule):
    """Train, validation and test windows of a split; every loader can be resumed in the middle of an epoch."""

    def __init__(self, options: DataOptions, requests: list[str]) -> None:
        super().__init__()
        self.options, self.requests = options, requests
        self.windows: dict[str, FlowWindows] = {}
        self._prepared: set[str] = set()
        self._subsampled = False

    def prepare(self, *steps: str) -> None:
        """Read the splits of the given steps and check them, before any training starts.

        Raises:
            InputError: missing file or column, empty split.
        """
        for step in steps:
            split = read_split(self.options.data_file, step, self.options.base_dir)
            self.windows[step] = FlowWindows(split, self.requests, self.options)

    def prepare_data(self) -> None:
        """Read flow and masks, and refuse what cannot be used; one process per machine does this, once."""
        for step, windows in self.windows.items():
            if step not in self._prepared:
                windows.build()
                windows.tell()
                windows.read_masks()
                self._prepared.add(step)

    def setup(self, stage: str) -> None:
        """Open the caches in every process."""
        for step, windows in self.windows.items():
            windows.build()
            if step == "train" and self.options.subsample_train < 1 and not self._subsampled:
                windows.subsample(self.options.subsample_train, self.options.seed)
                self._subsampled = True

    def train_dataloader(self) -> ResumableLoader:
        """Shuffled windows, in an order that depends on seed and epoch only."""
        return self._loader("train", shuffle=True)

    def val_dataloader(self) -> ResumableLoader:
        """All validation windows in order."""
        return self._loader("val", shuffle=False)

    def test_dataloader(self) -> ResumableLoader:
        """All test windows in order."""
        return self._loader("test", shuffle=False)

    def _loader(self, step: str, shuffle: bool) -> ResumableLoader:
        assert self.trainer is not None
        sampler = EpochSampler(
            len(self.windows[step]),
            shuffle=shuffle,
            seed=self.options.seed,
            **ranks(self.trainer),
            mark_repeats=not shuffle,
        )
        return resumable_loader(
            self.windows[step],
            sampler,
            batch_size=self.options.batch_size,
            num_workers=self.options.num_workers,
        )


def read_mask_of_flow(split: Split, row: int, encoding: MaskEncoding) -> NDArray[np.bool_]:
    """Foreground (H, W) of a row's ``GtMask``, which must have the size of its flow.

    Raises:
        InputError: not readable, values that do not fit the encoding, another size.
    """
    file = split.path(row, "GtMask")
    mask = read_mask(file, encoding).foreground
    rows, columns = flow_size(split.path(row, "Flow"))
    if mask.shape != (rows, columns):
        raise InputError(
            f"{file}: mask of {mask.shape[0]}x{mask.shape[1]} pixels, but its flow has {rows}x{columns}; resize the"
            " masks (nearest neighbour) or name the right files in the split"
        )
    return mask


def check_size(img_size: Sequence[int], unet: UNetOptions) -> None:
    """Two positive numbers that survive the network's halvings.

    Raises:
        InputError: otherwise.
    """
    smallest = 2 ** (unet.num_layers - 1)
    if len(img_size) != 2 or min(img_size) < smallest:
        given = " ".join(map(str, img_size))
        raise InputError(
            f"--img_size {given}: give rows and columns, each at least {smallest} with --unet.num_layers"
            f" {unet.num_layers}, e.g. --img_size 128 224"
        )


def split_hash(datamodule: FlowDataModule) -> dict[str, str]:
    """Content hash of each split, for provenance."""
    return {step: windows.split.hash() for step, windows in datamodule.windows.items()}
