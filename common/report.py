"""One HTML page about a run: scores with their protocol, curves, pictures, sequences, provenance and options.

The page holds everything it shows, so it opens from a folder, a mail or an archive, without a network. It reads what
it finds in the run directory and leaves out what is not there:

- ``scores.json``: list of ``{name, value, protocol: {...}, n}``; ``oracle: true`` in the protocol marks a score that
  used the ground truth to choose among predictions; ``interval`` and ``spread`` stand beside the value;
- ``metrics.csv``: one row per step, columns ``step``, ``epoch`` and ``stage/metric``;
- ``samples/*.png``: panels, shown in the order of their names;
- ``per_frame.csv``: columns ``Sequence``, ``Sequence_Index`` and scores; with pictures in the column ``Overlay`` or at
  ``overlays/SEQUENCE/00000.png`` the worst, middle and best frames are shown;
- ``layers/SEQUENCE/00000.jpg`` with ``00000.prediction.png`` and ``00000.ground_truth.png`` (any names, label maps):
  the same frames with a slider between two of the maps and a switch per segment; without scores all that are there;
- ``strips/SEQUENCE.jpg``: clips as a row of frames;
- ``restarts.csv`` (or ``restarts.json``, a list of objects): one row per restart or collapse, with any columns; those
  used here are ``attempt``, ``seed``, ``iteration``, what was measured, and ``action``: ``restart`` or ``stop``;
- ``per_sequence.csv``, ``provenance.json``, ``config.yaml``.

The page holds at most ``PICTURE_BYTES`` of pictures, whatever their number: more of them are smaller.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from common import cli
from common.errors import InputError
from common.files import atomic_path, read_image, read_labels
from common.report_layers import Layered, embed_layered
from common.report_pictures import Picture, embed_pictures

PICTURE_BYTES = 4_600_000  # a page with curves has 5 MB of script too
_KEYS = ("Sequence", "Sequence_Index", "step", "epoch")


@dataclass(kw_only=True)
class ReportOptions:
    """A self-contained HTML report of a run directory."""

    run_dir: Path = field(metadata={"positional": True})
    """Run directory."""
    out: Path | None = None
    """File to write; default: report.html in the run directory."""
    title: str | None = None
    """Title of the page; default: the name of the run directory."""
    max_pictures: int = 200
    """Most panels shown; of more, an even choice."""


def run(options: ReportOptions) -> int:
    """A self-contained HTML report of a run directory."""
    path = build_report(options.run_dir, options.out, title=options.title, max_pictures=options.max_pictures)
    print(path)
    return 0


def build_report(
    run_dir: Path | str, out: Path | str | None = None, *, title: str | None = None, max_pictures: int = 200
) -> Path:
    """Write the report of a run directory.

    Args:
        run_dir: Run directory; any of the files named above may be missing.
        out: File to write; default ``report.html`` in the run directory.
        title: Title; default the folder's name.
        max_pictures: Most panels shown; of more, an even choice that keeps the first and the last.

    Returns:
        The file written.

    Raises:
        InputError: No such folder, or one of the files cannot be read.
    """
    folder = Path(run_dir)
    if not folder.is_dir():
        raise InputError(f"{folder}: no such run directory")
    frames, explored = _frame_choices(folder)
    panels = _evenly(sorted((folder / "samples").glob("*.png"), key=_natural), max_pictures)
    strips = sorted((folder / "strips").rglob("*.jpg"), key=_natural)
    share = PICTURE_BYTES // 2 if explored else 0
    galleries = embed_pictures(
        {"Samples": [Picture(path.stem, read_image(path)) for path in panels]}
        | {
            f"{name}, side by side": [Picture(caption, read_image(path)) for caption, path in rows]
            for name, rows in frames.items()
        }
        | {"Clips": [_strip(path, folder / "strips") for path in _evenly(strips, max_pictures)]},
        PICTURE_BYTES - share,
    )
    charts = _charts(folder / "metrics.csv")
    config = folder / "config.yaml"
    page = render(
        "report.html",
        title=title or folder.resolve().name,
        scores=_scores(folder / "scores.json"),
        charts=charts,
        plotly=_plotly() if charts else "",
        explored=embed_layered(explored, share),
        galleries=galleries,
        sequences=_table(folder / "per_sequence.csv"),
        restarts=_restarts(folder),
        provenance=_flat(_json(folder / "provenance.json", Mapping) or {}),
        config=config.read_text(encoding="utf-8") if config.exists() else "",
    )
    path = Path(out) if out is not None else folder / "report.html"
    with atomic_path(path) as temporary:
        temporary.write_text(page, encoding="utf-8")
    return path


def render(template: str, **content: Any) -> str:
    """A page of ``common/templates`` as text; everything in ``content`` is escaped."""
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).with_name("templates")),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(template).render(**content)


def _strip(path: Path, folder: Path) -> Picture:
    return Picture(path.relative_to(folder).with_suffix("").as_posix(), read_image(path))


def _plotly() -> str:
    from plotly.offline import get_plotlyjs

    return get_plotlyjs()


def _json(path: Path, kind: type) -> Any:
    """The content of a JSON file, None when there is none."""
    if not path.exists():
        return None
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise InputError(f"{path}: not readable as JSON ({error}); remove the file or write it again") from error
    if not isinstance(content, kind):
        raise InputError(f"{path}: holds a {type(content).__name__}, expected a {kind.__name__.lower()}")
    return content


def _csv(path: Path) -> pd.DataFrame | None:
    """A table, None when there is none or it is empty."""
    if not path.exists():
        return None
    try:
        table = pd.read_csv(path, dtype={"Sequence": str})
    except pd.errors.EmptyDataError:
        return None
    except (UnicodeDecodeError, pd.errors.ParserError) as error:
        raise InputError(f"{path}: not readable as CSV ({error}); remove the file or write it again") from error
    return table if len(table) else None


def _number(value: Any) -> str:
    """A number for reading: four significant digits, integers whole, nothing for missing."""
    if isinstance(value, bool | np.bool_) or not isinstance(value, int | float | np.number):
        return "" if value is None else str(value)
    if value != value:  # NaN
        return ""
    return f"{value:.4g}" if isinstance(value, float | np.floating) and value != round(value) else f"{int(value)}"


def _scores(path: Path) -> list[dict[str, Any]]:
    """Rows of the score table; the protocol without its oracle flag as text."""
    rows = []
    for score in _json(path, list) or []:
        if not isinstance(score, Mapping) or not {"name", "value"} <= set(score):
            raise InputError(f"{path}: an entry is {str(score)[:60]!r}; each needs a name and a value")
        protocol = dict(score.get("protocol") or {})
        oracle = bool(protocol.pop("oracle", False))
        text = ", ".join(f"{key} {_number(value)}" for key, value in protocol.items() if value not in ("", None, False))
        rows.append(
            {
                "name": score["name"],
                "value": _number(score["value"]),
                "n": _number(score.get("n")),
                "spread": _number(score.get("spread")),
                "interval": _interval(score.get("interval"), path),
                "oracle": oracle,
                "protocol": text,
            }
        )
    return rows


def _interval(content: Any, path: Path) -> dict[str, str]:
    """Bounds and description of an interval, empty when there is none."""
    if content is None:
        return {}
    if not isinstance(content, Mapping) or not {"low", "high", "level", "unit", "num_units", "resamples"} <= set(
        content
    ):
        raise InputError(f"{path}: an interval is {str(content)[:60]!r}; write it with common/evaluate.py")
    text = f"{content['level']:.0%} interval over {content['num_units']} {content['unit']}s"
    low, high = (_number(content[key]) for key in ("low", "high"))
    return {"low": low, "high": high, "text": f"{text}, {content['resamples']} resamples"}


def _restarts(folder: Path) -> dict[str, list[Any]]:
    """Header and cells of the log of restarts."""
    events = _json(folder / "restarts.json", list)
    if events is None:
        return _table(folder / "restarts.csv")
    if not all(isinstance(event, Mapping) for event in events):
        raise InputError(f"{folder / 'restarts.json'}: expected a list of objects")
    header = list(dict.fromkeys(str(key) for event in events for key in event))
    return {"header": header, "rows": [[_number(event.get(key)) for key in header] for event in events]}


def _charts(path: Path, max_points: int = 2000) -> list[dict[str, Any]]:
    """One chart per metric, one line per stage: ``val/loss`` and ``train/loss`` share the chart ``loss``."""
    table = _csv(path)
    if table is None:
        return []
    x = table["step"] if "step" in table else pd.Series(range(len(table)))
    charts: dict[str, list[dict[str, Any]]] = {}
    for column in table.columns:
        if column in _KEYS or not pd.api.types.is_numeric_dtype(table[column]):
            continue
        rows = np.flatnonzero(np.isfinite(table[column].to_numpy(float)) & x.notna().to_numpy())
        if len(rows) == 0:
            continue
        rows = np.array(_evenly(rows.tolist(), max_points))
        stage, _, metric = str(column).rpartition("/")
        line = {"name": stage or metric, "x": x.iloc[rows].tolist(), "y": table[column].iloc[rows].tolist()}
        charts.setdefault(metric, []).append(line)
    return [{"title": metric, "lines": lines} for metric, lines in charts.items()]


def _evenly(items: Sequence[Any], most: int) -> list[Any]:
    """At most ``most`` items at even distances, first and last included."""
    if len(items) <= most:
        return list(items)
    return [items[index] for index in np.unique(np.linspace(0, len(items) - 1, most).round().astype(int))]


def _natural(path: Path) -> list[tuple[int, str]]:
    """Sort key that puts step 9 before step 10."""
    import re

    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", path.stem)]


def _frame_choices(folder: Path, each: int = 6) -> tuple[dict[str, list[tuple[str, Path]]], dict[str, list[Layered]]]:
    """The worst, middle and best frames of ``per_frame.csv`` by its first score column.

    Returns:
        Caption and panel of each, and those with label maps.
    """
    table = _csv(folder / "per_frame.csv")
    if table is None or not {"Sequence", "Sequence_Index"} <= set(table.columns):
        return {}, _unscored(folder)
    scores = [name for name in table.columns if name not in _KEYS and pd.api.types.is_numeric_dtype(table[name])]
    if not scores:
        return {}, {}
    panels, layers = [], []
    for _, row in table.dropna(subset=[scores[0]]).sort_values(scores[0], kind="stable").iterrows():
        caption = f"{row['Sequence']} {row['Sequence_Index']}, {scores[0]} {_number(row[scores[0]])}"
        picture = _overlay_file(folder, row)
        if picture is not None:
            panels.append((caption, picture))
        layered = folder / "layers" / f"{_frame_stem(row)}.jpg"
        if layered.is_file():
            layers.append((caption, layered))
    explored = {name: [_layered(*item) for item in rows] for name, rows in _ends(layers, each).items()}
    return _ends(panels, each), explored


def _unscored(folder: Path) -> dict[str, list[Layered]]:
    """The frames of ``layers/`` in the order of their names, where no score ranks them."""
    pictures = sorted((folder / "layers").rglob("*.jpg"), key=_natural)
    return {"Frames": [_layered(f"{file.parent.name} {file.stem}", file) for file in pictures]} if pictures else {}


def _ends(rows: Sequence[tuple[str, Path]], each: int) -> dict[str, list[tuple[str, Path]]]:
    """The first, middle and last of sorted rows, none twice."""
    each = min(each, len(rows) // 3) or min(1, len(rows))
    middle = (len(rows) - each) // 2
    chosen = {"Worst": rows[:each], "Middle": rows[middle : middle + each], "Best": rows[len(rows) - each :]}
    return {f"{name} frames": list(part) for name, part in chosen.items() if part}


def _layered(caption: str, picture: Path) -> Layered:
    """A picture with the label maps beside it: the input left, the prediction right."""
    start = f"{picture.stem}."
    maps = {
        file.name.removeprefix(start).removesuffix(".png").replace("_", " "): read_labels(file)
        for file in sorted(picture.parent.glob("*.png"))
        if file.name.startswith(start)
    }
    right = "prediction" if "prediction" in maps else next(iter(maps), "input")
    return Layered(caption, read_image(picture), maps, "input", right)


def _frame_stem(row: "pd.Series[Any]") -> str:
    return f"{row['Sequence']}/{int(row['Sequence_Index']):05d}"


def _overlay_file(folder: Path, row: "pd.Series[Any]") -> Path | None:
    """The picture that belongs to a row of ``per_frame.csv``, when it exists."""
    named = row.get("Overlay")
    stem = folder / "overlays" / _frame_stem(row)
    candidates = [folder / named] if isinstance(named, str) else [stem.with_suffix(end) for end in (".png", ".jpg")]
    return next((path for path in candidates if path.is_file()), None)


def _table(path: Path) -> dict[str, list[Any]]:
    """Header and cells of a table as text, empty lists when there is none."""
    table = _csv(path)
    if table is None:
        return {"header": [], "rows": []}
    rows = [[_number(value) for value in row] for row in table.itertuples(index=False, name=None)]
    return {"header": [str(name) for name in table.columns], "rows": rows}


def _flat(content: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    """Nested mappings as dotted keys with text."""
    rows: list[tuple[str, str]] = []
    for key, value in content.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping):
            rows += _flat(value, f"{name}.")
        else:
            rows.append((name, _number(value)))
    return rows


def main(argv: list[str] | None = None) -> int:
    """Entry point."""
    return cli.command(run, ReportOptions, argv=argv, prog="report.py")


if __name__ == "__main__":
    raise SystemExit(main())
