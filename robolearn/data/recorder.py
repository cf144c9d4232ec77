"""Recording row by row: frames and numbers go to the disk in a thread of their own, and are safe there within a second.

A recording is a folder of the store: the compressed frames of each camera in files that need only an index to be Zarr shards,
and a log of everything else. `recovery.commit` turns such a folder into an episode, whether the recorder finished it or was killed.
"""

from __future__ import annotations

import json
import os
import queue
import struct
import threading
import time as clock
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import google_crc32c
import numpy as np

from hardware.types import RobotSpec
from robolearn.core.errors import UserError
from robolearn.data import disk
from robolearn.data.chunks import encode_frames
from robolearn.data.layout import Column, to_json
from robolearn.data.recovery import CHUNK, LOG, RECORD, part_name, remove_recording, row_type
from robolearn.data.writing import put_aside

SYNC_S = 0.5  # how often what was written is made to survive a power cut
_STOP = object()


class Recorder:
    """One episode in the making. `add` and `sample` never wait for the disk; `finish` does.

    Arrays handed in must not change afterwards. Leaving the `with` block without `finish` discards the episode;
    leaving it by an exception, Ctrl-C included, keeps it for EpisodeStore.recover.
    """

    def __init__(
        self,
        folder: Path,
        spec: RobotSpec,
        columns: Mapping[str, Column],
        commit: Callable[[Path, Mapping[str, Any], bool | None], int],
        buffer_mb: float | int,
    ) -> None:
        """Not for callers: use EpisodeStore.record."""
        self._spec, self._commit, self._room = spec, commit, buffer_mb * 1e6
        self._row_type = row_type(spec)
        self._queue: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._waiting = 0.0  # bytes in the queue
        self._lock = threading.Lock()
        self._last = -np.inf  # time of the last row
        self.rows, self.dropped = 0, 0  # added; not taken because the disk was too far behind
        self.folder = folder
        self._output = _Output(folder, spec, columns)
        self._thread = threading.Thread(target=self._run, name="recorder", daemon=True)
        self._thread.start()

    def add(
        self,
        *,
        time: float,
        images: Mapping[str, np.ndarray],
        state: Mapping[str, np.ndarray],
        action: np.ndarray,
        requested_action: np.ndarray,
        reward: float,
        terminal: bool,
        source: int,
        image_time: Mapping[str, float] | None = None,
    ) -> None:
        """One row: shapes and units as in Episode, without the time dimension. ValueError: it does not fit the spec."""
        row = np.zeros((), self._row_type)
        row["time"], row["reward"], row["terminal"], row["source"] = time, reward, terminal, source
        for name, value in {"action": action, "requested_action": requested_action, **{f"state/{k}": v for k, v in state.items()}}.items():
            if np.shape(value) != row[name].shape or not (name == "requested_action" or np.isfinite(value).all()):
                raise ValueError(f"{name} is {np.asarray(value).tolist()}; expected {row[name].shape[0]} finite numbers")
            row[name] = value
        for name, size in self._spec.cameras.items():
            if (image := images[name]).shape != (*size, 3) or image.dtype != np.uint8:
                raise ValueError(f"images.{name} is {image.dtype} {image.shape}; expected uint8 {(*size, 3)}")
            row[f"image_time/{name}"] = np.nan if image_time is None else image_time[name]
        if not (time > self._last and np.isfinite(reward)):
            raise ValueError(f"time is {time} s, reward {reward}; expected a time after {self._last} s and a finite reward")
        self._last = time
        frames = [images[name] for name in self._spec.cameras]
        size = row.nbytes + sum(frame.nbytes for frame in frames)
        with self._lock:
            if self._waiting + size > self._room:
                self.dropped += 1
                return
            self._waiting += size
            self.rows += 1
        self._queue.put((size, frames, row.tobytes()))

    def sample(self, stream: str, time: np.ndarray | float, values: np.ndarray) -> None:
        """Samples of a stream: time float64 () or (M,) [s], values float32 (D,) or (M, D)."""
        times = np.atleast_1d(np.asarray(time, "<f8"))
        block = np.asarray(values, "<f4").reshape(len(times), self._spec.streams[stream].dim)
        self._queue.put((0, stream, times.tobytes() + block.tobytes()))

    @property
    def trouble(self) -> str | None:
        """Why nothing is written any more (a full disk, say); None while all is well."""
        return None if self._output.error is None else (self._output.error.strerror or str(self._output.error))

    def finish(self, meta: Mapping[str, Any], terminal: bool | None = None) -> int:
        """Write out the rest, make it an episode, return its index. UserError: the disk is full; what is there can be recovered.

        terminal: of the last row, where only the end tells (an operator's word); None: as it was added.
        """
        json.dumps(to_json(dict(meta)))  # TypeError now, not when the rows are on the disk
        self._stop()
        if self._output.error is not None:
            raise UserError(f"{self._keep()}: {self.trouble}: the recording stopped there; what it has is kept for EpisodeStore.recover")
        more = {"dropped_rows": self.dropped} if self.dropped else {}
        return self._commit(self.folder, {**meta, **more}, terminal)

    def discard(self) -> None:
        """Forget this episode."""
        self._stop()
        remove_recording(self.folder)

    def __enter__(self) -> Recorder:
        return self

    def __exit__(self, error: type[BaseException] | None, *_: object) -> None:
        if not self._thread.is_alive():
            return
        if error is None:
            self.discard()
        else:
            self._stop()
            self._keep()

    def _keep(self) -> Path:
        """For `recover`. Where the disk is too full even for a folder's name, it stays, and the next writer moves it."""
        try:
            return put_aside(self.folder)
        except OSError:
            return self.folder

    def _stop(self) -> None:
        self._queue.put(_STOP)
        self._thread.join()

    def _run(self) -> None:
        with suppress(OSError, AttributeError):  # the loop that acts goes first
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), 5)
        output, due = self._output, clock.monotonic() + SYNC_S
        while True:
            try:
                item = self._queue.get(timeout=max(due - clock.monotonic(), 0))
            except queue.Empty:
                item = None
            if item is _STOP:
                output.close()
                return
            if item is not None:
                size, what, data = item
                output.put(what, data)
                with self._lock:
                    self._waiting -= size
            if clock.monotonic() >= due:
                output.sync()
                due = clock.monotonic() + SYNC_S


