"""What an arm has to keep away from: how much room there is at a pose, looked up only where it could have run out."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np

from hardware.kinematics import Box

Points = Callable[[np.ndarray], np.ndarray | None]  # joints (J,) -> points of the arm (3,) or (P, 3) [m]; None where the arm has none
UNKNOWN = 1e9  # m per rad: no pose tells anything about another


class Clearance(Protocol):
    """R rooms, one for each thing that might come too near. `name`_brake is what the governor counts.

    It begins to brake where half of `tolerance` [m] would be used up.
    """

    name: str
    tolerance: float
    reach: np.ndarray
    """(R, J) [m per rad]: rooms shrink by no more than reach @ |dq|."""

    def at(self, q: np.ndarray) -> np.ndarray:
        """(R,) [m]: room left with joints at q (J,); below 0 by how much it is in danger already."""
        ...


class Inside:
    """Points of the arm, the end effector's perhaps, stay inside a box."""

    def __init__(self, name: str, box: Box, points: Points, tolerance: float, reach: np.ndarray) -> None:
        """reach: of each point (P, J) [m per rad]."""
        self.name, self.box, self.tolerance, self.reach, self._points = name, box, tolerance, np.atleast_2d(reach), points
        self._edges = box.low.tolist(), box.high.tolist()

    def at(self, q: np.ndarray) -> np.ndarray:
        found = self._points(q)
        if found is None:
            return np.full(len(self.reach), np.inf)
        return np.array([self._room(point) for point in np.reshape(found, (-1, 3)).tolist()])

    def _room(self, point: list[float]) -> float:
        """Of one point. (Plain numbers: numpy takes four times as long for so few.)"""
        if not math.isfinite(sum(point)):
            return -math.inf
        room = min([min(x - low, high - x) for low, x, high in zip(self._edges[0], point, self._edges[1], strict=True)])
        return room if room >= 0.0 else -self.box.distance(np.array(point))


class Surroundings:
    """All clearances together, and their rooms at the last pose looked at: near it, what is left of them is enough to know."""

    def __init__(self, clearances: Sequence[Clearance], joints: int) -> None:
        self._clearances = clearances
        self.names = [c.name for c in clearances for _ in c.reach]
        self.tolerance = np.array([c.tolerance for c in clearances for _ in c.reach])
        self._reach = np.concatenate([np.empty((0, joints)), *(c.reach for c in clearances)])
        self._q, self._rooms = np.zeros(joints), np.full(len(self.names), -np.inf)

    def rooms(self, q: np.ndarray) -> np.ndarray:
        """Looked up: (R,) [m]."""
        self._q, self._rooms = q, np.concatenate([c.at(q) for c in self._clearances])
        return self._rooms

    def clear(self, middle: np.ndarray, half: np.ndarray) -> bool:
        """Is there surely room at every pose (J,) within middle +- half? Looks at the middle where what was seen last does not tell."""
        if (self._rooms >= self._reach @ (np.abs(middle - self._q) + half)).all():
            return True
        return bool((self.rooms(middle) >= self._reach @ half).all())

    def least(self, q: np.ndarray) -> np.ndarray:
        """(R,) [m]: what is surely left at q (J,)."""
        return self._rooms - self._reach @ np.abs(q - self._q)
