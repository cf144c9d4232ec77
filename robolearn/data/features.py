"""What is kept beside a store to be quick: encoder outputs, decoded frames. A cache; any of its files may be deleted.

A file of features is a .npy with a tail that says which episodes its rows belong to, by a hash of each and all before it. Rows of
episodes that have changed since do not count as there.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import os
import re
import shutil
import struct
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np

from hardware.types import RobotSpec
from robolearn.core import disk
from robolearn.core.errors import UserError

AT_ONCE = 1 << 26  # bytes of frames decoded together
BLOCK = 1024  # rows of features that a crash may cost
HEADER = 128  # bytes before the first row
_MAGIC = b"robolearn-rows-1"


@runtime_checkable
class Rows(Protocol):
    """What a cache must know of its store."""

    url: str
    spec: RobotSpec
    provenance: dict[str, Any]
    lengths: np.ndarray

    def __len__(self) -> int: ...
    def meta(self, index: int) -> dict[str, Any]: ...
    def lowdim(self, name: str) -> np.ndarray: ...
    def frames(self, camera: str, rows: np.ndarray) -> np.ndarray: ...


@dataclass(frozen=True)
class Cached:
    """One file of features, or what was done of one."""

    key: str
    rows: int  # leading rows of the store that it holds, as the store is now
    width: int
    size: int  # bytes
    finished: bool
    about: Mapping[str, Any] = field(default_factory=dict)  # JSON data: whose features they are


class Features:
    """Files in `features/` of the store; for a store behind a URL in the user's cache folder."""

    def __init__(self, store: Rows) -> None:
        self._store, url = store, store.url
        self._chain: tuple[int, str, list[str]] = (-1, "", [])
        if "://" in url:
            home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
            self._folder = home / "robolearn" / hashlib.sha256(url.encode()).hexdigest()[:16]
        else:
            self._folder = Path(url) / "features"

    def rows(self, key: str) -> int:
        """Leading rows of the store, as it is now, that have features under this key."""
        found = _mapped(self._path(key))
        return 0 if found is None else self._valid(_tail(self._path(key)), len(found))

    def read(self, key: str) -> np.ndarray:
        """float32 (rows, E), memory-mapped. UserError: not all rows have any."""
        rows = self._all
        if (done := self.rows(key)) != rows or rows == 0:
            raise UserError(f"{self._store.url}: features {key!r} cover {done} of {rows} rows; encode the rest first")
        return np.load(self._path(key), mmap_mode="r")[:rows]

    def write(self, key: str, array: np.ndarray) -> None:
        """Features of all rows, or of those that have none."""
        done, rows = self.rows(key), self._all
        if array.ndim != 2 or len(array) not in (rows, rows - done):
            raise ValueError(f"features {key!r} are {array.shape}; expected ({rows}, E) or ({rows - done}, E)")
        if len(array) == rows:
            disk.remove(self._path(key))
        self.fill(key, array.shape[1], lambda chosen: array[chosen - (rows - len(array))])

    def fill(
        self,
        key: str,
        width: int,
        encode: Callable[[np.ndarray], np.ndarray],
        about: Mapping[str, Any] | None = None,
        waiting: Callable[[], None] | None = None,
    ) -> None:
        """Ask encode(rows) -> (N, width) for the rows that have no features, some at a time; each lot is on the disk before the next.

        Whole or absent under its name; what a killed process had done of it is gone on with. One process at a time: another one is told so
        by `waiting()`, and finds the work done. UserError: a full disk.
        """
        path = self._path(key)
        if self.rows(key) == self._all:
            return
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with _claimed(self._part(key), waiting) as file:
                if (done := self.rows(key)) == self._all:
                    disk.remove(self._part(key))
                    return
                try:
                    self._fill(file, path, done, width, encode, about or {})
                except BaseException:
                    if _whole_blocks(file, width) == 0:  # nothing to go on with
                        disk.remove(self._part(key))
                    raise
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise UserError(f"{path}: disk full; free some and run the same command again") from error
            raise UserError(f"{path}: cannot be written: {error.strerror or error}") from error

    def files(self) -> list[Cached]:
        """Every file there is, finished or not, in the order of their names."""
        found = []
        for path in sorted(self._folder.glob("*.npy")):
            array, tail = _mapped(path), _tail(path)
            rows = 0 if array is None else self._valid(tail, len(array))
            width = 0 if array is None or array.ndim != 2 else array.shape[1]
            found.append(Cached(path.stem, rows, width, path.stat().st_size, True, tail.get("about", {})))
        for path in sorted(self._folder.glob(".*.part")):
            found.append(Cached(path.name[1:-5], 0, 0, path.stat().st_size, False))
        return found

    def remove(self, key: str) -> None:
        """UserError: there is none, or somebody is writing it."""
        path, part = self._path(key), self._part(key)
        if not path.exists() and not part.exists():
            valid = ", ".join(dict.fromkeys(cached.key for cached in self.files())) or "(none)"
            raise UserError(f"{self._store.url}: no features {key!r}; valid: {valid}")
        if part.exists():
            with _claimed(part, lambda: _busy(part)):
                disk.remove(part)
        disk.remove(path)

    @property
    def _all(self) -> int:
        return int(self._store.lengths.sum())

    def _fill(
        self, file: Any, path: Path, done: int, width: int, encode: Callable[[np.ndarray], np.ndarray], about: Mapping[str, Any]
    ) -> None:
        rows, chain = self._all, self._hashes()
        size = 4 * width * rows
        if (free := shutil.disk_usage(path.parent).free) < size - os.fstat(file.fileno()).st_size + (1 << 20):
            raise UserError(f"{path}: disk full: {size / 1e6:.1f} MB are needed, {free / 1e6:.1f} MB are free")
        kept = self._resumable(file, width)
        if done > kept:
            if (old := np.load(path, mmap_mode="r")).shape[1] != width:
                raise ValueError(f"features {path.stem!r} have {old.shape[1]} numbers a row, not {width}")
            file.seek(HEADER)
            for first in range(0, done, BLOCK):
                file.write(np.ascontiguousarray(old[first : min(first + BLOCK, done)]))
            kept = done
        file.truncate(HEADER + 4 * width * kept)
        file.seek(0)
        file.write(json.dumps({"width": width, "episodes": len(chain), "hash": chain[-1]}).encode().ljust(HEADER))
        file.seek(0, os.SEEK_END)
        for first in range(kept, rows, BLOCK):
            chosen = np.arange(first, min(first + BLOCK, rows))
            block = np.ascontiguousarray(encode(chosen), np.float32)
            if block.shape != (len(chosen), width):
                raise ValueError(f"features of {len(chosen)} rows are {block.shape}; expected ({len(chosen)}, {width})")
            file.write(block)
            file.flush()
            disk.sync(file.fileno())
        tail = json.dumps({"about": about, "chain": chain}).encode()
        file.write(tail + struct.pack("<Q", len(tail)) + _MAGIC)
        file.seek(0)
        file.write(_header(rows, width))
        file.flush()
        disk.sync(file.fileno())
        os.replace(self._part(path.stem), path)
        disk.sync_path(path.parent)

    def _resumable(self, file: Any, width: int) -> int:
        """Leading rows of a part that are good: of this store and this width. The last block may not have reached the disk."""
        file.seek(0)
        try:
            begun = json.loads(file.read(HEADER))
            count, same = begun["episodes"], begun["width"] == width
            same = same and 0 < count <= len(self._store) and self._hashes()[count - 1] == begun["hash"]
        except (ValueError, KeyError, TypeError):
            return 0
        return min(_whole_blocks(file, width), int(self._store.lengths[:count].sum())) if same else 0

    def _valid(self, tail: Mapping[str, Any], rows: int) -> int:
        """How many of a file's rows belong to episodes that the store still begins with."""
        same = 0
        for mine, its in zip(self._hashes(), tail.get("chain", ()), strict=False):
            if mine != its:
                break
            same += 1
        covered = int(self._store.lengths[:same].sum())
        return covered if covered <= rows else 0

    def fingerprint(self) -> str:
        """Of all that `_hashes` looks at: another one says that the store is not what it was."""
        return chain[-1] if (chain := self._hashes()) else ""

    def _hashes(self) -> list[str]:
        """For each episode a hash of it and of all before it: their meta, times and actions, the spec, the provenance, some frames."""
        store = self._store
        base = json.dumps([store.spec.to_dict(), store.provenance], sort_keys=True, default=str)
        if self._chain[:2] == (len(store), base):
            return self._chain[2]
        digest, chain, first = hashlib.sha256(base.encode()), [], 0
        time, action = store.lowdim("time"), store.lowdim("action")
        for index, length in enumerate(store.lengths.tolist()):
            rows = slice(first, first + length)
            digest.update(json.dumps(store.meta(index), sort_keys=True, default=str).encode() + struct.pack("<Q", length))
            digest.update(np.ascontiguousarray(time[rows]).tobytes() + np.ascontiguousarray(action[rows]).tobytes())
            if index & (index + 1) == 0:  # 0, 1, 3, 7, ...: numbers stay the same where only pictures were redrawn or redacted
                for camera in store.spec.cameras:
                    digest.update(store.frames(camera, np.array([first])).tobytes())
            chain.append(digest.hexdigest()[:16])
            first += length
        self._chain = (len(store), base, chain)
        return chain

    def _path(self, key: str) -> Path:
        if not re.fullmatch(r"[A-Za-z0-9_-][A-Za-z0-9_.-]*", key):
            raise ValueError(f"feature key {key!r}; valid: letters, digits, '_', '-', '.'")
        return self._folder / f"{key}.npy"

    def _part(self, key: str) -> Path:
        return self._path(key).with_name(f".{key}.part")


