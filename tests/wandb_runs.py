"""What an offline Weights & Biases run holds, read back from its ``.wandb`` file.

The file is a log in the format of LevelDB: blocks of 32 KiB, in them pieces of records with a header of checksum,
length and kind (1 whole, 2 first, 3 middle, 4 last); a record is a protobuf message.
"""

import json
import struct
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

BLOCK, PIECE = 32768, struct.Struct("<IHB")
FILE_HEADER = 7


@dataclass
class OfflineRun:
    """Configuration, and every value of every metric by name."""

    config: dict[str, Any] = field(default_factory=dict)
    history: dict[str, list[Any]] = field(default_factory=dict)


def records(path: Path) -> list[bytes]:
    """The records of a file."""
    content = path.read_bytes()
    assert content[:4] == b":W&B", f"{path} is no offline run"
    place, parts, found = FILE_HEADER, b"", []
    while place + PIECE.size <= len(content):
        if BLOCK - place % BLOCK < PIECE.size:
            place += BLOCK - place % BLOCK
            continue
        _, length, kind = PIECE.unpack_from(content, place)
        if kind == 0 or place + PIECE.size + length > len(content):  # still being written
            break
        parts += content[place + PIECE.size : place + PIECE.size + length]
        place += PIECE.size + length
        if kind in (1, 4):
            found.append(parts)
            parts = b""
    return found


def _messages(path: Path) -> list[Any]:
    from wandb.proto import wandb_internal_pb2 as messages

    found = []
    for data in records(path):
        found.append(messages.Record())
        found[-1].ParseFromString(data)
    return found


def read_offline_run(folder: Path, seconds: float = 60) -> OfflineRun:
    """The only offline run below ``<folder>/wandb``, which has ended: its last words may take a moment to arrive."""
    (path,) = folder.glob("wandb/offline-run-*/*.wandb")
    end = time.monotonic() + seconds
    while not any(record.HasField("exit") for record in _messages(path)):
        assert time.monotonic() < end, f"{path} has no end"
        time.sleep(0.1)
    run = OfflineRun()
    for record in _messages(path):
        for item in (*record.run.config.update, *record.config.update):
            run.config[item.key or ".".join(item.nested_key)] = json.loads(item.value_json)
        line: dict[str, Any] = {}
        for item in record.history.item:  # a picture is several items: its name, and one of its facts
            first, *rest = item.nested_key or [item.key]
            value = json.loads(item.value_json)
            line[first] = {**line.get(first, {}), rest[0]: value} if rest else value
        for name, value in line.items():
            run.history.setdefault(name, []).append(value)
    return run
