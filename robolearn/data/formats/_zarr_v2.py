"""Arrays of numbers in a Zarr v2 store (https://zarr-specs.readthedocs.io/en/latest/v2/v2.0.html), a folder or a zip file.

A store names the codec that shall decode it. zarr-python obeys, numcodecs' pickle included, which runs whatever a file says, and
most codecs allocate what a chunk's header claims. Here only the codecs below are obeyed, and no more than a chunk is decoded.
"""

from __future__ import annotations

import bz2
import io
import json
import re
import struct
import zipfile
import zlib
from collections.abc import Callable
from itertools import product
from math import prod
from pathlib import Path
from typing import Any, Literal, Protocol, runtime_checkable

import numpy as np
import zstandard

from robolearn.core.errors import UserError
from robolearn.data.formats._reader import inside, require_memory

MAX_CHUNKS = 1_000_000  # of one read: a broken header may cut an array into single numbers
MAX_METADATA = 1 << 20  # bytes of a .zarray


@runtime_checkable
class Files(Protocol):
    """Named byte strings below one root."""

    def read(self, name: str, limit: int) -> bytes | None:
        """None: there is none. UserError: longer than `limit` [bytes], or it leads out of the root."""
        ...

    def names(self, folder: str) -> set[str]:
        """What lies directly in `folder`, files and folders."""
        ...

    def close(self) -> None: ...


class Folder:
    def __init__(self, path: Path) -> None:
        self.path = path

    def read(self, name: str, limit: int) -> bytes | None:
        path = inside(self.path, name)
        if not path.is_file():
            if path.exists():  # a lost chunk reads as zero; what stands in its place is damage
                raise UserError(f"{name} is no file")
            return None
        _limited(name, path.stat().st_size, limit)
        return path.read_bytes()

    def names(self, folder: str) -> set[str]:
        path = inside(self.path, folder)
        return {entry.name for entry in path.iterdir()} if path.is_dir() else set()

    def close(self) -> None:
        """Nothing is held open."""


class Zip:
    """A zip file, read in place: nothing is unpacked, so no name can lead anywhere. Some zips hold the store in a folder of their own."""

    def __init__(self, path: Path, marker: str) -> None:
        """marker: a file of the store, which tells where in the zip it begins."""
        self._zip = open_zip(path)
        bad = next((n for n in self._zip.namelist() if n.startswith(("/", "\\")) or ".." in re.split(r"[/\\]", n)), None)
        if bad is not None:
            self._zip.close()
            raise UserError(f"{bad!r} in the zip leads out of it; refused")
        found = min((n for n in self._zip.namelist() if f"/{n}".endswith(f"/{marker}")), key=len, default=marker)
        self._root = found[: len(found) - len(marker)]
        self._folders: dict[str, set[str]] = {}
        for name in self._zip.namelist():
            parts = name.removeprefix(self._root).rstrip("/").split("/")
            for depth in range(len(parts)):
                self._folders.setdefault("/".join(parts[:depth]), set()).add(parts[depth])

    def read(self, name: str, limit: int) -> bytes | None:
        try:
            info = self._zip.getinfo(self._root + name)
        except KeyError:
            return None
        _limited(name, info.file_size, limit)
        try:
            with self._zip.open(info) as file:
                return file.read(info.file_size)  # with a size: a member that unpacks to more than it says stops there
        except zipfile.BadZipFile as error:
            raise UserError(f"{name}: damaged: {error}") from error

    def names(self, folder: str) -> set[str]:
        return self._folders.get(folder, set())

    def close(self) -> None:
        self._zip.close()


def open_zip(path: Path) -> zipfile.ZipFile:
    """UserError: not a zip file, or a damaged one."""
    try:
        return zipfile.ZipFile(path)
    except (zipfile.BadZipFile, NotImplementedError, struct.error, ValueError) as error:
        raise UserError(f"damaged zip file: {error}") from error