def decoded(read: Callable[[np.ndarray, np.ndarray], Any], shape: tuple[int, ...], file: Path | None) -> np.ndarray:
    """uint8 `shape` (rows, H, W, 3), read-only: filled by read(rows, out), in RAM or in `file`, which is mapped and found again."""

    def fill(out: np.ndarray) -> None:
        step = max(AT_ONCE // (out.nbytes // len(out)), 1)
        for first in range(0, len(out), step):
            read(np.arange(first, min(first + step, len(out))), out[first : first + step])

    if file is None:
        frames = np.empty(shape, np.uint8)
        fill(frames)
    else:
        if (found := _mapped(file)) is None or found.shape != shape:
            _build(file, shape, np.dtype(np.uint8), fill)
        frames = np.load(file, mmap_mode="r")
    frames.flags.writeable = False
    return frames


def _mapped(path: Path) -> np.ndarray | None:
    """None where there is no such file, or not a whole one: it is made anew."""
    try:
        return np.load(path, mmap_mode="r")
    except (OSError, ValueError, EOFError):
        return None


def _build(path: Path, shape: tuple[int, ...], dtype: np.dtype, fill: Callable[[np.ndarray], None]) -> None:
    """A .npy file, whole or absent. UserError: it does not fit on the disk."""
    building = path.with_name(f".{path.name}.{os.getpid()}.new")
    size = int(np.prod(shape)) * dtype.itemsize
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if (free := shutil.disk_usage(path.parent).free) < size + (1 << 20):  # a mapped file meets a full disk with a signal
            raise UserError(f"{path}: disk full: {size / 1e6:.1f} MB are needed, {free / 1e6:.1f} MB are free")
        out = np.lib.format.open_memmap(building, "w+", dtype, shape)
        fill(out)
        out.flush()
        disk.sync_path(building)
        building.rename(path)
    except OSError as error:
        raise UserError(f"{path}: cannot be written: {error.strerror or error}") from error
    finally:
        building.unlink(missing_ok=True)


@contextmanager
def _claimed(path: Path, waiting: Callable[[], None] | None) -> Iterator[Any]:
    """The file at `path`, for this process alone, made where it is missing."""
    while True:
        file = os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666), "r+b")
        try:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if waiting is not None:
                    waiting()
                fcntl.flock(file, fcntl.LOCK_EX)
            try:
                mine = os.path.samestat(os.fstat(file.fileno()), os.stat(path))
            except FileNotFoundError:
                mine = False
            if mine:  # not what another process has finished or removed meanwhile
                yield file
                return
        finally:
            file.close()


