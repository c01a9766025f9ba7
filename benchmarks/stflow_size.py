"""Time over image size and number of segments: a table of its own, and one large window in ``benchmarks/run.py``.

python benchmarks/stflow_size.py [--sizes 64x112 128x224 256x448] [--masks 2 4 8] [--device cuda] [--out FILE]

A window of three fields gives one frame. Prediction is one forward pass; a training step is that, the motions' fit, the
loss, the backward pass and Adam.
"""

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

import torch
from measuring import Benchmark, limited_threads, processor
from stflow_step import textbook_network
from torch import Tensor

from common import cli
from common.errors import InputError
from common.provenance import Provenance
from stflow.module import MotionSegmenter
from stflow.options import ModelOptions, UNetOptions


@dataclass(frozen=True, kw_only=True)
class SizeOptions:
    """What to measure, and where."""

    sizes: list[str] = field(default_factory=lambda: ["64x112", "128x224", "256x448"])
    """Rows x columns of the windows."""
    masks: list[int] = field(default_factory=lambda: [2, 4, 8])
    """Numbers of segments."""
    features_start: int = 32
    """Channels of the network's first level."""
    batch_size: int = 2
    """Windows per batch."""
    repeats: int = 3
    """Measurements of each, whose median is shown."""
    device: str = "cpu"
    """cpu, cuda, ..."""
    threads: int = 1
    """Threads of PyTorch."""
    out: Path = Path("runs/sizes.json")
    """JSON file with the table and where it comes from."""


@dataclass(frozen=True)
class SizeRow:
    """One line of the table."""

    size: str
    masks: int
    prediction_ms: float
    """Of one window."""
    frames_per_s: float
    """That prediction gives."""
    training_ms: float
    """Of one window in a training step."""
    gpu_mb: float | None
    """Peak GPU memory of a training step."""


def build(tiny: bool) -> Benchmark:
    """Two windows of 3 x 256 x 448, eight segments, 32 features."""
    rows, columns, masks, features = (8, 12, 2, 4) if tiny else (256, 448, 8, 32)
    module, batch = _segmenter(rows, columns, masks, features, 2, torch.device("cpu"))
    network = textbook_network(module.model)

    def textbook() -> Tensor:
        with torch.no_grad():
            return network._layers(batch["flow"])[0].softmax(1)

    def ours() -> Tensor:
        with torch.inference_mode():
            return module.predict_step(batch, 0).proba

    def check(textbook: Tensor, ours: Tensor) -> None:
        torch.testing.assert_close(ours, textbook, rtol=1e-3, atol=1e-4)

    step = f"prediction of {tuple(batch['flow'].shape)}, {masks} segments, {features} features"
    return Benchmark(step, textbook, ours, check, frames=2)


def _segmenter(
    rows: int, columns: int, masks: int, features: int, windows: int, device: torch.device
) -> tuple[MotionSegmenter, dict[str, Any]]:
    options = ModelOptions(nAffineMasks=masks, unet=UNetOptions(features_start=features))
    torch.manual_seed(0)
    module = MotionSegmenter(options, img_size=(rows, columns)).to(device)
    return module, {"flow": 3 * torch.randn(windows, 2, 3, rows, columns, device=device)}


def size_row(size: str, masks: int, options: SizeOptions) -> SizeRow:
    """Time a prediction and a training step of one size."""
    device = torch.device(options.device)
    rows, columns = _sides(size)
    module, batch = _segmenter(rows, columns, masks, options.features_start, options.batch_size, device)
    optimizer = torch.optim.Adam(module.parameters(), lr=1e-4)

    def predict() -> None:
        with torch.inference_mode():
            module.predict_step(batch, 0)

    def train() -> None:
        optimizer.zero_grad()
        module.losses(module(batch["flow"]), batch["flow"]).total.mean().backward()
        optimizer.step()

    predicted = _seconds(predict, options.repeats, device) / options.batch_size
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    trained = _seconds(train, options.repeats, device) / options.batch_size
    peak = torch.cuda.max_memory_allocated(device) / 2**20 if device.type == "cuda" else None
    return SizeRow(size, masks, 1e3 * predicted, 1 / predicted, 1e3 * trained, peak)


def _sides(size: str) -> tuple[int, int]:
    rows, _, columns = size.partition("x")
    if not (rows.isdigit() and columns.isdigit() and min(int(rows), int(columns)) >= 4):
        raise InputError(f"--sizes {size}: give rows x columns of at least 4, e.g. 128x224")
    return int(rows), int(columns)


def _seconds(call: Callable[[], None], repeats: int, device: torch.device) -> float:
    """Median seconds of a call, after one that is not counted."""
    taken = []
    for _ in range(1 + repeats):
        start = time.perf_counter()
        call()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        taken.append(time.perf_counter() - start)
    return median(taken[1:])


def measure_sizes(options: SizeOptions) -> None:
    """Time prediction and training over image sizes and numbers of segments."""
    for name in ("features_start", "batch_size", "repeats", "threads"):
        if getattr(options, name) < 1:
            raise InputError(f"--{name} {getattr(options, name)}: give at least 1")
    if min(options.masks) < 1:
        raise InputError(f"--masks {min(options.masks)}: give at least 1")
    if options.device.startswith("cuda") and not torch.cuda.is_available():
        raise InputError(f"--device {options.device}: torch sees no CUDA device here; use cpu")
    for size in options.sizes:
        _sides(size)
    facts = Provenance(processor=processor(), threads=options.threads, repeats=options.repeats, device=options.device)
    print(
        f"{'size':>9} {'masks':>5} {'prediction ms':>13} {'frames/s':>8} {'training ms':>11} {'GPU MB':>7}   per window"
    )
    rows = []
    with limited_threads(options.threads):
        for size in options.sizes:
            for masks in options.masks:
                row = size_row(size, masks, options)
                memory = "-" if row.gpu_mb is None else f"{row.gpu_mb:.0f}"
                rows.append(row)
                print(
                    f"{size:>9} {masks:>5} {row.prediction_ms:>13.1f} {row.frames_per_s:>8.2f} "
                    f"{row.training_ms:>11.1f} {memory:>7}",
                    flush=True,
                )
    facts.write(options.out, rows=[asdict(row) for row in rows])
    print(f"\n{options.out}")


def main(argv: list[str] | None = None) -> int:
    """Entry point."""
    return cli.command(measure_sizes, SizeOptions, argv=argv, prog="stflow_size.py")


if __name__ == "__main__":
    raise SystemExit(main())
