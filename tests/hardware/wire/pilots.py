"""Pilots that do what a test says, when the arm moves; and how a flight begins."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np

from hardware.robot import SafeRobot
from hardware.types import Command, HardwareError, NoDecision, Observation
from robolearn.tasks import Task
from tests.waiting import until

MOVING = 9  # decisions; the number of the first one at which the arm moves


def refusal(call: Callable[[], Any]) -> str:
    """What call() says when it raises; "" where it does not."""
    try:
        call()
    except HardwareError as error:
        return str(error)
    return ""


class Cue:
    """Counts decisions. They are numbered below MOVING until the arm moves, and from MOVING on from then, however late that is."""

    def __init__(self, speed: Callable[[], float] | None) -> None:
        """speed: of the arm, as a share of its limit; None: it need not move."""
        self._speed, self.step, self.rows, self.row, self.began = speed, -1, -1, -1, float("inf")

    def next(self) -> int:
        self.rows += 1
        waits = self._speed is not None and self.step < MOVING and self._speed() < 0.3
        self.step = min(self.step + 1, MOVING - 1) if waits else max(self.step + 1, MOVING if self._speed else 0)
        if self.step == MOVING:
            self.began, self.row = time.monotonic(), self.rows
        return self.step


class Cued:
    """A pilot that is told where the flight stands. Wire.fly gives it its cue."""

    cue: Cue

    def reset(self) -> None: ...

    def decide(self, observation: Observation) -> Command:
        raise NotImplementedError


class Scripted(Cued):
    """act(step) as a pilot; None is silence."""

    def __init__(self, act: Callable[[int], Command | None]) -> None:
        self.act = act

    def decide(self, observation: Observation) -> Command:
        command = self.act(self.cue.next())
        if command is None:
            raise NoDecision("silent")
        return command


class Again(Task):
    """An arm that was cut off, or stopped, takes a moment to be had again."""

    def reset(self, robot: SafeRobot, rng: np.random.Generator) -> None:
        until(lambda: not refusal(lambda: robot.reset(rng)))


class Found(Task):
    """Begins wherever the arm is."""

    def reset(self, robot: SafeRobot, rng: np.random.Generator) -> None:
        robot.anchor()
