"""MCAP logs (https://mcap.dev/spec): one .mcap file is one episode, a folder of them a dataset. ROS 2 messages (CDR), or JSON.

JSON messages are read by what they hold: foxglove.CompressedImage and foxglove.RawImage are pictures, every other object gives all its
numbers by their path. Chunks are unpacked here, because the mcap package would unpack whatever they claim. See _ros for the rows.
"""

from __future__ import annotations

import json
import struct
from base64 import b64decode
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import zstandard

from robolearn.core.errors import UserError
from robolearn.data.formats._reader import Options, Reader
from robolearn.data.formats._ros import Logs
from robolearn.data.formats._ros_messages import COMPRESSED, EXTRA, IMAGE, JSON, decode_cdr

MAGIC = b"\x89MCAP0\r\n"
MAX_CHUNK = 1 << 28  # bytes, unpacked; writers aim at 1 to 4 MB, and a message is never split
_PICTURES = {"foxglove.CompressedImage": COMPRESSED, "foxglove.RawImage": IMAGE}


def matches(path: Path) -> bool:
    return any(_is_mcap(file) for file in _files(path))


def read(path: Path, options: Options) -> Reader:
    """One episode for each file. UserError: not installed, damaged, no topic that is read here."""
    if not (files := _files(path)):
        raise UserError("holds no .mcap file")
    return Logs(path.stem, files, open_mcap, options)


def _files(path: Path) -> list[Path]:
    if path.is_file():
        return [path]
    if not path.is_dir() or (path / "metadata.yaml").exists():  # the latter: one ROS 2 bag in parts
        return []
    return sorted(
        (file for file in path.iterdir() if file.suffix == ".mcap" and file.is_file()), key=lambda file: (len(file.name), file.name)
    )


def _is_mcap(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(len(MAGIC)) == MAGIC


@contextmanager
def open_mcap(path: Path) -> Iterator[Mcap]:
    """A file as a Log; each reading opens it anew. UserError: not installed."""
    try:
        import mcap  # noqa: F401
    except ImportError as error:
        raise UserError(f"MCAP {EXTRA}") from error
    yield Mcap(path)


class Mcap:
    """One file. types: topic -> the ROS type of its messages, "json", or what else they are."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.types: Mapping[str, str] = {topic: kind for topic, kind, _ in _channels(path).values()}

    def messages(self, topics: Collection[str]) -> Iterator[tuple[str, int, Any]]:
        for (topic, kind, encoding), logged, data in self.raw(topics):
            yield topic, logged, (_from_json if encoding == "json" else decode_cdr)(data, kind)

    def raw(self, topics: Collection[str]) -> Iterator[tuple[tuple[str, str, str], int, bytes]]:
        """((topic, kind, encoding), when it was logged [ns], the message's bytes)."""
        from mcap.records import Message

        channels = _channels(self.path)
        for record in _records(self.path):
            if isinstance(record, Message) and channels[record.channel_id][0] in topics:
                yield channels[record.channel_id], record.log_time, record.data


def _channels(path: Path) -> dict[int, tuple[str, str, str]]:
    """channel -> (topic, kind, encoding of its messages). From the summary at the end; a file without one is read through."""
    from mcap.reader import SeekingReader
    from mcap.records import Channel, Schema

    with path.open("rb") as file, _damage(path):
        file.seek(-min(len(MAGIC), path.stat().st_size), 2)
        if file.read() != MAGIC:
            raise EOFError
        file.seek(0)
        summary = SeekingReader(file, record_size_limit=path.stat().st_size).get_summary()
    if summary is not None and summary.channels:
        schemas, channels = summary.schemas, summary.channels
    else:
        schemas, channels = {}, {}
        for record in _records(path):
            if isinstance(record, Schema):
                schemas[record.id] = record
            elif isinstance(record, Channel):
                channels[record.id] = record
    found = {}
    for channel in channels.values():
        schema = schemas.get(channel.schema_id)
        name = schema.name if schema else "no schema"
        if channel.message_encoding == "json":
            kind = _PICTURES.get(name, JSON)
        elif channel.message_encoding == "cdr":
            kind = name if name.count("/") != 1 else name.replace("/", "/msg/")  # older recorders leave the msg out
        else:
            kind = f"{name} as {channel.message_encoding}"
        found[channel.id] = (channel.topic, kind, channel.message_encoding)
    return found


def _records(path: Path) -> Iterator[Any]:
    """All records in the file's order, those in chunks too."""
    from mcap.records import Chunk
    from mcap.stream_reader import StreamReader, breakup_chunk

    with path.open("rb") as file, _damage(path):
        for record in StreamReader(file, emit_chunks=True, validate_crcs=True, record_size_limit=path.stat().st_size).records:
            if isinstance(record, Chunk):
                yield from breakup_chunk(replace(record, compression="", data=_unpacked(record)), validate_crc=True)
            else:
                yield record


def _unpacked(chunk: Any) -> bytes:
    size = chunk.uncompressed_size
    if size > MAX_CHUNK:
        raise UserError(f"a chunk claims {size} bytes; at most {MAX_CHUNK} are read")
    if chunk.compression == "zstd":
        data = zstandard.ZstdDecompressor(max_window_size=MAX_CHUNK).stream_reader(chunk.data).read(size)
    elif chunk.compression == "lz4":
        from lz4.frame import LZ4FrameDecompressor  # comes with mcap

        data = LZ4FrameDecompressor().decompress(chunk.data, max_length=size)
    elif chunk.compression == "":
        data = chunk.data
    else:
        raise UserError(f"a chunk is compressed by {chunk.compression[:20]!r}; valid: zstd, lz4, none")
    if len(data) != size:
        raise UserError(f"a chunk holds {len(data)} bytes; it claims {size}")
    return data


@contextmanager
def _damage(path: Path) -> Iterator[None]:
    from mcap.exceptions import EndOfFile, McapError

    try:
        yield
    except (EOFError, EndOfFile, StopIteration, struct.error) as error:
        raise UserError(f"{path.name} is cut off; `mcap recover` saves what there is") from error
    except (McapError, zstandard.ZstdError) as error:
        raise UserError(f"{path.name} is damaged: {' '.join(str(error).split())[:160] or type(error).__name__}") from error


def _from_json(data: bytes, kind: str) -> Any:
    """A dict; a picture as ROS has it."""
    message = json.loads(data)
    if kind == JSON:
        return message if isinstance(message, dict) else {"value": message}
    stamp = message["timestamp"]
    header = SimpleNamespace(stamp=SimpleNamespace(sec=stamp["sec"], nanosec=stamp["nsec"]))
    return SimpleNamespace(**{**message, "data": b64decode(message["data"]), "header": header})
