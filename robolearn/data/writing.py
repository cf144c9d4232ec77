"""The writing half of a store: whole episodes. `recorder` writes them row by row."""

from __future__ import annotations

import fcntl
import json
import os
import re
import shutil
import uuid
import weakref
from collections.abc import Mapping, Sequence
from contextlib import suppress
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from hardware.types import RobotSpec
from robolearn.core import disk
from robolearn.core.errors import UserError
from robolearn.data.chunks import encode_block, encode_frames, shard_index
from robolearn.data.episode import Episode, check_episode
from robolearn.data.files import as_url, scheme_of
from robolearn.data.journal import JOURNAL, Journal
from robolearn.data.layout import (
    BLOCK,
    FORMAT,
    FORMAT_VERSION,
    STREAM_BLOCK,
    UNITS,
    Column,
    array_metadata,
    columns,
    stream_of,
    to_json,
)

NAME = re.compile(r"\w[\w. -]{0,99}")  # of a camera, state or stream: it becomes a folder
RECORDING, UNFINISHED = "recording", "unfinished"


def create(
    path: Path, spec: RobotSpec, provenance: Mapping[str, Any], compression: str | Mapping[str, str], calibration: str | None
) -> None:
    """Lay out an empty store under another name and rename it."""
    if scheme_of(path):
        raise UserError(f"{as_url(path)}: an object store is read only; record into a folder and copy it there")
    _check_spec(path, spec)
    if path.exists():
        raise UserError(f"{path}: exists already; choose another name, or open it with mode 'a' to append")
    chosen = dict.fromkeys(spec.cameras, compression) if isinstance(compression, str) else dict(compression)
    if unknown := set(chosen) - set(spec.cameras):
        raise UserError(f"compression: no camera {sorted(unknown)[0]!r}; valid: {', '.join(spec.cameras) or '(none)'}")
    arrays = columns(spec, {camera: chosen.get(camera, "zstd") for camera in spec.cameras})
    attributes = {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "spec": to_json(spec.to_dict()),
        "units": UNITS,
        "calibration": calibration,
        "provenance": to_json(dict(provenance)),
    }
    groups = {"": attributes} | {name: {} for c in arrays for name in _parents(c)}
    building = path.with_name(f".{path.name}.{os.getpid()}.new")
    try:
        for name, found in groups.items():
            (building / name).mkdir(parents=True, exist_ok=True)
            disk.write(building / name / "zarr.json", [_json({"zarr_format": 3, "node_type": "group", "attributes": found})])
        for name, column in arrays.items():
            (building / name).mkdir(parents=True, exist_ok=True)
            disk.write(building / name / "zarr.json", [_json(array_metadata(column, 0))])
        disk.write(building / JOURNAL, [])
        disk.sync_tree(building)
        disk.rename(building, path)
        disk.sync_path(path.parent)
    except OSError as error:
        raise UserError(f"{path}: cannot create the store: {error.strerror or error}") from error
    finally:
        shutil.rmtree(building, ignore_errors=True)


