"""RealSense cameras through the unmodified SDK: its own software device stands in for the plastic, with frames and times of our choice."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from functools import partial
from typing import Any

import numpy as np
import pytest

from hardware import realsense
from hardware.cameras import CameraConfig, ThreadedCamera
from hardware.realsense import WINDOW, DeviceClock, frames
from hardware.types import HardwareError
from tests.hardware.test_cameras import wait_for

pytest.importorskip("libusb_package", reason="robolearn[realsense] is not installed")
try:
    rs = realsense._sdk()
except HardwareError as why:
    pytest.skip(str(why), allow_module_level=True)

STREAMS = ((640, 480, 30), (64, 48, 30), (64, 48, 60), (32, 24, 30))
GLOBAL, HARDWARE = rs.timestamp_domain.global_time, rs.timestamp_domain.hardware_clock


class Soft:
    """The SDK's device, and who feeds it: 64 x 48 at about 100 Hz. `speed`: of its clock."""

    def __init__(self) -> None:
        self.device = rs.software_device()
        self.device.register_info(rs.camera_info.serial_number, "0042")
        self.sensor = self.device.add_sensor("RGB")
        self.profiles = [self._stream(number, *shape) for number, shape in enumerate(STREAMS)]
        self.speed, self.frozen, self.mute, self.number = 1.0, False, False, 0
        self.asked: list[str] = []
        self._ends = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _stream(self, uid: int, width: int, height: int, fps: int) -> Any:
        stream, lens = rs.video_stream(), rs.intrinsics()
        lens.width, lens.height = width, height
        stream.type, stream.uid, stream.width, stream.height = rs.stream.color, uid, width, height
        stream.bpp, stream.fmt, stream.fps, stream.intrinsics = 3, rs.format.rgb8, fps, lens
        return self.sensor.add_video_stream(stream)

    def _run(self) -> None:
        stamp, before = 5e6, time.monotonic()
        while not self._ends.wait(0.01):
            now = time.monotonic()
            stamp, before = stamp + 1e3 * self.speed * (now - before), now
            if not self.mute:
                self.number += not self.frozen
                self.put(1, self.number % 250, stamp)

    def put(self, stream: int, shade: int, stamp_ms: float) -> None:
        width, height, _ = STREAMS[stream]
        frame = rs.software_video_frame()
        frame.pixels = np.full((height, width, 3), [shade, 10, 20], np.uint8)
        frame.stride, frame.bpp, frame.timestamp, frame.domain = 3 * width, 3, stamp_ms, GLOBAL
        frame.frame_number, frame.profile = self.number, self.profiles[stream].as_video_stream_profile()
        self.sensor.on_video_frame(frame)

    def find(self, serial: str) -> Any:
        self.asked.append(serial)
        return self.device

    def close(self) -> None:
        self._ends.set()
        self._thread.join(5)


@pytest.fixture
def soft() -> Iterator[Soft]:
    soft = Soft()
    yield soft
    soft.close()


def camera_of(soft: Soft, **values: Any) -> ThreadedCamera:
    config = CameraConfig("realsense:0042", size=(48, 64), **values)
    return ThreadedCamera("top", config, partial(frames, find=soft.find))


def test_the_newest_frame_in_rgb_and_its_time(soft: Soft) -> None:
    camera = camera_of(soft, stale_s=5.0)
    camera.open()
    assert soft.asked == ["0042"]
    first, at = camera.read(), camera.time
    assert first.shape == (48, 64, 3) and first[0, 0].tolist()[1:] == [10, 20]
    while camera.time == at:
        time.sleep(0.002)
    assert camera.read()[0, 0, 0] != first[0, 0, 0]
    assert at < camera.time <= time.monotonic()
    camera.close()
    camera.open()  # again, after it was closed
    camera.read()
    camera.close()


def test_a_backlog_shows_by_the_devices_own_times(soft: Soft) -> None:
    """Frames go on coming, each later after it was taken than the one before: it takes a second of that until they are too old."""
    camera = camera_of(soft, stale_s=0.5)
    camera.open()
    camera.read()
    soft.speed = 0.5
    wait_for("camera top: newest frame is .* s old; at most 0.5 s", camera)
    number, ends = soft.number, time.monotonic() + 20
    while soft.number < number + 5:
        assert time.monotonic() < ends
    camera.close()


@pytest.mark.parametrize(
    ("fault", "stale_s", "message"),
    [("mute", 0.3, "newest frame is .* s old; at most 0.3 s"), ("frozen", 2.0, "the same picture for .* it hangs")],
)
def test_10_a_camera_that_fails_is_said(soft: Soft, fault: str, stale_s: float, message: str) -> None:
    camera = camera_of(soft, stale_s=stale_s)
    camera.open()
    setattr(soft, fault, True)
    wait_for(f"camera top: {message}", camera)
    camera.close()


def test_the_stream_that_fits_is_chosen(soft: Soft) -> None:
    for size, rate, expected in (
        ((48, 64), 30.0, (64, 48, 30)),
        ((40, 40), 60.0, (64, 48, 60)),
        ((24, 32), 30.0, (32, 24, 30)),
        ((100, 100), 60.0, (640, 480, 30)),
        ((1000, 1000), 30.0, (32, 24, 30)),
    ):
        _, profile = realsense._colour(soft.device, CameraConfig("realsense", size=size, rate_hz=rate))
        assert (profile.width(), profile.height(), profile.fps()) == expected


def test_none_is_one_line_that_says_which_there_are() -> None:
    with pytest.raises(HardwareError, match="camera wrist: realsense:77: no such RealSense; valid serial numbers: none is plugged in"):
        CameraConfig("realsense:77").open("wrist").open()


def test_a_device_without_colour_is_said() -> None:
    with pytest.raises(HardwareError, match="realsense: no colour stream in RGB"):
        next(frames("top", CameraConfig("realsense"), lambda serial: rs.software_device()))


# Clocks ---------------------------------------------------------------------------------------------------------------


def test_a_late_arrival_does_not_make_a_frame_younger() -> None:
    clock = DeviceClock()
    delays = [0.02, 0.005, 0.03, 0.4, 0.2, 0.005]
    taken = [10.0 + 0.1 * k for k in range(6)]
    seen = [clock.time(1e3 * t + 777.0, GLOBAL, t + delay) for t, delay in zip(taken, delays, strict=True)]
    np.testing.assert_allclose(seen[1:], np.array(taken[1:]) + 0.005)  # the quickest is the measure


def test_domains_are_not_mixed_and_a_clock_set_back_begins_anew() -> None:
    clock = DeviceClock()
    assert clock.time(5e6, GLOBAL, 10.0) == pytest.approx(10.0)
    assert clock.time(3e3, HARDWARE, 10.1) == pytest.approx(10.1)
    assert clock.time(3.1e3, HARDWARE, 10.3) == pytest.approx(10.2)
    assert clock.time(5e6 + 300, GLOBAL, 10.4) == pytest.approx(10.4)
    assert clock.time(4e6, GLOBAL, 10.5) == pytest.approx(10.5)


def test_the_wall_clock_set_forward_changes_nothing_and_drift_is_followed() -> None:
    clock = DeviceClock()
    clock.time(0.0, GLOBAL, 10.0)
    assert clock.time(3.6e6, GLOBAL, 10.1) == pytest.approx(10.1)
    clock = DeviceClock()
    ages = [arrived - clock.time(1e3 * (arrived * (1 - 1e-4)), HARDWARE, arrived) for arrived in np.arange(0, 600, 1 / 30)]
    assert max(ages) < 1.1e-4 * WINDOW / 30
