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
from robolearn.core import disk
from robolearn.core.errors import UserError
from robolearn.data.chunks import encode_frames
from robolearn.data.episode import same_keys
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
        commit: Callable[[Path, Mapping[str, Any], Mapping[str, bool | float] | None], int],
        buffer_mb: float | int,
    ) -> None:
        """Not for callers: use EpisodeStore.record."""
        self._spec, self._commit, self._room = spec, commit, buffer_mb * 1e6
        self._row_type = row_type(spec)
        self._queue: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._waiting = 0.0  # bytes in the queue
        self._lock = threading.Lock()
        self._last = -np.inf  # time of the last row
        self._last_taken = dict.fromkeys(spec.cameras, -np.inf)
        self._last_sample = dict.fromkeys(spec.streams, -np.inf)
        self.rows, self.dropped = 0, 0  # added; not taken because the disk was too far behind
        self.dropped_samples = 0
        self._ended = False
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
        self._check_open()
        same_keys("images", images, self._spec.cameras)
        same_keys("state", state, self._spec.state)
        taken = dict.fromkeys(self._spec.cameras, np.nan) if image_time is None else image_time
        same_keys("image_time", taken, self._spec.cameras)
        if not 0 <= source <= 255:
            raise ValueError(f"source is {source}; expected 0 to 255")
        row = np.zeros((), self._row_type)
        with np.errstate(over="ignore"):  # what float32 cannot hold is found below
            row["time"], row["reward"], row["terminal"], row["source"] = time, reward, terminal, source
            for name, value in [("action", action), ("requested_action", requested_action), *((f"state/{k}", v) for k, v in state.items())]:
                if np.shape(value) == row[name].shape:
                    row[name] = value
                if np.shape(value) != row[name].shape or not (name == "requested_action" or np.isfinite(row[name]).all()):
                    raise ValueError(f"{name} is {np.asarray(value).tolist()}; expected {row[name].shape[0]} finite numbers")
        for name, size in self._spec.cameras.items():
            if (image := images[name]).shape != (*size, 3) or image.dtype != np.uint8:
                raise ValueError(f"images.{name} is {image.dtype} {image.shape}; expected uint8 {(*size, 3)}")
            if np.isinf(taken[name]) or taken[name] < self._last_taken[name]:
                raise ValueError(f"image_time.{name} is {taken[name]} s; expected NaN, or not before {self._last_taken[name]} s")
            row[f"image_time/{name}"] = taken[name]
        if not (np.inf > time > self._last and np.isfinite(row["reward"])):
            raise ValueError(f"time is {time} s, reward {reward}; expected a time after {self._last} s and a finite reward")
        self._last = time
        self._last_taken |= {name: when for name, when in taken.items() if not np.isnan(when)}
        frames = [images[name] for name in self._spec.cameras]
        size = row.nbytes + sum(frame.nbytes for frame in frames)
        if not self._takes(size):
            self.dropped += 1
            return
        self.rows += 1
        self._queue.put((size, frames, row.tobytes()))

    def sample(self, stream: str, time: np.ndarray | float, values: np.ndarray) -> None:
        """Samples of a stream: time float64 () or (M,) [s], values float32 (D,) or (M, D). ValueError: they do not fit the spec."""
        self._check_open()
        if stream not in self._spec.streams:
            raise ValueError(f"no stream {stream!r}; valid: {', '.join(self._spec.streams) or '(none)'}")
        times, block, dim = np.atleast_1d(np.asarray(time, "<f8")), np.asarray(values, "<f4"), self._spec.streams[stream].dim
        if block.shape not in ((len(times), dim), (dim,) if np.ndim(time) == 0 else ()):
            raise ValueError(f"streams.{stream} is {block.shape} at {times.shape}; expected (M, {dim}) at (M,)")
        if not (np.isfinite(times).all() and np.isfinite(block).all()):
            raise ValueError(f"streams.{stream} is not finite; NaN and inf are refused")
        if np.any(np.diff(times, prepend=self._last_sample[stream]) <= 0):
            raise ValueError(f"streams.{stream}.time does not increase after {self._last_sample[stream]} s")
        if not len(times):
            return
        self._last_sample[stream] = float(times[-1])
        if self._takes(size := times.nbytes + block.nbytes):
            self._queue.put((size, stream, times.tobytes() + block.tobytes()))
        else:
            self.dropped_samples += len(times)

    @property
    def trouble(self) -> str | None:
        """Why nothing is written any more (a full disk, say); None while all is well."""
        error = self._output.error
        return None if error is None else (getattr(error, "strerror", None) or str(error) or type(error).__name__)

    def finish(self, meta: Mapping[str, Any], last: Mapping[str, bool | float] | None = None) -> int:
        """Write out the rest, make it an episode, return its index. UserError: the disk is full; what is there can be recovered.

        last: `terminal` and `reward` of the last row, where only the end tells (an operator's word); None: as they were added.
        """
        json.dumps(to_json(dict(meta)))  # TypeError now, not when the rows are on the disk
        self._check_open()
        self._stop()
        if self._output.error is not None:
            raise UserError(f"{self._keep()}: {self.trouble}: the recording stopped there; what it has is kept for EpisodeStore.recover")
        dropped = {"dropped_rows": self.dropped, "dropped_samples": self.dropped_samples}
        try:
            return self._commit(self.folder, {**meta, **{name: count for name, count in dropped.items() if count}}, last)
        except BaseException:
            self._keep()
            raise

    def discard(self) -> None:
        """Forget this episode."""
        self._check_open()
        self._stop()
        remove_recording(self.folder)

    def __enter__(self) -> Recorder:
        return self

    def __exit__(self, error: type[BaseException] | None, *_: object) -> None:
        if self._ended:
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

    def _check_open(self) -> None:
        if self._ended:  # the folder may be the next recording's by now
            raise RuntimeError("this recording has ended; begin another with EpisodeStore.record")

    def _takes(self, size: int) -> bool:
        """Whether there is room for this many bytes more."""
        with self._lock:
            if self._waiting + size > self._room:
                return False
            self._waiting += size
            return True

    def _stop(self) -> None:
        self._ended = True
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
        self.error: Exception | None = None
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
        except Exception as error:  # of a codec, too: a thread that died would lose the rest in silence
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
        except Exception as error:
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
            disk.sync_path(self._folder)
        disk.write_all(self._open[path], data)
