"""The person beside a robot: when they are waited for, and what their keys mean then."""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import ExitStack
from queue import Queue

import pytest
from rich.console import Console

import hardware
from hardware import RobotConfig
from hardware.teleop.keys import NoKeys, TerminalKeys
from robolearn.core.errors import UserError
from robolearn.experiments import attendance
from robolearn.experiments.attendance import Attendance, WayHome, require_asked, require_terminal
from robolearn.experiments.devices import BrowserConfig, Devices, LeaderConfig
from robolearn.runtime.random_pilot import RandomPilot
from robolearn.runtime.takeover import Takeover
from tests.waiting import until


class Typed(TerminalKeys):
    def __init__(self, *reads: list[str]) -> None:
        super().__init__()
        self.reads = list(reads)

    def open(self) -> None: ...
    def close(self) -> None: ...

    def read(self) -> list[str]:
        return self.reads.pop(0)


@pytest.fixture
def at(monkeypatch: pytest.MonkeyPatch):
    with ExitStack() as stack:

        def made(keys: TerminalKeys | NoKeys, real: bool = True, takeover=None, body: str = "fake:state") -> Attendance:
            monkeypatch.setattr(attendance, "keys_of", lambda _: keys)
            robot = stack.enter_context(hardware.open(RobotConfig(body)))
            robot.world = None if real else robot.world
            return Attendance(robot, takeover, Devices(LeaderConfig(), BrowserConfig(port=0)), None, Console(quiet=True), stack)

        yield made


@pytest.fixture(autouse=True)
def in_no_hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attendance, "SETTLE_S", 0.0)


@pytest.mark.parametrize(("key", "ready"), [("\n", True), ("\r", True), ("q", False), (" ", False)])
def test_on_a_real_robot_a_key_begins_and_what_was_typed_before_does_not(at: Callable[..., Attendance], key: str, ready: bool) -> None:
    keys = Typed(["\n"], [], ["s", "x"], [key])
    assert at(keys).begins(confirm=True) is ready and keys.reads == []


def test_after_a_persons_stop_none_begins_whether_asked_for_or_not(at: Callable[..., Attendance]) -> None:
    here = at(Typed(["\n"], ["\n"], ["\n"]))
    assert here.begins(confirm=False) and here.robot.final_stop == "operator"
    here.robot.brake("operator")
    assert not here.begins(confirm=True) and not here.begins(confirm=False)


def test_an_enter_that_came_with_the_word_before_begins_nothing(at: Callable[..., Attendance], monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor does one that is held down. What ends is heard at once."""
    now = [0.0]
    monkeypatch.setattr(attendance, "SETTLE_S", 0.7)
    monkeypatch.setattr(attendance, "monotonic", lambda: now[0])
    monkeypatch.setattr(attendance, "sleep", lambda _: now.__setitem__(0, now[0] + 0.1))
    held = Typed([], *[["\n"]] * 30, *[[]] * 4, ["\n"], *[[]] * 7, ["\n"], ["never read"])
    assert at(held).begins(confirm=True) and held.reads == [["never read"]]
    assert not at(Typed([], ["\n"], ["q"])).begins(confirm=True)


@pytest.mark.parametrize("key", ["q", " "])
def test_on_the_way_home_the_arm_stops_for_a_key_which_is_the_devices_own_then(monkeypatch: pytest.MonkeyPatch, key: str) -> None:
    monkeypatch.setattr(sys.stdin, "isatty", lambda: True, raising=False)
    typed = Queue[str]()
    monkeypatch.setattr(TerminalKeys, "open", lambda _: None)
    monkeypatch.setattr(TerminalKeys, "read", lambda _: [typed.get_nowait()] if not typed.empty() else [])
    with hardware.open(RobotConfig("fake:state")) as robot:
        robot.world = None
        way_home = WayHome(robot, False, Console(quiet=True))
        way_home.keys.open()
        assert way_home.begins()
        way_home.arrived()
        typed.put(key)
        until(lambda: way_home.keys.read() == [key])
        assert robot.stop_asked is None
        assert way_home.begins()
        typed.put(key)
        until(lambda: robot.stop_asked == "operator")
        assert not way_home.begins()
        way_home.keys.close()


def test_no_arm_drives_home_unasked_where_nobody_can_be_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.stdin, "isatty", lambda: False, raising=False)
    with pytest.raises(UserError, match="confirm: the input is not a terminal, .*; --no-confirm: it does, unasked"):
        require_asked("so101", confirm=True)
    require_asked("so101", confirm=False)
    require_asked("fake", confirm=True)
    monkeypatch.setattr(sys.stdin, "isatty", lambda: True, raising=False)
    require_asked("so101", confirm=True)


def test_a_simulator_and_a_robot_without_a_terminal_wait_for_nobody(at: Callable[..., Attendance]) -> None:
    assert at(Typed(), real=False).begins(confirm=True)
    assert at(NoKeys()).begins(confirm=True)


def test_any_pilot_can_be_taken_over_where_there_is_a_device(at: Callable[..., Attendance]) -> None:
    there = at(Typed(), takeover="browser", body="robosuite:Reach:state")
    assert isinstance(there.around(RandomPilot(there.robot.spec)).pilot, Takeover)
    here = at(Typed())
    assert isinstance(here.around(RandomPilot(here.robot.spec)).pilot, RandomPilot)


def test_while_nothing_flies_q_and_the_stop_are_heard_and_nothing_else(at: Callable[..., Attendance]) -> None:
    here = at(Typed(["s"], ["q"], []))
    assert not here.leaves()
    assert here.leaves()
    here.robot.brake("operator")
    assert here.leaves()


@pytest.mark.parametrize(
    ("takeover", "needed", "message"),
    [("leader", False, "takeover: leader: the input is not a terminal"), (None, True, "takeover: missing: only a person can say")],
)
def test_where_nobody_could_say_a_word(monkeypatch: pytest.MonkeyPatch, takeover, needed: bool, message: str) -> None:
    monkeypatch.setattr(sys.stdin, "isatty", lambda: False, raising=False)
    with pytest.raises(UserError, match=message):
        require_terminal(takeover, needed)
    require_terminal("browser", needed=True)
    require_terminal(None)
    monkeypatch.setattr(sys.stdin, "isatty", lambda: True, raising=False)
    require_terminal(takeover, needed)
