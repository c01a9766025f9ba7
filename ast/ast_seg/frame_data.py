"""The LightningDataModule of both stages: packed frames in shuffled passes.

The original counts updates, not epochs, and its sets differ by four orders of magnitude in size. An epoch here is what
lies between two validations: as many whole passes over the images as make ``val_every`` updates, at least one.
"""

from dataclasses import replace

import pytorch_lightning as pl
import torch

from ast_seg.frames import FrameFiles, PackedFrames, Reading, as_batch
from ast_seg.options import FrameOptions, TripleOptions
from ast_seg.splits_of import validation_split
from common.errors import InputError
from common.messages import warn
from common.sampling import EpochSampler, ResumableLoader, generator, ranks, resumable_loader
from common.splits import Split


class PassesSampler(EpochSampler):
    """Several shuffled passes over the samples as one epoch; what is left of a pass after whole batches is left out."""

    def __init__(
        self, num_samples: int, *, passes: int, batch_size: int, seed: int, rank: int = 0, world_size: int = 1
    ) -> None:
        self.samples, self.passes = num_samples, passes
        self.kept = num_samples - num_samples % (batch_size * world_size)
        super().__init__(self.kept * passes, shuffle=True, seed=seed, rank=rank, world_size=world_size)

    def order(self) -> list[int]:
        """Every pass in an order of its own, which depends on seed and number of the pass only."""
        found: list[int] = []
        for number in range(self.epoch * self.passes, (self.epoch + 1) * self.passes):
            draw = generator(self.seed, "order", number)
            found += torch.randperm(self.samples, generator=draw)[: self.kept].tolist()
        return found


class FrameDataModule(pl.LightningDataModule):
    """Training and validation frames of a stage.

    Args:
        splits: ``train``, and ``val`` if there is one.
        reading: What is read of a frame; the training never reads label maps.
        options: The user's options of the data.
        batch_size: Images per update and process.
        val_every: Updates between two validations.
        seed: Seed of the order.
    """

    def __init__(
        self,
        splits: dict[str, Split],
        reading: Reading,
        options: FrameOptions | TripleOptions,
        *,
        batch_size: int,
        val_every: int,
        seed: int,
    ) -> None:
        super().__init__()
        if batch_size < 1 or val_every < 1:
            raise InputError(f"--batch_size {batch_size} --val_every {val_every}: give numbers from 1 on")
        self.options, self.batch_size, self.val_every, self.seed = options, batch_size, val_every, seed
        self.splits = {"train": splits["train"], "val": validation_split(splits)}
        trained, scored = replace(reading, target=False), replace(reading, foreground=False)
        self.frames = {
            step: PackedFrames(FrameFiles(split, wanted), options.cache_dir, options.skip_bad)
            for (step, split), wanted in zip(self.splits.items(), (trained, scored), strict=True)
        }

    def prepare_data(self) -> None:
        """Read what cannot be trained on into an error before anything starts; one process per machine does this."""
        for frames in self.frames.values():
            frames.build()
        if len(self.frames["train"]) < self.batch_size:
            warn(
                f"{self.splits['train'].file}: {len(self.frames['train'])} images make no batch of {self.batch_size};"
                " the batch has all of them"
            )

    def setup(self, stage: str) -> None:
        """Map the arrays in every process."""
        for frames in self.frames.values():
            frames.open()

    @property
    def updates_per_pass(self) -> int:
        """Updates of one pass over the training images, by all processes together."""
        world_size = self.trainer.world_size if self.trainer is not None else 1
        return max(1, len(self.frames["train"]) // (self._batch_size() * world_size))

    def _batch_size(self) -> int:
        world_size = self.trainer.world_size if self.trainer is not None else 1
        return max(1, min(self.batch_size, len(self.frames["train"]) // world_size))

    def train_dataloader(self) -> ResumableLoader:
        """Shuffled batches, all of one size."""
        assert self.trainer is not None
        frames, batch_size = self.frames["train"], self._batch_size()
        sampler = PassesSampler(
            len(frames),
            passes=max(1, round(self.val_every / self.updates_per_pass)),
            batch_size=batch_size,
            seed=self.seed,
            **ranks(self.trainer),
        )
        return self._loader(frames, sampler, batch_size)

    def val_dataloader(self) -> ResumableLoader:
        """All validation frames in order."""
        assert self.trainer is not None
        frames = self.frames["val"]
        sampler = EpochSampler(
            len(frames),
            shuffle=False,
            seed=0,
            **ranks(self.trainer),
            mark_repeats=True,
        )
        return self._loader(frames, sampler, self._batch_size())

    def _loader(self, frames: PackedFrames, sampler: EpochSampler, batch_size: int) -> ResumableLoader:
        workers = self.options.num_workers
        return resumable_loader(
            frames,
            sampler,
            batch_size=batch_size,
            num_workers=workers,
            collate_fn=as_batch,
        )

    def hashes(self) -> dict[str, str]:
        """Content hash of each split, for provenance."""
        return {step: split.hash() for step, split in self.splits.items()}
