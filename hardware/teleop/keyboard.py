"""Driving with a keyboard, over ssh too."""

from __future__ import annotations

import numpy as np

from hardware.teleop.keys import Keys, TerminalKeys
from hardware.teleop.operator import Jogger
from hardware.types import Observation, RobotSpec

_MOVES = {
    "up": (1, 0, 0),
    "down": (-1, 0, 0),
    "left": (0, 1, 0),
    "right": (0, -1, 0),
    "page_up": (0, 0, 1),
    "page_down": (0, 0, -1),
    "u": (0, 0, 1),
    "d": (0, 0, -1),
}
_TURNS = {",": 1, ".": -1}  # about z, seen from above: , to the left


class Keyboard(Jogger):
    """Arrow keys move x and y, u and d (or page up and down) z; comma and point turn about z where the body can.

    No key is the deadman: without one the arm holds.

    A terminal reports no key releases, only repeats, so each report moves for `hold_s` [s] and no longer.
    """

    help = "arrows: x forward/back, y left/right · u/d or page up/down: z · , . turn · g gripper · + - speed"

    def __init__(self, spec: RobotSpec, keys: Keys | None = None, hold_s: float = 0.12, speed: float = 0.5) -> None:
        super().__init__(spec, TerminalKeys() if keys is None else keys)
        self.hold_s, self.speed = hold_s, speed  # speed: share of the robot's largest step
        self._direction, self._until = np.zeros(3), -np.inf
        self._turning, self._turn_until = 0.0, -np.inf

    def reset(self) -> None:
        super().reset()
        self._until = self._turn_until = -np.inf

    def step_m(self, observation: Observation, pressed: list[str]) -> np.ndarray:
        for key in pressed:
            if key in "+=-":
                self.speed = float(np.clip(self.speed * (0.8 if key == "-" else 1.25), 0.05, 1.0))
        moves = [_MOVES[key] for key in pressed if key in _MOVES]
        if moves:  # repeats of one key within a decision count once
            self._direction, self._until = np.clip(np.sum(list(dict.fromkeys(moves)), axis=0), -1, 1), observation.time + self.hold_s
        if turns := [_TURNS[key] for key in pressed if key in _TURNS]:
            self._turning, self._turn_until = float(np.sign(sum(set(turns)))), observation.time + self.hold_s
        if observation.time >= self._until:
            return np.zeros(3)
        return self._direction * self.speed * self.jog.limit_m()

    def turn_rad(self, observation: Observation) -> np.ndarray:
        if observation.time >= self._turn_until:
            return np.zeros(3)
        return np.array([0.0, 0.0, self._turning]) * self.speed * self.jog.limit_rad()
