"""From a recording's folder to an episode of the store: after `finish`, or after the recorder was killed."""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import google_crc32c
import numpy as np

from hardware.types import RobotSpec
from robolearn.core import disk
from robolearn.core.errors import UserError
from robolearn.data.chunks import shard_index
from robolearn.data.codecs import without_checksum
from robolearn.data.layout import Column, to_json
from robolearn.data.writing import Writer

LOG = "log"
RECORD = struct.Struct("<II")  # length of what follows, its CRC-32C
CHUNK = struct.Struct("<HHI")  # camera, frames, bytes


def row_type(spec: RobotSpec) -> np.dtype:
    """The numbers of one row, as they lie in the log."""
    fields: list[Any] = [("time", "<f8"), ("reward", "<f4"), ("terminal", "?"), ("source", "u1")]
    fields += [("action", "<f4", (spec.action.dim,)), ("requested_action", "<f4", (spec.action.dim,))]
    fields += [(f"state/{name}", "<f4", (part.dim,)) for name, part in spec.state.items()]
    return np.dtype(fields + [(f"image_time/{name}", "<f8") for name in spec.cameras])


def part_name(camera: int, file: int) -> str:
    return f"{camera}.{file}.part"


def commit(writer: Writer, folder: Path, meta: Mapping[str, Any], last: Mapping[str, bool | float] | None = None) -> None:
    """Make a recording an episode, and remove its folder. Killed anywhere, it can be called again: it ends the same.

    last: terminal, reward of the last row, where they are given. UserError: a full disk, and the folder is kept; not one complete row,
    and it is removed.
    """
    log = _Log(folder, writer.spec, [writer.columns[f"images/{name}"] for name in writer.spec.cameras])
    if any(line.get("recording") == log.identity for line in writer.journal.lines):  # killed just before the folder went
        remove_recording(folder)
        return
    if len(log.rows) == 0:
        remove_recording(folder)
        raise UserError(f"{folder}: not one row of the recording was complete; nothing is kept")
    identity, spec, written = log.identity, writer.spec, []
    line: dict[str, Any] = {"start": writer.first_row(), "length": len(log.rows), "meta": to_json(dict(meta)), "recording": identity}
    rows = log.rows.copy()
    for name, value in (last or {}).items():
        rows[name][-1] = value
    line["image_time"] = [name for name in spec.cameras if np.isfinite(rows[f"image_time/{name}"]).all()]
    for name in set(spec.cameras) - set(line["image_time"]):
        rows[f"image_time/{name}"] = rows["time"]
    if spec.streams:
        line["streams"] = {name: [writer.first_row(name), len(time)] for name, (time, _) in log.streams.items()}
    try:
        for name, column in writer.columns.items():
            if column.codec is not None:
                log.link_shards(writer, name, written)
            elif name.startswith("streams/"):
                stream, part = name.removeprefix("streams/").rsplit("/", 1)
                writer.write_block_column(column, log.streams[stream][part == "values"], written)
            else:
                writer.write_block_column(column, rows[name], written)
        writer.commit([line], written)
    except OSError as error:
        for path in written:
            disk.remove(path)
        raise writer.failed(error) from error
    remove_recording(folder)


def remove_recording(folder: Path) -> None:
    """The log goes last: it knows whether the rest is an episode by now."""
    for path in sorted(folder.iterdir(), key=lambda path: path.name == LOG):
        disk.remove(path)
    disk.remove_folder(folder)


class _Log:
    """What a recording holds up to its first damage: `identity`, `rows` (N,) of row_type, `streams` {name: (time, values)}."""

    def __init__(self, folder: Path, spec: RobotSpec, cameras: list[Column]) -> None:
        self._folder, self._cameras, self.identity = folder, cameras, ""
        kind = row_type(spec)
        rows: list[bytes] = []
        samples: dict[str, list[tuple[np.ndarray, np.ndarray]]] = {name: [] for name in spec.streams}
        self._chunks: list[list[tuple[int, int]]] = [[] for _ in cameras]  # (frames, bytes)
        for record in _records(folder / LOG):
            match record[:1]:
                case b"I":
                    self.identity = record[1:].hex()
                case b"R":
                    rows.append(record[1:])
                case b"C":
                    camera, frames, size = CHUNK.unpack(record[1:])
                    self._chunks[camera].append((frames, size))
                case b"S":
                    name = list(spec.streams)[struct.unpack_from("<H", record, 1)[0]]
                    count = (len(record) - 3) // (8 + 4 * spec.streams[name].dim)
                    time = np.frombuffer(record, "<f8", count, 3)
                    samples[name].append((time, np.frombuffer(record, "<f4", offset=3 + 8 * count).reshape(count, -1)))
        whole = min([len(rows), *(self._whole_frames(i) for i in range(len(cameras)))])
        self.rows = np.frombuffer(b"".join(rows[:whole]), kind)
        self.streams = {
            name: (
                np.concatenate([time for time, _ in found] or [np.zeros(0)]),
                np.concatenate([values for _, values in found] or [np.zeros((0, spec.streams[name].dim), np.float32)]),
            )
            for name, found in samples.items()
        }

    def link_shards(self, writer: Writer, name: str, written: list[Path]) -> None:
        """Give each part its index, and its place in the store."""
        column = writer.columns[name]
        camera = self._cameras.index(column)
        step = column.codec.rows  # pyright: ignore[reportOptionalMemberAccess]
        chunks, first = self._chunks[camera][: -(-len(self.rows) // step)], writer.first_row() // column.file_rows
        per_file = column.file_rows // step
        for file in range(-(-len(chunks) // per_file)):
            sizes = [size for _, size in chunks[file * per_file : (file + 1) * per_file]]
            part = self._folder / part_name(camera, file)
            disk.append(part, sum(sizes), shard_index(column, sizes))
            target = writer.path / column.key(first + file)
            written.append(target)
            disk.link(part, target)

    def _whole_frames(self, camera: int) -> int:
        """Frames whose bytes are all there and right: after a power cut the log may know more than the disk."""
        column, frames = self._cameras[camera], 0
        per_file = column.file_rows // column.codec.rows  # pyright: ignore[reportOptionalMemberAccess]
        chunks = self._chunks[camera]
        with suppress(FileNotFoundError, ValueError):
            for first in range(0, len(chunks), per_file):
                with open(self._folder / part_name(camera, first // per_file), "rb") as part:
                    for count, size in chunks[first : first + per_file]:
                        without_checksum(part.read(size))
                        frames += count
        return frames


def _records(path: Path) -> Iterator[bytes]:
    """The records of a log up to the first that is torn."""
    with suppress(FileNotFoundError), open(path, "rb") as file:
        rest = os.fstat(file.fileno()).st_size
        while len(head := file.read(RECORD.size)) == RECORD.size:
            length, checksum = RECORD.unpack(head)
            rest -= RECORD.size + length
            if rest < 0 or google_crc32c.value(record := file.read(length)) != checksum:
                return
            yield record
