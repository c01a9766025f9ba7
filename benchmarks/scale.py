"""What a long split costs: ``python -m benchmarks.scale`` predicts splits of 1,000 to 200,000 rows.

For each command and number of rows: seconds until the first item stands, and peak resident memory until then; the
command is then stopped. With ``wnet`` also the same command where every item stands already, which writes the
prediction split only; and the doctor and the scores of that split. Rows name few distinct tiny pictures by links.

Writes ``scale.json`` and ``scale.png`` into --out and prints a table.
"""

import json
import os
import resource
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path

from common import cli
from common.errors import RunFailed
from common.files import atomic_path
from common.messages import tell

ROOT = Path(__file__).resolve().parents[1]
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}


@dataclass(frozen=True, kw_only=True)
class ScaleOptions:
    """What is measured."""

    rows: list[int] = field(default_factory=lambda: [1_000, 10_000, 50_000, 200_000])
    """Rows of the splits."""
    only: list[str] = field(default_factory=lambda: ["wnet", "redo", "stflow", "ast", "maskdistill-masks"])
    """Commands, by their names in the contract tests."""
    whole: int = 50_000
    """Largest split that the doctor and the scores read all files of."""
    out: Path = Path("runs/scale")
    """Folder for data, networks, predictions and results; what is measured already is not measured again."""


@dataclass(frozen=True)
class Cost:
    """One line of the table.

    Attributes:
        command: Which.
        step: ``first item``, ``nothing left``, ``doctor`` or ``scores``.
        rows: Of the split.
        seconds: By the clock.
        cpu_s: Of the process.
        peak_mb: Resident.
    """

    command: str
    step: str
    rows: int
    seconds: float
    cpu_s: float
    peak_mb: float


def scale(options: ScaleOptions) -> int:
    """Measure what splits of many rows cost."""
    from tests.contract.predictions import named

    options.out.mkdir(parents=True, exist_ok=True)
    file = options.out / "scale.json"
    costs = [Cost(**line) for line in json.loads(file.read_text())] if file.exists() else []
    known = {(cost.command, cost.rows) for cost in costs}
    for prediction in named(*options.only):
        folder = (options.out / prediction.name).absolute()
        if not (folder / "data").exists():
            folder.mkdir(parents=True)
            prediction.train(folder)
        for rows in options.rows:
            if (prediction.name, rows) in known:
                continue
            data = prediction.data(folder / "data", rows)
            out = folder / f"out{rows}"
            line = prediction.command(folder, data, out, "--accelerator", "cpu", "--devices", "1")
            costs.append(measured(line, prediction.name, "first item", rows, partial(prediction.count, out)))
            tell(str(costs[-1]))
            if prediction.name == "wnet":
                costs += after_the_last(line, data, out, rows, options)
            with atomic_path(file) as temporary:
                temporary.write_text(json.dumps([asdict(cost) for cost in costs], indent=1) + "\n")
    draw(costs, options.out / "scale.png")
    print(table(costs))
    return cli.DONE


def after_the_last(line: list[str], data: list[str], out: Path, rows: int, options: ScaleOptions) -> Iterable[Cost]:
    """The command with every item there, the doctor, and the scores against the predictions themselves."""
    from common.splits import read_split, write_split
    from transformer_seg.prediction import OutputFiles

    split = read_split(data[1], base_dir=data[3])
    files = OutputFiles(split, out)
    first = next(out.glob("Pred/**/*.png"))
    for row in range(len(split)):
        target = files.of(row, "Pred")
        if not target.exists():
            target.parent.mkdir(parents=True, exist_ok=True)
            target.symlink_to(first)
    yield measured(line, "wnet", "nothing left", rows)
    if rows > options.whole:
        return
    predicted = read_split(out / f"{split.name}.csv", base_dir=data[3])
    file = write_split(out / "scored.csv", predicted.frame.assign(GtSemantic=predicted.column("Pred"))).file
    common = [str(file), "--base_dir", data[3]]
    yield measured([sys.executable, str(ROOT / "common" / "check.py"), *common], "check", "doctor", rows, codes=(0, 1))
    scored = [*common, "--out", str(out / "scores"), "--num_classes", "8"]
    yield measured([sys.executable, str(ROOT / "common" / "evaluate.py"), *scored], "evaluate", "scores", rows)


def measured(
    line: Sequence[str],
    command: str,
    step: str,
    rows: int,
    count: Callable[[], int] | None = None,
    codes: Sequence[int] = (0,),
) -> Cost:
    """Run a command to its end or, with ``count``, until something counts.

    Raises:
        RunFailed: The command failed.
    """
    start, seconds, peak_kb = time.monotonic(), None, 0
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    with tempfile.TemporaryFile("w+") as errors:
        process = subprocess.Popen(line, env=ENVIRONMENT, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=errors)
        while process.poll() is None:
            peak_kb = max(peak_kb, highest_resident_kb(process.pid))
            if count is not None and count():
                seconds = time.monotonic() - start
                process.kill()
                process.wait()
            time.sleep(0.02)
        errors.seek(0)
        said = errors.read().strip()
    if process.returncode not in ((-signal.SIGKILL,) if count is not None else codes):
        raise RunFailed(f"{' '.join(line[1:3])}: ended with {process.returncode}: {said[-300:]}")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    seconds = time.monotonic() - start if seconds is None else seconds
    return Cost(command, step, rows, round(seconds, 2), round(cpu, 2), round(peak_kb / 1024))


def highest_resident_kb(pid: int) -> int:
    """Peak resident memory of a process so far; what ``wait`` tells counts its parent's at the fork too."""
    with suppress(OSError):
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1])
    return 0


def table(costs: Sequence[Cost]) -> str:
    """A line per command and step, a column per number of rows."""
    sizes = sorted({cost.rows for cost in costs})
    lines = []
    for command, step in dict.fromkeys((cost.command, cost.step) for cost in costs):
        found = {cost.rows: cost for cost in costs if (cost.command, cost.step) == (command, step)}
        cells = [f"{found[n].cpu_s:.1f} s, {found[n].peak_mb:.0f} MB" if n in found else "" for n in sizes]
        lines.append([command, step, *cells])
    lines = [["command", "until", *(f"{n:,} rows" for n in sizes)], ["---"] * (2 + len(sizes)), *lines]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def draw(costs: Sequence[Cost], file: Path) -> None:
    """CPU seconds and peak memory over rows, a line per command and step."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, (left, right) = pyplot.subplots(1, 2, figsize=(12, 4.5), layout="constrained")
    for command, step in dict.fromkeys((cost.command, cost.step) for cost in costs):
        found = sorted(
            (cost.rows, cost.cpu_s, cost.peak_mb) for cost in costs if (cost.command, cost.step) == (command, step)
        )
        rows, cpu, peak = zip(*found, strict=True)
        left.plot(rows, cpu, marker="o", label=f"{command}, {step}")
        right.plot(rows, peak, marker="o")
    left.set(xlabel="rows", ylabel="CPU seconds", title="Until the step named is reached", xscale="log", yscale="log")
    right.set(xlabel="rows", ylabel="MB", title="Peak resident memory", xscale="log", ylim=(0, 2100))
    right.axhline(2000, color="grey", linestyle="--")
    left.legend(fontsize=8)
    with atomic_path(file) as temporary:
        figure.savefig(temporary, dpi=110)
    pyplot.close(figure)


if __name__ == "__main__":
    raise SystemExit(cli.command(scale, ScaleOptions, prog="scale.py"))
