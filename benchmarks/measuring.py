"""How the benchmarks beside this file are run, timed and written down.

A benchmark is a file ``<method>_<step>.py``, whose function ``build(tiny)`` makes its data and gives a `Benchmark`.
"""

import ctypes
import gc
import importlib
import json
import math
import os
import platform
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from itertools import pairwise
from multiprocessing import get_context
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import cv2
import torch
from ceilings import Ceilings, Flops, machine_ceilings, matrix_flops
from table import HEADER, Row, line
from threadpoolctl import threadpool_limits

from common.errors import InputError
from common.provenance import Provenance

if TYPE_CHECKING:
    from run import BenchOptions

Form = Literal["textbook", "ours"]
SHORTEST_S = 0.05  # calls are repeated up to this time, so that the clock's steps do not show
HERE = Path(__file__).parent
REFERENCE = HERE / "reference.json"  # a whole run that was kept


@dataclass(frozen=True)
class Benchmark:
    """One step in two forms that give the same.

    Attributes:
        step: What is measured, with its sizes.
        textbook: The step as the paper's reader would write it; None where only the time of ours says something.
        ours: The same by this project's function.
        check: Raises AssertionError unless the two results, in this order, are equal; of None and ours, unless it is
            right.
        frames: Images that one call handles, where throughput matters.
        least_bytes: What a call of ours cannot do without reading or writing: its inputs and outputs, each once.
        other_processes: Whether ours leaves work to them.
    """

    step: str
    textbook: Callable[[], Any] | None
    ours: Callable[[], Any]
    check: Callable[[Any, Any], None]
    frames: int | None = None
    least_bytes: int | None = None
    other_processes: bool = False


class Taken(NamedTuple):
    """Seconds of one call."""

    clock: float
    cpu: float
    """Of all threads of this process."""


class Measured(NamedTuple):
    """What the process that timed a benchmark gives back; the first four are the benchmark's own."""

    step: str
    frames: int | None
    least_bytes: int | None
    other_processes: bool
    flops: Flops | None
    textbook: list[Taken]
    ours: list[Taken]


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
    load = [os.getloadavg()[0]]
    facts = Provenance(processor=processor(), threads=options.threads, repeats=options.repeats, tiny=options.tiny)
    print(f"{facts.facts['processor']}, {options.threads} thread(s), commit {facts.facts['commit']}")
    with limited_threads(options.threads):
        ceilings = machine_ceilings(options.tiny)
    print(
        f"ceilings: products {ceilings.product_gflop_s:.0f} GFLOP/s, convolutions {ceilings.convolution_gflop_s:.0f} "
        f"GFLOP/s, copies {ceilings.copy_gb_s:.1f} GB/s\n"
    )
    print(HEADER)
    rows, before = [], reference_ratios()
    for name in options.only or names():
        rows.append(measure(name, ceilings, options))
        print(line(rows[-1], before.get(name)), flush=True)
    load.append(os.getloadavg()[0])
    facts.write(options.out, ceilings=asdict(ceilings), load_average=load, rows=[asdict(row) for row in rows])
    print(f"\n{options.out}")


def reference_ratios() -> dict[str, float | None]:
    """Ratio of each benchmark in the run that was kept."""
    if not REFERENCE.exists():
        return {}
    return {row["name"]: row["ratio"] for row in json.loads(REFERENCE.read_text())["rows"]}


def measure(name: str, ceilings: Ceilings, options: "BenchOptions") -> Row:
    """Compare the two forms of a benchmark, time them in turn and take their memory, in processes of their own."""
    measured = in_fresh_process(time_forms, name, options.tiny, options.threads, options.repeats)
    forms: list[Form] = ["textbook", "ours"] if measured.textbook else ["ours"]
    memory = {form: in_fresh_process(peak_memory, name, form, options.tiny, options.threads) for form in forms}
    return row_of(name, measured, memory, ceilings)


def in_fresh_process(function: Callable[..., Any], *arguments: Any) -> Any:
    """Call in a process in which nothing has been computed: what one benchmark leaves behind changes no other."""
    context = get_context("forkserver")  # loads the libraries once
    context.set_forkserver_preload(["common.prediction", "cv2", "scipy.ndimage", "sklearn.metrics", "torchvision"])
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        return pool.submit(function, *arguments).result()


