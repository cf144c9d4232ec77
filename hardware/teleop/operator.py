"""What every device of a person shares: a motion of the end effector, a gripper, and the last word on an episode."""

from __future__ import annotations

import re
from types import TracebackType
from typing import Literal

import numpy as np

from hardware.teleop.keys import NoKeys, TerminalKeys
from hardware.types import Command, HardwareError, Observation, RobotSpec, Source

Verdict = Literal["success", "failure", "discard", "quit"]  # how a person ends an episode
VERDICTS: dict[str, Verdict] = {"s": "success", "f": "failure", "r": "discard", "q": "quit"}
EPISODE_KEYS = "space gripper · s success · f failure · r redo (discard) · q quit"


class Jog:
    """Motion and gripper -> action of a robot in ee_delta mode: metres per decision, axes found by name."""

    def __init__(self, spec: RobotSpec) -> None:
        if spec.action_mode != "ee_delta":
            raise HardwareError(f"{spec.name}: action_mode {spec.action_mode!r}; a person's device needs 'ee_delta', as robosuite:Lift has")
        axes: dict[str, int] = {}
        self.gripper_index: int | None = None
        for index, name in enumerate(spec.action.names):
            if "gripper" in name:
                self.gripper_index = index
            elif match := re.fullmatch(r"(?:.*[_. ])?d?([xyz])", name):
                axes[match[1]] = index
        if not axes:
            raise HardwareError(f"{spec.name}: actions {', '.join(spec.action.names)}; none is named x, y or z")
        self.axes = axes
        self.low, self.high = (np.asarray(v, dtype=np.float64) for v in (spec.action.low, spec.action.high))

    def limit_m(self) -> np.ndarray:
        """The largest step along x, y, z [m], (3,); 0 for an axis the robot does not have."""
        return np.array([min(-self.low[i], self.high[i]) if (i := self.axes.get(axis)) is not None else 0.0 for axis in "xyz"])

    def action(self, step_m: np.ndarray, openness: float) -> np.ndarray:
        """step_m: (3,) metres; openness: 0 closed to 1 open. Returns float32 (A,) within the robot's bounds."""
        action = np.zeros(len(self.low))
        for axis, step in zip("xyz", step_m, strict=True):
            if axis in self.axes:
                action[self.axes[axis]] = step
        if (g := self.gripper_index) is not None:
            action[g] = self.low[g] + np.clip(openness, 0.0, 1.0) * (self.high[g] - self.low[g])
        return np.clip(action, self.low, self.high).astype(np.float32)


class Operator:
    """Base of the devices: episode keys and the gripper toggle. A device says how far to move in `step_m`.

    verdict: None while the episode goes on; then the loop ends it after the row that is being recorded.
    """

    help = EPISODE_KEYS

    def __init__(self, spec: RobotSpec, keys: TerminalKeys | NoKeys) -> None:
        self.jog, self.keys = Jog(spec), keys
        self.verdict: Verdict | None = None
        self.openness = 1.0

    def __enter__(self) -> Operator:
        self.keys.open()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.keys.close()

    def reset(self) -> None:
        self.verdict, self.openness = None, 1.0
        self.keys.read()  # what was typed between episodes moves nothing

    def decide(self, observation: Observation) -> Command:
        pressed = self.keys.read()
        for key in pressed:
            if key == " ":
                self.openness = 1.0 - round(self.openness)
            elif key in VERDICTS:
                self.verdict = VERDICTS[key]
        step = np.zeros(3) if self.verdict else self.step_m(observation, pressed)
        return Command(observation.time, self.jog.action(step, self.openness), Source.HUMAN)

    def step_m(self, observation: Observation, pressed: list[str]) -> np.ndarray:
        """How far the end effector moves in this decision [m], (3,); zeros hold."""
        raise NotImplementedError
