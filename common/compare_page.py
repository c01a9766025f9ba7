"""The page of a comparison: scores, paired differences, sequences, and the frames on which results differ most."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from common.compare import (
    CompareOptions,
    Comparison,
    difference_text,
    left_out_lines,
    predicted_column,
    sequence_table,
    win_lines,
)
from common.files import atomic_path, read_image, read_labels
from common.metrics.frames import resize_nearest
from common.metrics.protocol import value_text
from common.panels import LAYER_WIDTH_PX, WIDTH_PX, at_width, frame_name, truth_of
from common.report import PICTURE_BYTES, render
from common.report_layers import Layered, embed_layered
from common.report_pictures import Picture, embed_pictures
from common.visualize import overlay, side_by_side


def write_page(found: Comparison, options: CompareOptions, path: Path) -> Path:
    """Write the page; gives its path."""
    kinds = chosen_rows(found, options.num_pictures)
    sliders, panels = {}, {}
    for title, rows in kinds.items():
        pictures = [_pictures(found, row, options) for row in rows]
        sliders[title] = [slider for slider, _ in pictures]
        panels[f"{title}, side by side"] = [panel for _, panel in pictures]
    page = render(
        "compare.html",
        title="Comparison of " + ", ".join(found.names),
        names=found.names,
        scores=_score_rows(found),
        wins=win_lines(found),
        left_out=left_out_lines(found),
        interval=_interval_text(found),
        explored=embed_layered(sliders, PICTURE_BYTES // 2),
        galleries=embed_pictures(panels, PICTURE_BYTES // 2),
        sequences=_cells(sequence_table(found)),
    )
    with atomic_path(path) as temporary:
        temporary.write_text(page, encoding="utf-8")
    return path


def chosen_rows(found: Comparison, each: int) -> dict[str, list[int]]:
    """Rows of the joint split by kind of picture; none twice in a kind.

    Where no score is one of single frames: frames at even distances.
    """
    table, score = found.per_frame()
    order = _row_order(found)
    if score is None:
        even = np.unique(np.linspace(0, len(order) - 1, each).round().astype(int))
        return {"Frames": [order[place] for place in even]}
    kinds = {}
    for name in found.names[1:]:
        change = table[f"{name} - {found.names[0]}"].to_numpy(float)
        ranked = [int(place) for place in np.argsort(-change, kind="stable") if not np.isnan(change[place])]
        kinds[f"{name} gains most on {found.names[0]}"] = [place for place in ranked[:each] if change[place] > 0]
        kinds[f"{name} loses most to {found.names[0]}"] = [place for place in ranked[::-1][:each] if change[place] < 0]
    best = table[found.names].max(axis=1).to_numpy(float)
    hard = [int(place) for place in np.argsort(best, kind="stable") if not np.isnan(best[place])]
    kinds["Worst for all"] = hard[:each]
    kinds["Best for all"] = [
        int(place) for place in np.argsort(-table[found.names].min(axis=1).to_numpy(float), kind="stable")[:each]
    ]
    return {title: [order[place] for place in places] for title, places in kinds.items() if places}


def _row_order(found: Comparison) -> list[int]:
    """Row of the joint split of each line of the tables, which go sequence by sequence."""
    return [int(row) for rows in found.joint.sequences().values() for row in rows]


def _pictures(found: Comparison, row: int, options: CompareOptions) -> tuple[Layered, Picture]:
    """Slider and panel of a frame."""
    split = found.joint
    maps = {name: read_labels(split.path(row, predicted_column(name))) for name in found.names}
    truth = truth_of(split, row, options.mask_encoding)
    if "Image" in split.columns and split.available("Image")[row]:
        image = read_image(split.path(row, "Image"))
    else:
        image = np.full((*maps[found.names[0]].shape, 3), 128, np.uint8)
    if image.shape[1] > LAYER_WIDTH_PX:
        image = at_width(image, LAYER_WIDTH_PX)
    if truth is not None:
        maps["ground truth"] = truth
    caption = _caption(found, row)
    small = at_width(image, WIDTH_PX)
    tinted = {name: overlay(small, resize_nearest(labels, small.shape[:2]) % 256) for name, labels in maps.items()}
    panel = Picture(caption, side_by_side(**{"input": small, **tinted}))
    return Layered(caption, image, maps, found.names[0], found.names[1]), panel


def _caption(found: Comparison, row: int) -> str:
    table, score = found.per_frame()
    name = frame_name(found.joint, row).rpartition("/")
    text = f"{name[0]} {int(name[2])}"
    if score is None:
        return text
    line = table.iloc[_row_order(found).index(row)]
    return f"{text}, {score}: " + ", ".join(f"{name} {line[name]:.3f}" for name in found.names)


def _score_rows(found: Comparison) -> list[dict[str, Any]]:
    """Score, values, differences and protocol, ready to be shown."""
    by_name = {name: {score.name: score for score in part.scores} for name, part in found.evaluations.items()}
    rows = []
    for score in found.evaluations[found.names[0]].scores:
        changes = [item for item in found.differences if item.name == score.name]
        kinds = [by_name[name].get(score.name) for name in found.names]
        rule = score.protocol
        rows.append(
            {
                "name": score.name + (" (lower is better)" if "_decay_" in score.name else ""),
                "values": [
                    {"text": "" if kind is None else value_text(kind), "oracle": bool(kind and kind.protocol.oracle)}
                    for kind in kinds
                ],
                "changes": [{"text": difference_text(item), "verdict": item.verdict.split()[0]} for item in changes],
                "protocol": f"matching {rule.matching}, {rule.scope}, mean over {rule.averaging}, n {score.n}",
                "notes": rule.notes,
            }
        )
    return rows


def _interval_text(found: Comparison) -> str:
    interval = next((item.interval for item in found.differences if item.interval is not None), None)
    if interval is None:
        return "No intervals: fewer than two sequences, or --resamples 0."
    return (
        f"In brackets: {interval.level:.0%} intervals by the bootstrap, {interval.resamples} resamples of "
        f"{interval.num_units} {interval.unit}s; differences are paired. Better and worse: zero lies outside."
    )


def _cells(table: Any) -> dict[str, Sequence[Any]]:
    if table.empty:
        return {"header": [], "rows": []}
    rows = [
        [f"{cell:.4f}" if isinstance(cell, float) else str(cell) for cell in line]
        for line in table.itertuples(index=False, name=None)
    ]
    return {"header": list(table.columns), "rows": rows}
