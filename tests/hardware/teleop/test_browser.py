"""A page as a pilot, through a real WebSocket client; what a page sends is written out here, as a browser would send it."""

from __future__ import annotations

import json
import re
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hardware.teleop import browser as module
from hardware.teleop.browser import MESSAGE_BYTES, SEAT_S, SILENT_S, WORDS, Browser, Message, Seat
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


@pytest.fixture
def page(pilot: Browser) -> Iterator[ClientConnection]:
    with opened(pilot) as page:
        assert say(page) is True
        yield page


def opened(pilot: Browser) -> ClientConnection:
    return connect(pilot.url.replace("http", "ws", 1) + "ws")


def say(page: ClientConnection, **message: object) -> bool:
    """Whether the page moves the robot, as it is told in answer to its first message."""
    page.send(json.dumps({"hold": False, **message}))
    return json.loads(page.recv(5))["moves"]


def tell(pilot: Browser, page: ClientConnection, **message: object) -> None:
    """Until it has arrived."""
    expected = Message.read(json.dumps(message))
    page.send(json.dumps(message))
    until(lambda: pilot.seat.hold == expected.hold and (not expected.hold or pilot.seat._wish == expected.wish))


class TestContract(PilotContract):
    def make(self):
        return Browser(SPEC, lambda reason: None), SPEC, NOW


# Moving ---------------------------------------------------------------------------------------------------------------


def test_touched_it_moves_in_the_robots_units_and_let_go_of_it_holds(pilot: Browser, page: ClientConnection) -> None:
    tell(pilot, page, hold=True, x=0.5, y=-1, z=0.25, turn=-1)
    command = pilot.decide(NOW)
    np.testing.assert_allclose(command.action, [0.01, -STEP, 0.005, 0, 0, -TURN, 1.0], atol=1e-7)
    assert command.source is Source.HUMAN and pilot.holds
    tell(pilot, page, hold=False)
    assert not pilot.decide(NOW).action[:6].any() and not pilot.holds


def test_without_the_deadman_nothing_moves_nor_the_gripper(pilot: Browser, page: ClientConnection) -> None:
    tell(pilot, page, hold=True)
    tell(pilot, page, hold=False, x=1, grip=-1, turn=1)
    np.testing.assert_allclose(pilot.decide(NOW).action, [0, 0, 0, 0, 0, 0, 1.0])


def test_the_gripper_goes_at_its_rate_and_stays(pilot: Browser, page: ClientConnection) -> None:
    tell(pilot, page, hold=True, grip=-1)
    openings = [float(pilot.decide(NOW).action[-1]) for _ in range(3)]
    np.testing.assert_allclose(openings, 1 - GRIPPER_PER_S / 10 * np.array([1, 2, 3]), atol=1e-6)
    tell(pilot, page, hold=False)
    assert pilot.decide(NOW).action[-1] == pytest.approx(openings[-1])


def test_silent_it_holds_and_goes_on_when_heard_again(pilot: Browser, page: ClientConnection, clock: Clock) -> None:
    tell(pilot, page, hold=True, x=1)
    clock.now += SILENT_S - 0.01
    assert pilot.decide(NOW).action[0] > 0
    clock.now += 0.02
    assert not pilot.decide(NOW).action[:6].any()
    assert pilot.holds, "nobody let go"
    tell(pilot, page, hold=True, x=0.5)
    assert pilot.decide(NOW).action[0] > 0


def test_what_comes_late_on_a_line_that_grew_slow_moves_nothing() -> None:
    """The page's clock began 7 s before ours; the finger went up at 9.5, of which nobody here has heard yet."""
    seat, far = Seat(), (1.0, 0.0, 0.0, 0.0, 0.0)
    seat.hear("page", Message(False, (0.0,) * 5, at=8.0), 1.05)
    for said, came in ((9.0, 2.02), (9.05, 2.2), (9.1, 2.35)):
        assert seat.hear("page", Message(True, far, at=said), came)
        assert seat.wish(came).any(), "up to 0.3 s behind the quickest"
    for said, came in ((9.15, 2.6), (9.2, 2.9), (9.25, 3.2)):
        seat.hear("page", Message(True, far, at=said), came)
        assert not seat.wish(came).any() and seat.hold
    seat.hear("page", Message(True, far, at=10.2), 3.25)
    assert seat.wish(3.25).any(), "the line is quick again"


def test_clocks_that_part_slowly_are_no_slow_line() -> None:
    seat = Seat()
    for tick in range(20 * 3600):
        at, now = tick / 20, tick / 20 * (1 + 2e-4)  # 0.7 s in an hour
        seat.hear("page", Message(tick > 0, (1.0,) * 5, at=at), now)
    assert seat.wish(now).any()


