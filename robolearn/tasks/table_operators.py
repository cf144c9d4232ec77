"""Scripted operators for robosuite:Reach and robosuite:Push."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from robolearn.tasks.hand import Hand, Wish


class BallOperator(Hand):
    """Brings the tool to where it takes the ball to be; if that is beside it, tries again or gives up. robot: robosuite:Reach."""

    ARRIVED = 0.01  # m

    def _act(self, tool: np.ndarray, seen: Mapping[str, np.ndarray]) -> Wish:
        believed = seen["goal_pos"] + np.append(self._error, 0.0)
        if self.phase == "give up":
            return None, 1.0
        if np.linalg.norm(tool - believed) < self.ARRIVED:
            self._failed()
        return believed, 1.0


class PushOperator(Hand):
    """Lowers the closed fingers behind the cube, seen from the goal, and pushes; where they slip off, once more. robot: robosuite:Push."""

    HEIGHT = 0.835  # m, the tool's centre while it pushes
    OVER = 0.87  # m, where it clears the cube
    BEHIND = 0.065  # m from the cube's centre, where the fingers come down
    LEAD = 0.03  # m ahead of the fingers on the cube's far side: how hard they push
    CENTRING = 3.0  # how far to the other side of the line the fingers aim, for each metre that they are beside it
    SLIPPED = 0.028  # m beside the line through cube and goal

    def _begin_attempt(self) -> None:
        super()._begin_attempt()
        self._error *= 0.5  # fingers beside a thing hide less of it than fingers above

    def _act(self, tool: np.ndarray, seen: Mapping[str, np.ndarray]) -> Wish:
        cube = seen["cube_pos"][:2] + self._error
        way = seen["goal_pos"][:2] - seen["cube_pos"][:2]
        along = way / max(float(np.linalg.norm(way)), 1e-9)
        behind = cube - self.BEHIND * along
        match self.phase:
            case "approach":
                if self._waited and np.linalg.norm(tool[:2] - behind) < 0.015:
                    self._enter("down", self._draw(self.style.pause_s) if self._pauses else 0.0)
                return np.append(behind, self.OVER + self._hover), 0.0
            case "down":
                if self._waited and tool[2] < self.HEIGHT + 0.006:
                    self._enter("push", 0.0)
                elif self._age_s > self.style.patience_s:
                    self._failed()
                return np.append(behind, self.HEIGHT), 0.0
            case "push":
                beside = tool[:2] - cube
                off = beside - (beside @ along) * along
                if np.linalg.norm(off) > self.SLIPPED or beside @ along > 0.0:
                    self._begin_attempt()
                return np.append(cube + self.LEAD * along - self.CENTRING * off, self.HEIGHT), 0.0
        return None, 0.0
