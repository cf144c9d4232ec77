"""What is kept beside a store to be quick: encoder outputs, decoded frames. A cache; any of its files may be deleted."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from robolearn.core import disk
from robolearn.core.errors import UserError

AT_ONCE = 1 << 26  # bytes of frames decoded together


class Features:
    """Files in `features/` of the store; for a store behind a URL in the user's cache folder."""

    def __init__(self, url: str) -> None:
        self._url = url
        if "://" in url:
            home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
            self._folder = home / "robolearn" / hashlib.sha256(url.encode()).hexdigest()[:16]
        else:
            self._folder = Path(url) / "features"

    def rows(self, key: str) -> int:
        found = _mapped(self._path(key))
        return 0 if found is None else len(found)

    def read(self, key: str, rows: int) -> np.ndarray:
        if self.rows(key) != rows or rows == 0:
            raise UserError(f"{self._url}: features {key!r} cover {self.rows(key)} of {rows} rows; encode the rest first")
        return np.load(self._path(key), mmap_mode="r")

    def write(self, key: str, array: np.ndarray, rows: int) -> None:
        done = self.rows(key)
        if array.ndim != 2 or len(array) not in (rows, rows - done):
            raise ValueError(f"features {key!r} are {array.shape}; expected ({rows}, E) or ({rows - done}, E)")
        array = np.asarray(array, np.float32)
        if len(array) != rows:
            array = np.concatenate([np.load(self._path(key)), array])
        _build(self._path(key), array.shape, np.dtype(np.float32), lambda out: np.copyto(out, array))

    def _path(self, key: str) -> Path:
        if not re.fullmatch(r"[A-Za-z0-9_-][A-Za-z0-9_.-]*", key):
            raise ValueError(f"feature key {key!r}; valid: letters, digits, '_', '-', '.'")
        return self._folder / f"{key}.npy"


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
