"""A page as a pilot, through a real WebSocket client; what a page sends is written out here, as a browser would send it."""

from __future__ import annotations

import json
import re
import socket
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hardware.teleop import browser as module
from hardware.teleop.browser import LATE_S, MESSAGE_BYTES, SEAT_S, SILENT_S, WORDS, Browser, Message, Seat
from hardware.teleop.operator import GRIPPER_PER_S
from hardware.teleop.qr import qr
from hardware.testing import PilotContract
from hardware.types import ArraySpec, HardwareError, Observation, RobotSpec, Source

pytest.importorskip("websockets", reason="robolearn[browser] is not installed")
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import ClientConnection, connect

from tests.waiting import until

STEP, TURN = 0.02, 0.05
MOST = (STEP,) * 3 + (TURN,) * 3
ACTION = ArraySpec(
    ("dx", "dy", "dz", "rx", "ry", "rz", "gripper"), (*["m"] * 3, *["rad"] * 3, "1"), (*(-m for m in MOST), 0.0), (*MOST, 1.0)
)
SPEC = RobotSpec("arm", {}, {}, ACTION, "ee_delta", 10.0)
NOW = Observation(0.0, {}, {})
FAR = (1.0, 0.0, 0.0, 0.0, 0.0)


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def stops() -> list[str]:
    return []


@pytest.fixture
def pilot(clock: Clock, stops: list[str]) -> Iterator[Browser]:
    with Browser(SPEC, stops.append, port=0, camera=":8642/x/stream", clock=clock) as pilot:
        pilot.reset()
        yield pilot


class Page:
    """Says back the newest time that it heard, as a page does."""

    def __init__(self, line: ClientConnection) -> None:
        self.line, self.heard = line, {}

    def say(self, **message: object) -> bool:
        """Whether it moves the robot: answered when the pilot has heard it."""
        self.line.send(json.dumps({"hold": False, **self.heard, **message}))
        self.answer = json.loads(self.line.recv(5))
        self.heard = {"heard": self.answer["now"]}
        return self.answer["moves"]


@contextmanager
def opened(pilot: Browser) -> Iterator[Page]:
    with connect(pilot.url.replace("http", "ws", 1) + "ws") as line:
        yield Page(line)


@pytest.fixture
def page(pilot: Browser) -> Iterator[Page]:
    with opened(pilot) as page:
        assert page.say() is True
        yield page


class TestContract(PilotContract):
    def make(self):
        return Browser(SPEC, lambda reason: None), SPEC, NOW


# Moving ---------------------------------------------------------------------------------------------------------------


def test_touched_it_moves_in_the_robots_units_and_let_go_of_it_holds(pilot: Browser, page: Page) -> None:
    page.say(hold=True, x=0.5, y=-1, z=0.25, turn=-1)
    command = pilot.decide(NOW)
    np.testing.assert_allclose(command.action, [0.01, -STEP, 0.005, 0, 0, -TURN, 1.0], atol=1e-7)
    assert command.source is Source.HUMAN and pilot.holds
    page.say(hold=False)
    assert not pilot.decide(NOW).action[:6].any() and not pilot.holds


def test_without_the_deadman_nothing_moves_nor_the_gripper(pilot: Browser, page: Page) -> None:
    page.say(hold=True)
    page.say(hold=False, x=1, grip=-1, turn=1)
    np.testing.assert_allclose(pilot.decide(NOW).action, [0, 0, 0, 0, 0, 0, 1.0])


def test_the_gripper_goes_at_its_rate_and_stays(pilot: Browser, page: Page) -> None:
    page.say(hold=True, grip=-1)
    openings = [float(pilot.decide(NOW).action[-1]) for _ in range(3)]
    np.testing.assert_allclose(openings, 1 - GRIPPER_PER_S / 10 * np.array([1, 2, 3]), atol=1e-6)
    page.say(hold=False)
    assert pilot.decide(NOW).action[-1] == pytest.approx(openings[-1])


def test_silent_it_holds_and_goes_on_when_heard_again(pilot: Browser, page: Page, clock: Clock) -> None:
    page.say(hold=True, x=1)
    clock.now += SILENT_S - 0.01
    assert pilot.decide(NOW).action[0] > 0
    clock.now += 0.02
    assert not pilot.decide(NOW).action[:6].any()
    assert pilot.holds, "nobody let go"
    page.say(hold=True, x=0.5)
    assert pilot.decide(NOW).action[0] > 0


@pytest.mark.parametrize(("delay_s", "moves"), [(0.0, True), (0.05, True), (0.24, True), (0.26, False), (3.0, False)])
def test_a_page_too_far_away_moves_nothing_though_it_speaks_constantly(delay_s: float, moves: bool) -> None:
    """Everything it says, and everything it hears, takes delay_s."""
    seat, moved = Seat(), []
    for said in np.arange(0.0, 10.0, 0.05):
        heard = said - delay_s if said > 2 * delay_s else None  # when the answer was given that has just come
        assert seat.hear("page", Message(said > 0, FAR, heard=heard), said + delay_s)
        moved.append(seat.wish(said + delay_s).any())
    assert seat.hold and moved[-1] == moves and any(moved) == moves


def test_a_line_that_grows_slow_moves_nothing_until_it_is_quick_again() -> None:
    seat = Seat()
    seat.hear("page", Message(False, FAR), 10.0)
    for heard, now, moves in ((10.0, 10.1, True), (10.1, 10.55, True), (10.1, 10.65, False), (10.1, 12.0, False), (12.0, 12.1, True)):
        seat.hear("page", Message(True, FAR, heard=heard), now)
        assert seat.wish(now).any() == moves and seat.hold
    assert seat.wish(12.1 + SILENT_S - 0.01).any() and not seat.wish(12.1 + SILENT_S + 0.01).any(), "silent"


def test_a_page_that_heard_nothing_yet_moves_nothing() -> None:
    seat = Seat()
    seat.hear("page", Message(False, FAR), 10.0)
    seat.hear("page", Message(True, FAR), 10.0)
    assert seat.hold and not seat.wish(10.0).any()


def test_a_time_to_come_is_now() -> None:
    seat = Seat()
    seat.hear("page", Message(False, FAR), 10.0)
    seat.hear("page", Message(True, FAR, "success", heard=99.0), 10.0)
    assert seat.wish(10.0).any() and not seat.wish(10.0 + SILENT_S + 0.01).any()
    assert seat.words() == [(10.0, "success")]


def test_a_page_is_told_the_time_and_how_late_it_is(page: Page, clock: Clock) -> None:
    assert page.answer == {"moves": True, "now": clock.now, "late": 0}
    clock.now += LATE_S
    page.say(hold=True)
    assert page.answer == {"moves": True, "now": clock.now, "late": 0}
    clock.now += 0.84
    page.say(hold=True)
    assert page.answer == {"moves": True, "now": clock.now, "late": 0.8}


def test_lost_it_holds_at_once_and_lets_go_of_nothing(pilot: Browser, page: Page) -> None:
    page.say(hold=True, x=1)
    assert pilot.decide(NOW).action[0] > 0
    page.line.socket.close()  # the phone left the network
    until(lambda: pilot.seat._client is None)
    assert not pilot.decide(NOW).action[:6].any()
    assert pilot.holds
    with opened(pilot) as again:  # a page that comes back has let go
        assert again.say()
        pilot.decide(NOW)
        assert not pilot.holds


def test_words_end_episodes_and_those_of_before_mean_nothing(pilot: Browser, page: Page, clock: Clock) -> None:
    for word in ("success", "failure", "discard", "quit"):
        page.say(hold=True, x=1)
        page.say(word=word, hold=True, x=1)
        assert not pilot.decide(NOW).action[:6].any(), "the last row must not move"
        assert pilot.verdict == word
        page.say(word="quit")
        clock.now += 1.0
        pilot.reset()
        pilot.decide(NOW)
        assert pilot.verdict is None
        page.say()


@pytest.mark.parametrize(
    ("heard", "verdict"), [(None, None), (99.9, None), (106.0, "failure"), (107.0, "failure"), (1e9, "failure")], ids=str
)
def test_a_word_is_of_this_episode_if_its_page_had_heard_of_it(pilot: Browser, clock: Clock, heard: float, verdict: str | None) -> None:
    """The other: a second tap, say, on a line that stalled. One that comes late, but was said since, is heard: a page on a slow line."""
    clock.now = 106.0
    pilot.reset()
    pilot.seat.hear("page", Message(False, FAR, "failure", heard), 120.0)
    pilot.decide(NOW)
    assert pilot.verdict == verdict


def test_before_the_first_reset_a_word_without_a_time_means_nothing(clock: Clock) -> None:
    pilot = Browser(SPEC, print, clock=clock)
    pilot.seat.hear("page", Message(False, FAR, "quit"), clock.now)
    pilot.decide(NOW)
    assert pilot.verdict is None


def test_a_stop_stops_the_robot_from_whichever_page_and_waits_for_no_decision(pilot: Browser, page: Page, stops: list[str]) -> None:
    """The pilot may be thinking, or the robot on its way home."""
    with opened(pilot) as other:
        assert not other.say(word="stop")
        assert stops == ["operator"]
        page.say(word="stop", heard=0.0)
        assert stops == ["operator"] * 2, "however old it is"
        pilot.reset()
        pilot.decide(NOW)
        assert (stops, pilot.verdict) == (["operator"] * 2, None)


def test_what_a_page_said_before_it_left_is_heard(pilot: Browser, stops: list[str]) -> None:
    """It can no longer be answered."""

    class Gone(list[str]):
        def send(self, text: str) -> None:
            raise ConnectionClosed(None, None)

    pilot._talk(Gone(['{"hold": false}', '{"word": "stop"}']))
    assert stops == ["operator"]


# Who -----------------------------------------------------------------------------------------------------------------


def test_one_moves_the_others_watch_until_the_seat_is_free(pilot: Browser, page: Page, clock: Clock) -> None:
    with opened(pilot) as other:
        assert not other.say(x=1, hold=True)
        assert not other.say(word="success")
        page.say(hold=True, x=0.5)
        assert pilot.decide(NOW).action[0] == pytest.approx(0.5 * STEP)
        assert pilot.verdict is None
        clock.now += SEAT_S + 0.1
        assert not page.say(hold=True), "who has said nothing for so long has no seat, and may have slept with a finger down"
        assert pilot.holds, "nobody let go"
        assert other.say()
        other.say(hold=True, x=1)
        assert pilot.decide(NOW).action[0] == pytest.approx(STEP)


def test_whoever_takes_the_seat_begins_with_nothing_held() -> None:
    seat, released = Seat(), Message(False, FAR)
    assert not seat.hear("a", Message(True, FAR, heard=0.0), 0.0) and not seat.wish(0.0).any()
    assert seat.hear("a", released, 0.1) and seat.hear("a", Message(True, FAR, heard=0.1), 0.2)
    assert not seat.hear("b", released, 0.3)
    seat.leave("b")
    assert seat.wish(0.4).any()


def test_the_page_is_there_for_who_knows_the_secret_only(pilot: Browser) -> None:
    with urllib.request.urlopen(pilot.url, timeout=5) as answer:
        text = answer.read().decode()
        assert answer.headers["Content-Type"] == "text/html; charset=utf-8"
    assert 'const camera = ":8642/x/stream";' in text
    assert {*re.findall(r'data-word="(\w+)"', text), "stop"} == set(WORDS)
    guess = pilot.url[:-2] + ("B/" if pilot.url[-2] == "A" else "A/")
    for url in (pilot.url.split("/", 3)[0] + "//" + pilot.url.split("/")[2] + "/", guess):
        with pytest.raises(urllib.error.HTTPError) as refused:
            urllib.request.urlopen(url, timeout=5)
        assert refused.value.code == 404
        refused.value.close()
    with pytest.raises(InvalidStatus):
        connect(guess.replace("http", "ws", 1) + "ws")
    assert pilot.url.startswith("http://127.0.0.1:")


def test_what_no_page_of_ours_says_is_the_end_of_a_connection_and_holds(pilot: Browser) -> None:
    bad = ["nonsense", "[1]", "7", '{"x": NaN, "hold": true}', '{"x": 1e999}', '{"x": 2}', '{"x": true}', '{"x": "1"}', '{"hold": 1}']
    bad += ['{"heard": -1}', '{"heard": "1"}', '{"heard": 1e10}', '{"heard": true}', '{"heard": NaN}', '{"at": 1}']
    bad += ['{"word": "jump"}', '{"speed": 1}', '{"word": ["stop"]}', '{"hold": false, "pad": "' + "x" * MESSAGE_BYTES + '"}']
    for text in bad:
        with opened(pilot) as page:
            assert page.say()
            page.say(hold=True, x=1)
            page.line.send(text)
            with pytest.raises(ConnectionClosed) as closed:
                page.line.recv(5)
            assert closed.value.rcvd is not None and closed.value.rcvd.code in (1008, 1009), text
        until(lambda: pilot.seat._client is None)
        assert not pilot.decide(NOW).action[:6].any()


