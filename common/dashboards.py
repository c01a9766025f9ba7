"""Weights & Biases workspace and report as code, from what runs have logged.

    python common/dashboards.py runs/stflow --entity me --project unseg             a workspace for one method
    python common/dashboards.py runs/stflow runs/redo runs/wnet --entity me         one each, and a report on all
    python common/dashboards.py runs/stflow --dry_run                               only say what would be made

Metric names are ``stage/metric`` in every method, so a chart holds one metric with a line per stage, and one page fits
all methods: losses, scores, what else training tells, pictures. The names are read from ``metrics.csv`` and the
pictures from ``samples/``: nothing here has to be changed for a new method or metric. Runs are told apart by ``method``
in their configuration, which ``common.training.fit`` writes.
"""

import csv
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from common import cli
from common.errors import InputError

if TYPE_CHECKING:
    from wandb_workspaces.reports.v2 import Report
    from wandb_workspaces.workspaces import Workspace

STAGES = ("train", "val", "test")
NAME = re.compile(rf"({'|'.join(STAGES)})/([A-Za-z][A-Za-z0-9_]*)")
LOSS_WORDS = ("loss", "error", "ncut", "reconstruction")


@dataclass(frozen=True, kw_only=True)
class DashboardOptions:
    """Dashboards for runs that are, or will be, in Weights & Biases."""

    runs: list[Path] = field(default_factory=list, metadata={"positional": True})
    """Run directories, one per method; what they logged decides what is shown."""
    entity: str = ""
    """User or team in Weights & Biases; default that of the login."""
    project: str = "unseg"
    """Project in Weights & Biases."""
    dry_run: bool = False
    """Print what would be made, without a login or a network."""


@dataclass(frozen=True)
class Logged:
    """What a run has logged.

    Attributes:
        method: Name that the run's configuration holds.
        metrics: Names ``stage/metric`` in the order of ``metrics.csv``.
        pictures: Names of the sample pictures, ``samples/NAME`` in Weights & Biases.
    """

    method: str
    metrics: tuple[str, ...]
    pictures: tuple[str, ...]


def read_logged(run: Path) -> Logged:
    """What a run directory has logged.

    Raises:
        InputError: No metrics, or a name that is not ``stage/metric``.
    """
    table, provenance = run / "metrics.csv", run / "provenance.json"
    if not table.is_file():
        raise InputError(f"{run}: holds no metrics.csv; pass the directory of a training run")
    try:
        with table.open(encoding="utf-8", newline="") as file:
            names = next(csv.reader(file), [])
        facts = json.loads(provenance.read_text(encoding="utf-8")) if provenance.is_file() else {}
    except (OSError, ValueError) as error:
        raise InputError(f"{run}: its metrics.csv or provenance.json cannot be read ({error})") from error
    metrics = [name for name in names if name not in ("step", "epoch")]
    strange = next((name for name in metrics if not NAME.fullmatch(name)), None)
    if strange is not None or not metrics:
        raise InputError(f"{table}: {strange or 'no metric'!r} among its columns; metrics are named stage/metric")
    samples = sorted({re.sub(r"_epoch=\d+$", "", path.stem) for path in (run / "samples").glob("*.png")})
    method = facts.get("method") if isinstance(facts, dict) else None
    return Logged(str(method or run.resolve().name), tuple(metrics), tuple(f"samples/{name}" for name in samples))


def charts(metrics: Iterable[str]) -> dict[str, dict[str, list[str]]]:
    """Section -> chart -> metrics: ``train/loss`` and ``val/loss`` share the chart ``loss``.

    Sections are ``Losses``, ``Scores`` (measured in validation or test) and ``Training``; empty ones are left out.
    """
    lines: dict[str, list[str]] = {}
    for name in metrics:
        lines.setdefault(name.partition("/")[2], []).append(name)
    sections: dict[str, dict[str, list[str]]] = {"Losses": {}, "Scores": {}, "Training": {}}
    for metric, names in lines.items():
        is_loss = any(word in metric for word in LOSS_WORDS)
        measured = any(not name.startswith("train/") for name in names)
        sections["Losses" if is_loss else "Scores" if measured else "Training"][metric] = names
    return {title: found for title, found in sections.items() if found}


