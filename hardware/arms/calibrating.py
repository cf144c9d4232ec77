"""Calibrating an arm by hand: what a person is asked for, step by step, and what follows from the readings. Talks to nobody."""

from __future__ import annotations

from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np

from hardware.arms.model import ArmModel
from hardware.calibration import Calibration
from hardware.types import Arm, HardwareError

MOVED_RAD = 0.35  # a joint that moves less to a side hardly moved, unless it can go no further
NO_ROOM_RAD = 0.1  # a range that ends so near the zero pose is not looked at on that side
GRIPPER_RAD = 0.1  # of its motor


@runtime_checkable
class HandMoved(Arm, Protocol):
    """An arm that can be limp, so that a person moves it: to calibrate it, or to lead another by it."""

    calibration: Calibration

    def limp(self) -> None:
        """Motors off: it falls unless somebody holds it. It can be read on; connect again switches them on."""
        ...

    def readings(self) -> np.ndarray:
        """(J + 1,): of the joints in the order of the calibration's channels, then of the gripper [raw]."""
        ...


class _Step(NamedTuple):
    words: str
    column: int | None = None  # of the readings, which is watched
    starts: bool = False  # a motion that may not go over the end of a motor's turn


class Walk:
    """`words` says what to do, `see` takes every reading meanwhile, `confirm` takes the last one as done and goes on to the next step.

    The calibration keeps the channels and scales of the one before: `calibration`, once `words` is None.
    """

    def __init__(self, model: ArmModel, before: Calibration) -> None:
        self.model, self._before = model, before
        self._gripper = len(model.spec.joints)
        self._unit = np.append(before.scale, before.scale[0])  # radians per raw unit
        self._steps = [_Step(f"Zero pose: {model.zero}.")]
        for column, (joint, way) in enumerate(zip(model.spec.joints, directions(model), strict=True)):
            self._steps += [
                _Step(f"{joint}: from there {way}, as far as it goes. A joint without stops: about half a turn, no more.", column, True),
                _Step(f"{joint}: the other way, as far as it goes.", column),
            ]
        self._steps += [_Step("Close the gripper."), _Step("Open the gripper, as far as it goes.", self._gripper, True)]
        self._answers: list[np.ndarray] = []
        self._last: np.ndarray | None = None
        self._turns = 0
        self.low, self.high = np.full(self._gripper + 1, np.inf), np.full(self._gripper + 1, -np.inf)

    @property
    def words(self) -> str | None:
        """What to do now; None: nothing is left."""
        return self._steps[len(self._answers)].words if len(self._answers) < len(self._steps) else None

    def see(self, raw: np.ndarray) -> None:
        """A reading (J + 1,) [raw]; often enough that a motor turns less than half a turn in between."""
        step = self._steps[len(self._answers)]
        if self._last is not None and step.column is not None:
            jump = float((raw - self._last)[step.column] * self._unit[step.column])
            self._turns += int(np.round(jump / (2 * np.pi)))
        self._last = np.array(raw, dtype=np.float64)
        if self._answers:
            self.low, self.high = np.minimum(self.low, raw), np.maximum(self.high, raw)

    def confirm(self) -> None:
        """Raises HardwareError: the step was not done, what to do about it; it may be tried again."""
        if self._last is None:
            raise HardwareError(f"{self.model.spec.name}: nothing was read")
        step = self._steps[len(self._answers)]
        if step.column is not None:
            self._judge(step, step.column)
        self._answers.append(self._last)
        if self.words and self._steps[len(self._answers)].starts:
            self._turns = 0

    def _judge(self, step: _Step, column: int) -> None:
        assert self._last is not None
        name = "gripper" if column == self._gripper else self.model.spec.joints[column]
        if self._turns:
            raise HardwareError(
                f"{name}: its reading jumps, since it went over the end of its motor's turn; turn it back the way it came, or, where its "
                "range has that end in it, unscrew it, turn the motor by half a turn, mount it again, and start anew"
            )
        if column == self._gripper:
            moved, need = abs(self._last - self._answers[-1])[column] * self._unit[column], GRIPPER_RAD
        else:
            first = self._answers[1 + 2 * column] if not step.starts else self._last
            sign = np.sign(first - self._answers[0])[column]
            way, bound = (sign, self.model.spec.q_max) if step.starts else (-sign, self.model.spec.q_min)
            moved = float(way * (self._last - self._answers[0])[column] * self._unit[column])
            room = abs(float(bound[column]))
            need = min(MOVED_RAD, 0.5 * room) if room > NO_ROOM_RAD else -np.inf
        if moved < need:
            found = f"moved {np.degrees(moved):.0f} degrees; expected {np.degrees(need):.0f} or more"
            raise HardwareError(f"{name}: {found}; move it as asked, and hold it there")

    @property
    def calibration(self) -> Calibration:
        zero, closed, opened = self._answers[0], *self._answers[-2:]
        return Calibration(
            arm=self.model.spec.name,
            channel=self._before.channel,
            offset=tuple(zero[:-1].tolist()),
            sign=tuple(int(np.sign(self._answers[1 + 2 * j] - zero)[j]) for j in range(self._gripper)),
            scale=self._before.scale,
            gripper=self._before.gripper,
            gripper_closed=float(closed[-1]),
            gripper_open=float(opened[-1]),
        )

    @property
    def ranges(self) -> np.ndarray:
        """(J, 2): how far each joint went [rad], lowest and highest."""
        ends = [[self.calibration.angles(self._answers[1 + 2 * j + k][:-1])[j] for k in (1, 0)] for j in range(self._gripper)]
        return np.array(ends)


_WAYS = {
    (0, 1): "roll it clockwise, seen from behind the arm",
    (0, -1): "roll it counterclockwise, seen from behind the arm",
    (1, 1): "tip what is beyond it forward and down",
    (1, -1): "tip what is beyond it up and back",
    (2, 1): "turn it to the left, counterclockwise seen from above",
    (2, -1): "turn it to the right, clockwise seen from above",
}


def directions(model: ArmModel) -> list[str]:
    """What a person sees each joint do when its angle grows, in the zero pose of an arm that looks along x."""
    import mujoco

    body = model.compile()
    data = mujoco.MjData(body)
    mujoco.mj_forward(body, data)
    ways = []
    for name in model.spec.joints:
        axis = data.xaxis[body.joint(name).id]
        along = int(np.argmax(np.abs(axis)))
        ways.append(_WAYS[along, int(np.sign(axis[along]))])
    return ways
