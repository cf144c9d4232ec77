"""What lies where in a dataset on disk: the arrays, the attributes, the journal (docs/dataset-format.md)."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from hardware.types import RobotSpec
from robolearn.data.codecs import FrameCodec, codec_of, frame_codec, zstd_metadata

FORMAT = "robolearn"
FORMAT_VERSION = 2
READABLE = (1, 2)
BLOCK = 256  # rows of one file; a frame's file may hold fewer
STREAM_BLOCK = 4096  # samples of one file
SHARD_BYTES = 1 << 24  # of raw frames in one file, at most
LEVEL = 3  # zstd, of everything but frames
UNITS = {
    "time": "s, monotonic within an episode",
    "images": "uint8 RGB, (row, height, width, channel)",
    "image_time": "s, on the clock of time: when the frame was taken",
    "state": "spec.state.<name>.units",
    "action": "spec.action.units, as executed",
    "requested_action": "spec.action.units, as asked for",
    "reward": "1",
    "terminal": "bool",
    "source": "0 none, 1 scripted, 2 human, 3 policy, 4 planner, 5 replay",
    "streams": "time: s, on the clock of time; values: spec.streams.<name>.units",
}
SCALARS = {"time": "float64", "reward": "float32", "terminal": "bool", "source": "uint8"}
_DIMENSIONS = {0: (), 1: ("element",), 3: ("height", "width", "channel")}


@dataclass(frozen=True)
class Column:
    """One Zarr array: its first dimension is time, the rest is one row."""

    name: str
    dtype: np.dtype
    tail: tuple[int, ...]
    file_rows: int
    codec: FrameCodec | None = None  # frames only: their files are shards of compressed chunks
    checked: bool = True  # chunks end with a checksum (not in version 1)

    def key(self, file: int) -> str:
        """The name of one file below the store."""
        return "/".join([self.name, ".".join(["c", str(file), *["0"] * len(self.tail)])])


def columns(spec: RobotSpec, compression: Mapping[str, str]) -> dict[str, Column]:
    """Every array of a store of today's version. compression: camera -> name of its codec."""

    def column(name: str, dtype: str, *tail: int, rows: int = BLOCK, codec: FrameCodec | None = None) -> Column:
        return Column(name, np.dtype(dtype), tail, rows, codec)

    found = [column(name, dtype) for name, dtype in SCALARS.items()]
    found += [column(name, "float32", spec.action.dim) for name in ("action", "requested_action")]
    found += [column(f"state/{name}", "float32", part.dim) for name, part in spec.state.items()]
    for name, (height, width) in spec.cameras.items():
        fits = max(SHARD_BYTES // (height * width * 3), 1)
        rows = min(BLOCK, max(1 << (fits.bit_length() - 1), 16))
        found.append(column(f"images/{name}", "uint8", height, width, 3, rows=rows, codec=frame_codec(compression[name])))
        found.append(column(f"image_time/{name}", "float64"))
    for name, part in spec.streams.items():
        found.append(column(f"streams/{name}/time", "float64", rows=STREAM_BLOCK))
        found.append(column(f"streams/{name}/values", "float32", part.dim, rows=STREAM_BLOCK))
    return {c.name: c for c in found}


def stream_of(name: str) -> str | None:
    """The stream that an array belongs to; None: it has the rows' own clock."""
    return name.split("/")[1] if name.startswith("streams/") else None


def array_metadata(column: Column, rows: int) -> dict[str, Any]:
    """zarr.json of one array."""
    checksum = {"name": "crc32c"}
    codecs = [{"name": "bytes", "configuration": {"endian": "little"}}, *zstd_metadata(LEVEL)[1:], checksum]
    if column.codec is not None:
        inner = {
            "chunk_shape": [column.codec.rows, *column.tail],
            "codecs": [*column.codec.metadata, checksum],
            "index_codecs": [{"name": "bytes", "configuration": {"endian": "little"}}, checksum],
            "index_location": "end",
        }
        codecs = [{"name": "sharding_indexed", "configuration": inner}]
    return {
        "zarr_format": 3,
        "node_type": "array",
        "shape": [rows, *column.tail],
        "data_type": column.dtype.name,
        "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": [column.file_rows, *column.tail]}},
        # one folder for each array, not one for each chunk
        "chunk_key_encoding": {"name": "default", "configuration": {"separator": "."}},
        "fill_value": False if column.dtype == bool else 0,
        "codecs": codecs,
        "attributes": {},
        "dimension_names": ["time", *_DIMENSIONS[len(column.tail)]],
    }


def parse_array(name: str, text: str | bytes) -> tuple[Column, int]:
    """(the array that a zarr.json describes, its rows). ValueError: not one that is written here."""
    try:
        data = json.loads(text)
        rows, *tail = data["shape"]
        file_rows, *file_tail = data["chunk_grid"]["configuration"]["chunk_shape"]
        codecs, codec = list(data["codecs"]), None
        if codecs[0]["name"] == "sharding_indexed":
            inner = codecs[0]["configuration"]
            codecs = list(inner["codecs"])
            checked = codecs[-1]["name"] == "crc32c"
            codec = codec_of(codecs[:-1] if checked else codecs)
            fits = inner["chunk_shape"] == [codec.rows, *tail] and inner.get("index_location", "end") == "end"
            fits &= [c["name"] for c in inner["index_codecs"]] == ["bytes", "crc32c"]
            fits &= file_rows % codec.rows == 0
        else:
            checked = codecs[-1]["name"] == "crc32c"
            fits = codecs[0].get("configuration", {}).get("endian", "little") == "little"
            fits &= [c["name"] for c in codecs] == ["bytes", "zstd", "crc32c"][: 3 if checked else 2]
        if not fits or file_tail != tail or not 0 < file_rows <= 1 << 20 or data["chunk_key_encoding"]["configuration"]["separator"] != ".":
            raise ValueError("its chunks are laid out in another way")
        return Column(name, np.dtype(data["data_type"]), tuple(tail), file_rows, codec, checked), int(rows)
    except (KeyError, IndexError, TypeError, ValueError, AttributeError, OverflowError, RecursionError) as error:
        raise ValueError(f"array {name}: {'no ' if isinstance(error, KeyError) else ''}{error}") from error


def to_json(value: Any) -> Any:
    """JSON has no infinity; Zarr spells it "Infinity", and so do we."""
    if isinstance(value, Mapping):
        return {str(k): to_json(v) for k, v in value.items()}
    if isinstance(value, list | tuple | np.ndarray):
        return [to_json(v) for v in value]
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    return value


def from_json(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: from_json(v) for k, v in value.items()}
    if isinstance(value, list):
        return [from_json(v) for v in value]
    return float(value) if value in ("NaN", "Infinity", "-Infinity") else value
