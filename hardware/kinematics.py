"""Kinematics: an action <-> a waypoint of the joints, and where the end effector is. Pure functions of their arguments."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np


@dataclass(frozen=True)
class Box:
    """A workspace for the end effector: opposite corners, (3,) each, in metres (or the body's own length unit)."""

    low: np.ndarray
    high: np.ndarray

    def distance(self, position: np.ndarray) -> float:
        """How far outside `position` is; 0 inside."""
        corners = zip(self.low.tolist(), np.asarray(position).tolist(), self.high.tolist(), strict=True)
        return math.hypot(*(max(0.0, low - x, x - high) for low, x, high in corners))  # thrice as fast as numpy on 3 numbers


class Kinematics(Protocol):
    """What an action means to one arm. The governor calls clip, then target; `q_commanded` is the waypoint now being
    approached, never the measured pose, so relative actions add up exactly."""

    def target(self, action: np.ndarray, q_commanded: np.ndarray, gripper_commanded: float) -> tuple[np.ndarray, float]:
        """Joint waypoint (J,) and gripper (0..1) for an action (A,). May raise HardwareError: no such pose."""
        ...

    def hold(self, q_commanded: np.ndarray, gripper_commanded: float) -> np.ndarray:
        """The action (A,) that changes nothing."""
        ...

    def position(self, q: np.ndarray) -> np.ndarray | None:
        """End-effector position (3,) at joints q (J,); None where the arm has none."""
        ...

    def clip(self, action: np.ndarray, q_commanded: np.ndarray, box: Box) -> tuple[np.ndarray, bool]:
        """The nearest sensible action that ends inside the box, and whether it differs from the one given."""
        ...


class JointPosition:
    """action = absolute joint positions (J,), with the gripper (0..1) as one more element where there is one."""

    SAMPLES = 16  # points looked at along the way: the box is convex in space, not in joints

    def __init__(
        self,
        joints: int,
        gripper: bool = False,
        position: Callable[[np.ndarray], np.ndarray] | None = None,
        reach: np.ndarray | None = None,
    ) -> None:
        """position: of the end effector, (J,) -> (3,). reach: how far it moves at most, (J,) [m per rad]."""
        self.joints, self.gripper, self._position = joints, gripper, position
        if reach is not None:
            self.reach = reach

    def target(self, action: np.ndarray, q_commanded: np.ndarray, gripper_commanded: float) -> tuple[np.ndarray, float]:
        gripper = float(action[self.joints]) if self.gripper else gripper_commanded
        return np.asarray(action[: self.joints], dtype=np.float64), gripper

    def hold(self, q_commanded: np.ndarray, gripper_commanded: float) -> np.ndarray:
        return np.append(q_commanded, gripper_commanded) if self.gripper else np.array(q_commanded)

    def position(self, q: np.ndarray) -> np.ndarray | None:
        return None if self._position is None else self._position(q)

    def clip(self, action: np.ndarray, q_commanded: np.ndarray, box: Box) -> tuple[np.ndarray, bool]:
        """Go along the straight joint line only as far as the end effector stays inside, or comes no further out."""
        if self._position is None:
            return action, False
        goal = np.asarray(action[: self.joints], dtype=np.float64)
        allowed = box.distance(self._position(q_commanded)) + 1e-9
        reached = 0.0
        for fraction in np.linspace(0.0, 1.0, self.SAMPLES + 1)[1:]:
            if self._outside(q_commanded, goal, fraction, box) > allowed:
                break
            reached = float(fraction)
        if reached == 1.0:
            return action, False
        inside, outside = reached, reached + 1.0 / self.SAMPLES
        for _ in range(20):
            middle = 0.5 * (inside + outside)
            inside, outside = (inside, middle) if self._outside(q_commanded, goal, middle, box) > allowed else (middle, outside)
        clipped = np.array(action, dtype=np.float64)
        clipped[: self.joints] = q_commanded + inside * (goal - q_commanded)
        return clipped, True

    def _outside(self, start: np.ndarray, goal: np.ndarray, fraction: float, box: Box) -> float:
        assert self._position is not None
        return box.distance(self._position(start + fraction * (goal - start)))
