"""What the slots of all images say, as one table; and numbers that an object keeps through a clip."""

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment

from ast_seg.options import ExportOptions
from common.files import read_labels, write_labels

if TYPE_CHECKING:
    from ast_seg.foreground_module import SlotLearner
    from ast_seg.segmentation import Places
    from common.splits import Split

REACH = 0.5
"""Longest way of an object between two frames, in half image sides."""
MEMORY = 5
"""Frames after which a vanished object is forgotten."""


class SlotTracks:
    """Object numbers 1..K for the slots of consecutive frames, by the least sum of distances."""

    def __init__(self, num_slots: int) -> None:
        self.places: dict[int, NDArray[np.floating]] = {}
        self.seen = dict.fromkeys(range(1, num_slots + 1), -MEMORY - 1)
        self.frame = -1

    def numbers(self, slots: NDArray[np.int64], centres: NDArray[np.floating]) -> dict[int, int]:
        """Slot label -> object number.

        Args:
            slots: Labels 1..K that show in the frame.
            centres: Their x, y (n, 2) in [-1, 1].
        """
        self.frame += 1
        alive = [number for number, last in self.seen.items() if self.frame - last <= MEMORY]
        found: dict[int, int] = {}
        if alive and len(slots):
            away = np.linalg.norm(centres[:, None] - np.stack([self.places[number] for number in alive]), axis=2)
            for i, j in zip(*linear_sum_assignment(np.minimum(away, REACH)), strict=True):
                if away[i, j] < REACH:
                    found[int(slots[i])] = alive[j]
        free = sorted(set(self.seen) - set(found.values()), key=lambda number: (self.seen[number], number))
        for slot in slots:
            if int(slot) not in found:
                found[int(slot)] = free.pop(0)
        for slot, centre in zip(slots, centres, strict=True):
            self.places[found[int(slot)]] = centre
            self.seen[found[int(slot)]] = self.frame
        return found


def write_tables(split: "Split", places: "Places", learner: "SlotLearner", export: ExportOptions) -> str:
    """Number the objects of clips and write ``latents.csv``.

    Returns:
        The kind of file that holds the final labels: ``objects`` or ``labels``.
    """
    import pandas as pd

    from common.tables import write_table

    sequences = split.sequences()
    tracked = export.stable_slots and any(len(rows) > 1 for rows in sequences.values())
    lines: list[dict[str, Any]] = []
    for rows in sequences.values():
        tracks = SlotTracks(learner.options.max_set_size)
        for row in rows:
            labels = read_labels(places.file("labels", int(row)))
            with np.load(places.file("slots", int(row))) as slots:
                arrays = {name: slots[name] for name in ("latents", "centre", "scale")}
            shown = np.unique(labels[labels > 0])
            numbers = {int(slot): int(slot) for slot in shown}
            if tracked:
                numbers = tracks.numbers(shown, arrays["centre"][shown - 1])
                _write_numbered(places, int(row), labels, numbers)
            if export.latents:
                lines += _lines(places, int(row), labels, arrays, numbers, learner)
    if export.latents:
        write_table(pd.DataFrame(lines), places.out / "latents.csv")
    return "objects" if tracked else "labels"


def _write_numbered(places: "Places", row: int, labels: NDArray[np.int64], numbers: dict[int, int]) -> None:
    from PIL import Image

    with Image.open(places.file("labels", row)) as stored:
        palette = np.array(stored.getpalette("RGB"), np.uint8).reshape(-1, 3)
    renumbered = np.zeros_like(labels)
    for slot, number in numbers.items():
        renumbered[labels == slot] = number
    full = np.zeros((256, 3), np.uint8)
    full[: len(palette)] = palette
    write_labels(places.file("objects", row), renumbered, full)


def _lines(
    places: "Places",
    row: int,
    labels: NDArray[np.int64],
    arrays: dict[str, NDArray[np.floating]],
    numbers: dict[int, int],
    learner: "SlotLearner",
) -> list[dict[str, Any]]:
    """A line per slot that shows; boxes in pixels, first and last row and column included."""
    height, width = labels.shape
    found = []
    for slot, number in numbers.items():
        ys, xs = np.nonzero(labels == slot)
        centre, scale, latents = (arrays[name][slot - 1] for name in ("centre", "scale", "latents"))
        what = latents[3 + learner.renderer.num_scales :]
        found.append(
            {
                "Sequence": str(places.sequences[row]),
                "Sequence_Index": int(places.numbers[row]),
                "Slot": slot,
                "Object": number,
                "X_px": round((float(centre[0]) + 1) / 2 * width, 3),
                "Y_px": round((float(centre[1]) + 1) / 2 * height, 3),
                "Scale_X": round(float(scale[0]), 4),
                "Scale_Y": round(float(scale[1]), 4),
                "Activation": round(float(latents[learner.renderer.activation_index]), 4),
                "Area_px": len(ys),
                **dict(zip(("Left", "Top", "Right", "Bottom"), (xs.min(), ys.min(), xs.max(), ys.max()), strict=True)),
                **{f"What_{i}": round(float(value), 4) for i, value in enumerate(what)},
            }
        )
    return found