@given(st.one_of(st.text(), st.binary(), st.recursive(st.none() | st.floats() | st.integers() | st.text(), st.lists).map(json.dumps)))
def test_whatever_arrives_is_a_message_or_refused(text: str | bytes) -> None:
    try:
        message = Message.read(text)
    except ValueError:
        return
    assert np.abs(message.wish).max() <= 1.0


# Around it ------------------------------------------------------------------------------------------------------------


def test_a_port_in_use_is_one_line(pilot: Browser) -> None:
    port = int(pilot.url.split(":")[2].split("/")[0])
    with pytest.raises(HardwareError, match=rf"browser: 127.0.0.1:{port} cannot be used"), Browser(SPEC, print, port=port):
        pass


def test_a_robot_that_takes_joints_is_refused() -> None:
    with pytest.raises(HardwareError, match="'ee_delta'"):
        Browser(replace(SPEC, action_mode="joint_pos"), print)


def test_an_address_for_others_names_this_machine() -> None:
    assert "0.0.0.0" not in Browser(SPEC, print, host="0.0.0.0").url


def test_the_page_travels_with_the_package(tmp_path: Path) -> None:
    """The wheel takes whole packages; this is what it is told to take."""
    import tomllib

    root = Path(module.__file__).parents[2]
    wheel = tomllib.loads((root / "pyproject.toml").read_text())["tool"]["hatch"]["build"]["targets"]["wheel"]
    assert "hardware" in wheel["packages"] and "exclude" not in wheel and "only-include" not in wheel
    assert Path(module.__file__).with_suffix(".html").is_file()


def test_the_code_in_the_terminal_says_the_address() -> None:
    cv2 = pytest.importorskip("cv2")
    url = "http://192.168.1.20:8643/AbCdEfGhIjKlMnOp/"
    lines = [re.sub(r"\x1b\[[0-9;]*m", "", line) for line in qr(url).splitlines()]
    half = {" ": (255, 255), "▀": (0, 255), "▄": (255, 0), "█": (0, 0)}
    rows = [[half[block][k] for block in line] for line in lines for k in (0, 1)]
    picture = np.kron(np.array(rows, np.uint8), np.ones((8, 8), np.uint8))
    assert cv2.QRCodeDetector().detectAndDecode(picture)[0] == url


# A page that reads nothing ----------------------------------------------------------------------------------------------


def host_of(pilot: Browser) -> tuple[str, int]:
    found = urlsplit(pilot.url)
    return found.hostname or "", found.port or 0


def hello(pilot: Browser) -> bytes:
    """The opening of a WebSocket, as a page's browser says it."""
    lines = ["GET {}ws HTTP/1.1", "Host: x", "Upgrade: websocket", "Connection: Upgrade", "Sec-WebSocket-Version: 13"]
    return "\r\n".join([*lines, "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==", "", ""]).format(urlsplit(pilot.url).path).encode()


@pytest.mark.parametrize("asleep", ["before it said anything", "after it was let in"])
def test_a_page_that_sleeps_is_not_waited_for_at_the_end(stops: list[str], asleep: str) -> None:
    with Browser(SPEC, stops.append, port=0) as pilot:
        sleeper = socket.create_connection(host_of(pilot))
        if asleep == "after it was let in":
            sleeper.sendall(hello(pilot))
            assert sleeper.recv(12) == b"HTTP/1.1 101"
        began = time.monotonic()
    assert time.monotonic() - began < 8.0  # ten, by itself
    sleeper.close()


def test_a_page_that_reads_nothing_is_hung_up_on(stops: list[str]) -> None:
    """Else its own thread would wait for it to read an answer, and hear no stop of its."""
    with Browser(SPEC, stops.append, port=0) as pilot, socket.create_connection(host_of(pilot)) as deaf:
        deaf.sendall(hello(pilot))
        assert deaf.recv(12) == b"HTTP/1.1 101"
        said = b'\x81\x8e\0\0\0\0{"hold":false}'  # a text, masked with zeros
        deaf.settimeout(20.0)
        with pytest.raises(OSError):
            while True:
                deaf.sendall(1000 * said)
