"""Cameras that deliver at their own rate: a thread keeps the newest frame, with the time at which it was seen."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from time import monotonic
from typing import Any

import numpy as np

from hardware import realsense
from hardware.types import HardwareError

OPEN_S = 10.0  # to the first frame
FROZEN_S = 1.0  # a sensor's noise changes every frame; the very same bytes for this long are a camera that hangs


@dataclass(frozen=True)
class CameraConfig:
    """A camera of OpenCV's: a device, a stream, or a file; or a RealSense."""

    source: str = "0"
    """number or path of a video device (0, /dev/video2), address of a stream (http://host:8080/feed), a video file, or
    realsense[:SERIAL]"""
    size: tuple[int, int] = (240, 320)
    """height and width of what the policy sees [px]; the picture is cut to this shape around its middle, then scaled"""
    rate_hz: float = 30.0
    """what the device is asked for [frames/s]"""
    latency_s: float = 0.0
    """from light to `grab`: measured once per model, subtracted from the time of every frame [s]"""
    stale_s: float = 0.5
    """a newest frame older than this stops the robot [s]"""

    def open(self, name: str) -> ThreadedCamera:
        own = self.source == realsense.NAME or self.source.startswith(f"{realsense.NAME}:")
        return ThreadedCamera(name, self, realsense.frames if own else _frames_of)


Seen = tuple[np.ndarray, float]  # RGB, and when [s, monotonic]
Frames = Callable[[str, CameraConfig], Iterator[Seen | None]]  # as they come; None where one was lost


class ThreadedCamera:
    """`read` never waits for the device. Raises HardwareError for frames that are too old, or frozen."""

    def __init__(self, name: str, config: CameraConfig, frames: Frames) -> None:
        self.name, self.config, self.size = name, config, config.size
        self.time = -np.inf  # when the newest frame was seen [s, monotonic]
        self.lost = 0
        self._frames, self._frame, self._changed = frames, np.empty(0, np.uint8), -np.inf
        self._thread: threading.Thread | None = None
        self._lock, self._ends, self._error = threading.Lock(), threading.Event(), ""

    def open(self) -> None:
        """Wait for the first frame. Raises HardwareError."""
        if self._thread is not None:
            return
        self._ends.clear()
        self.time, self._changed, self._error = -np.inf, -np.inf, ""
        self._thread = threading.Thread(target=self._watch, daemon=True, name=f"camera {self.name}")
        self._thread.start()
        ends = monotonic() + OPEN_S
        while self.time == -np.inf and not self._error and monotonic() < ends:
            self._ends.wait(0.01)
        if self.time == -np.inf:
            error = self._error or f"no frame in {OPEN_S:g} s"
            self.close()
            raise HardwareError(f"camera {self.name}: {self.config.source}: {error}")

    def close(self) -> None:
        self._ends.set()
        if self._thread is not None:
            self._thread.join(2.0)  # one that hangs in its driver is left behind
            self._thread = None

    def read(self) -> np.ndarray:
        """The newest frame, uint8 (H, W, 3) RGB."""
        with self._lock:
            frame, time, changed = self._frame, self.time, self._changed
        now, stale = monotonic(), self.config.stale_s
        if now - time > stale:
            why = f": {self._error}" if self._error else ""
            raise HardwareError(f"camera {self.name}: newest frame is {now - time:.2f} s old; at most {stale:g} s{why}")
        if now - changed > max(stale, FROZEN_S):
            raise HardwareError(f"camera {self.name}: the same picture for {now - changed:.1f} s; it hangs")
        return frame

    def _watch(self) -> None:
        before: np.ndarray | None = None
        try:
            for seen in self._frames(self.name, self.config):
                if self._ends.is_set():
                    return
                if seen is None:
                    self.lost += 1
                    continue
                raw, time = seen[0], seen[1] - self.config.latency_s
                frame = fit(raw, self.size)
                with self._lock:
                    if before is None or not np.array_equal(raw, before):
                        self._changed = time
                    self._frame, self.time = frame, time
                before = raw
            self._error = "the stream ended"
        except Exception as error:
            self._error = str(error) or repr(error)


def fit(frame: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Cut to the shape of `size` around the middle, then scaled: (H, W, 3) uint8."""
    import cv2

    height, width = frame.shape[:2]
    share = min(height / size[0], width / size[1])
    h, w = round(size[0] * share), round(size[1] * share)
    top, left = (height - h) // 2, (width - w) // 2
    cut = frame[top : top + h, left : left + w]
    if cut.shape[:2] == size:
        return np.ascontiguousarray(cut)
    return cv2.resize(cut, (size[1], size[0]), interpolation=cv2.INTER_AREA)


def _frames_of(name: str, config: CameraConfig) -> Iterator[Seen | None]:
    """Through OpenCV. Raises HardwareError where nothing opens."""
    import cv2

    source: Any = int(config.source) if config.source.isdigit() else config.source
    device = cv2.VideoCapture(source)
    try:
        if not device.isOpened():
            raise HardwareError("does not open; valid: a number (0), a device (/dev/video2), a stream (http://...), a video file")
        for what, value in ((cv2.CAP_PROP_FOURCC, _MJPG), (cv2.CAP_PROP_FPS, config.rate_hz), (cv2.CAP_PROP_BUFFERSIZE, 1)):
            device.set(what, value)
        lost = 0
        while lost < 100:
            fine, frame = device.read()
            lost = 0 if fine else lost + 1
            yield (cv2.cvtColor(frame, cv2.COLOR_BGR2RGB), monotonic()) if fine else None
    finally:
        device.release()


_MJPG = sum(ord(letter) << 8 * place for place, letter in enumerate("MJPG"))  # raw frames of two cameras do not fit through one USB port
