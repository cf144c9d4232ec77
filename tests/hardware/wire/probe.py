"""A probe between loop and driver, in the loop's process, that tells the test's what it found."""

from __future__ import annotations

import multiprocessing
import time

import numpy as np

from hardware import RobotConfig, real
from hardware.clock import WallClock
from hardware.governor import Governor
from hardware.testing import LimitProbe
from hardware.types import Arm


class Tally:
    """In memory shared with the loop's process: what the probe found, and how far the wall clock was set there [s]."""

    def __init__(self) -> None:
        self._cells = multiprocessing.get_context("spawn").RawArray("d", len(LimitProbe.KINDS) + 2)

    @property
    def violations(self) -> dict[str, int]:
        return {kind: int(count) for kind, count in zip(LimitProbe.KINDS, self._cells, strict=False) if count}

    @property
    def setpoints(self) -> int:
        return int(self._cells[-2])

    def publish(self, probe: LimitProbe) -> None:
        self._cells[:-1] = [*(probe.violations[kind] for kind in LimitProbe.KINDS), probe.setpoints]

    @property
    def wall_step(self) -> float:
        return self._cells[-1]

    @wall_step.setter
    def wall_step(self, seconds: float) -> None:
        self._cells[-1] = seconds


class Telling(LimitProbe):
    tally: Tally

    def write(self, q: np.ndarray, gripper: float) -> None:
        try:
            super().write(q, gripper)
        finally:
            self.tally.publish(self)


def start(config: RobotConfig, tally: Tally) -> tuple[Arm, Governor]:
    """hardware.real.start; in the loop's process with a probe below the governor, and a wall clock that can be set."""
    arm, governor = real.start(config)
    if multiprocessing.parent_process() is None:  # only the governor's twin is wanted
        return arm, governor
    limits, wall = governor.limits, time.time
    probe = Telling(arm, WallClock(), limits.workspace, governor.kinematics, limits.workspace_tolerance, governor.arm)
    probe.tally = tally
    anchor = governor.restart

    def restart(now: float, q: np.ndarray, gripper: float) -> None:
        anchor(now, q, gripper)
        probe.anchored()

    governor.restart = restart
    time.time = lambda: wall() + tally.wall_step
    return probe, governor
