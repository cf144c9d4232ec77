"""What every device of a person shares: a motion of the end effector, a gripper, and the last word on an episode."""

from __future__ import annotations

import re
from types import TracebackType
from typing import Literal

import numpy as np

from hardware.teleop.keys import Keys
from hardware.types import Command, HardwareError, Observation, RobotSpec, Source

Verdict = Literal["success", "failure", "discard", "quit"]  # how a person ends an episode
VERDICTS: dict[str, Verdict] = {"s": "success", "f": "failure", "r": "discard", "q": "quit"}
STOPPED_BY_PERSON = "operator"  # the reason of a person's stop: no next episode drives the arm home without being told to
LEFT_STOPPED = "stopped by a person: the arm stays where it is; the same command drives it home and goes on"
EPISODE_KEYS = "space or g gripper · s success · f failure · r redo (discard) · q quit"
GRIPPER_PER_S = 2.0  # of its opening, at a trigger pulled through
LINGER_S = 0.5  # a device without a clutch is let go of when it was not moved for so long


class Jog:
    """Motion and gripper -> action of a robot in ee_delta mode: metres and radians per decision, axes found by name."""

    def __init__(self, spec: RobotSpec) -> None:
        if spec.action_mode != "ee_delta":
            raise HardwareError(
                f"{spec.name}: action_mode {spec.action_mode!r}; a person's device needs 'ee_delta'; a real arm: arm.actions"
            )
        axes: dict[str, int] = {}
        self.turns = {name[1]: index for index, name in enumerate(spec.action.names) if name in ("rx", "ry", "rz")}
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
        return self._limit(self.axes)

    def limit_rad(self) -> np.ndarray:
        """The largest turn about x, y, z [rad], (3,); 0 for an axis the robot does not turn about."""
        return self._limit(self.turns)

    def _limit(self, columns: dict[str, int]) -> np.ndarray:
        return np.array([min(-self.low[i], self.high[i]) if (i := columns.get(axis)) is not None else 0.0 for axis in "xyz"])

    def openness(self, action: np.ndarray) -> float:
        """0 closed to 1 open, of an action (A,); 1 where there is no gripper."""
        g = self.gripper_index
        return 1.0 if g is None else float((action[g] - self.low[g]) / (self.high[g] - self.low[g]))

    def action(self, step_m: np.ndarray, turn_rad: np.ndarray, openness: float) -> np.ndarray:
        """step_m: (3,) metres; turn_rad: (3,) radians; openness: 0 closed to 1 open. Returns float32 (A,) within the robot's bounds."""
        action = np.zeros(len(self.low))
        for columns, values in ((self.axes, step_m), (self.turns, turn_rad)):
            for axis, value in zip("xyz", values, strict=True):
                if axis in columns:
                    action[columns[axis]] = value
        if (g := self.gripper_index) is not None:
            action[g] = self.low[g] + np.clip(openness, 0.0, 1.0) * (self.high[g] - self.low[g])
        return np.clip(action, self.low, self.high).astype(np.float32)


class Operator:
    """Base of the devices: episode keys and the gripper toggle. A device says in `act` what the robot does.

    verdict: None while the episode goes on; then the loop ends it after the row that is being recorded.
    holds: in the last decision the person had the robot in hand, as far as the device can tell.
    """

    help = ""  # how to move

    def __init__(self, keys: Keys) -> None:
        self.keys = keys
        self.verdict: Verdict | None = None
        self.openness = 1.0
        self.holds, self.moving, self._moved_at = False, False, -np.inf

    def __enter__(self) -> Operator:
        self.keys.open()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.keys.close()

    def reset(self) -> None:
        self.verdict, self.openness = None, 1.0
        self.holds, self._moved_at = False, -np.inf
        self.keys.read()  # what was typed between episodes moves nothing

    def take(self, action: np.ndarray) -> None:
        """What the person does next starts from `action`, float32 (A,), which holds the robot where somebody else has brought it."""
        raise NotImplementedError

    def decide(self, observation: Observation) -> Command:
        pressed, before = self.keys.read(), self.openness
        for key in pressed:
            if key in (" ", "g"):
                self.openness = 1.0 - round(self.openness)
            elif key in VERDICTS:
                self.verdict = VERDICTS[key]
        action = self.act(observation, pressed)
        if self.moving or self.openness != before:
            self._moved_at = observation.time
        clutch = self.clutch()
        self.holds = observation.time - self._moved_at < LINGER_S - 1e-6 if clutch is None else clutch
        return Command(observation.time, action, Source.HUMAN)

    def clutch(self) -> bool | None:
        """Is it held? None: the device has none, and who moves it has the robot."""
        return None

    def act(self, observation: Observation, pressed: list[str]) -> np.ndarray:
        """The action of this decision, float32 (A,) within the robot's bounds; one that holds as soon as there is a verdict."""
        raise NotImplementedError


class Jogger(Operator):
    """A device that says how far to move in `step_m`, and to turn in `turn_rad`."""

    def __init__(self, spec: RobotSpec, keys: Keys) -> None:
        super().__init__(keys)
        self.jog = Jog(spec)

    def take(self, action: np.ndarray) -> None:
        self.openness = self.jog.openness(action)

    def act(self, observation: Observation, pressed: list[str]) -> np.ndarray:
        step = np.zeros(3) if self.verdict else self.step_m(observation, pressed)
        turn = np.zeros(3) if self.verdict else self.turn_rad(observation)
        self.moving = bool(step.any() or turn.any())
        return self.jog.action(step, turn, self.openness)

    def step_m(self, observation: Observation, pressed: list[str]) -> np.ndarray:
        """How far the end effector moves in this decision [m], (3,); zeros hold."""
        raise NotImplementedError

    def turn_rad(self, observation: Observation) -> np.ndarray:
        """How far it turns about x, y, z [rad], (3,), asked right after `step_m`. Zeros for a device that cannot."""
        return np.zeros(3)


def shape(deflection: np.ndarray, deadzone: float) -> np.ndarray:
    """Deflection [-1, 1] (N,) -> share of the largest step: nothing inside the dead zone, continuous at its edge, fine near it."""
    beyond = np.clip((np.abs(deflection) - deadzone) / (1.0 - deadzone), 0.0, 1.0)
    return np.sign(deflection) * beyond**1.5
