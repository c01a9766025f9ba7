"""Every method on the data it suits, one table: ``python benchmarks/results.py`` writes RESULTS.md.

    python benchmarks/results.py --data DATA               # all rows of results.yaml
    python benchmarks/results.py --only stflow redo        # some methods, printed only

A row is a command of a method in a process of its own, on one thread; two run at a time (``--jobs``). Beside its scores
stand its minutes of processor time (other work on the machine does not change them), the peak resident memory of its
largest process and the number of weights in its checkpoints. A row that is done is not run again until its folder is
removed; one that was stopped begins anew, for true minutes.
"""

import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from common import cli
from common.errors import InputError, RunFailed

ROOT = Path(__file__).resolve().parents[1]
RECIPES = Path(__file__).with_name("results.yaml")
WHAT = ("method", "data", "score", "value", "items", "matching", "mean over")
COLUMNS = (*WHAT, "CPU minutes", "memory, MB", "weights")


@dataclass(frozen=True, kw_only=True)
class ResultOptions:
    """What is run, and where the table goes."""

    only: list[str] = field(default_factory=list)
    """Methods to run; the table is then printed and not written."""
    data: Path = Path("../shared/data")
    """Folder of the real samples; rows whose data are not there are left out."""
    out: Path = Path("runs/compare")
    """Folder of the runs."""
    table: Path = Path("RESULTS.md")
    """File to write."""
    jobs: int = 2
    """Commands at a time, one thread each."""
    recipes: Path = RECIPES
    """The rows."""


@dataclass(frozen=True)
class Recipe:
    """A row to be: see results.yaml."""

    method: str
    data: str
    run: str
    shown: list[str]
    needs: str | None = None
    prepare: list[str] = field(default_factory=list)
    panels: str = "."

    @property
    def folder(self) -> str:
        """Name of the row's folder."""
        return f"{self.method} {self.data}".replace(" ", "-").lower()


@dataclass(frozen=True)
class Row:
    """A row that was run.

    Attributes:
        recipe: What.
        scores: The scores of the table, as ``common.metrics.protocol`` stores them.
        facts: ``cpu_minutes``, ``peak_mb``, ``weights`` and the ``commit``.
    """

    recipe: Recipe
    scores: list[Any]
    facts: Mapping[str, Any]


def results(options: ResultOptions) -> int:
    """Run every method on the data it suits and write one table."""
    from picture import write_picture

    from common.files import atomic_path

    recipes = read_recipes(options.recipes)
    unknown = sorted(set(options.only) - {recipe.method for recipe in recipes})
    if unknown:
        known = ", ".join(sorted({recipe.method for recipe in recipes}))
        raise InputError(f"--only {unknown[0]}: no such method in {options.recipes}; known are {known}")
    if options.jobs < 1:
        raise InputError(f"--jobs {options.jobs}: give at least 1")
    wanted = [recipe for recipe in recipes if not options.only or recipe.method in options.only]
    present = [recipe for recipe in wanted if recipe.needs is None or (options.data / recipe.needs).exists()]
    absent = [recipe for recipe in wanted if recipe not in present]
    with ThreadPoolExecutor(options.jobs) as pool:
        tasks = [pool.submit(measured, recipe, options) for recipe in present]
        try:
            rows = [task.result() for task in tasks]
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)  # what runs ends, nothing else begins
            raise
    text = page(rows, absent)
    if options.only:
        print(text)
        return cli.DONE
    picture = options.table.parent / "docs" / "results.jpg"
    write_picture(
        {
            f"{row.recipe.method}: {row.recipe.data}": options.out / row.recipe.folder / row.recipe.panels
            for row in rows
            if not row.recipe.needs  # pictures of others are not ours to show
        },
        picture,
    )
    with atomic_path(options.table) as temporary:
        temporary.write_text(text, encoding="utf-8")
    print(f"{options.table}\n{picture}")
    return cli.DONE


def read_recipes(file: Path) -> list[Recipe]:
    """The rows of a recipe file.

    Raises:
        InputError: Not such a file.
    """
    import yaml

    try:
        return [Recipe(**entry) for entry in yaml.safe_load(file.read_text(encoding="utf-8"))]
    except (OSError, TypeError, yaml.YAMLError) as error:
        raise InputError(f"{file}: not a list of rows ({' '.join(str(error).split())})") from error


