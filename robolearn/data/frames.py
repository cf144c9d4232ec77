"""Frames of one camera by row number: whole batches at once, decoded by a few threads straight into place."""

from __future__ import annotations

import os
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import accumulate, pairwise

import numpy as np

from robolearn.core.errors import UserError
from robolearn.data.chunks import index_bytes, parse_index
from robolearn.data.codecs import without_checksum
from robolearn.data.files import Files
from robolearn.data.layout import Column

THREADS = min(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1, 8)
SMALL = 1 << 16  # bytes of a frame
RUN_BYTES = 1 << 22  # read in one go

_pool: dict[int, ThreadPoolExecutor] = {}  # by process: threads do not survive a fork


class Frames:
    """Random access to the shards of one camera. `rows` are rows of the array on disk."""

    def __init__(self, files: Files, column: Column, missing_is_black: bool = False) -> None:
        """missing_is_black: chunks that are not there read as zeros, as Zarr has it and version 1 wrote them."""
        assert column.codec is not None
        self._files, self._column, self._codec = files, column, column.codec
        self._missing_is_black = missing_is_black
        self._locks: dict[int, threading.Lock] = {}  # by process: one held at a fork stays locked in the child
        self._known = np.zeros(0, bool)  # by file
        self._offset = np.zeros(0, np.int64)  # by chunk
        self._length = np.zeros(0, np.int64)

    def read(self, rows: np.ndarray, verify: bool = False, out: np.ndarray | None = None) -> np.ndarray:
        """uint8 (N, H, W, 3), in this order, repeats allowed; into `out` where given. verify: check each chunk's checksum.

        UserError: a file is damaged or missing.
        """
        out = np.empty((len(rows), *self._column.tail), np.uint8) if out is None else out
        if not len(rows):
            return out
        chunks = np.asarray(rows) // self._codec.rows
        self._learn(np.unique(chunks // self._per_file))
        if self._codec.rows == 1:
            self._spread(chunks, out, verify)
        else:  # a clip is decoded once, whichever of its frames are asked for
            clips, where = np.unique(chunks, return_inverse=True)
            whole = np.empty((len(clips) * self._codec.rows, *self._column.tail), np.uint8)
            self._spread(clips, whole, verify)
            np.take(whole, where * self._codec.rows + rows % self._codec.rows, axis=0, out=out)
        return out

    @property
    def _per_file(self) -> int:
        return self._column.file_rows // self._codec.rows

    def _spread(self, chunks: np.ndarray, out: np.ndarray, verify: bool) -> None:
        """Each thread takes a stretch of the batch."""
        small = self._codec.quick and out[0].nbytes <= SMALL
        parts = 1 if small else min(THREADS, max(len(chunks) // 8, 1))
        if parts == 1:
            self._decode(chunks, out, verify)
            return
        bounds = np.linspace(0, len(chunks), parts + 1).astype(int)
        step = self._codec.rows
        jobs = [
            _threads().submit(self._decode, chunks[a:b], out[a * step : b * step], verify)
            for a, b in zip(bounds[1:-1], bounds[2:], strict=True)
        ]
        self._decode(chunks[: bounds[1]], out[: bounds[1] * step], verify)
        for job in jobs:
            job.result()

    def _decode(self, chunks: np.ndarray, out: np.ndarray, verify: bool) -> None:
        """Neighbours on the disk are read in one go: the frames of a window are."""
        offset, length, file = self._offset[chunks], self._length[chunks], chunks // self._per_file
        joined = (file[1:] == file[:-1]) & (offset[1:] == offset[:-1] + length[:-1]) & (length[1:] > 0) & (length[:-1] > 0)
        starts = [0, *(np.flatnonzero(~joined) + 1).tolist()]
        ends = [*starts[1:], len(chunks)]
        runs = [(self._column.key(int(file[a])), int(offset[a]), int(length[a:b].sum())) for a, b in zip(starts, ends, strict=True)]
        sizes, step, tail = length.tolist(), self._codec.rows, 4 if self._column.checked else 0
        for group in _groups(runs):
            for number, data in zip(group, self._files.read_parts([runs[i] for i in group]), strict=True):
                first, last = starts[number], ends[number]
                here = out[first * step : last * step]
                if sizes[first] == 0:
                    self._absent(int(chunks[first]), here)
                    continue
                view, bounds = memoryview(data), [0, *accumulate(sizes[first:last])]
                try:
                    if verify and tail:
                        found = [without_checksum(view[a:b]) for a, b in pairwise(bounds)]
                    else:
                        found = [view[a : b - tail] for a, b in pairwise(bounds)]
                    self._codec.decode(found, here)
                except ValueError:
                    self._blame(chunks[first:last], view, bounds, here)

    def _blame(self, chunks: np.ndarray, view: memoryview, bounds: Sequence[int], out: np.ndarray) -> None:
        """One of these chunks is damaged: which?"""
        for chunk, (a, b) in zip(chunks.tolist(), pairwise(bounds), strict=True):
            try:
                self._codec.decode([without_checksum(view[a:b]) if self._column.checked else view[a:b]], out[: self._codec.rows])
            except ValueError as error:
                raise self._damage(chunk, str(error)) from error
        raise self._damage(int(chunks[0]), "it reads differently each time")

    def _learn(self, files: np.ndarray) -> None:
        """Read the indices of shards met for the first time."""
        if files[-1] < len(self._known) and self._known[files].all():
            return
        with self._locks.setdefault(os.getpid(), threading.Lock()):
            self._learn_alone(files)

    def _learn_alone(self, files: np.ndarray) -> None:
        if (beyond := int(files[-1]) + 1) > len(self._known):
            size = max(beyond, 2 * len(self._known))
            self._offset, self._length = (_grown(table, size * self._per_file) for table in (self._offset, self._length))
            self._known = _grown(self._known, size)
        fresh = files[~self._known[files]].tolist()
        keys = [self._column.key(file) for file in fresh]
        for file, tail in zip(fresh, self._files.read_ends(keys, index_bytes(self._column)), strict=True):
            inside = slice(file * self._per_file, (file + 1) * self._per_file)
            self._length[inside] = 0
            if tail is not None:
                try:
                    self._offset[inside], self._length[inside] = parse_index(self._column, tail)
                except ValueError as error:
                    raise self._damage(file * self._per_file, str(error)) from error
            self._known[file] = True

    def _absent(self, chunk: int, out: np.ndarray) -> None:
        if not self._missing_is_black:
            raise self._damage(chunk, "the file or a chunk of it is missing")
        out[:] = 0

    def _damage(self, chunk: int, what: str) -> UserError:
        key = self._column.key(chunk // self._per_file)
        return UserError(
            f"{self._files.url}/{self._column.name}: damaged: {what} ({key.rsplit('/', 1)[-1]}, chunk {chunk % self._per_file})"
        )


def _grown(table: np.ndarray, size: int) -> np.ndarray:
    grown = np.zeros(size, table.dtype)
    grown[: len(table)] = table
    return grown


def _groups(runs: Sequence[tuple[str, int, int]]) -> list[list[int]]:
    """Numbers of the runs to read together, a few MB at a time."""
    groups: list[list[int]] = []
    room = 0
    for number, (_, _, size) in enumerate(runs):
        if size > room or not groups:
            groups.append([])
            room = RUN_BYTES
        groups[-1].append(number)
        room -= size
    return groups


def _threads() -> ThreadPoolExecutor:
    pool = _pool.get(os.getpid())
    if pool is None:  # several threads may come here at once: one of their pools is kept, the others never start a thread
        pool = _pool.setdefault(os.getpid(), ThreadPoolExecutor(max(THREADS - 1, 1), thread_name_prefix="frames"))
    return pool
