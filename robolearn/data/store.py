"""EpisodeStore: the Zarr v3 dataset. zarr-python writes the metadata, tensorstore moves the rows (docs/dataset-format.md).

`episodes.jsonl` is the commit point: an episode exists once its line is complete, and its line is written only after its
rows are on the disk. Each episode starts at a shard boundary, so that appending never touches a finished episode's files.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import shutil
import weakref
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import tensorstore

from hardware.types import RobotSpec
from robolearn.core.errors import UserError
from robolearn.data.episode import Episode, check_episode
from robolearn.data.layout import (
    FORMAT,
    FORMAT_VERSION,
    JOURNAL,
    SCALARS,
    SHARD_ROWS,
    UNITS,
    arrays,
    from_json,
    read_attributes,
    read_journal,
    to_json,
)

READ_AHEAD = 16  # episodes


class EpisodeStore:
    """Episodes on disk, and all their rows as one compact sequence 0..rows (episode after episode, no gaps)."""

    def __init__(self, path: Path, spec: RobotSpec, provenance: Mapping[str, Any], shard_rows: int, lock: int | None) -> None:
        """Not for callers: use `create` or `open`."""
        self.path, self.spec, self.provenance = path, spec, dict(provenance)
        self._shard_rows = shard_rows
        self._context = tensorstore.Context({"cache_pool": {"total_bytes_limit": 1 << 26}})
        self._episodes, self._journal_bytes = read_journal(path / JOURNAL)
        self._arrays = {name: self._open_array(name) for name in arrays(spec, shard_rows)}
        self._columns: dict[str, np.ndarray] = {}
        self._held: dict[str, np.ndarray] = {}
        self._index()
        self._unlock = weakref.finalize(self, _unlock, lock)
        if lock is None:
            self._unlock()

    @staticmethod
    def create(
        path: str | Path, spec: RobotSpec, provenance: Mapping[str, Any] | None = None, shard_rows: int = SHARD_ROWS
    ) -> EpisodeStore:
        """A new empty store, open for appending. Built under another name and renamed: never half-written. UserError if `path` exists."""
        import zarr  # slow to import, and only new stores need it

        path = Path(path)
        if path.exists():
            raise UserError(f"{path}: exists already; choose another name, or open it with mode 'a' to append")
        building = path.with_name(f".{path.name}.{os.getpid()}.new")
        attributes = {
            "format": FORMAT,
            "format_version": FORMAT_VERSION,
            "spec": to_json(spec.to_dict()),
            "units": UNITS,
            "shard_rows": shard_rows,
            "provenance": to_json(dict(provenance or {})),
        }
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            group = zarr.create_group(str(building), zarr_format=3, attributes=attributes)
            for name, array in arrays(spec, shard_rows).items():
                group.create_array(name, **array)
            (building / JOURNAL).touch()
            _sync_tree(building)
            building.rename(path)
            _sync(path.parent)
        except OSError as error:
            raise UserError(f"{path}: cannot create the store: {error.strerror or error}") from error
        finally:
            shutil.rmtree(building, ignore_errors=True)
        return EpisodeStore.open(path, "a")

    @staticmethod
    def open(path: str | Path, mode: str = "r") -> EpisodeStore:
        """Open a store: "r" to read the episodes finished by now, "a" to append too (one writer at a time)."""
        path = Path(path)
        if mode not in ("r", "a"):
            raise ValueError(f"mode {mode!r}; valid: 'r', 'a'")
        attributes = read_attributes(path)
        lock = _lock(path) if mode == "a" else None
        try:
            spec = RobotSpec.from_dict(from_json(attributes["spec"]))
            return EpisodeStore(path, spec, from_json(attributes["provenance"]), int(attributes["shard_rows"]), lock)
        except (KeyError, TypeError, ValueError) as error:
            if lock is not None:
                os.close(lock)
            raise UserError(f"{path}: damaged store: {_first_line(error)}") from error

    def close(self) -> None:
        """Let another process write. Reading goes on working."""
        self._unlock()

    def __enter__(self) -> EpisodeStore:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # Episodes ---------------------------------------------------------------------------------------------------------

    def __len__(self) -> int:
        return len(self._episodes)

    @property
    def rows(self) -> int:
        """Rows of all episodes together."""
        return int(self.lengths.sum())

    def length(self, index: int) -> int:
        """Rows of one episode."""
        return int(self.lengths[index])

    def meta(self, index: int) -> dict[str, Any]:
        """What is known about one episode: JSON data, "success" true, false or null (unknown) among it."""
        return dict(self._episodes[index]["meta"])

    def read(self, index: int, start: int = 0, stop: int | None = None) -> Episode:
        """Rows `start` to `stop` (exclusive) of one episode."""
        first, length = int(self._physical_starts[index]), self.length(index)
        start, stop, _ = slice(start, stop).indices(length)
        futures = {name: array[first + start : first + stop].read() for name, array in self._arrays.items()}
        parts = {name: self._result(name, future) for name, future in futures.items()}
        return Episode(
            images={name: parts[f"images/{name}"] for name in self.spec.cameras},
            state={name: parts[f"state/{name}"] for name in self.spec.state},
            **{name: parts[name] for name in (*SCALARS, "action", "requested_action")},  # pyright: ignore[reportArgumentType]
            meta=self.meta(index),
        )

    def append(self, episode: Episode) -> int:
        """Store one episode and return its index. Once this returns, the episode survives kill -9 and power loss.

        UserError, with the store as it was: an array that does not fit the spec, values that are not finite, a full disk.
        """
        if not self._unlock.alive:
            raise UserError(f"{self.path}: opened for reading; open it with mode 'a' to append")
        try:
            check_episode(episode, self.spec)
            meta = json.dumps(to_json(dict(episode.meta)), allow_nan=False)
        except (ValueError, TypeError) as error:
            raise UserError(f"{self.path}: {_first_line(error)}") from error
        parts = {name: getattr(episode, name) for name in (*SCALARS, "action", "requested_action")}
        parts |= {f"images/{name}": image for name, image in episode.images.items()}
        parts |= {f"state/{name}": value for name, value in episode.state.items()}
        need = sum(part.nbytes for part in parts.values()) + (1 << 20)
        if (free := shutil.disk_usage(self.path).free) < need:
            raise UserError(f"{self.path}: disk full: the episode needs up to {need / 1e6:.1f} MB, {free / 1e6:.1f} MB are free")
        first = -(-self._physical_end // self._shard_rows) * self._shard_rows
        try:
            self._write_rows(first, len(episode), parts)
            line = f'{{"start": {first}, "length": {len(episode)}, "meta": {meta}}}\n'
            self._commit(line.encode())
        except (OSError, ValueError) as error:  # tensorstore reports I/O errors as ValueError
            self._remove_shards(first, len(episode))
            why = "disk full" if "No space left" in str(error) else _first_line(error)
            raise UserError(f"{self.path}: {why}: the episode was not stored, the others are intact") from error
        self._episodes.append(json.loads(line))
        self._index()
        return len(self) - 1

    # Rows -------------------------------------------------------------------------------------------------------------

    def lowdim(self, name: str) -> np.ndarray:
        """All rows of "time", "action", "requested_action", "reward", "terminal", "source", "state/<name>" or "state" (all, in spec order).

        Kept in RAM; read-only. Shape (rows,) or (rows, D).
        """
        if name == "state":
            if len(self._columns.get(name, ())) != self.rows or name not in self._columns:
                parts = [self.lowdim(f"state/{key}") for key in self.spec.state]
                self._columns[name] = np.concatenate(parts, axis=1) if parts else np.zeros((self.rows, 0), np.float32)
            return self._columns[name]
        if name not in self._arrays or name.startswith("images/"):
            valid = ["state", *(key for key in self._arrays if not key.startswith("images/"))]
            raise UserError(f"{self.path}: no column {name!r}; valid: {', '.join(valid)}")
        return self._column(name, self._columns)

    def frames(self, camera: str, rows: np.ndarray) -> np.ndarray:
        """uint8 (N, H, W, 3): the images of these compact rows, in this order, in one batched read."""
        if camera not in self.spec.cameras:
            raise UserError(f"{self.path}: no camera {camera!r}; valid: {', '.join(self.spec.cameras)}")
        held = self._held.get(camera)
        if held is not None and len(held) == self.rows:
            return held[rows]
        name = f"images/{camera}"
        return self._result(name, self._arrays[name][self._physical[rows]].read())

    def hold_frames(self, camera: str) -> None:
        """Decode every frame of one camera into RAM (rows * H * W * 3 bytes), so that `frames` becomes a copy."""
        self._column(f"images/{camera}", self._held)

    def _column(self, name: str, cache: dict[str, np.ndarray]) -> np.ndarray:
        """The cached rows plus those appended since."""
        array, have = self._arrays[name], cache.get(name.removeprefix("images/"))
        done = 0 if have is None else len(have)
        if have is None or done < self.rows:
            fresh = np.empty((self.rows, *array.shape[1:]), array.dtype.numpy_dtype)
            if have is not None:
                fresh[:done] = have
            missing = [i for i in range(len(self)) if self.starts[i] >= done]
            for k in range(0, len(missing), READ_AHEAD):  # a few episodes at once: quick, and little beyond `fresh` in memory
                some = missing[k : k + READ_AHEAD]
                bounds = [(self._physical_starts[i], self._physical_starts[i] + self.lengths[i]) for i in some]
                reads = [array[first:end].read() for first, end in bounds]
                for i, read in zip(some, reads, strict=True):
                    fresh[self.starts[i] : self.starts[i] + self.lengths[i]] = self._result(name, read)
            fresh.flags.writeable = False
            have = cache[name.removeprefix("images/")] = fresh
        return have

    # Features: a cache, and nothing but a cache; any of its files may be deleted ----------------------------------------

    def feature_rows(self, key: str) -> int:
        """How many leading rows have features under `key` (0: none)."""
        path = self._feature_path(key)
        return len(np.load(path, mmap_mode="r")) if path.exists() else 0

    def has_features(self, key: str) -> bool:
        return self.rows > 0 and self.feature_rows(key) == self.rows

    def features(self, key: str) -> np.ndarray:
        """float32 (rows, E), memory-mapped: what the encoder hashed in `key` says about each row."""
        if not self.has_features(key):
            raise UserError(f"{self.path}: features {key!r} cover {self.feature_rows(key)} of {self.rows} rows; encode the rest first")
        return np.load(self._feature_path(key), mmap_mode="r")

    def write_features(self, key: str, array: np.ndarray) -> None:
        """Store features of all rows, or of those that `feature_rows` does not cover yet. Atomic; also on a store opened for reading."""
        done = self.feature_rows(key)
        if array.ndim != 2 or len(array) not in (self.rows, self.rows - done):
            raise ValueError(f"features {key!r} are {array.shape}; expected ({self.rows}, E) or ({self.rows - done}, E)")
        array = np.asarray(array, np.float32)
        if len(array) != self.rows:
            array = np.concatenate([np.load(self._feature_path(key)), array])
        path = self._feature_path(key)
        path.parent.mkdir(exist_ok=True)
        building = path.with_name(f".{path.name}.{os.getpid()}.new")
        try:
            with building.open("wb") as file:
                np.save(file, array)
                file.flush()
                os.fsync(file.fileno())
            building.rename(path)
        except OSError as error:
            raise UserError(f"{path}: cannot write features: {error.strerror or error}") from error
        finally:
            building.unlink(missing_ok=True)

    def _feature_path(self, key: str) -> Path:
        if not re.fullmatch(r"[A-Za-z0-9_-][A-Za-z0-9_.-]*", key):
            raise ValueError(f"feature key {key!r}; valid: letters, digits, '_', '-', '.'")
        return self.path / "features" / f"{key}.npy"

    # Inside -----------------------------------------------------------------------------------------------------------

    def _index(self) -> None:
        self.lengths = np.array([e["length"] for e in self._episodes], np.int64)
        self.starts = np.cumsum(self.lengths) - self.lengths  # compact rows
        self._physical_starts = np.array([e["start"] for e in self._episodes], np.int64)
        self._physical_end = int(self._physical_starts[-1] + self.lengths[-1]) if self._episodes else 0
        self._physical = np.arange(self.rows) + np.repeat(self._physical_starts - self.starts, self.lengths)

    def _open_array(self, name: str) -> tensorstore.TensorStore:
        kvstore = {"driver": "file", "path": f"{self.path.absolute()}/{name}/"}
        array = tensorstore.open({"driver": "zarr3", "kvstore": kvstore}, context=self._context, open=True).result()
        if self._episodes and array.shape[0] < max(e["start"] + e["length"] for e in self._episodes):
            raise ValueError(f"array {name} has {array.shape[0]} rows, fewer than {JOURNAL} counts")
        wanted = arrays(self.spec, self._shard_rows)[name]
        if (kind := array.dtype.name) != wanted["dtype"] or array.shape[1:] != wanted["shape"][1:]:
            raise ValueError(f"array {name} holds {kind} {array.shape[1:]} a row; the spec says {wanted['dtype']} {wanted['shape'][1:]}")
        return array

    def _result(self, name: str, read: tensorstore.Future) -> np.ndarray:
        try:
            return read.result()
        except ValueError as error:  # a file that was cut short or overwritten
            raise UserError(f"{self.path / name}: damaged: {_first_line(error)}") from error

    def _write_rows(self, first: int, length: int, parts: Mapping[str, np.ndarray]) -> None:
        end = -(-(first + length) // self._shard_rows) * self._shard_rows
        resizes = {}
        for name, array in self._arrays.items():
            if array.shape[0] < end:
                resizes[name] = array.resize(exclusive_max=[end, *array.shape[1:]], expand_only=True)
        for name, resize in resizes.items():
            self._arrays[name] = resize.result()
        writes = [self._arrays[name][first : first + length].write(part) for name, part in parts.items()]
        errors = [error for write in writes if (error := write.exception())]  # wait for all: none may land after the clean-up
        if errors:
            raise errors[0]

    def _commit(self, line: bytes) -> None:
        with open(self.path / JOURNAL, "r+b") as journal:
            journal.seek(self._journal_bytes)
            journal.truncate()  # what a killed writer left of its last line
            try:
                journal.write(line)
                journal.flush()
                os.fsync(journal.fileno())
            except OSError:
                journal.truncate(self._journal_bytes)
                raise
        self._journal_bytes += len(line)

    def _remove_shards(self, first: int, length: int) -> None:
        """Give a full disk its bytes back. Rows from `first` on belong to no episode."""
        for name, array in self._arrays.items():
            for shard in range(first // self._shard_rows, (first + length - 1) // self._shard_rows + 1):
                (self.path / name / ".".join(["c", str(shard), *["0"] * (array.ndim - 1)])).unlink(missing_ok=True)


def _lock(path: Path) -> int:
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


def _unlock(handle: int | None) -> None:
    if handle is not None:
        os.close(handle)


def _first_line(error: BaseException) -> str:
    line = str(error).splitlines()[0] if str(error) else type(error).__name__
    return re.split(r" \[(?:source locations|tensorstore_spec|domain)", line)[0]  # what tensorstore adds is for its developers


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _sync_tree(path: Path) -> None:
    for folder, _, files in os.walk(path):
        for name in files:
            _sync(Path(folder) / name)
        _sync(Path(folder))
