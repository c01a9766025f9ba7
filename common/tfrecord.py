"""TFRecord files of ``tf.train.Example`` without TensorFlow.

A file is a sequence of records, each a length (u64), its checksum, a payload and the payload's checksum (CRC-32C,
masked), all little-endian; compressed files are gzip around that. A payload is a protocol buffer ``Example``: a map
from names to lists of byte strings, of which only that kind is read here.
"""

import gzip
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from common.errors import InputError

GZIP_MAGIC = b"\x1f\x8b"
LONGEST = 1 << 31
"""Bytes of a record; a longer one is taken for damage."""
_CASTAGNOLI = 0x82F63B78
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5  # wire types of protocol buffers


def _crc_table() -> list[int]:
    table = []
    for value in range(256):
        for _ in range(8):
            value = value >> 1 ^ (_CASTAGNOLI if value & 1 else 0)
        table.append(value)
    return table


_TABLE = _crc_table()


def masked_crc(data: bytes) -> int:
    """The rotated CRC-32C that the format stores."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc = _TABLE[(crc ^ byte) & 0xFF] ^ crc >> 8
    crc ^= 0xFFFFFFFF
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


def read_records(path: Path | str) -> Iterator[bytes]:
    """The payloads of a file, in order.

    Lengths are always checked. Payloads are checked in files that are not compressed; gzip has a checksum of its own.

    Raises:
        InputError: Missing, truncated or damaged file.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"{path}: no such TFRecord file")
    with path.open("rb") as raw:
        compressed = raw.read(2) == GZIP_MAGIC
    with gzip.open(path) if compressed else path.open("rb") as file:
        try:
            while header := file.read(12):
                length, check = struct.unpack("<QI", header)
                if masked_crc(header[:8]) != check or length > LONGEST:
                    raise InputError(f"{path}: not a TFRecord file, or damaged (length checksum)")
                payload, footer = file.read(length), file.read(4)
                if len(payload) < length or len(footer) < 4:
                    raise InputError(f"{path}: truncated, a record lacks its end; fetch the file again")
                if not compressed and masked_crc(payload) != struct.unpack("<I", footer)[0]:
                    raise InputError(f"{path}: damaged (payload checksum); fetch the file again")
                yield payload
        except (EOFError, OSError, struct.error, zlib.error) as error:
            raise InputError(f"{path}: truncated or damaged TFRecord file ({error}); fetch it again") from error


def parse_example(payload: bytes, source: object = "record") -> dict[str, NDArray[np.uint8]]:
    """The features of an ``Example`` whose byte strings are joined: name to uint8 (N,).

    Raises:
        InputError: Not an ``Example``, or a feature that is no list of byte strings.
    """
    try:
        found = {}
        for features in _fields(payload, 1):
            for entry in _fields(features, 1):
                name = bytes(next(_fields(entry, 1))).decode()
                found[name] = _joined(next(_fields(next(_fields(entry, 2)), 1)))
        return found
    except (StopIteration, IndexError, ValueError, struct.error) as error:
        raise InputError(f"{source}: not a tf.train.Example of byte strings") from error


def _joined(bytes_list: memoryview | bytes) -> NDArray[np.uint8]:
    """The strings of a BytesList, joined. One byte per string is the usual case, and read without a loop."""
    values = np.frombuffer(bytes_list, np.uint8)
    if values.size % 3 == 0:
        triples = values.reshape(-1, 3)
        if (triples[:, :2] == (1 << 3 | _BYTES, 1)).all():  # field 1, one byte long
            return triples[:, 2].copy()
    return np.frombuffer(b"".join(bytes(part) for part in _fields(bytes_list, 1)), np.uint8)


def _fields(message: memoryview | bytes, number: int) -> Iterator[memoryview]:
    """The length-delimited fields of a message with one number."""
    view, place = memoryview(message), 0
    while place < len(view):
        key, place = _varint(view, place)
        kind = key & 7
        if kind == _VARINT:
            _, place = _varint(view, place)
        elif kind in (_FIXED64, _FIXED32):
            place += 8 if kind == _FIXED64 else 4
        elif kind == _BYTES:
            length, place = _varint(view, place)
            if place + length > len(view):
                raise ValueError("field goes beyond its message")
            if key >> 3 == number:
                yield view[place : place + length]
            place += length
        else:
            raise ValueError(f"wire type {kind}")


def _varint(view: memoryview, place: int) -> tuple[int, int]:
    value, shift = 0, 0
    while True:
        byte = view[place]
        value |= (byte & 0x7F) << shift
        place, shift = place + 1, shift + 7
        if not byte & 0x80:
            return value, place
