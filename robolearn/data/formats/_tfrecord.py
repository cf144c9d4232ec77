"""TFRecord files and the tf.train.Example messages in them, without TensorFlow or protobuf.

A record is its length (uint64), the length's masked crc32c, the data, the data's masked crc32c, all little-endian. An Example is a map from
a name to one list: of byte strings, of float32 or of int64 (tensorflow/core/example/{example,feature}.proto).
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import google_crc32c
import numpy as np

from robolearn.core.errors import UserError
from robolearn.data.formats._reader import require_memory

Values = list[memoryview] | np.ndarray  # byte strings (views of the record), float32 (N,) or int64 (N,)


@dataclass(frozen=True)
class Record:
    """Where one record's data lies, and its checksum as the file states it."""

    file: Path
    offset: int
    length: int
    crc: int

    def read(self) -> bytes:
        """UserError: the checksum is wrong."""
        require_memory(f"{self.file.name}: a record", (self.length,))
        with self.file.open("rb") as stream:
            stream.seek(self.offset)
            data = stream.read(self.length)
        if len(data) != self.length or _masked_crc(data) != self.crc:
            raise UserError(f"{self.file.name}: the record at byte {self.offset} is damaged (crc32c)")
        return data


def records(path: Path) -> list[Record]:
    """Every record of a file; only lengths and checksums are read. UserError: cut off, or a length's checksum is wrong."""
    found, size, at = [], path.stat().st_size, 0
    with path.open("rb") as stream:
        while at < size:
            stream.seek(at)
            header = stream.read(12)
            if len(header) < 12:
                raise UserError(f"{path.name}: cut off at byte {size}, in the header of record {len(found)}")
            length, crc = struct.unpack("<QI", header)
            if _masked_crc(header[:8]) != crc:
                raise UserError(f"{path.name}: no TFRecord at byte {at} (crc32c of the length of record {len(found)})")
            if length > size - at - 16:
                raise UserError(f"{path.name}: cut off at byte {size}, in record {len(found)} ({length} bytes from byte {at + 12} on)")
            stream.seek(at + 12 + length)
            found.append(Record(path, at + 12, length, struct.unpack("<I", stream.read(4))[0]))
            at += 16 + length
    return found


def parse_example(data: bytes) -> dict[str, Values]:
    """The lists of a tf.train.Example by name; an empty list where a feature holds none. ValueError: not such a message."""
    found: dict[str, Values] = {}
    for features in _parts(memoryview(data), 1):
        for entry in _parts(features, 1):
            name = str(next(_parts(entry, 1), b""), "utf8")
            found[name] = _values(next(_parts(entry, 2), memoryview(b"")))
    return found


def _values(feature: memoryview) -> Values:
    values: Values = []
    for kind, part in _fields(feature):
        if kind == 1:
            values = list(_parts(part, 1))
        elif kind == 2:
            packed = [value for number, value in _fields(part) if number == 1]
            values = np.concatenate([np.frombuffer(p, "<f4") for p in packed]) if packed else np.empty(0, np.float32)
        elif kind == 3:
            packed = [value for number, value in _fields(part) if number == 1]
            values = np.concatenate([_varints(p) for p in packed]) if packed else np.empty(0, np.int64)
    return values


def _parts(message: memoryview, wanted: int) -> Iterator[memoryview]:
    return (value for number, value in _fields(message) if number == wanted)


def _fields(message: memoryview) -> Iterator[tuple[int, memoryview]]:
    """(field number, its bytes) for each field of a message; a varint stays encoded."""
    at = 0
    while at < len(message):
        tag, at = _varint(message, at)
        start = at
        match tag & 7:
            case 0:
                _, at = _varint(message, at)
            case 1:
                at += 8
            case 2:
                length, start = _varint(message, at)
                at = start + length
            case 5:
                at += 4
            case wire:
                raise ValueError(f"wire type {wire} at byte {start}")
        if at > len(message):
            raise ValueError(f"field {tag >> 3} claims {at - start} bytes; {len(message) - start} are left")
        yield tag >> 3, message[start:at]


def _varint(message: memoryview, at: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        byte = message[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
    raise ValueError(f"a number of more than 10 bytes before byte {at}")


def _varints(packed: memoryview) -> np.ndarray:
    """int64 (N,): the packed varints, all at once (a shape's worth of pixels may be stored this way)."""
    data = np.frombuffer(packed, np.uint8)
    ends = np.flatnonzero(data < 0x80) + 1
    if not len(ends) or ends[-1] != len(data):
        if len(data):
            raise ValueError("packed numbers do not end")
        return np.empty(0, np.int64)
    starts = np.concatenate([[0], ends[:-1]])
    if (ends - starts).max() > 10:
        raise ValueError("a packed number of more than 10 bytes")
    values = np.zeros(len(ends), np.uint64)
    for place in range(int((ends - starts).max())):
        there = starts + place < ends
        values[there] |= (data[starts[there] + place] & np.uint8(0x7F)).astype(np.uint64) << np.uint64(7 * place)
    return values.view(np.int64)


def _masked_crc(data: bytes) -> int:
    crc = google_crc32c.value(data)
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF
