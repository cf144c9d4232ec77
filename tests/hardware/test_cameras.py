"""Cameras that deliver at their own rate: real threads, a real stream over HTTP, frames with the time in their pixels."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest

from hardware.cameras import CameraConfig, Seen, ThreadedCamera, fit
from hardware.fake import FakeArm
from hardware.types import HardwareError
from tests.hardware.test_robot import bare

cv2 = pytest.importorskip("cv2")


class Device:
    """Frames on demand; what a test may do to it."""

    def __init__(self) -> None:
        self.mode, self.number = "fine", 0

    def frames(self, name: str, config: CameraConfig) -> Iterator[Seen | None]:
        while self.mode != "gone":
            time.sleep(0.005)
            if self.mode == "mute":
                continue
            if self.mode == "lossy":
                yield None
                continue
            self.number += self.mode != "frozen"
            yield np.full((40, 60, 3), self.number % 250, np.uint8), time.monotonic()


def camera_of(device: Device, **values) -> ThreadedCamera:
    return ThreadedCamera("top", CameraConfig(size=(20, 20), **values), device.frames)


def wait_for(message: str, camera: ThreadedCamera) -> None:
    ends = time.monotonic() + 20
    with pytest.raises(HardwareError, match=message):
        while time.monotonic() < ends:
            camera.read()
            time.sleep(0.01)


def test_the_newest_frame_is_at_hand_and_its_time_known() -> None:
    device = Device()
    camera = camera_of(device, latency_s=0.1)
    camera.open()
    first, at = camera.read(), camera.time
    assert first.shape == (20, 20, 3)
    assert time.monotonic() - at >= 0.1
    while camera.time == at:
        time.sleep(0.005)
    assert camera.read()[0, 0, 0] != first[0, 0, 0]
    camera.close()
    camera.close()
    camera.open()
    camera.read()
    camera.close()


@pytest.mark.parametrize(
    ("mode", "message"),
    [("mute", "frame is .* s old; at most 0.2 s"), ("lossy", "frame is .* s old"), ("gone", "the stream ended"), ("frozen", "it hangs")],
)
def test_10_a_camera_that_fails_is_said(mode: str, message: str) -> None:
    device = Device()
    camera = camera_of(device, stale_s=0.2)
    camera.open()
    camera.read()
    device.mode = mode
    wait_for(f"camera top: .*{message}", camera)
    camera.close()


def test_10_it_stops_the_robot_and_what_was_seen_last_is_still_shown() -> None:
    device = Device()
    robot = bare(FakeArm())
    robot.cameras["top"] = camera_of(device, stale_s=0.2)
    with robot:
        robot.observe()
        device.mode = "gone"
        time.sleep(0.3)
        seen = robot.observe().images["top"]
        assert robot.stopped is not None
        assert robot.stopped.startswith("camera: camera top")
        assert robot.governor.at_rest
        assert seen.shape == (20, 20, 3)


def test_a_camera_that_does_not_open_is_said_and_the_arm_left_alone() -> None:
    device, arm = Device(), FakeArm()
    device.mode = "gone"
    robot = bare(arm)
    robot.cameras["top"] = camera_of(device)
    with pytest.raises(HardwareError, match="camera top: 0: the stream ended"):
        robot.connect()
    assert not arm.connected


@pytest.mark.parametrize("source", ["/dev/video97", "/nowhere.mp4"])
def test_what_opencv_cannot_open(source: str) -> None:
    camera = CameraConfig(source=source).open("wrist")
    with pytest.raises(HardwareError, match=f"camera wrist: {source}: does not open; valid: a number"):
        camera.open()


class _Stream(BaseHTTPRequestHandler):
    """Motion JPEG whose pixels say when they were drawn."""

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "multipart/x-mixed-replace; boundary=frame")
        self.end_headers()
        try:
            for number in range(10_000):
                picture = np.zeros((48, 64, 3), np.uint8)
                picture[:, :, 0] = 250  # blue, as OpenCV counts
                picture[:, :, 2] = number % 16 * 16
                jpeg = cv2.imencode(".jpg", picture)[1].tobytes()
                self.wfile.write(b"--frame\r\nContent-Type: image/jpeg\r\nContent-Length: %d\r\n\r\n%s\r\n" % (len(jpeg), jpeg))
                time.sleep(0.02)
        except OSError:
            pass

    def log_message(self, format: str, *args: object) -> None: ...


def test_a_stream_through_opencv_in_rgb() -> None:
    with ThreadingHTTPServer(("127.0.0.1", 0), _Stream) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        camera = CameraConfig(source=f"http://127.0.0.1:{server.server_port}/", size=(24, 32)).open("top")
        camera.open()
        seen = {int(camera.read()[0, 0, 0])}
        ends = time.monotonic() + 20
        while len(seen) < 4 and time.monotonic() < ends:
            seen.add(int(camera.read()[0, 0, 0]))
            time.sleep(0.01)
        assert len(seen) >= 4  # red counts up
        assert camera.read()[..., 2].min() > 230  # blue is last
        camera.close()
        server.shutdown()


def test_pictures_are_cut_around_their_middle() -> None:
    wide = np.zeros((40, 80, 3), np.uint8)
    wide[:, 20:60] = 255
    assert (fit(wide, (20, 20)) == 255).all()
    assert fit(wide, (40, 80)).shape == (40, 80, 3)
