"""Frames out of video files and into them, by PyAV: reads any codec its FFmpeg has; writes AV1, or H.264 where it cannot."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import Any

import av
import numpy as np
from av.container import InputContainer
from av.error import FFmpegError

from robolearn.core.errors import UserError
from robolearn.data.formats._reader import require_memory

# FFmpeg also plays lists of other files and addresses, told by content: what somebody hands us must not make it open those.
_SAFE = {"protocol_whitelist": "file", "format_whitelist": "mov,matroska,avi,mpegts,mpeg,flv,ogg,asf,h264,hevc,ivf,obu,mpegvideo,m4v,mjpeg"}
_MAX_PIXELS = 1 << 26  # of one frame, before a decoder allocates it
_EARLIER_S = (0.0, 1.0, 10.0)  # some files' keyframes come later than their index says; the last resort is the beginning
_GROUP = 2  # frames from one keyframe to the next, as LeRobot writes them: a random read decodes at most that many
_ENCODERS = (
    ("libsvtav1", 4, {"crf": "30", "preset": "8"}),  # LeRobot's quality (its RGBEncoderConfig), without what preset 12 smears
    ("libx264", 1, {"crf": "20", "preset": "fast", "bf": "0"}),
)


def size_and_rate(path: Path) -> tuple[tuple[int, int], float]:
    """((height, width) [px], frames per second) from the header; nothing is decoded."""
    with _open(path) as (_, stream):
        return (stream.height, stream.width), _rate(stream)


def frames_between(path: Path, start_s: float = 0.0, stop_s: float | None = None) -> int:
    """How many frames the header promises from `start_s` to `stop_s` [s] (None: the end); 0 where it does not say."""
    with _open(path) as (_, stream):
        if stop_s is None:
            return max(stream.frames - round(start_s * _rate(stream)), 0)
        return round((stop_s - start_s) * _rate(stream))


def read_frames(path: Path, count: int, start_s: float = 0.0) -> np.ndarray:
    """uint8 (count, H, W, 3) RGB: `count` frames in a row, the first is the one shown at `start_s` [s]. UserError: fewer there."""
    with _open(path) as (container, stream):
        frames = _room(path, stream, count)
        done = 0
        if not count:
            return frames
        for _, frame in _frames_from(container, stream, start_s):
            _put(path, frames, done, frame)
            done += 1
            if done == count:
                return frames
    raise UserError(f"{path.name}: holds {done} frames from {start_s:g} s on; {count} are needed")


def read_frames_at(path: Path, times: Sequence[float] | np.ndarray) -> np.ndarray:
    """uint8 (N, H, W, 3) RGB: for each of `times` [s], which do not decrease, the frame nearest to it.

    UserError: a time that no frame is within half a frame of.
    """
    times = np.asarray(times, np.float64)
    with _open(path) as (container, stream):
        frames = _room(path, stream, len(times))
        tolerance = 0.51 / _rate(stream)
        done, last = 0, None
        for shown in _frames_from(container, stream, times[0] if len(times) else 0.0):
            while done < len(times) and last is not None and times[done] - last[0] <= shown[0] - times[done]:
                done = _take(path, frames, times, done, last, tolerance)
            if done == len(times):
                return frames
            last = shown
        while done < len(times) and last is not None:
            done = _take(path, frames, times, done, last, tolerance)
        if done < len(times):
            raise UserError(f"{path.name}: holds no frame from {times[0]:g} s on")
        return frames


class VideoWriter:
    """uint8 RGB frames into one mp4, frame k shown at exactly k / rate; keyframes close together, so that random reads are cheap."""

    def __init__(self, path: Path, size: tuple[int, int], rate_hz: float) -> None:
        """`size`: (height, width) [px]. UserError: this PyAV has neither an AV1 nor an H.264 encoder."""
        os.environ.setdefault("SVT_LOG", "1")  # else its encoder greets on stderr
        codec, _, options = next((e for e in _ENCODERS if e[0] in av.codecs_available and min(size) >= e[1]), (None, 0, {}))
        if codec is None:
            raise UserError(f"{path.name}: this PyAV can write neither AV1 nor H.264 at {size[0]}x{size[1]} px")
        rate = Fraction(rate_hz).limit_denominator(10000)
        self.frames = 0
        self._size = size
        self._container = av.open(str(path), "w")
        stream: Any = self._container.add_stream(codec, rate=rate, options=options | {"g": str(_GROUP)})
        self._stream: av.VideoStream = stream
        self._stream.height, self._stream.width = size
        # H.264 halves colour's resolution only where both sides are even.
        self.pix_fmt = self._stream.pix_fmt = "yuv420p" if codec == "libsvtav1" or not (size[0] % 2 or size[1] % 2) else "yuv444p"
        self._stream.codec_context.time_base = 1 / rate
        self.codec = "av1" if codec == "libsvtav1" else "h264"

    def add(self, frames: np.ndarray) -> None:
        """Append uint8 (N, H, W, 3) RGB."""
        if frames.dtype != np.uint8 or frames.shape[1:] != (*self._size, 3):
            raise ValueError(f"frames are {frames.dtype} {frames.shape}; expected uint8 (N, {self._size[0]}, {self._size[1]}, 3)")
        for image in frames:
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(image), format="rgb24")
            frame.pts = self.frames
            with _same_scheduling() if self.frames == 0 else nullcontext():  # the encoder starts with the first frame
                packets = self._stream.encode(frame)
            self._container.mux(packets)
            self.frames += 1

    def close(self) -> None:
        """Finish the file; adding ends here."""
        if self.frames:
            self._container.mux(self._stream.encode())
        self._container.close()

    def __enter__(self) -> VideoWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()


@contextmanager
def _same_scheduling() -> Iterator[None]:
    """SVT-AV1 makes root's calling thread, and all its own, real-time ones of the highest priority: whoever else wants a core, the loop of
    a robot among them, would starve. Threads keep the policy they had; new ones take the caller's."""
    before = {task: (os.sched_getscheduler(task), os.sched_getparam(task)) for task in _threads()}
    own = before.get(threading.get_native_id(), (os.sched_getscheduler(0), os.sched_getparam(0)))
    yield
    for task in _threads():
        policy, priority = before.get(task, own)
        with suppress(ProcessLookupError, PermissionError):
            if os.sched_getscheduler(task) != policy:
                os.sched_setscheduler(task, policy, priority)


