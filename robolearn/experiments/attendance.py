"""The person beside a robot that a policy flies: their keys, a device to take it over with, a page to look at."""

from __future__ import annotations

import sys
from contextlib import ExitStack
from functools import partial
from time import sleep

from rich.console import Console

from hardware.robot import SafeRobot
from hardware.teleop.keys import Keys, NoKeys, PassedKeys, TerminalKeys, UrgentKeys
from hardware.teleop.operator import LEFT_STOPPED, STOPPED_BY_PERSON
from hardware.types import Pilot
from robolearn.core.errors import UserError
from robolearn.experiments.devices import Device, Devices
from robolearn.runtime.takeover import Interruptible, Takeover
from robolearn.runtime.watched import STOP_KEY, WATCHED_KEYS, Watched

_GO, _ENDS = {"\n", "\r"}, {"q", STOP_KEY}


def require_terminal(takeover: Device | None, needed: bool = False) -> None:
    """UserError for a device that needs the terminal where there is none, and, if a person is `needed`, where none could say a word."""
    if sys.stdin.isatty():
        return
    if takeover in ("keyboard", "leader"):
        raise UserError(f"takeover: {takeover}: the input is not a terminal; valid without one: spacemouse, gamepad, browser")
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

    def around(self, pilot: Pilot) -> Watched:
        """As rollout flies it. A pilot without plans that it could forget is watched only."""
        if self._operator is not None and isinstance(pilot, Interruptible):
            pilot = Takeover(pilot, self._operator, self.robot)
        return Watched(pilot, self.robot, self._keys, self.view, self._others)

    @property
    def stopped(self) -> bool:
        """By a person."""
        return self.robot.stop_asked == STOPPED_BY_PERSON

    def begins(self, confirm: bool) -> bool:
        """May the next episode begin, by driving a real arm home? False: the person stopped the robot, whatever that was for, or has had
        enough. confirm: they are asked."""
        ready = not self.stopped and (not confirm or scene_ready(self.robot, self._keys, self.console))
        if self.stopped:
            self.console.print(LEFT_STOPPED)
        return ready and not self.stopped


def scene_ready(robot: SafeRobot, keys: Keys, console: Console) -> bool:
    """Wait until the person says that the scene is; False: they have had enough. At once where there is no terminal, and in a
    simulator, which puts its scene right by itself."""
    if isinstance(keys, NoKeys) or robot.world is not None:
        return True
    keys.read()  # what was typed before means nothing
    console.print("put the scene right, then Enter: the arm drives home, and the episode begins; q ends")
    while not {*_GO, *_ENDS} & (pressed := set(keys.read())):  # a word that came too late for its episode is none
        sleep(0.02)
    return not _ENDS & pressed


def keys_of(robot: SafeRobot) -> Keys:
    """The person's. Their stop waits for nobody: the policy may be thinking, or the arm on its way home."""
    return UrgentKeys(TerminalKeys(), STOP_KEY, partial(robot.brake, STOPPED_BY_PERSON)) if sys.stdin.isatty() else NoKeys()
