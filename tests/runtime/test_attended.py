"""A person at a simulator: paced by the wall clock, seen through a real HTTP connection."""

import io
import json
import urllib.error
import urllib.request

import numpy as np
import pytest
from PIL import Image

from hardware.types import Command, Observation, Source
from robolearn.core.errors import UserError
from robolearn.runtime import attended
from robolearn.runtime.attended import Attended, LiveView


class Wall:
    """Stands in for the time module: sleeping takes as long as it says."""

    def __init__(self):
        self.now = 5.0

    def monotonic(self):
        return self.now

    def sleep(self, seconds):
        self.now += seconds if seconds >= 0 else 1 / 0


@pytest.fixture
def wall(monkeypatch):
    clock = Wall()
    monkeypatch.setattr(attended, "time", clock)
    return clock


class Device:
    def __init__(self, wall=None):
        self.times, self.verdict, self.resets, self.wall = [], None, 0, wall

    def reset(self):
        self.resets += 1

    def decide(self, observation):
        if self.wall is not None:
            self.times.append(self.wall.now)
            self.wall.now += 0.01  # thinking takes time too
        return Command(observation.time, np.zeros(1, np.float32), Source.HUMAN)


def look(at, shade=0):
    return Observation(at, {"a": np.full((8, 8, 3), shade, np.uint8), "b": np.full((6, 4, 3), 255, np.uint8)}, {})


def test_a_simulator_runs_no_faster_than_the_world(wall):
    device = Device(wall)
    pilot = Attended(device)
    for episode in (100.0, 900.0):  # the simulator's clock may start anywhere
        pilot.reset()
        for step in range(4):
            pilot.decide(look(episode + 0.05 * step))
    np.testing.assert_allclose(np.diff(device.times)[[0, 1, 2, 4, 5, 6]], 0.05)
    assert device.resets == 2


def test_after_a_delay_it_does_not_rush(wall):
    device = Device(wall)
    pilot = Attended(device)
    pilot.reset()
    pilot.decide(look(0.0))
    wall.now += 0.2
    for step in (1, 2, 3):
        pilot.decide(look(0.05 * step))
    np.testing.assert_allclose(np.diff(device.times), [0.21, 0.05, 0.05])


def test_the_operators_word_passes_through():
    device = Device()
    pilot = Attended(device)
    assert pilot.verdict is None
    device.verdict = "quit"
    assert pilot.verdict == "quit"


def test_a_browser_sees_the_newest_frame_and_is_let_go_at_the_end():
    with LiveView(0) as view:
        with urllib.request.urlopen(view.url, timeout=5) as answer:
            assert b'<img src="stream">' in answer.read()
        view.figures = [("governor", "STOPPED: <operator>")]
        with urllib.request.urlopen(f"{view.url}/figures", timeout=5) as answer:
            assert json.load(answer) == [["governor", "STOPPED: <operator>"]]
        Attended(Device(), view).decide(look(0.0, shade=200))
        answer = urllib.request.urlopen(f"{view.url}/stream", timeout=5)
        header = b"".join(answer.readline() for _ in range(4))
        size = int(header.split(b"Content-Length: ")[1].split()[0])
        image = np.asarray(Image.open(io.BytesIO(answer.read(size))))
        assert image.shape == (8, 12, 3)
        assert abs(int(image[2, 2, 0]) - 200) < 12
        with pytest.raises(urllib.error.HTTPError) as missing:
            urllib.request.urlopen(f"{view.url}/nothing", timeout=5)
        missing.value.close()
    assert answer.read() == b"\r\n"
    answer.close()


def test_with_a_secret_nothing_is_shown_without_it():
    with LiveView(0, secret="abc") as view:
        assert view.url.endswith(f":{view.port}/abc")
        for path in ("/", "/stream", "/figures"):
            with pytest.raises(urllib.error.HTTPError) as missing:
                urllib.request.urlopen(f"http://127.0.0.1:{view.port}{path}", timeout=5)
            missing.value.close()
        urllib.request.urlopen(f"{view.url}/", timeout=5).close()


def test_a_port_in_use_is_one_line():
    with LiveView(0) as view, pytest.raises(UserError, match=r"view_port: \d+ cannot be used"):
        LiveView(int(view.url.rpartition(":")[2]))
