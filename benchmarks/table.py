"""The table of the benchmarks: what a line holds, and how it is printed."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Row:
    """One line of the table; times in milliseconds, memory in megabytes, None where there is no such number.

    Attributes:
        ratio: By the clock: median over the pairs, then the least and the greatest.
        cpu_ratio: The same median of processor time, which other programs on the machine hardly change; not of steps
            that other processes do.
        product_gflop: Billions of additions and multiplications in the products of ours.
        convolution_gflop: In its convolutions.
        compute_share: Share of ours' processor time that they would take at the machine's ceilings.
        copy_share: Share that the bytes it must move would take.
    """

    name: str
    step: str
    textbook_ms: float | None
    ours_ms: float
    ratio: float | None
    ratio_min: float | None
    ratio_max: float | None
    cpu_ratio: float | None
    textbook_cpu_ms: float | None
    ours_cpu_ms: float
    textbook_mb: float | None
    ours_mb: float | None
    frames_per_s: float | None
    product_gflop: float | None
    convolution_gflop: float | None
    compute_share: float | None
    copy_share: float | None


HEADER = (
    f"{'benchmark':<30} {'textbook ms':>11} {'ours ms':>9} {'ratio':>7} {'min - max':>15} {'CPU':>7} {'kept':>6} "
    f"{'MB':>7} {'ours':>6} {'images/s':>8} {'compute':>7} {'copy':>6}  step"
)


def line(row: Row, kept: float | None) -> str:
    """One line of the printed table; ``kept`` is the ratio of the run that was kept."""
    spread = "-" if row.ratio_min is None else f"{row.ratio_min:.2f} - {row.ratio_max:.2f}"
    return (
        f"{row.name:<30} {_number(row.textbook_ms):>11} {row.ours_ms:>9.2f} {_number(row.ratio):>7} {spread:>15} "
        f"{_number(row.cpu_ratio):>7} {_number(kept):>6} {_number(row.textbook_mb, 1):>7} {_number(row.ours_mb, 1):>6} "
        f"{_number(row.frames_per_s):>8} {_percent(row.compute_share):>7} {_percent(row.copy_share):>6}  {row.step}"
    )


def _number(value: float | None, digits: int = 2) -> str:
    return "-" if value is None else f"{value:.{digits}f}"


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:.1f}%"