class Writer:
    """Holds the lock, appends rows, commits lines to the journal. One for each store open for appending."""

    def __init__(self, path: Path, handle: int, spec: RobotSpec, arrays: Mapping[str, Column], journal: Journal) -> None:
        self.path, self.spec, self.columns, self.journal = path, spec, arrays, journal
        for name, column in arrays.items():
            if (BLOCK if stream_of(name) is None else STREAM_BLOCK) % column.file_rows:  # episodes would share files
                raise ValueError(f"array {name}: files of {column.file_rows} rows are read, not written")
            if not column.checked:
                raise ValueError(f"array {name}: chunks without checksums are read, not written")
        self._shape = {name: json.loads((path / name / "zarr.json").read_bytes())["shape"][0] for name in arrays}
        if (path / RECORDING).exists():  # a recorder was killed
            try:
                put_aside(path / RECORDING)
            except OSError as error:
                raise UserError(f"{path}: cannot be written to: {error.strerror}") from error
        self._release = weakref.finalize(self, unlock, handle)  # last: until here the handle is the caller's

    @property
    def closed(self) -> bool:
        return not self._release.alive

    def close(self) -> None:
        self._release()

    def append(self, episodes: Sequence[Episode]) -> None:
        """Store them one after the other. UserError: refused or the disk is full, and none of them is stored."""
        try:
            for episode in episodes:
                check_episode(episode, self.spec)
            lines = self._lines(episodes)
        except (ValueError, TypeError, RecursionError) as error:
            raise UserError(f"{self.path}: {' '.join(str(error).split())}") from error
        parts = {name: [_part(episode, name) for episode in episodes] for name in self.columns}
        need = sum(part.nbytes for found in parts.values() for part in found) + (1 << 20)
        if (free := shutil.disk_usage(self.path).free) < need:
            raise UserError(f"{self.path}: disk full: the episode needs up to {need / 1e6:.1f} MB, {free / 1e6:.1f} MB are free")
        written: list[Path] = []
        try:
            for name, column in self.columns.items():
                self._write_column(column, self.first_row(stream_of(name)), parts.pop(name), written)
            self.commit(lines, written)
        except OSError as error:
            for path in written:
                disk.remove(path)  # give a full disk its bytes back
            raise self.failed(error) from error

    def first_row(self, stream: str | None = None) -> int:
        """Where the next episode starts: at the first row of a file, so that no file of a finished episode is touched again."""
        block = BLOCK if stream is None else STREAM_BLOCK
        return -(-self.journal.end(stream) // block) * block

    def write_block_column(self, column: Column, rows: np.ndarray, written: list[Path]) -> None:
        """Numbers of the next episode."""
        self._write_column(column, self.first_row(stream_of(column.name)), [rows], written)

    def commit(self, lines: Sequence[Mapping[str, Any]], written: Sequence[Path]) -> None:
        """Make the folders of `written` durable, grow the arrays, then the journal: now the episodes exist."""
        for folder in dict.fromkeys(path.parent for path in written):
            disk.sync_path(folder)
        for name, column in self.columns.items():
            if (end := self.journal.end_with(lines, stream_of(name))) > self._shape[name]:
                rows = column.file_rows << (-(-end // column.file_rows) - 1).bit_length()  # doubled: rarely written
                disk.replace(self.path / name / "zarr.json", _json(array_metadata(column, rows)))
                self._shape[name] = rows
        data = b"".join(json.dumps(line, allow_nan=False).encode() + b"\n" for line in lines)
        disk.append(self.path / JOURNAL, self.journal.size, data)
        self.journal.add([json.loads(line) for line in data.splitlines()], len(data))

    def annotate(self, provenance: Mapping[str, Any]) -> None:
        """Another provenance, in place of the old one."""
        group = json.loads((self.path / "zarr.json").read_bytes())
        group["attributes"]["provenance"] = to_json(dict(provenance))
        try:
            disk.replace(self.path / "zarr.json", _json(group))
        except OSError as error:
            raise self.failed(error) from error

    def failed(self, error: OSError) -> UserError:
        why = "disk full" if error.errno in (28, 122) else error.strerror or str(error)
        return UserError(f"{self.path}: {why}: the episode was not stored, the others are intact")

    def folder_for_recording(self) -> Path:
        """A fresh place for one recorder."""
        folder = self.path / RECORDING
        try:
            disk.make_folder(folder)
            disk.sync_path(self.path)
        except FileExistsError as error:
            raise UserError(f"{self.path}: an episode is being recorded already; finish or discard it first") from error
        except OSError as error:
            raise self.failed(error) from error
        return folder

    def unfinished(self) -> list[Path]:
        return sorted(path for path in (self.path / UNFINISHED).glob("*") if path.is_dir())

    def _lines(self, episodes: Sequence[Episode]) -> list[dict[str, Any]]:
        """What the journal shall say."""
        lines, start = [], self.first_row()
        at = {name: self.first_row(name) for name in self.spec.streams}
        for episode in episodes:
            line: dict[str, Any] = {"start": start, "length": len(episode), "meta": to_json(dict(episode.meta))}
            line |= {"image_time": list(episode.image_time)} if episode.image_time else {}
            line |= {"streams": {name: [at[name], len(stream.time)] for name, stream in episode.streams.items()}} if at else {}
            json.dumps(line, allow_nan=False)
            lines.append(line)
            start += len(episode)
            at = {name: first + len(episode.streams[name].time) for name, first in at.items()}
        return lines

    def _write_column(self, column: Column, first: int, parts: Sequence[np.ndarray], written: list[Path]) -> None:
        """Rows from `first`, a file's first row, on; files are whole or unreferenced."""
        rows = parts[0] if len(parts) == 1 else np.concatenate(parts)
        cuts = [*range(0, len(rows), column.file_rows), len(rows)]
        for a, b in pairwise(cuts):
            path = self.path / column.key((first + a) // column.file_rows)
            written.append(path)
            if column.codec is None:
                disk.write(path, [encode_block(column, rows[a:b])])
            else:
                chunks = encode_frames(column, rows[a:b])
                disk.write(path, [*chunks, shard_index(column, [len(chunk) for chunk in chunks])])


def put_aside(recording: Path) -> Path:
    """Make room for the next recording: this one waits for `recover` in a folder of its own."""
    target = recording.parent / UNFINISHED / uuid.uuid4().hex[:12]
    with suppress(FileExistsError):
        disk.make_folder(target.parent)
    disk.rename(recording, target)
    for folder in (target.parent, recording.parent):
        disk.sync_path(folder)
    return target


def lock(path: Path) -> int:
    """A descriptor that holds the writer's lock until it is closed; the kernel frees it when the process dies."""
    try:
        handle = os.open(path / "writer.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(handle)
            raise
    except BlockingIOError as error:
        raise UserError(f"{path}: another process is writing to this store; wait for it, or open the store with mode 'r'") from error
    except OSError as error:
        raise UserError(f"{path}: cannot be written to: {error.strerror}") from error
    return handle


def unlock(handle: int) -> None:
    os.close(handle)


def _check_spec(path: Path, spec: RobotSpec) -> None:
    """UserError: names that cannot be folders, shapes without elements."""
    for kind, names in (("cameras", spec.cameras), ("state", spec.state), ("streams", spec.streams)):
        for name in names:
            if not NAME.fullmatch(name) or name == "zarr.json":
                valid = "letters, digits, _, and after the first - . and spaces"
                raise UserError(f"{path}: {kind}: {name!r} cannot be a folder of the store; valid: {valid}")
    for name, size in spec.cameras.items():
        if min(size) < 1:
            raise UserError(f"{path}: cameras: {name} is {tuple(size)} [px]; expected at least 1")
    vectors = [("action", spec.action), *((f"{kind}: {n}", p) for kind in ("state", "streams") for n, p in getattr(spec, kind).items())]
    for name, part in vectors:
        if part.dim == 0:  # Zarr has no chunks of size 0
            raise UserError(f"{path}: {name} has no elements; leave it out")


def _part(episode: Episode, name: str) -> np.ndarray:
    """The rows of one array."""
    kind, _, rest = name.partition("/")
    match kind:
        case "images":
            return episode.images[rest]
        case "image_time":
            return episode.image_time.get(rest, episode.time)
        case "state":
            return episode.state[rest]
        case "streams":
            stream, part = rest.rsplit("/", 1)
            return getattr(episode.streams[stream], part)
    return getattr(episode, name)


def _parents(name: str) -> list[str]:
    """The groups that an array lies in."""
    parts = name.split("/")[:-1]
    return ["/".join(parts[: i + 1]) for i in range(len(parts))]


def _json(data: Any) -> bytes:
    return json.dumps(data, indent=1).encode()
