"""RealSense cameras through their own SDK: colour frames, with the time at which the device says it took them."""

from __future__ import annotations

import ctypes
from collections import deque
from collections.abc import Callable, Iterator
from functools import cache
from time import monotonic
from typing import TYPE_CHECKING, Any

import numpy as np

from hardware.types import HardwareError

if TYPE_CHECKING:
    from hardware.cameras import CameraConfig, Seen

NAME = "realsense"  # a source: the first one found; realsense:SERIAL another
WAIT_MS = 200  # for a frame; then it counts as lost, and whoever waits may give up
WINDOW = 300  # frames that the clocks are compared over: drift in less than that is nothing


class DeviceClock:
    """A device's timestamps as times of our monotonic clock, whatever the wall clock does.

    The quickest of the last frames is taken to have needed no time, so that every frame's time is when it was taken, later by that frame's
    delay, which is constant (CameraConfig.latency_s). Timestamps of two domains, or from before and after the device's clock was set
    back, are not comparable: then it begins anew.
    """

    def __init__(self) -> None:
        self._offsets: deque[float] = deque(maxlen=WINDOW)
        self._domain: Any = None
        self._newest = -np.inf

    def time(self, stamp_ms: float, domain: Any, arrived: float) -> float:
        """When it was seen [s]; `arrived` [s] at the latest."""
        if domain != self._domain or stamp_ms < self._newest:
            self._offsets.clear()
        self._domain, self._newest = domain, stamp_ms
        self._offsets.append(arrived - 1e-3 * stamp_ms)
        return 1e-3 * stamp_ms + min(self._offsets)


def frames(name: str, config: CameraConfig, find: Callable[[str], Any] | None = None) -> Iterator[Seen | None]:
    """find: serial number, "" any -> the SDK's device. Raises HardwareError: none there, or none of its streams will do."""
    device = (find or _find)(config.source.removeprefix(NAME).removeprefix(":"))
    sensor, profile = _colour(device, config)
    sdk, clock = _sdk(), DeviceClock()
    queue = sdk.frame_queue(1)  # the newest
    if sensor.supports(sdk.option.global_time_enabled):
        sensor.set_option(sdk.option.global_time_enabled, 1.0)  # the SDK then takes out the drift of the device's clock
    sensor.open(profile)
    try:
        sensor.start(queue)
        while True:
            try:
                frame = queue.wait_for_frame(WAIT_MS)
            except RuntimeError:  # none came
                yield None
                continue
            seen = clock.time(frame.get_timestamp(), frame.get_frame_timestamp_domain(), monotonic())
            yield np.array(frame.get_data()), seen  # a copy: the SDK takes its memory back
    finally:
        sensor.stop()
        sensor.close()


def _colour(device: Any, config: CameraConfig) -> tuple[Any, Any]:
    """The sensor and its RGB stream that is nearest to what is asked for: large enough, its rate, then small."""
    sdk = _sdk()
    found = [
        (sensor, profile.as_video_stream_profile())
        for sensor in device.query_sensors()
        for profile in sensor.get_stream_profiles()
        if profile.stream_type() == sdk.stream.color and profile.format() == sdk.format.rgb8
    ]
    if not found:
        raise HardwareError(f"{config.source}: no colour stream in RGB")
    height, width = config.size

    def misfit(pair: tuple[Any, Any]) -> tuple[bool, float, int]:
        video = pair[1]
        small = video.height() < height or video.width() < width
        return small, abs(video.fps() - config.rate_hz), video.height() * video.width()

    return min(found, key=misfit)


def _find(serial: str) -> Any:
    sdk = _sdk()
    there = {device.get_info(sdk.camera_info.serial_number): device for device in sdk.context().query_devices()}
    if serial in there or (there and not serial):
        return there[serial or next(iter(there))]
    raise HardwareError(f"no such RealSense; valid serial numbers: {', '.join(there) or 'none is plugged in'}")


@cache
def _sdk() -> Any:
    """Its library wants a libusb that is already loaded."""
    try:
        import libusb_package

        ctypes.CDLL(str(libusb_package.get_library_path()), mode=ctypes.RTLD_GLOBAL)
        import pyrealsense2
    except (ImportError, OSError) as error:
        raise HardwareError(f"pyrealsense2 does not load ({error}); pip install 'robolearn[realsense]'") from error
    return pyrealsense2
