"""The options that every training command shares: where a run goes, and Lightning's Trainer flags, flat.

No torch here: these classes are what ``--help`` shows. Names, meanings and defaults of ``TrainerFlags`` are those of
``pytorch_lightning.Trainer`` (a test compares the two); the two GPU spellings are joined in ``resolve_gpus``.
"""

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal

from common.errors import InputError


@dataclass(frozen=True, kw_only=True)
class RunOptions:
    """Run directory and logging."""

    out: Path | None = None
    """Run directory: config.yaml, provenance.json, checkpoints/, metrics.csv, samples/."""
    resume: bool = False
    """Continue the run in --out from its last checkpoint; start it when there is none yet."""
    ckpt_path: Path | None = None
    """Start from the weights of this checkpoint (ours or the authors'); the training itself starts anew."""
    logger: str = "csv"
    """Comma list of csv, wandb, tensorboard. metrics.csv is always written; wandb is offline unless a key is known."""
    project: str = "unseg"
    """Project name in Weights & Biases."""
    sample_every: int = 1
    """Epochs between two sample pictures in samples/; 0 = none."""
    save_every: int = 0
    """Also save last.ckpt every so many optimiser steps; 0 = only after each epoch."""
    compile: bool = False
    """Send the networks through torch.compile: minutes at the start, faster steps on a GPU."""
    gpus: int | None = None
    """Number of GPUs, as in Lightning 1: N > 0 = N GPUs, 0 = CPU, -1 = all. Otherwise --accelerator and --devices."""


@dataclass(frozen=True, kw_only=True)
class TrainerFlags:
    """Lightning Trainer flags."""

    accelerator: str = "auto"
    """cpu, gpu, tpu, mps or auto."""
    strategy: str = "auto"
    """ddp, fsdp, ... or auto."""
    devices: str = "auto"
    """Number of devices, a list such as 0,2, -1 for all, or auto."""
    num_nodes: int = 1
    """Number of machines."""
    precision: str | None = None
    """32-true (default), bf16-mixed, 16-mixed, 64-true, ..."""
    max_epochs: int | None = None
    """Stop after this many epochs."""
    min_epochs: int | None = None
    """Train at least this many epochs."""
    max_steps: int = -1
    """Stop after this many optimiser steps; -1 = no limit."""
    max_time: str | None = None
    """Stop after this time, as DD:HH:MM:SS."""
    limit_train_batches: float | None = None
    """Number (>= 1) or share (<= 1.0) of training batches per epoch."""
    limit_val_batches: float | None = None
    """Number or share of validation batches."""
    overfit_batches: float = 0.0
    """Train and validate on this number or share of the training batches."""
    fast_dev_run: bool = False
    """One batch of each stage, nothing saved: a smoke test."""
    val_check_interval: float | None = None
    """Validate after this number or share of training batches."""
    check_val_every_n_epoch: int | None = 1
    """Epochs between two validations."""
    num_sanity_val_steps: int | None = 0
    """Validation batches before training starts (Lightning's own default is 2)."""
    log_every_n_steps: int | None = None
    """Optimiser steps between two rows of metrics.csv (default 50), at least 1."""
    enable_progress_bar: bool | None = None
    """Show the progress bar."""
    enable_model_summary: bool | None = None
    """Print the table of layers."""
    accumulate_grad_batches: int = 1
    """Batches whose gradients are added before a step."""
    gradient_clip_val: float | None = None
    """Clip gradients at this norm or value."""
    gradient_clip_algorithm: Literal["norm", "value"] | None = None
    """How gradients are clipped."""
    deterministic: bool | None = None
    """Use deterministic GPU algorithms."""
    benchmark: bool | None = None
    """cuDNN benchmark mode."""
    profiler: str | None = None
    """simple, advanced or pytorch."""
    detect_anomaly: bool = False
    """autograd anomaly detection: slow, names the operation that made a NaN."""
    sync_batchnorm: bool = False
    """Share batch-norm statistics between processes."""

    def arguments(self) -> dict[str, Any]:
        """Keyword arguments for the Trainer; whole numbers given for share-or-number flags become ints.

        Raises:
            InputError: numbers that Lightning accepts and then fails on, or that mean nothing.
        """
        smallest = {"accumulate_grad_batches": 1, "log_every_n_steps": 1, "gradient_clip_val": 0}
        for name, bound in {**smallest, "max_epochs": -1, "max_steps": -1}.items():
            given = getattr(self, name)
            if given is not None and given < bound:
                raise InputError(f"--{name} {given}: give at least {bound}")
        values = {item.name: getattr(self, item.name) for item in fields(self)}
        for name in ("limit_train_batches", "limit_val_batches", "overfit_batches", "val_check_interval"):
            value = values[name]
            if value is not None and value > 1 and float(value).is_integer():
                values[name] = int(value)
        if values["devices"].lstrip("-").isdigit():
            values["devices"] = int(values["devices"])
        return values


def resolve_gpus(gpus: int | None, trainer: dict[str, Any], cuda_devices: int) -> dict[str, Any]:
    """Merge ``--gpus`` into the Trainer arguments.

    Args:
        gpus: The flag's value, or None when it was not given.
        trainer: Keyword arguments of the Trainer.
        cuda_devices: CUDA devices that torch sees.

    Raises:
        InputError: GPUs asked for that are not there, or a contradiction with --accelerator / --devices.
    """
    if gpus is not None and gpus < -1:
        raise InputError(f"--gpus {gpus}: give the number of GPUs, 0 for the CPU, or -1 for all")
    wants_gpu = (gpus or 0) != 0 or trainer["accelerator"] in ("gpu", "cuda")
    if wants_gpu and cuda_devices == 0:
        flag = f"--gpus {gpus}" if gpus else f"--accelerator {trainer['accelerator']}"
        raise InputError(f"{flag}: torch sees no CUDA device here; check the driver (nvidia-smi), or use --gpus 0")
    if gpus is None:
        return trainer
    if gpus > cuda_devices:
        raise InputError(f"--gpus {gpus}: torch sees {cuda_devices} CUDA device(s); use --gpus {cuda_devices} or -1")
    if trainer["accelerator"] != "auto" or (gpus and trainer["devices"] != "auto"):
        raise InputError("--gpus and --accelerator/--devices say the same thing twice: give only one of them")
    if gpus == 0:
        return {**trainer, "accelerator": "cpu"}
    return {**trainer, "accelerator": "gpu", "devices": gpus}
