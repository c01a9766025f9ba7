"""Pictures with label maps to lay over them: what the pages need for a slider between two maps and their segments.

The maps travel as grey PNGs whose values are places in a list of segments, so a page can colour, hide and compare
segments by itself, from a file, without a server.
"""

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from common.files import voc_palette
from common.metrics.frames import resize_nearest
from common.report_pictures import data_uri

Labels = NDArray[np.integer[Any]]

MOST_SEGMENTS = 12  # those with the most pixels have a switch of their own, the others share one
_SIDES_PX = (640, 480, 360, 240, 160, 96)


@dataclass(frozen=True)
class Layered:
    """A picture with label maps.

    Attributes:
        caption: Text below it.
        image: uint8 (H, W, 3).
        layers: Label maps by name, integers from 0 of any size.
        left: What the slider shows on its left at first: a layer, or ``input`` for the picture alone.
        right: What it shows on its right.
        names: Names of labels, for the switches.
    """

    caption: str
    image: NDArray[np.uint8]
    layers: Mapping[str, Labels]
    left: str = "input"
    right: str = "input"
    names: Mapping[int, str] = field(default_factory=dict)


def embed_layered(groups: Mapping[str, Sequence[Layered]], total_bytes: int) -> list[dict[str, Any]]:
    """Groups of layered pictures as the template wants them; empty groups are left out.

    Args:
        groups: Pictures by the group's title.
        total_bytes: Characters for all together; half of them at most for the label maps.
    """
    number = sum(len(items) for items in groups.values())
    return [
        {"title": title, "pictures": [_embedded(item, total_bytes // number) for item in items]}
        for title, items in groups.items()
        if items
    ]


def _embedded(item: Layered, most: int) -> dict[str, Any]:
    ids = _largest(list(item.layers.values()))
    used, tried = 0, 1
    for side in _SIDES_PX:
        # bytes go about with the area: leave out sizes that cannot fit
        if side != _SIDES_PX[-1] and used * (side / tried) ** 2 > most // 2:
            continue
        layers = {name: _label_uri(labels, ids, item.image.shape[:2], side) for name, labels in item.layers.items()}
        used, tried = sum(map(len, layers.values())), min(side, max(item.image.shape[:2]))
        if used <= most // 2:
            break
    segments = [_segment(label, item.names) for label in ids]
    if any(np.isin(labels, ids, invert=True).any() for labels in item.layers.values()):
        segments.append({"name": "others", "colour": "#9a9a9a", "shown": True})
    return {
        "caption": item.caption,
        "uri": data_uri(item.image, most - used),
        "width": item.image.shape[1],
        "height": item.image.shape[0],
        "names": list(item.layers),
        "left": item.left,
        "right": item.right,
        "layers": layers,
        "segments": segments,
    }


def _largest(maps: Sequence[Labels]) -> list[int]:
    """The labels with the most pixels, in ascending order."""
    values, counts = np.unique(np.concatenate([labels.ravel() for labels in maps]), return_counts=True)
    chosen = values[np.argsort(-counts, kind="stable")[:MOST_SEGMENTS]]
    return sorted(int(value) for value in chosen)


def _segment(label: int, names: Mapping[int, str]) -> dict[str, Any]:
    """Name, colour and first state of a label; 0 is the background in most maps and starts hidden."""
    red, green, blue = (110, 110, 110) if label == 0 else voc_palette()[label % 255 or 255]
    return {
        "name": names.get(label, str(label)),
        "colour": f"#{red:02x}{green:02x}{blue:02x}",
        "shown": label != 0,
    }


def _label_uri(labels: Labels, ids: Sequence[int], size: tuple[int, int], side: int) -> str:
    """A label map as places in the list of segments, at the shape of the picture, as a PNG data URI."""
    from PIL import Image

    scale = min(1.0, side / max(size))
    shape = (max(1, round(size[0] * scale)), max(1, round(size[1] * scale)))
    small = resize_nearest(np.asarray(labels, np.int64), shape)
    found = np.minimum(np.searchsorted(ids, small), len(ids) - 1)
    places = np.where(np.asarray(ids)[found] == small, found, len(ids)).astype(np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(places).save(buffer, "PNG", compress_level=6)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")
