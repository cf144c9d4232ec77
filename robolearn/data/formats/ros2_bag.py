"""rosbag2 bags (https://github.com/ros2/rosbag2): a folder with metadata.yaml is one episode, a folder of such folders a dataset.

Storage sqlite3 or mcap, either compressed by file, by message or not at all. metadata.yaml tells topics, types and files; the files'
names only, since older recorders put a folder before them. See _ros for the rows.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from pathlib import Path, PurePosixPath
from tempfile import TemporaryDirectory
from typing import Any

import yaml
import zstandard

from robolearn.core.config import PlainLoader
from robolearn.core.errors import UserError
from robolearn.data.formats._reader import MAX_EPISODE_BYTES, Options, Reader, inside
from robolearn.data.formats._ros import Logs
from robolearn.data.formats._ros_messages import decode_cdr
from robolearn.data.formats.mcap_log import MAX_CHUNK, open_mcap

METADATA = "metadata.yaml"
MAX_METADATA = 1 << 24  # bytes
_KEY = "rosbag2_bagfile_information"
_COPY = 1 << 20


def matches(path: Path) -> bool:
    return bool(_bags(path))


def read(path: Path, options: Options) -> Reader:
    """One episode for each bag. UserError: not installed, damaged, no topic that is read here."""
    if not (bags := _bags(path)):
        raise UserError(f"holds no {METADATA} of a bag, nor a folder that does")
    return Logs(path.name, bags, open_bag, options)


def _bags(path: Path) -> list[Path]:
    if not path.is_dir():
        return []
    if _is_bag(path):
        return [path]
    return sorted((bag for bag in path.iterdir() if bag.is_dir() and _is_bag(bag)), key=lambda bag: (len(bag.name), bag.name))


def _is_bag(path: Path) -> bool:
    if not (path / METADATA).is_file():
        return False
    with (path / METADATA).open("rb") as file:
        return _KEY.encode() in file.read(4096)


@contextmanager
def open_bag(path: Path) -> Iterator[_Bag]:
    """A bag as a Log. Files that are compressed as a whole are unpacked into a temporary folder for as long as it is open."""
    text = inside(path, METADATA).read_bytes()[: MAX_METADATA + 1]
    if len(text) > MAX_METADATA:
        raise UserError(f"{METADATA} has more than {MAX_METADATA} bytes")
    try:
        info: Any = yaml.load(text, PlainLoader)[_KEY]
        storage, files = info["storage_identifier"], [PurePosixPath(name).name for name in info["relative_file_paths"]]
        mode, form = str(info.get("compression_mode") or "none").lower(), info.get("compression_format")
        topics = [entry["topic_metadata"] for entry in info["topics_with_message_count"]]
        types = {
            str(t["name"]): str(t["type"]) if t["serialization_format"] == "cdr" else f"{t['type']} as {t['serialization_format']}"
            for t in topics
        }
    except RecursionError as error:
        raise UserError(f"{METADATA} is damaged: nested too deeply") from error
    except (yaml.YAMLError, KeyError, TypeError, AttributeError, ValueError) as error:
        raise UserError(f"{METADATA} is damaged: {'no ' if isinstance(error, KeyError) else ''}{str(error)[:160]}") from error
    if storage not in ("sqlite3", "mcap"):
        raise UserError(f"{METADATA}: storage_identifier {str(storage)[:40]!r}; valid: sqlite3, mcap")
    if mode not in ("none", "storage", "file", "message") or (mode in ("file", "message") and form != "zstd"):
        raise UserError(f"{METADATA}: compression {mode!r} by {str(form)[:40]!r}; valid: none, storage, and file or message by zstd")
    paths = [inside(path, name) for name in files]
    if missing := [file.name for file in paths if not file.is_file()]:
        raise UserError(f"{missing[0]} is missing, which {METADATA} names")
    with TemporaryDirectory() as folder:
        if mode == "file":
            paths = [_unpacked_file(file, Path(folder)) for file in paths]
        yield _Bag(types, paths, storage, packed=mode == "message")


class _Bag:
    def __init__(self, types: Mapping[str, str], paths: Sequence[Path], storage: str, packed: bool) -> None:
        self.types, self._paths, self._storage, self._packed = types, paths, storage, packed

    def messages(self, topics: Collection[str]) -> Iterator[tuple[str, int, Any]]:
        for path in self._paths:
            for topic, logged, data in (_mcap_rows if self._storage == "mcap" else _sqlite_rows)(path, topics):
                yield topic, logged, decode_cdr(_unpacked(data) if self._packed else data, self.types[topic])


def _mcap_rows(path: Path, topics: Collection[str]) -> Iterator[tuple[str, int, bytes]]:
    with open_mcap(path) as log:
        for (topic, _, _), logged, data in log.raw(topics):
            yield topic, logged, data


def _sqlite_rows(path: Path, topics: Collection[str]) -> Iterator[tuple[str, int, bytes]]:
    """Messages of one SQLite file in the order they were recorded."""
    try:
        with closing(sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro&immutable=1", uri=True)) as database:
            database.execute("PRAGMA trusted_schema = OFF")
            tables = {name for (name,) in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
            if not {"topics", "messages"} <= tables:
                raise UserError(f"{path.name} has no tables topics and messages")
            names = {key: name for key, name in database.execute("SELECT id, name FROM topics") if name in topics}
            wanted = ", ".join("?" * len(names))
            query = f"SELECT topic_id, timestamp, data FROM messages WHERE topic_id IN ({wanted}) ORDER BY id"
            for key, logged, data in database.execute(query, list(names)):
                if not isinstance(logged, int) or not isinstance(data, bytes):
                    raise UserError(f"{path.name}: a message has time {str(logged)[:40]} and {type(data).__name__} data")
                yield names[key], logged, data
    except sqlite3.Error as error:
        raise UserError(f"{path.name} is damaged: {error}") from error


def _unpacked(data: bytes) -> bytes:
    try:
        size = zstandard.frame_content_size(data)
        if not 0 <= size <= MAX_CHUNK:
            raise UserError(f"a message claims {size} bytes; from 0 to {MAX_CHUNK} are read")
        return zstandard.ZstdDecompressor(max_window_size=MAX_CHUNK).stream_reader(data).read(size)
    except zstandard.ZstdError as error:
        raise UserError(f"a compressed message is damaged: {error}") from error


def _unpacked_file(path: Path, folder: Path) -> Path:
    """bag_0.db3.zstd -> folder/bag_0.db3."""
    to, done = folder / path.stem, 0
    try:
        with path.open("rb") as packed, to.open("wb") as file:
            reader = zstandard.ZstdDecompressor(max_window_size=MAX_CHUNK).stream_reader(packed)
            while part := reader.read(_COPY):
                done += file.write(part)
                if done > MAX_EPISODE_BYTES:
                    raise UserError(f"{path.name} unpacks to more than {MAX_EPISODE_BYTES >> 30} GiB; unpack it first, by `zstd -d`")
    except zstandard.ZstdError as error:
        raise UserError(f"{path.name} is damaged: {error}") from error
    return to
