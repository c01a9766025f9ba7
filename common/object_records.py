"""Images and label maps of the multi-object TFRecord sets: ObjectsRoom and CLEVR with masks."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from common.errors import InputError
from common.tfrecord import parse_example, read_records


@dataclass(frozen=True)
class RecordLayout:
    """How a set stores a frame: an ``image`` and a ``mask`` of one layer per entity, 0 or 255."""

    height: int
    width: int
    num_entities: int
    num_background: int
    """Entities that come first and are all label 0."""


OBJECTS_ROOM_ENTITIES = {"train": 7, "six_objects": 10, "empty_room": 4, "identical_color": 10}
"""Entities by part of ObjectsRoom; the first four are sky, floor and two walls."""
CLEVR = RecordLayout(height=240, width=320, num_entities=11, num_background=1)


def objects_room(part: str = "train") -> RecordLayout:
    """The layout of a part of ObjectsRoom.

    Raises:
        InputError: Unknown part.
    """
    if part not in OBJECTS_ROOM_ENTITIES:
        raise InputError(f"ObjectsRoom part {part}: unknown, choose one of {', '.join(OBJECTS_ROOM_ENTITIES)}")
    return RecordLayout(height=64, width=64, num_entities=OBJECTS_ROOM_ENTITIES[part], num_background=4)


def read_frames(path: Path | str, layout: RecordLayout) -> Iterator[tuple[NDArray[np.uint8], NDArray[np.uint8]]]:
    """The frames of a file, in order: RGB uint8 (H, W, 3) and labels uint8 (H, W), 0 for background.

    Raises:
        InputError: Unreadable file, or records of another layout.
    """
    H, W, E = layout.height, layout.width, layout.num_entities
    for number, payload in enumerate(read_records(path)):
        features = parse_example(payload, f"{path}, record {number}")
        for name, size in (("image", H * W * 3), ("mask", E * H * W)):
            found = features[name].size if name in features else 0
            if found != size:
                raise InputError(
                    f"{path}, record {number}: {name} has {found} values, {H}x{W} with {E} entities needs {size}; "
                    "is this the right part of the set?"
                )
        entity = features["mask"].reshape(E, H, W).argmax(0)
        labels = np.maximum(0, entity - (layout.num_background - 1)).astype(np.uint8)
        yield features["image"].reshape(H, W, 3), labels