class Array:
    """One array. Opening it reads its metadata; `array[start:stop]` reads the chunks of these rows."""

    def __init__(self, files: Files, name: str) -> None:
        self._files, self.name = files, name
        text = files.read(f"{name}/.zarray", MAX_METADATA)
        if text is None:
            raise UserError(f"{name} is no array: it has no .zarray")
        try:
            meta = json.loads(text)
            self.shape, self.chunks = _sizes(meta["shape"]), _sizes(meta["chunks"])
            dtype, order, codec, filters = (
                meta["dtype"],
                meta["order"],
                {"id": None} if meta["compressor"] is None else meta["compressor"],
                meta.get("filters"),
            )
            self._separator, self.fill = meta.get("dimension_separator", "."), meta["fill_value"] or 0
            self._codec, version = codec["id"], meta["zarr_format"]
        except (ValueError, KeyError, TypeError) as error:
            why = {KeyError: f"no {error}", TypeError: "a value of the wrong type"}.get(type(error), str(error))
            raise UserError(f"{name}/.zarray: damaged Zarr v2 metadata: {why}") from error
        if version != 2:
            raise UserError(f"{name}/.zarray: zarr_format is {version!r}; expected 2")
        if not self.shape or len(self.shape) != len(self.chunks) or 0 in self.chunks or order not in ("C", "F"):
            raise UserError(f"{name}/.zarray: shape {self.shape} in chunks {self.chunks}, order {order!r}; expected rows, and order C or F")
        if not isinstance(dtype, str) or not re.fullmatch(r"[<>|]([fiu][1248]|b1)", dtype) or dtype[1:] == "f1":
            raise UserError(f"{name}: dtype {str(dtype)[:40]!r}; valid: numbers, such as <f4, |u1, <i8")
        if self._codec not in CODECS or filters:
            what = f"filters {str(filters)[:80]}" if filters else f"codec {str(self._codec)[:40]!r}"
            raise UserError(f"{name}: {what}; valid: no filter, and {', '.join(str(c) for c in CODECS)}")
        self.dtype = np.dtype(dtype)
        self._order: Literal["C", "F"] = order

    @property
    def missing(self) -> int:
        """Chunks that the store lacks. They read as the fill value: nobody can tell whether they were lost or left out as empty."""
        total = prod(-(-n // c) for n, c in zip(self.shape, self.chunks, strict=True))
        if self._separator == "/" and len(self.shape) > 1:
            return 0  # nested folders: counting them would mean to walk all
        pattern = re.compile(rf"\d+(\{self._separator}\d+){{{len(self.shape) - 1}}}")
        return max(total - sum(1 for name in self._files.names(self.name) if pattern.fullmatch(name)), 0)

    def __getitem__(self, rows: slice) -> np.ndarray:
        """(stop - start, *shape[1:]). UserError: a chunk cannot be read."""
        start, stop, _ = rows.indices(self.shape[0])
        shape = (max(stop - start, 0), *self.shape[1:])
        require_memory(self.name, shape, self.dtype.itemsize)
        require_memory(f"{self.name} chunk", self.chunks, self.dtype.itemsize)
        grid = [range(start // self.chunks[0], -(-stop // self.chunks[0]))]
        grid += [range(-(-n // c)) for n, c in zip(self.shape[1:], self.chunks[1:], strict=True)]
        if prod(len(axis) for axis in grid) > MAX_CHUNKS:
            raise UserError(f"{self.name} is cut into chunks {self.chunks}; rows {start} to {stop} would take more than {MAX_CHUNKS}")
        out = np.full(shape, self.fill, self.dtype)
        for at in product(*grid):
            chunk = self._chunk(self._separator.join(map(str, at)))
            if chunk is None:
                continue
            first = at[0] * self.chunks[0] - start  # of the chunk's rows, in `out`
            low, high = max(first, 0), min(first + self.chunks[0], len(out))
            rest = tuple(slice(k * c, (k + 1) * c) for k, c in zip(at[1:], self.chunks[1:], strict=True))
            inner = tuple(slice(0, len(range(*s.indices(n)))) for s, n in zip(rest, self.shape[1:], strict=True))
            out[(slice(low, high), *rest)] = chunk[(slice(low - first, high - first), *inner)]
        return out

    def _chunk(self, key: str) -> np.ndarray | None:
        like = np.empty(self.chunks, self.dtype)
        data = self._files.read(f"{self.name}/{key}", 2 * like.nbytes + (1 << 16))  # what cannot be compressed grows, but little
        if data is None:
            return None
        try:
            unpacked = CODECS[self._codec](data, like)
            if len(unpacked) != like.nbytes:
                raise ValueError(f"{len(unpacked)} bytes; a chunk of {self.dtype} {self.chunks} has {like.nbytes}")
            plain = np.frombuffer(unpacked, self.dtype)
            return plain.reshape(self.chunks, order=self._order)
        except (ValueError, RuntimeError, OSError, EOFError, zlib.error, zstandard.ZstdError) as error:
            raise UserError(f"unreadable: {self.name}/{key}: {' '.join(str(error).split())[:200]}") from error


def _limited(name: str, size: int, limit: int) -> None:
    if size > limit:
        raise UserError(f"{name} has {size} bytes; at most {limit} are plausible")


def _sizes(values: Any) -> tuple[int, ...]:
    if not isinstance(values, list) or not all(type(v) is int and 0 <= v < 1 << 48 for v in values) or len(values) > 16:
        raise ValueError(f"sizes {str(values)[:80]}")
    return tuple(values)


def _blosc(data: bytes, like: np.ndarray) -> bytes:
    from numcodecs import blosc  # pyright: ignore[reportAttributeAccessIssue] compiled, without stubs

    # Blosc's decoder trusts its header (16 bytes: version, flags, type size, nbytes, block size, cbytes); we do not.
    if len(data) < 16 or int.from_bytes(data[4:8], "little") != like.nbytes or int.from_bytes(data[12:16], "little") != len(data):
        raise ValueError(f"Blosc header does not fit {len(data)} bytes that hold {like.nbytes}")
    return blosc.decompress(data)


def _lz4(data: bytes, like: np.ndarray) -> bytes:
    from numcodecs.lz4 import decompress

    if int.from_bytes(data[:4], "little") != like.nbytes:
        raise ValueError(f"LZ4 header does not say {like.nbytes} bytes")
    return decompress(data)


def _jpeg2k(data: bytes, like: np.ndarray) -> bytes:
    import imagecodecs

    # OpenJPEG allocates what the SIZ marker (ISO/IEC 15444-1, A.5.1) claims: width, height, and further on the components.
    at = data.find(b"\xff\x4f\xff\x51")
    width, height, components = (int.from_bytes(data[at + a : at + b], "big") for a, b in ((8, 12), (12, 16), (40, 42)))
    if at < 0 or not 0 < width * height * components <= like.nbytes:
        raise ValueError(f"JPEG 2000 of {width} x {height} x {components} does not fit a chunk of {like.nbytes} bytes")
    return imagecodecs.jpeg2k_decode(data).tobytes()


def _jpegxl(data: bytes, like: np.ndarray) -> bytes:
    import imagecodecs

    out = np.empty([n for n in like.shape if n > 1], like.dtype)  # another size is refused before anything is allocated
    return imagecodecs.jpegxl_decode(data, out=out).tobytes()


def _bounded(make: Callable[[], Any]) -> Callable[[bytes, np.ndarray], bytes]:
    return lambda data, like: make().decompress(data, like.nbytes)


# id -> decode(bytes, an array like the chunk). Whatever settings a store names, all of these decode without them.
CODECS: dict[str | None, Callable[[bytes, np.ndarray], bytes]] = {
    None: lambda data, like: data,
    "blosc": _blosc,
    "zstd": lambda data, like: zstandard.ZstdDecompressor().stream_reader(io.BytesIO(data)).read(like.nbytes),
    "lz4": _lz4,
    "zlib": _bounded(zlib.decompressobj),
    "gzip": _bounded(lambda: zlib.decompressobj(31)),
    "bz2": _bounded(bz2.BZ2Decompressor),
    "imagecodecs_jpeg2k": _jpeg2k,  # Diffusion Policy's image caches
    "imagecodecs_jpegxl": _jpegxl,  # those of UMI (Chi et al. 2024), the same buffer
}