def workspace(logged: Logged, project: str, entity: str) -> "Workspace":
    """The workspace of a method: a section per kind of metric and one with its pictures."""
    import wandb_workspaces.reports.v2 as wr
    import wandb_workspaces.workspaces as ws

    sections = [
        ws.Section(name=title, is_open=True, panels=[_chart(metric, names) for metric, names in found.items()])
        for title, found in charts(logged.metrics).items()
    ]
    if logged.pictures:
        sections.append(ws.Section(name="Pictures", is_open=True, panels=[_pictures(logged.pictures, wr)]))
    return ws.Workspace(
        entity=entity,
        project=project,
        name=logged.method,
        sections=sections,
        runset_settings=ws.RunsetSettings(filters=ws.And(ws.Config("method") == logged.method)),
    )


def report(logged: Sequence[Logged], project: str, entity: str) -> "Report":
    """The report on several methods: the scores that they share, then each method with its curves and pictures."""
    import wandb_workspaces.reports.v2 as wr

    blocks: list[Any] = [
        wr.TableOfContents(),
        wr.H1("Comparison"),
        wr.P(
            "Last values of what more than one method logs. They are values of training; results with their protocol "
            "and intervals on the same frames come from common/evaluate.py and common/compare.py."
        ),
        wr.PanelGrid(
            runsets=[_runset(one.method, project, entity, wr) for one in logged],
            panels=[
                *(wr.BarPlot(title=name, metrics=[wr.SummaryMetric(name)]) for name in shared(logged)),
                wr.RunComparer(),
            ],
        ),
    ]
    for one in logged:
        panels = [_chart(metric, names) for found in charts(one.metrics).values() for metric, names in found.items()]
        if one.pictures:
            panels.append(_pictures(one.pictures, wr))
        blocks += [
            wr.H1(one.method),
            wr.PanelGrid(runsets=[_runset(one.method, project, entity, wr)], panels=panels),
        ]
    title = ", ".join(one.method for one in logged)
    return wr.Report(entity=entity, project=project, title=f"Comparison of {title}", blocks=blocks)


def shared(logged: Sequence[Logged]) -> list[str]:
    """Metrics that more than one method logs, without losses, which cannot be compared between methods."""
    names = [name for one in logged for name in one.metrics]
    compared = [name for name in dict.fromkeys(names) if not any(word in name for word in LOSS_WORDS)]
    return [name for name in compared if names.count(name) > 1]


def _chart(metric: str, names: Sequence[str]) -> Any:
    import wandb_workspaces.reports.v2 as wr

    return wr.LinePlot(title=metric, x="Step", y=list(names))


def _pictures(names: Sequence[str], wr: Any) -> Any:
    return wr.MediaBrowser(title="samples", media_keys=list(names))


def _runset(method: str, project: str, entity: str, wr: Any) -> Any:
    return wr.Runset(entity=entity, project=project, name=method, filters=f"Config('method') = '{method}'")


def outline(logged: Sequence[Logged]) -> list[str]:
    """What would be made, as lines."""
    lines = []
    for one in logged:
        lines.append(f"workspace {one.method}")
        for title, found in charts(one.metrics).items():
            lines += [f"  {title}: {', '.join(found)}"]
        lines += [f"  Pictures: {', '.join(one.pictures)}"] if one.pictures else []
    if len(logged) > 1:
        lines.append(
            f"report on {', '.join(one.method for one in logged)}; compared: {', '.join(shared(logged)) or '-'}"
        )
    return lines


def run(options: DashboardOptions) -> int:
    """Make a Weights & Biases workspace for each run directory, and a report when there are several."""
    if not options.runs:
        raise InputError("name one or more run directories")
    logged = [read_logged(path) for path in options.runs]
    names = [one.method for one in logged]
    if len(set(names)) < len(names):
        raise InputError(f"two of the run directories are of {max(names, key=names.count)}; name one per method")
    if options.dry_run:
        print("\n".join(outline(logged)))
        return cli.DONE
    entity = _login(options.entity)
    for one in logged:
        print(_url(workspace(one, options.project, entity).save()))
    if len(logged) > 1:
        print(_url(report(logged, options.project, entity).save()))
    return cli.DONE


def _login(entity: str) -> str:
    """Who the dashboards belong to.

    Raises:
        InputError: No login.
    """
    from common.loggers import wandb_key_known

    if not wandb_key_known():
        raise InputError("Weights & Biases knows no API key here: run 'wandb login' first, or pass --dry_run")
    import wandb

    return entity or str(wandb.Api().default_entity)


def _url(saved: Any) -> str:
    return str(saved.url if not isinstance(saved, Mapping) else saved["url"])


def main(argv: list[str] | None = None) -> int:
    """Entry point."""
    return cli.command(run, DashboardOptions, argv=argv, prog="dashboards.py")


if __name__ == "__main__":
    raise SystemExit(main())