def measured(recipe: Recipe, options: ResultOptions) -> Row:
    """Run a row, or read it when it is done.

    Raises:
        RunFailed: The command ended with an error; its output is in ``log.txt``.
    """
    import json

    from common.files import atomic_path
    from common.metrics.protocol import read_scores
    from common.provenance import git_commit

    out = (options.out / recipe.folder).resolve()
    done = out / "measured.json"
    if not done.exists():
        shutil.rmtree(out, ignore_errors=True)
        out.mkdir(parents=True)
        for line in recipe.prepare:
            execute(line, out, options.data)
        facts = execute(recipe.run, out, options.data)
        facts |= {"weights": count_weights(out), "commit": git_commit(ROOT)}
        with atomic_path(done) as temporary:
            temporary.write_text(json.dumps(facts, indent=2) + "\n")
    by_name = {score.name: score for score in read_scores(out / "scores.json")}
    missing = [name for name in recipe.shown if name not in by_name]
    if missing:
        raise RunFailed(f"{out / 'scores.json'}: no score {missing[0]!r}; there are {', '.join(sorted(by_name))}")
    return Row(recipe, [by_name[name] for name in recipe.shown], json.loads(done.read_text()))


def execute(line: str, out: Path, data: Path) -> dict[str, Any]:
    """Run a command of the project on one thread, and give its minutes and peak memory.

    Raises:
        RunFailed: It ended with an error.
    """
    command = [part.format(out=out, data=data.resolve()) for part in shlex.split(line)]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "ast")])}
    print(" ".join(["python", *command]), flush=True)
    with (out / "log.txt").open("a") as log:
        process = subprocess.Popen(
            [sys.executable, *command], cwd=ROOT, stdout=log, stderr=subprocess.STDOUT, env=environment
        )
        _, status, usage = os.wait4(process.pid, 0)
    code = process.returncode = os.waitstatus_to_exitcode(status)
    if code != 0:
        raise RunFailed(f"{command[0]} ended with {code}; see {out / 'log.txt'}")
    return {
        "cpu_minutes": (usage.ru_utime + usage.ru_stime) / 60,
        "peak_mb": usage.ru_maxrss / 1024,
    }


def count_weights(out: Path) -> int:
    """Numbers in the last checkpoints below a folder: trained ones, and whatever else a network needs."""
    import torch

    count = 0
    for file in sorted(out.rglob("checkpoints/last.ckpt")):
        state = torch.load(file, map_location="cpu", weights_only=True, mmap=True)["state_dict"]
        count += sum(value.numel() for value in state.values() if value.is_floating_point())
    return count


def page(rows: Sequence[Row], absent: Iterable[Recipe]) -> str:
    """RESULTS.md as text."""
    import torch

    from common.metrics.protocol import value_text

    commits = sorted({str(row.facts["commit"]) for row in rows})
    lines = [
        "# Results",
        "",
        "Written by `make compare`; every row is one command on one thread, with its minutes of processor time.",
        f"Commit {', '.join(commits)}; torch {torch.__version__}, {machine()}.",
        "",
        "In brackets: 95 % bootstrap intervals over images or sequences. *Oracle*: ground truth chose among segments.",
        "Memory is the peak of the largest process; weights are all numbers in the checkpoints, of all networks.",
        "What stands beside a method (`baseline_`, `kmeans_`, ...) is scored by the same rule on the same frames.",
        "",
        "| " + " | ".join(COLUMNS) + " |",
        "|---" * len(COLUMNS) + "|",
    ]
    for row in rows:
        facts = row.facts
        for position, score in enumerate(row.scores):
            rule = score.protocol
            told = [f"{score.name}{' (oracle)' if rule.oracle else ''}", value_text(score), score.n, rule.matching]
            told.append(rule.averaging)
            if position == 0:
                cost = [f"{facts['cpu_minutes']:.1f}", f"{facts['peak_mb']:.0f}"]
                cells = [row.recipe.method, row.recipe.data, *told, *cost, f"{facts['weights']:,}"]
            else:
                cells = ["", "", *told, "", "", ""]
            lines.append("| " + " | ".join(map(str, cells)) + " |")
    left = [f"{recipe.method} on {recipe.data} (`{recipe.needs}`)" for recipe in absent]
    lines += ["", f"Left out, their data were not there: {', '.join(left)}."] if left else []
    lines += ["", "The commands:", ""]
    for row in rows:
        shown = (line.format(out="OUT", data="DATA") for line in (*row.recipe.prepare, row.recipe.run))
        lines += [f"    python {line}" for line in shown]
    return "\n".join(lines) + "\n"


def machine() -> str:
    """Processor and number of cores."""
    import platform

    names = [line.split(":", 1)[1].strip() for line in _cpuinfo() if line.startswith("model name")]
    return f"{names[0] if names else platform.machine()}, {os.cpu_count()} cores"


def _cpuinfo() -> list[str]:
    file = Path("/proc/cpuinfo")
    return file.read_text(encoding="utf-8").splitlines() if file.exists() else []


def main(argv: list[str] | None = None) -> int:
    """Entry point."""
    return cli.command(results, ResultOptions, argv=argv, prog="results.py")


if __name__ == "__main__":
    raise SystemExit(main())
