"""A double's physics: a servoed arm caught up with the wall clock whenever somebody looks."""

from __future__ import annotations

import threading
from time import monotonic

import numpy as np

from hardware.arms.model import ArmModel
from hardware.doubles.panel import Panel
from hardware.mujoco.servoed import ServoedArm

LONGEST_S = 0.5  # of physics made up for at once: after a longer pause the rest of it never was


class Chain:
    """`servo` says where the joints shall be, `measure` where they are. Threads may share it: every call takes one lock."""

    def __init__(self, arm: ArmModel, panel: Panel) -> None:
        self.arm, self.panel = arm, panel
        self._body = ServoedArm(arm)
        self._lock, self._began = threading.RLock(), monotonic()
        self._publish()

    def servo(self, q: np.ndarray | None = None, gripper: float | None = None, joint: int | None = None) -> None:
        """New goals: all joints (J,) [rad], or q[0] for one of them; NaN moves nothing, as a motor's registers would not hold it."""
        with self._lock:
            self._catch_up()
            if q is not None:
                places = slice(None) if joint is None else slice(joint, joint + 1)
                values = np.asarray(q, dtype=np.float64)
                self._body.goal[places] = np.where(np.isfinite(values), values, self._body.goal[places])
                self.panel.writes += 1
            if gripper is not None and np.isfinite(gripper):
                self._body.gripper_goal = float(np.clip(gripper, 0.0, 1.0))

    def measure(self) -> tuple[np.ndarray, np.ndarray, float]:
        """(q, dq, gripper), now."""
        with self._lock:
            self._catch_up()
            return self._body.q, self._body.dq, self._body.gripper

    def hold(self) -> None:
        """Stay where the joints are."""
        with self._lock:
            self._catch_up()
            self._body.goal = self._body.q

    def place(self, q: np.ndarray, gripper: float | None = None) -> None:
        """At rest at q at once, as a person's hands could put it; the gripper, too, where one is given."""
        with self._lock:
            self._catch_up()
            self._body.place(q, gripper)
            self._publish()

    @property
    def powered(self) -> bool:
        """Are the motors on?"""
        return self._body.powered

    @powered.setter
    def powered(self, on: bool) -> None:
        self._body.powered = on

    @property
    def goal(self) -> np.ndarray:
        return self._body.goal.copy()

    @property
    def torque(self) -> np.ndarray:
        """Of the servos, (J,) [N m]."""
        return self._body.torque

    def _catch_up(self) -> None:
        now, dt, panel, body = monotonic(), self._body.model.opt.timestep, self.panel, self._body
        due = min(now - self._began, LONGEST_S)
        steps = int(due / dt)
        self._began = now - (due - steps * dt) if due < LONGEST_S else now
        if not steps:
            return
        body.push, body.held, body.jammed = panel.push, bool(panel.hold), bool(panel.jam)
        body.advance(steps)
        self._publish()

    def _publish(self) -> None:
        panel, body = self.panel, self._body
        panel.publish(body.q, body.dq, body.goal)
        panel.gripper, panel.powered, panel.contacts = body.gripper, float(body.powered), body.contacts
