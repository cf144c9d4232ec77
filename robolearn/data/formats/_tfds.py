"""The folder of a TensorFlow dataset (TFDS 4.5 and later): features.json tells a record's fields, dataset_info.json the splits."""

from __future__ import annotations

import math
import re
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from robolearn.core.errors import UserError
from robolearn.data.formats._json import MAX_BYTES, read_object
from robolearn.data.formats._reader import inside, require_memory
from robolearn.data.formats._tfrecord import Record, Values, records

_SHARD = re.compile(r"(?:(?P<name>\w+)-)?(?P<split>[\w-]+)\.tfrecord-(?P<index>\d{5,})-of-(?P<count>\d{5,})")
_DTYPES = {"bool", *(f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)), "float16", "float32", "float64"}


@dataclass(frozen=True)
class Feature:
    """One leaf of features.json. shape: of one step, None where it is not said."""

    kind: str  # "tensor", "image", "text", or what TFDS calls it
    shape: tuple[int | None, ...] = ()
    dtype: str = ""
    encoding: str = ""  # of a tensor: "none", "bytes", "zlib"
    ragged: bool = False  # a sequence within the steps: its values lie in one flat list

    @property
    def numeric(self) -> bool:
        return self.kind == "tensor" and self.dtype in _DTYPES and None not in self.shape

    @property
    def dim(self) -> int:
        """Numbers in one step."""
        return math.prod(n or 0 for n in self.shape)

    @property
    def once(self) -> bool:
        """One value in each step: a number, a text, an image."""
        return not self.ragged and (self.kind in ("text", "image") or (self.numeric and not self.shape))


@dataclass(frozen=True)
class Split:
    """The records of one split whose files are here. shards: (here, in all)."""

    name: str
    records: tuple[Record, ...]
    shards: tuple[int, int]


def is_rlds(path: Path) -> bool:
    """A TFDS folder whose records are episodes of steps."""
    if not (path / "dataset_info.json").is_file() or not (path / "features.json").is_file():
        return False
    with (path / "features.json").open("rb") as file:
        text = file.read(MAX_BYTES)
    return b"tensorflow_datasets" in text and b'"steps"' in text


def read_features(path: Path) -> dict[str, Feature]:
    """Each leaf by its name in a record, "steps/observation/state". UserError: not as TFDS 4.5 and later write it."""
    data = read_object(inside(path, "features.json"))
    if "featuresDict" not in data:
        raise UserError("features.json: no featuresDict at the top; only what TFDS 4.5 and later write is read")
    try:
        return dict(sorted(_leaves(data, "", ())))
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        raise UserError("features.json: a feature lacks its parts or has others; expected what TFDS 4.5 and later write") from error


def _leaves(node: dict[str, Any], name: str, lengths: tuple[int | None, ...]) -> Iterator[tuple[str, Feature]]:
    if "featuresDict" in node:
        for child, inner in node["featuresDict"]["features"].items():
            yield from _leaves(inner, f"{name}/{child}" if name else child, lengths)
    elif "sequence" in node:
        sequence = node["sequence"]
        length = int(sequence.get("length", -1))
        yield from _leaves(sequence["feature"], name, (*lengths, length if length >= 0 else None))
    else:
        inner = lengths[1:]  # the first is the steps'
        for kind in ("tensor", "image"):
            if kind in node:
                leaf = node[kind]
                encoding = str(leaf.get("encoding") or "none").lower()
                dtype = str(leaf.get("dtype", "")) or ("uint8" if kind == "image" else "")
                if kind == "tensor" and dtype in ("string", "object"):
                    kind = "text"
                yield name, Feature(kind, (*inner, *_shape(leaf)), dtype, encoding, bool(inner))
                return
        if "text" in node:
            yield name, Feature("text", inner, "string", ragged=bool(inner))
        elif "classLabel" in node:
            yield name, Feature("tensor", inner, "int64", "none", bool(inner))
        else:
            yield name, Feature(str(node.get("pythonClassName", "unknown")).rpartition(".")[2])


def _shape(leaf: dict[str, Any]) -> tuple[int | None, ...]:
    dimensions = [int(n) for n in leaf.get("shape", {}).get("dimensions", [])]
    return tuple(n if n >= 0 else None for n in dimensions)


