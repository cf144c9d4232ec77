"""Scripted operators that put things somewhere: the can into its bin, the square nut on its peg."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping

import numpy as np

from hardware.types import Observation
from robolearn.tasks.hand import HandOperator, Wish


class PlaceOperator(HandOperator):
    """Lifts what it holds, carries it over its place, lowers it, lets go and draws back; a dropped thing is a failed attempt."""

    CARRY = 1.05  # m, the tool's height on the way
    RELEASE = 0.88  # m, where it lets go
    MISSED = 0.04  # m the hand rose above a thing that stayed behind
    NEAR = 0.015  # m beside the place: time to lower

    @abstractmethod
    def place(self, seen: Mapping[str, np.ndarray]) -> np.ndarray:
        """Where the thing's middle shall come to lie, (2,) [m]."""

    def middle(self, seen: Mapping[str, np.ndarray]) -> np.ndarray:
        """Where it is now, (3,) [m]."""
        return self.object(seen)

    def carry(self, tool: np.ndarray, thing: np.ndarray, seen: Mapping[str, np.ndarray]) -> Wish:
        over = tool[:2] + self.place(seen) - self.middle(seen)[:2]
        held = float(np.linalg.norm(tool - thing)) < self.MISSED + self.DEPTH
        if self.phase in ("lift", "carry", "lower") and not held:
            self._failed()
            return None, 1.0
        match self.phase:
            case "lift":
                if tool[2] > self.CARRY - 0.02:
                    self._enter("carry")
                return np.array([tool[0], tool[1], self.CARRY]), 0.0
            case "carry":
                if self._waited and np.linalg.norm(over - tool[:2]) < self.NEAR and self._turned():
                    self._enter("lower", self._draw(self.style.pause_s) if self._pauses else 0.0)
                return np.append(over, self.CARRY), 0.0
            case "lower":
                if tool[2] < self.RELEASE + 0.005 or self._age_s > 3 * self.style.patience_s:
                    self._enter("release", self._draw(self.style.grip_s))
                return np.append(over, self.RELEASE), 0.0
            case "release":
                if self._waited:
                    self._enter("leave", 0.0)
                return None, 1.0
        if self._age_s > self.style.patience_s:  # drew back, and the task is still not done
            self._failed()
        return np.array([tool[0], tool[1], self.CARRY]), 1.0


class CanOperator(PlaceOperator):
    """robot: robosuite:PickPlaceCan."""

    CLEARANCE = 0.04
    INSET = np.array([0.05, 0.05])  # m from the middle of the can's corner of the bin towards the arm, which reaches no further

    def object(self, seen: Mapping[str, np.ndarray]) -> np.ndarray:
        return seen["Can_pos"]

    def place(self, seen: Mapping[str, np.ndarray]) -> np.ndarray:
        return seen["VisualCan_pos"][:2] - self.INSET


class SquareOperator(PlaceOperator):
    """Takes the nut by its handle, the fingers across it, and turns it to fit the peg, the handle towards the arm: else the peg is out of
    reach. robot: robosuite:NutAssemblySquare:pose."""

    DEPTH = 0.002
    NEAR = 0.006
    RELEASE = 0.87
    HANDLE = 0.054  # m from the nut's middle to its handle's
    HOME, HOME_WRIST = np.pi / 2, np.pi / 4  # rad where an episode begins: heading of the line the fingers close along; the last joint
    LEAST, MOST = HOME - 1.7, HOME + 3.2  # rad, headings the last joint can turn to, with room for the first

    def object(self, seen: Mapping[str, np.ndarray]) -> np.ndarray:
        return self.middle(seen) + self.HANDLE * self._axis(seen)

    def middle(self, seen: Mapping[str, np.ndarray]) -> np.ndarray:
        return seen["SquareNut_pos"]

    def place(self, seen: Mapping[str, np.ndarray]) -> np.ndarray:
        return seen["peg1_pos"][:2]

    def turn(self, observation: Observation, seen: Mapping[str, np.ndarray]) -> np.ndarray:
        """Upright, and about the vertical: before the grasp the fingers across the handle, then the hole's sides along the peg's."""
        axes = observation.state["ee_rot6d"].astype(np.float64).reshape(2, 3)
        wrist = self.HOME + self.HOME_WRIST - float(observation.state["joint_pos"][-1])
        fingers, handle = wrist + _nearest(_heading(axes[0]) - wrist), _heading(self._axis(seen))
        if self.phase in ("approach", "down"):
            about = self._across(handle) - fingers
        elif self.phase in ("carry", "lower"):
            about = self._fit(handle, fingers)
        else:
            about = 0.0
        upright = np.cross(np.cross(axes[0], axes[1]), [0.0, 0.0, -1.0])
        return upright + np.array([0.0, 0.0, about])

    def _across(self, handle: float) -> float:
        """The heading of the fingers that needs least of the wrist once the handle points towards the arm; else the one opposite."""
        heading = self.LEAST + (handle - np.pi / 2 - self.LEAST) % (2 * np.pi)
        return heading if heading < self.MOST else heading - np.pi

    def _fit(self, handle: float, fingers: float) -> float:
        """How far to turn until a side of the square lies along the peg's: the handle towards the arm where the wrist can, else aside."""
        for towards in (np.pi, -np.pi / 2, np.pi / 2):
            about = _nearest(towards - handle)
            able = [turn for turn in (about, about - 2 * np.pi, about + 2 * np.pi) if self.LEAST < fingers + turn < self.MOST]
            if able:
                return min(able, key=abs)
        return 0.0

    def _axis(self, seen: Mapping[str, np.ndarray]) -> np.ndarray:
        """From the nut's middle towards its handle, in the world (3,)."""
        w, x, y, z = seen["SquareNut_quat"]
        return np.array([1 - 2 * (y * y + z * z), 2 * (x * y + w * z), 2 * (x * z - w * y)])


def _heading(axis: np.ndarray) -> float:
    return float(np.arctan2(axis[1], axis[0]))


def _nearest(angle: float) -> float:
    """The same angle within half a turn of 0."""
    return float((angle + np.pi) % (2 * np.pi) - np.pi)
