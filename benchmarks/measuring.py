"""How the benchmarks beside this file are run, timed and written down.

A benchmark is a file ``<method>_<step>.py``, whose function ``build(tiny)`` makes its data and gives a `Benchmark`.
"""

import ctypes
import gc
import importlib
import math
import platform
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from multiprocessing import get_context
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any, Literal

import cv2
import torch
from threadpoolctl import threadpool_limits

from common.errors import InputError
from common.provenance import Provenance

if TYPE_CHECKING:
    from run import BenchOptions

Form = Literal["textbook", "ours"]
SHORTEST_S = 0.05  # calls are repeated up to this time, so that the clock's steps do not show
HERE = Path(__file__).parent


@dataclass(frozen=True)
class Benchmark:
    """One step in two forms that give the same.

    Attributes:
        step: What is measured, with its sizes.
        textbook: The step as the paper's reader would write it.
        ours: The same by this project's function.
        check: Raises AssertionError unless the two results, in this order, are equal.
        frames: Frames that one call handles, where throughput matters.
    """

    step: str
    textbook: Callable[[], Any]
    ours: Callable[[], Any]
    check: Callable[[Any, Any], None]
    frames: int | None = None


@dataclass(frozen=True)
class Row:
    """One line of the table; times in milliseconds, memory in megabytes (None where it cannot be measured)."""

    name: str
    step: str
    textbook_ms: float
    ours_ms: float
    ratio: float
    ratio_min: float
    ratio_max: float
    textbook_mb: float | None
    ours_mb: float | None
    frames_per_s: float | None


def names() -> list[str]:
    """All benchmarks."""
    return sorted(file.stem for file in HERE.glob("*_*.py"))


def build(name: str, tiny: bool) -> Benchmark:
    """The benchmark of a name, with its data made."""
    torch.manual_seed(0)
    benchmark: Benchmark = importlib.import_module(name).build(tiny)
    return benchmark


def measure_all(options: "BenchOptions") -> None:
    """Run the chosen benchmarks, print the table and write it.

    Raises:
        InputError: An unknown name, or a number below one.
    """
    for name in options.only:
        if name not in names():
            raise InputError(f"--only {name}: no such benchmark, choose from {', '.join(names())}")
    if min(options.repeats, options.threads) < 1:
        raise InputError(f"--repeats {options.repeats} --threads {options.threads}: give numbers from 1 on")
    facts = Provenance(processor=processor(), threads=options.threads, repeats=options.repeats, tiny=options.tiny)
    print(f"{facts.facts['processor']}, {options.threads} thread(s), commit {facts.facts['commit']}\n")
    print(HEADER)
    rows = []
    for name in options.only or names():
        rows.append(measure(name, options))
        print(line(rows[-1]), flush=True)
    facts.write(options.out, rows=[asdict(row) for row in rows])
    print(f"\n{options.out}")


def measure(name: str, options: "BenchOptions") -> Row:
    """Compare the two forms of a benchmark, then time them in turn and take their memory."""
    with limited_threads(options.threads):
        benchmark = build(name, options.tiny)
        benchmark.check(benchmark.textbook(), benchmark.ours())
        counts = [calls_for(form) for form in (benchmark.textbook, benchmark.ours)]
        pairs = [
            (seconds(benchmark.textbook, counts[0]), seconds(benchmark.ours, counts[1])) for _ in range(options.repeats)
        ]
    ratios = [textbook / ours for textbook, ours in pairs]
    ours_s = median(ours for _, ours in pairs)
    return Row(
        name=name,
        step=benchmark.step,
        textbook_ms=1e3 * median(textbook for textbook, _ in pairs),
        ours_ms=1e3 * ours_s,
        ratio=median(ratios),
        ratio_min=min(ratios),
        ratio_max=max(ratios),
        textbook_mb=memory(name, "textbook", options),
        ours_mb=memory(name, "ours", options),
        frames_per_s=benchmark.frames / ours_s if benchmark.frames else None,
    )


def limited_threads(threads: int) -> threadpool_limits:
    """Set the threads of PyTorch and OpenCV, and those of NumPy until the context ends."""
    torch.set_num_threads(threads)
    cv2.setNumThreads(threads)
    return threadpool_limits(threads)


def seconds(call: Callable[[], Any], count: int) -> float:
    """Seconds of one call, the mean of ``count``."""
    start = time.perf_counter()
    for _ in range(count):
        call()
    return (time.perf_counter() - start) / count


def calls_for(call: Callable[[], Any]) -> int:
    """How many calls make a measurement that is long enough."""
    return max(1, math.ceil(SHORTEST_S / seconds(call, 1)))


def memory(name: str, form: Form, options: "BenchOptions") -> float | None:
    """Peak memory of one call (MB) above that before it, in a fresh process; None without Linux's /proc."""
    if not Path("/proc/self/clear_refs").exists():
        return None
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(peak_memory, name, form, options.tiny, options.threads).result()


def peak_memory(name: str, form: Form, tiny: bool, threads: int) -> float:
    """`memory` of this process."""
    with limited_threads(threads):
        getattr(build(name, True), form)()  # loads the libraries' code
        call = getattr(build(name, tiny), form)
        gc.collect()
        ctypes.CDLL(None).malloc_trim(0)  # freed memory that is kept would serve the call unseen
        Path("/proc/self/clear_refs").write_text("5")  # the peak starts again at what is resident now
        before = status_mb("VmRSS")
        call()
        return status_mb("VmHWM") - before


def status_mb(key: str) -> float:
    """A line of /proc/self/status in megabytes."""
    for text in Path("/proc/self/status").read_text().splitlines():
        if text.startswith(key + ":"):
            return int(text.split()[1]) / 1024
    raise KeyError(key)


def processor() -> str:
    """The processor's name."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    found = [text.split(":", 1)[1].strip() for text in lines if text.startswith("model name")]
    return found[0] if found else platform.processor() or platform.machine()


HEADER = (
    f"{'benchmark':<20} {'textbook ms':>11} {'ours ms':>9} {'ratio':>7} {'min - max':>15} "
    f"{'MB':>7} {'ours':>6} {'frames/s':>8}  step"
)


def line(row: Row) -> str:
    """One line of the printed table."""
    spread = f"{row.ratio_min:.2f} - {row.ratio_max:.2f}"
    textbook_mb, ours_mb = ("-" if mb is None else f"{mb:.1f}" for mb in (row.textbook_mb, row.ours_mb))
    frames = "" if row.frames_per_s is None else f"{row.frames_per_s:.2f}"
    return (
        f"{row.name:<20} {row.textbook_ms:>11.2f} {row.ours_ms:>9.2f} {row.ratio:>7.2f} {spread:>15} "
        f"{textbook_mb:>7} {ours_mb:>6} {frames:>8}  {row.step}"
    )
