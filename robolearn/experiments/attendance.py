"""The person beside a robot: asked before it drives home; where a policy flies it, with their keys, a device to take it over and a page."""

from __future__ import annotations

import sys
from contextlib import ExitStack
from functools import partial
from time import monotonic, sleep

from rich.console import Console

import hardware
from hardware.robot import SafeRobot
from hardware.teleop.keys import Keys, NoKeys, PassedKeys, TerminalKeys, UrgentKeys
from hardware.teleop.operator import LEFT_STOPPED, STOPPED_BY_PERSON
from robolearn.core.errors import UserError
from robolearn.experiments.devices import Device, Devices
from robolearn.runtime.takeover import Interruptible, Takeover
from robolearn.runtime.watched import STOP_KEY, WATCHED_KEYS, Watched

_GO, _ENDS = {"\n", "\r"}, {"q", STOP_KEY}
SETTLE_S = 0.7  # an Enter counts only after so long without a key: nobody has read a question sooner


def require_terminal(takeover: Device | None, needed: bool = False) -> None:
    """UserError where there is no terminal, for a device whose person could not stop the robot without it, and, if a person is `needed`,
    where none could say a word."""
    if sys.stdin.isatty():
        return
    if takeover is not None and takeover != "browser":
        raise UserError(
            f"takeover: {takeover}: the input is not a terminal, which has the STOP; valid without one: browser, whose page has it"
        )
    if needed and takeover is None:
        raise UserError(
            "takeover: missing: only a person can say how an episode on this robot went, and the input is not a terminal; "
            "valid without one: browser, which has a STOP"
        )


class Attendance:
    """Whatever pilot flies, `around` it are the person's keys and, if they wish for one, their device. Until the stack ends."""

    def __init__(
        self, robot: SafeRobot, takeover: Device | None, devices: Devices, view_port: int | None, console: Console, stack: ExitStack
    ) -> None:
        """Raises HardwareError: the device is not there, or cannot move this robot."""
        self.robot, self.console, self._keys = robot, console, keys_of(robot)
        robot.final_stop = STOPPED_BY_PERSON
        self._keys.open()
        stack.callback(self._keys.close)
        self.view = devices.view(takeover, view_port)
        if self.view is not None:
            stack.enter_context(self.view)
        self._others = None if takeover is None else PassedKeys()
        self._operator = None if takeover is None else devices.open(takeover, robot, self._others, self.view, stack)
        words = WATCHED_KEYS if self._operator is None else f"{self._operator.help} · {WATCHED_KEYS}"
        console.print(words if self.view is None else f"{words} · watch at {self.view.url}")

    def around(self, pilot: Interruptible) -> Watched:
        """As rollout flies it."""
        flown = pilot if self._operator is None else Takeover(pilot, self._operator, self.robot)
        return Watched(flown, self.robot, self._keys, self.view, self._others)

    @property
    def stopped(self) -> bool:
        """By a person."""
        return self.robot.stop_asked == STOPPED_BY_PERSON

    def leaves(self) -> bool:
        """While nothing flies: has the person had enough, or stopped the robot? What else they type means nothing."""
        return "q" in self._keys.read() or self.stopped

    def begins(self, confirm: bool) -> bool:
        """May the next episode begin, by driving a real arm home? False: the person stopped the robot, whatever that was for, or has had
        enough. confirm: they are asked."""
        return begins(self.robot, self._keys, self.console, confirm)


class WayHome:
    """The person at a terminal who drives the robot themselves, while it is not theirs: asked before the arm drives home, heard on its way.
    Its `keys` are their device's, too."""

    def __init__(self, robot: SafeRobot, confirm: bool, console: Console) -> None:
        self._robot, self._confirm, self._console, self._driving = robot, confirm, console, False
        self.keys: Keys = UrgentKeys(TerminalKeys(), _ENDS, self._stop) if sys.stdin.isatty() else NoKeys()
        robot.final_stop = STOPPED_BY_PERSON

    def begins(self) -> bool:
        """As Attendance.begins; the arm is on its way home then, until it has `arrived`."""
        ready = begins(self._robot, self.keys, self._console, self._confirm)
        self._driving = ready and self._robot.world is None
        return ready

    def arrived(self) -> None:
        """From here on the keys are the device's."""
        self._driving = False

    def _stop(self) -> None:
        if self._driving:
            self._robot.brake(STOPPED_BY_PERSON)


def begins(robot: SafeRobot, keys: Keys, console: Console, confirm: bool) -> bool:
    """May an episode begin, by driving a real arm home? False: the person stopped the robot, or has had enough."""
    ready = robot.stop_asked != STOPPED_BY_PERSON and (not confirm or _scene_ready(robot, keys, console))
    if robot.stop_asked == STOPPED_BY_PERSON:
        console.print(LEFT_STOPPED)
        return False
    return ready


def _scene_ready(robot: SafeRobot, keys: Keys, console: Console) -> bool:
    """Wait until the person says that the scene is; False: they have had enough. At once where there is no terminal, and in a
    simulator, which puts its scene right by itself."""
    if isinstance(keys, NoKeys) or robot.world is not None:
        return True
    keys.read()  # what was typed before means nothing
    console.print("put the scene right, then Enter: the arm drives home, and the episode begins; q or space ends")
    quiet = monotonic()
    while not _ENDS & (pressed := set(keys.read())) and robot.stop_asked != STOPPED_BY_PERSON:
        if _GO & pressed and monotonic() - quiet >= SETTLE_S:
            return True
        if pressed:  # a word that came too late for its episode is none, nor is an Enter after it in one go
            quiet = monotonic()
        sleep(0.02)
    return False


def require_asked(body: str, confirm: bool) -> None:
    """UserError: an arm would drive home, and nobody could be asked."""
    if confirm and hardware.in_real_time(body) and not sys.stdin.isatty():
        raise UserError(
            "confirm: the input is not a terminal, so nobody can say that the arm may drive home; --no-confirm: it does, unasked"
        )


def keys_of(robot: SafeRobot) -> Keys:
    """The person's. Their stop waits for nobody: the policy may be thinking, or the arm on its way home."""
    return UrgentKeys(TerminalKeys(), STOP_KEY, partial(robot.brake, STOPPED_BY_PERSON)) if sys.stdin.isatty() else NoKeys()
