"""A scripted operator for Lift."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from robolearn.tasks.hand import HandOperator, Wish


class LiftOperator(HandOperator):
    """Takes the cube and lifts it; notices an empty gripper, opens and tries again, or gives up. robot: robosuite:Lift."""

    LIFT = 0.12  # m above the table: well past success
    MISSED = 0.05  # m the hand rose without the cube before the operator notices

    def object(self, seen: Mapping[str, np.ndarray]) -> np.ndarray:
        return seen["cube_pos"]

    def carry(self, tool: np.ndarray, thing: np.ndarray, seen: Mapping[str, np.ndarray]) -> Wish:
        if tool[2] - self._from > self.MISSED and thing[2] < 0.83:
            self._failed()
        return np.array([tool[0], tool[1], self._from + self.LIFT]), 0.0
