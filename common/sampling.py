"""Batches whose order is a function of (seed, epoch) alone, so that a run can stop anywhere and continue exactly.

Three properties that Lightning's defaults do not give together:

- resuming in the middle of an epoch goes on with the batches that are left, not with the first ones again;
- P processes with batch size b see, step by step, the same samples as one process with batch size P * b;
- random numbers do not depend on who draws them: ``generator(seed, ...)`` makes one from the keys that name a draw.
"""

import hashlib
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import torch
from torch.utils.data import DataLoader, Dataset, Sampler

if TYPE_CHECKING:
    import pytorch_lightning as pl


def generator(*keys: int | str) -> torch.Generator:
    """A CPU generator that depends on its keys only, e.g. ``generator(seed, "noise", epoch, sample)``."""
    digest = hashlib.blake2b(repr(keys).encode(), digest_size=8).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest, "little") >> 1)


class EpochSampler(Sampler[int]):
    """Indices of one epoch for one process.

    Process ``rank`` of ``world_size`` takes every ``world_size``-th index. So that all processes make the same number
    of steps, the order is filled up with repeats: plain ones in training, and when ``mark_repeats`` is set as
    ``~index`` (negative), which an evaluation must give no weight.
    """

    def __init__(
        self,
        num_samples: int,
        *,
        shuffle: bool,
        seed: int,
        rank: int = 0,
        world_size: int = 1,
        mark_repeats: bool = False,
    ) -> None:
        self.num_samples, self.shuffle, self.seed = num_samples, shuffle, seed
        self.rank, self.world_size, self.mark_repeats = rank, world_size, mark_repeats
        self.epoch = 0
        self.skip = 0

    def set_epoch(self, epoch: int) -> None:
        """Lightning calls this before each epoch."""
        self.epoch = epoch

    def __len__(self) -> int:
        return -(-self.num_samples // self.world_size)

    def __iter__(self) -> Iterator[int]:
        order = self.order()
        missing = len(self) * self.world_size - self.num_samples
        repeats = (order * (missing // max(len(order), 1) + 1))[:missing]
        order += [~index for index in repeats] if self.mark_repeats else repeats
        mine = order[self.rank :: self.world_size]
        skip, self.skip = self.skip, 0
        return iter(mine[skip:])

    def order(self) -> list[int]:
        """The indices of this epoch, of all processes together."""
        if not self.shuffle:
            return list(range(self.num_samples))
        draw = generator(self.seed, "order", self.epoch)
        return torch.randperm(self.num_samples, generator=draw).tolist()


def ranks(trainer: "pl.Trainer") -> dict[str, int]:
    """This process and the number of processes, as the arguments of an ``EpochSampler``."""
    return {"rank": trainer.global_rank, "world_size": trainer.world_size}


class ResumableLoader(DataLoader[Any]):
    """A DataLoader that Lightning can save and restore in the middle of an epoch.

    Lightning stores ``state_dict`` in each checkpoint and hands it back before the first batch; the samples of the
    batches already trained on are then skipped without being read.
    """

    def __init__(self, dataset: Dataset[Any], *args: Any, **kwargs: Any) -> None:
        """As ``DataLoader``, with an ``EpochSampler``; Lightning rebuilds it with its own for ``overfit_batches``."""
        super().__init__(dataset, *args, **kwargs)
        self._batches = 0
        self._resume_at = 0

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]
        start, self._resume_at = self._resume_at, 0
        if isinstance(self.sampler, EpochSampler) and self.batch_size:
            self.sampler.skip = start * self.batch_size
        self._batches = start
        for batch in super().__iter__():
            self._batches += 1
            yield batch

    def state_dict(self) -> dict[str, int]:
        """Batches of the current epoch that were handed out; 0 after the last one."""
        return {"batches": self._batches % max(len(self), 1)}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Make the next epoch start after the batches that were already handed out."""
        self._resume_at = state["batches"]


def resumable_loader(
    dataset: Dataset[Any],
    sampler: EpochSampler,
    *,
    batch_size: int,
    num_workers: int = 0,
    collate_fn: Callable[[Any], Any] | None = None,
    drop_last: bool = False,
) -> ResumableLoader:
    """A ``ResumableLoader`` whose processes live on between epochs and whose batches go to a GPU without waiting."""
    return ResumableLoader(
        dataset,
        sampler=sampler,
        batch_size=batch_size,
        num_workers=num_workers,
        collate_fn=collate_fn,
        drop_last=drop_last,
        persistent_workers=num_workers > 0,
        pin_memory=torch.cuda.is_available(),
    )
