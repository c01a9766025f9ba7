"""Measure the hot steps of every method beside their textbook form: one table, kept as JSON.

python benchmarks/run.py [--only stflow_theta ...] [--out runs/benchmarks.json] [--repeats 5]
"""

from dataclasses import dataclass, field
from pathlib import Path

from common import cli


@dataclass(frozen=True, kw_only=True)
class BenchOptions:
    """What to measure, and how often."""

    only: list[str] = field(default_factory=list)
    """Benchmarks to run, by file name without .py; all by default."""
    out: Path = Path("runs/benchmarks.json")
    """JSON file with the table and where it comes from."""
    repeats: int = 5
    """Pairs of measurements, textbook form and ours in turn."""
    threads: int = 1
    """Threads of PyTorch, NumPy and OpenCV."""
    tiny: bool = False
    """Tiny sizes, to see that everything runs; the times mean nothing."""


def bench(options: BenchOptions) -> None:
    """Measure the hot steps of every method beside their textbook form.

    Both forms are first compared: a benchmark whose results differ stops the run. Times are wall clock; the ratio is
    the median over pairs of runs one after the other. Memory is the peak resident memory above that before the call,
    of a single call in a process of its own.
    """
    from measuring import measure_all

    measure_all(options)


def main(argv: list[str] | None = None) -> int:
    """Entry point."""
    return cli.command(bench, BenchOptions, argv=argv, prog="run.py")


if __name__ == "__main__":
    raise SystemExit(main())