def read_splits(path: Path, info: dict[str, Any]) -> tuple[list[Split], list[str]]:
    """(the splits, train first; notes on files that are missing). UserError: a file holds another number of records than it should."""
    if str(info.get("fileFormat", "tfrecord")).lower() != "tfrecord":
        raise UserError(f"dataset_info.json: fileFormat {str(info['fileFormat'])[:40]!r}; only tfrecord is read")
    files: dict[str, dict[int, Path]] = {}
    for file in sorted(path.iterdir()):
        if (match := _SHARD.fullmatch(file.name)) and file.is_file():
            files.setdefault(match["split"], {})[int(match["index"])] = file
    splits, notes = [], []
    for split in sorted(info.get("splits", []), key=lambda s: s["name"] != "train"):
        name, lengths = str(split["name"]), _lengths(split)
        here = files.pop(name, {})
        found: list[Record] = []
        for index, file in sorted(here.items()):
            shard = records(inside(path, file.name))
            if index >= len(lengths) or len(shard) != lengths[index]:
                expected = lengths[index] if index < len(lengths) else "no such file"
                raise UserError(f"{file.name}: holds {len(shard)} records; dataset_info.json says {expected}")
            found += shard
        if len(here) < len(lengths):
            notes.append(f"split {name}: {len(here)} of {len(lengths)} files are here; the others' episodes are missing")
        splits.append(Split(name, tuple(found), (len(here), len(lengths))))
    if files:
        notes.append(f"left out: files of splits that dataset_info.json does not name: {', '.join(sorted(files))[:200]}")
    return splits, notes


def _lengths(split: dict[str, Any]) -> list[int]:
    """Records in each file of a split."""
    said = split.get("shardLengths", [])
    if not isinstance(said, list) or not all(re.fullmatch(r"[0-9]{1,18}", str(n)) for n in said):
        raise UserError(
            f"dataset_info.json: shardLengths of {split['name']} is {str(said)[:60]}; expected a number of records for each file"
        )
    return [int(n) for n in said]


def numbers(key: str, feature: Feature, example: dict[str, Values], steps: int) -> np.ndarray:
    """A tensor of every step, (steps, *shape) in its dtype. UserError: absent, or not as many values as its shape needs."""
    values = _values(f"{key}/ragged_flat_values" if feature.ragged else key, example)
    shape = (steps, *(n for n in feature.shape if n is not None))
    require_memory(key, shape, 8)
    if isinstance(values, np.ndarray):
        flat = values
    elif feature.encoding in ("bytes", "zlib"):
        dtype = np.dtype(feature.dtype).newbyteorder("<")
        size = math.prod(shape[1:]) * dtype.itemsize
        flat = np.frombuffer(b"".join(_unpacked(value, feature.encoding, size) for value in values), dtype)
    else:
        flat = np.empty(0, np.float32) if not values else None
    if flat is None or flat.size != math.prod(shape):
        raise UserError(f"{key} has {len(values)} values; features.json and {steps} steps need {shape}")
    return flat.reshape(shape).astype(feature.dtype, copy=False)


def byte_strings(key: str, example: dict[str, Values], steps: int) -> list[memoryview]:
    """One for each step: an encoded image, a text. UserError: absent, or another number of them."""
    values = _values(key, example)
    if isinstance(values, np.ndarray) or len(values) != steps:
        raise UserError(f"{key} has {len(values)} values; the episode has {steps} steps")
    return values


def text(value: bytes | memoryview) -> str:
    return str(value, "utf8", "replace").strip()


def _values(key: str, example: dict[str, Values]) -> Values:
    if key not in example:
        raise UserError(f"the record has no {key}; features.json says it has")
    return example[key]


def _unpacked(value: memoryview, encoding: str, size: int) -> bytes:
    """Never more than one byte above `size`: a zlib stream may grow a thousandfold."""
    data = bytes(value) if encoding == "bytes" else zlib.decompressobj().decompress(value, size + 1)
    if len(data) != size:
        raise UserError(f"a tensor unpacks to {'more' if len(data) > size else 'less'} than the {size} bytes of its shape")
    return data