def _threads() -> list[int]:
    tasks = Path("/proc/self/task")
    return [int(task.name) for task in tasks.iterdir()] if tasks.exists() else []


@contextmanager
def _open(path: Path) -> Iterator[tuple[InputContainer, av.VideoStream]]:
    """The file and its first video. UserError for whatever PyAV says of it while it is open."""
    if not path.is_file():
        raise UserError(f"{path}: no such video")
    try:
        with av.open(str(path.absolute()), options=_SAFE) as container:
            stream = next(iter(container.streams.video), None)
            if stream is None or stream.codec_context is None:
                raise UserError(f"{path.name}: holds no video that can be decoded")
            stream.codec_context.options = {"max_pixels": str(_MAX_PIXELS)}
            stream.thread_type = "AUTO"
            yield container, stream
    except (FFmpegError, OSError, ValueError) as error:
        raise UserError(f"{path.name}: not a video that can be read ({' '.join(str(error).split(':')[0].split())})") from error


def _rate(stream: av.VideoStream) -> float:
    return float(stream.average_rate or stream.guessed_rate or 30)


def _frames_from(container: InputContainer, stream: av.VideoStream, start_s: float) -> Iterator[tuple[float, av.VideoFrame]]:
    """(time [s], frame) in the order shown, from the frame that is shown at `start_s` on."""
    half = 0.5 / _rate(stream)
    decoded: Iterator[av.VideoFrame] = iter(())
    first = None
    for earlier in (*_EARLIER_S, None) if start_s > half else (None,):
        if start_s > half:
            target = 0.0 if earlier is None else max(start_s - half - earlier, 0.0)
            container.seek(int(target / (stream.time_base or 1)), stream=stream)
        decoded = container.decode(stream)
        first = next(decoded, None)
        if first is not None and _time(first, 0, half) <= start_s + half:
            break
    position = 0
    while first is not None:
        time = _time(first, position, half)
        if time >= start_s - half:
            yield time, first
        first = next(decoded, None)
        position += 1


def _time(frame: av.VideoFrame, position: int, half: float) -> float:
    """When a frame is shown [s]; bare streams do not say it."""
    return 2 * half * position if frame.time is None else float(frame.time)


def _room(path: Path, stream: av.VideoStream, count: int) -> np.ndarray:
    require_memory(path.name, (count, stream.height, stream.width, 3))
    return np.empty((count, stream.height, stream.width, 3), np.uint8)


def _put(path: Path, frames: np.ndarray, index: int, frame: av.VideoFrame) -> None:
    if (frame.height, frame.width) != frames.shape[1:3]:
        raise UserError(
            f"{path.name}: frame {index} is {frame.height}x{frame.width} [px]; the header says {frames.shape[1]}x{frames.shape[2]}"
        )
    frames[index] = frame.to_ndarray(format="rgb24")


def _take(path: Path, frames: np.ndarray, times: np.ndarray, row: int, shown: tuple[float, av.VideoFrame], tolerance: float) -> int:
    """Row `row` shows this frame. Returns the next row."""
    if not abs(times[row] - shown[0]) <= tolerance:
        raise UserError(f"{path.name}: holds no frame at {times[row]:.4f} s (row {row}); the nearest is at {shown[0]:.4f} s")
    _put(path, frames, row, shown[1])
    return row + 1