class _Output:
    """The files of a recording. After the first error nothing more is written: what stands is a prefix of the episode."""

    def __init__(self, folder: Path, spec: RobotSpec, columns: Mapping[str, Column]) -> None:
        self.error: OSError | None = None
        self._folder, self._streams = folder, list(spec.streams)
        self._cameras = [columns[f"images/{name}"] for name in spec.cameras]
        self._clips: list[list[np.ndarray]] = [[] for _ in self._cameras]  # frames that wait for their chunk to be full
        self._done = [0] * len(self._cameras)  # frames written
        self._open: dict[Path, int] = {}
        self._pending = bytearray()  # of the log
        self._log(b"I", os.urandom(8))

    def put(self, what: Any, data: bytes) -> None:
        """Frames and their row, or the samples of a stream."""
        if self.error is not None:
            return
        try:
            if isinstance(what, str):
                self._log(b"S", struct.pack("<H", self._streams.index(what)) + data)
            else:
                for camera, frame in enumerate(what):
                    self._clips[camera].append(frame)
                    if len(self._clips[camera]) == self._cameras[camera].codec.rows:  # pyright: ignore[reportOptionalMemberAccess]
                        self._chunk(camera)
                self._log(b"R", data)
            self._flush()
        except OSError as error:
            self.error = error

    def sync(self) -> None:
        """Make it survive a power cut: frames first, the log that counts on them last."""
        try:
            for path in sorted(self._open, key=lambda path: path.name == LOG):
                disk.sync(self._open[path])
        except OSError as error:
            self.error = self.error or error

    def close(self) -> None:
        try:
            if self.error is None:
                for camera, clip in enumerate(self._clips):
                    if clip:
                        self._chunk(camera)
                self._flush()
        except OSError as error:
            self.error = error
        self.sync()
        for descriptor in self._open.values():
            os.close(descriptor)
        self._open.clear()

    def _chunk(self, camera: int) -> None:
        column, clip = self._cameras[camera], self._clips[camera]
        data = encode_frames(column, np.stack(clip) if len(clip) > 1 else clip[0][None])[0]
        path = self._folder / part_name(camera, self._done[camera] // column.file_rows)
        self._write(path, data)
        self._log(b"C", CHUNK.pack(camera, len(clip), len(data)))
        self._done[camera] += len(clip)
        if self._done[camera] % column.file_rows == 0:
            disk.sync(self._open[path])
            os.close(self._open.pop(path))
        clip.clear()

    def _log(self, kind: bytes, data: bytes) -> None:
        record = kind + data
        self._pending += RECORD.pack(len(record), google_crc32c.value(record)) + record

    def _flush(self) -> None:
        """One write to the log for each row, after the frames it counts on."""
        if self._pending:
            self._write(self._folder / LOG, bytes(self._pending))
            self._pending.clear()

    def _write(self, path: Path, data: bytes) -> None:
        if path not in self._open:
            self._open[path] = disk.open_append(path)
            disk.sync_folder(self._folder)
        disk.write_all(self._open[path], data)
