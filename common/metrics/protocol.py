"""What a number means: the protocol stored beside it, and the file that keeps both.

Two numbers of the same name are comparable only if they were computed alike. A :class:`Score` therefore never travels
without its :class:`Protocol`, and its name says the parts that most often get mixed up: ``miou_dataset_hungarian``,
``ari_fg_image``, ``j_mean_davis2016``.
"""

import json
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Literal, Self

from common.errors import InputError
from common.files import atomic_path

Matching = Literal["none", "hungarian", "majority", "best"]
Background = Literal["counted", "left_out"]
Scope = Literal["image", "clip", "sequence", "dataset"]
Unit = Literal["image", "sequence"]


@dataclass(frozen=True)
class Protocol:
    """How a score was computed."""

    matching: Matching = "none"
    """How predicted labels got their classes: as they are, one-to-one, many-to-one, or the best per image."""
    scope: Scope = "dataset"
    """Over what the labels were matched or the counts pooled before the averaging."""
    background: Background = "counted"
    """Whether the background class or pixels enter the score."""
    void: str = "left_out"
    """What happened to void pixels."""
    resolution: str = "ground_truth"
    """The size at which prediction and ground truth were compared, and how the prediction got there."""
    crf: bool = False
    """Whether the prediction went through a CRF first."""
    averaging: str = "mean"
    """Over what the mean was taken, in order: ``frames``, ``frames, sequences``, ``classes``."""
    oracle: bool = False
    """Whether ground truth chose the masks that were scored."""
    notes: str = ""
    """Whatever else a reader needs, such as frames left out."""
    benchmark: str = ""
    """Name of the benchmark whose rules were followed, where one was asked for."""

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> Self:
        """The protocol of ``dataclasses.asdict``; unknown keys raise ``InputError``."""
        known = {field.name for field in fields(cls)}
        unknown = sorted(set(content) - known)
        if unknown:
            raise InputError(f"score protocol: unknown key {unknown[0]!r}, known are {', '.join(sorted(known))}")
        return cls(**content)


@dataclass(frozen=True)
class Interval:
    """A percentile bootstrap interval; see ``common.metrics.bootstrap``."""

    low: float
    high: float
    level: float
    """Share of resamples inside, such as 0.95."""
    unit: Unit
    """What was drawn with replacement."""
    num_units: int
    """How many of them the score rests on; below about 20 the interval is too narrow."""
    resamples: int
    seed: int


@dataclass(frozen=True)
class Score:
    """One number with its protocol.

    ``per_item`` holds the values behind a mean by name (class, sequence, object, seed); NaN stands for an undefined
    value and is written as ``null``.
    """

    name: str
    value: float
    protocol: Protocol
    n: int
    """How many items (frames, objects, images) the value rests on."""
    per_item: Mapping[str, float] | None = None
    interval: Interval | None = None
    """Where the value would lie in other data of the same kind; None where that cannot be told."""
    spread: float | None = None
    """Standard deviation over seeds, where the value is the mean of several."""

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[a-z][a-z0-9_]*", self.name):
            raise ValueError(f"score name {self.name!r} is not lower case with underscores")
        if self.n < 0:
            raise ValueError(f"score {self.name} rests on {self.n} items")

    def to_dict(self) -> dict[str, Any]:
        """Plain types only, fit for strict JSON (NaN and infinities become None)."""
        items = None if self.per_item is None else {key: _json_number(value) for key, value in self.per_item.items()}
        return {
            "name": self.name,
            "value": _json_number(self.value),
            "n": int(self.n),
            "protocol": asdict(self.protocol),
            "interval": None if self.interval is None else asdict(self.interval),
            "spread": None if self.spread is None else _json_number(self.spread),
            "per_item": items,
        }

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> Self:
        """The inverse of :meth:`to_dict`."""
        missing = [key for key in ("name", "value", "n", "protocol") if key not in content]
        if missing:
            raise InputError(f"score {content.get('name', '?')!r} has no {missing[0]!r}: write it with write_scores")
        items, interval, spread = (content.get(key) for key in ("per_item", "interval", "spread"))
        if interval is not None and set(interval) != {field.name for field in fields(Interval)}:
            raise InputError(f"score {content['name']!r} has another kind of interval: write it with write_scores")
        return cls(
            name=content["name"],
            value=_number(content["value"]),
            protocol=Protocol.from_dict(content["protocol"]),
            n=content["n"],
            per_item=None if items is None else {key: _number(value) for key, value in items.items()},
            interval=None if interval is None else Interval(**interval),
            spread=None if spread is None else float(spread),
        )


def value_text(score: Score, digits: int = 4) -> str:
    """A value with what is known of its certainty: ``0.61 [0.55, 0.66]``, of several seeds ``0.61 ± 0.02 [...]``."""
    text = f"{score.value:.{digits}f}"
    if score.spread is not None:
        text += f" ± {score.spread:.{digits}f}"
    if score.interval is not None:
        text += f" [{score.interval.low:.{digits}f}, {score.interval.high:.{digits}f}]"
    return text


def _json_number(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None


def _number(value: float | None) -> float:
    return math.nan if value is None else float(value)


def write_scores(path: str | Path, scores: Iterable[Score]) -> None:
    """Write scores as a JSON list, atomically."""
    content = json.dumps([score.to_dict() for score in scores], indent=2, allow_nan=False)
    with atomic_path(path) as temporary:
        temporary.write_text(content + "\n", encoding="utf-8")


def read_scores(path: str | Path) -> list[Score]:
    """Read what :func:`write_scores` wrote; anything else raises ``InputError`` with the file's name."""
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{path}: not a readable score file ({error})") from error
    if not isinstance(content, list) or not all(isinstance(entry, dict) for entry in content):
        raise InputError(f"{path}: holds no list of scores: pass a scores.json that an evaluation wrote")
    try:
        return [Score.from_dict(entry) for entry in content]
    except (TypeError, ValueError, AttributeError) as error:
        raise InputError(f"{path}: holds other than scores ({error}): pass a scores.json of an evaluation") from error