def test_lost_it_holds_at_once_and_lets_go_of_nothing(pilot: Browser, page: ClientConnection) -> None:
    tell(pilot, page, hold=True, x=1)
    assert pilot.decide(NOW).action[0] > 0
    page.socket.close()  # the phone left the network
    until(lambda: pilot.seat._client is None)
    assert not pilot.decide(NOW).action[:6].any()
    assert pilot.holds
    with opened(pilot) as again:  # a page that comes back has let go
        assert say(again)
        pilot.decide(NOW)
        assert not pilot.holds


def test_words_end_episodes_and_those_of_before_mean_nothing(pilot: Browser, page: ClientConnection) -> None:
    for word in ("success", "failure", "discard", "quit"):
        tell(pilot, page, hold=True, x=1)
        page.send(json.dumps({"word": word, "hold": True, "x": 1}))
        until(lambda: len(pilot.seat._words) > 0)
        assert not pilot.decide(NOW).action[:6].any(), "the last row must not move"
        assert pilot.verdict == word
        page.send(json.dumps({"word": "quit"}))
        until(lambda: len(pilot.seat._words) > 0)
        pilot.reset()
        pilot.decide(NOW)
        assert pilot.verdict is None


def test_a_word_that_comes_late_is_not_of_the_next_episode(pilot: Browser, clock: Clock) -> None:
    seat = pilot.seat
    seat.hear("page", Message(False, (0.0,) * 5, at=1.0), clock.now)
    seat.hear("page", Message(False, (0.0,) * 5, "success", at=1.1), clock.now + 0.1)
    pilot.decide(NOW)
    assert pilot.verdict == "success"
    clock.now += 6.0
    pilot.reset()
    seat.hear("page", Message(False, (0.0,) * 5, "success", at=1.2), clock.now + 0.01)  # the second tap, on a line that stalled
    pilot.decide(NOW)
    assert pilot.verdict is None
    seat.hear("page", Message(False, (0.0,) * 5, "failure", at=7.2), clock.now + 0.2)
    pilot.decide(NOW)
    assert pilot.verdict == "failure"


def test_a_stop_stops_the_robot_from_whichever_page_and_waits_for_no_decision(
    pilot: Browser, page: ClientConnection, stops: list[str]
) -> None:
    """The pilot may be thinking, or the robot on its way home."""
    with opened(pilot) as other:
        assert not say(other, word="stop")
        until(lambda: stops == ["operator"])
        page.send('{"word": "stop"}')
        until(lambda: stops == ["operator"] * 2)
        pilot.reset()
        pilot.decide(NOW)
        assert (stops, pilot.verdict) == (["operator"] * 2, None)


# Who -----------------------------------------------------------------------------------------------------------------


def test_one_moves_the_others_watch_until_the_seat_is_free(pilot: Browser, page: ClientConnection, clock: Clock) -> None:
    with opened(pilot) as other:
        assert not say(other, x=1, hold=True)
        other.send('{"word": "success"}')
        tell(pilot, page, hold=True, x=0.5)
        assert pilot.decide(NOW).action[0] == pytest.approx(0.5 * STEP)
        assert pilot.verdict is None
        clock.now += SEAT_S + 0.1
        assert say(other), "who has said nothing for so long has no seat"
        tell(pilot, other, hold=True, x=1)
        assert pilot.decide(NOW).action[0] == pytest.approx(STEP)


def test_whoever_takes_the_seat_begins_with_nothing_held() -> None:
    seat, held, released = Seat(), Message(True, (1.0, 1.0, 1.0, 1.0, 1.0)), Message(False, (0.0, 0.0, 0.0, 0.0, 0.0))
    assert not seat.hear("a", held, 0.0) and not seat.wish(0.0).any()
    assert seat.hear("a", released, 0.1) and seat.hear("a", held, 0.2)
    assert not seat.hear("b", released, 0.3)
    seat.leave("b")
    assert seat.wish(0.4).all()


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
    bad += ['{"at": -1}', '{"at": "1"}', '{"at": 1e10}']
    bad += ['{"word": "jump"}', '{"speed": 1}', '{"word": ["stop"]}', '{"hold": false, "pad": "' + "x" * MESSAGE_BYTES + '"}']
    for text in bad:
        with opened(pilot) as page:
            assert say(page)
            tell(pilot, page, hold=True, x=1)
            page.send(text)
            with pytest.raises(ConnectionClosed) as closed:
                page.recv(5)
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