def time_forms(name: str, tiny: bool, threads: int, repeats: int) -> Measured:
    """Compare and time the two forms of a benchmark here."""
    with limited_threads(threads):
        benchmark = build(name, tiny)
        textbook, ours = benchmark.textbook, benchmark.ours
        flops, first = compare(benchmark)
        counts = [calls_for(form, once) if form else 0 for form, once in zip((textbook, ours), first, strict=True)]
        theirs: list[Taken] = []
        own: list[Taken] = []
        for _ in range(repeats):
            if textbook:
                theirs.append(taken(textbook, counts[0]))
            own.append(taken(ours, counts[1]))
    facts = (benchmark.step, benchmark.frames, benchmark.least_bytes, benchmark.other_processes)
    return Measured(*facts, flops, theirs, own)


def row_of(name: str, measured: Measured, memory: dict[Form, float | None], ceilings: Ceilings) -> Row:
    """The line of a benchmark."""
    theirs, own, flops, moved = measured.textbook, measured.ours, measured.flops, measured.least_bytes
    ratios = [one.clock / other.clock for one, other in zip(theirs, own, strict=bool(theirs))]
    by_cpu = [one.cpu / other.cpu for one, other in zip(theirs, own, strict=bool(theirs))]
    clock_s, cpu_s = (median(column) for column in zip(*own, strict=True))
    return Row(
        name=name,
        step=measured.step,
        textbook_ms=1e3 * median(one.clock for one in theirs) if theirs else None,
        ours_ms=1e3 * clock_s,
        ratio=median(ratios) if theirs else None,
        ratio_min=min(ratios, default=None),
        ratio_max=max(ratios, default=None),
        cpu_ratio=median(by_cpu) if theirs and not measured.other_processes else None,
        textbook_cpu_ms=1e3 * median(one.cpu for one in theirs) if theirs else None,
        ours_cpu_ms=1e3 * cpu_s,
        textbook_mb=memory.get("textbook"),
        ours_mb=memory["ours"],
        frames_per_s=measured.frames / clock_s if measured.frames else None,
        product_gflop=1e-9 * flops.products if flops else None,
        convolution_gflop=1e-9 * flops.convolutions if flops else None,
        compute_share=ceilings.compute_seconds(flops) / cpu_s if flops else None,
        copy_share=1e-9 * moved / cpu_s / ceilings.copy_gb_s if moved else None,
    )


def compare(benchmark: Benchmark) -> tuple[Flops | None, list[float]]:
    """Check that both forms give the same; gives `matrix_flops` of ours, and the seconds of these first calls."""
    results: list[Any] = []
    marks = [time.perf_counter()]
    results.append(benchmark.textbook() if benchmark.textbook else None)
    marks.append(time.perf_counter())
    flops = matrix_flops(lambda: results.append(benchmark.ours()))
    marks.append(time.perf_counter())
    benchmark.check(*results)
    return flops, [end - start for start, end in pairwise(marks)]


def limited_threads(threads: int) -> threadpool_limits:
    """Set the threads of PyTorch and OpenCV, and those of NumPy until the context ends."""
    torch.set_num_threads(threads)
    cv2.setNumThreads(threads)
    return threadpool_limits(threads)


def taken(call: Callable[[], Any], count: int) -> Taken:
    """Seconds of one call, the mean of ``count``."""
    start = Taken(time.perf_counter(), time.process_time())
    for _ in range(count):
        call()
    return Taken((time.perf_counter() - start.clock) / count, (time.process_time() - start.cpu) / count)


def calls_for(call: Callable[[], Any], first: float) -> int:
    """How many calls make a measurement that is long enough; a second one tells, unless the first was far longer."""
    if first > 20 * SHORTEST_S:
        return 1
    return max(1, math.ceil(SHORTEST_S / taken(call, 1).clock))


def peak_memory(name: str, form: Form, tiny: bool, threads: int) -> float | None:
    """Peak memory of one call (MB) above that before it; None without Linux's /proc."""
    if not Path("/proc/self/clear_refs").exists():
        return None
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