def _busy(path: Path) -> None:
    raise UserError(f"{path}: another process is writing it")


def _whole_blocks(file: Any, width: int) -> int:
    """Rows of a part that reached the disk for certain: all whole blocks but the last."""
    rows = max(os.fstat(file.fileno()).st_size - HEADER, 0) // (4 * max(width, 1))
    return max(rows // BLOCK - 1, 0) * BLOCK


def _header(rows: int, width: int) -> bytes:
    """Of a .npy file (version 1.0), always as long."""
    text = repr({"descr": "<f4", "fortran_order": False, "shape": (rows, width)}).encode()
    return np.lib.format.magic(1, 0) + struct.pack("<H", HEADER - 10) + text.ljust(HEADER - 11) + b"\n"


def _tail(path: Path) -> dict[str, Any]:
    """What is behind a file's rows; empty where there is none, or it is damaged."""
    end = len(_MAGIC) + 8
    try:
        with open(path, "rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(size - end, 0))
            last = file.read(end)
            length = struct.unpack("<Q", last[:8])[0]
            if last[8:] != _MAGIC or length > size - end:
                return {}
            file.seek(size - end - length)
            found = json.loads(file.read(length))
            return found if isinstance(found, dict) else {}
    except (OSError, ValueError, struct.error):
        return {}
