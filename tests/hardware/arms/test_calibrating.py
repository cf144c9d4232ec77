"""A calibration by hand: readings of a person's motions in, a calibration out."""

from __future__ import annotations

from dataclasses import replace

import mujoco
import numpy as np
import pytest

from hardware import arms
from hardware.arms.calibrating import Walk, directions
from hardware.arms.feetech import calibration
from hardware.arms.servo_bus import TURN
from hardware.calibration import Calibration
from hardware.types import HardwareError

MODEL = arms.find("so101")[1]
TRUE = Calibration("so101", (1, 2, 3, 4, 5), (2000, 2100, 1990, 2050, 2040), (1, -1, 1, -1, 1), (2 * np.pi / TURN,) * 5, 6, 2500, 1400)


def readings(q: np.ndarray, gripper: float, true: Calibration = TRUE) -> np.ndarray:
    """What servos read that count no turns."""
    return np.rint(np.append(true.raw(q), true.gripper_raw(gripper))) % TURN


class Hands:
    """Move the arm a little at a time, as a person does, all readings seen."""

    def __init__(self, walk: Walk, true: Calibration = TRUE) -> None:
        self.walk, self.true = walk, true
        self.q, self.gripper = np.array([0.1, -1.5, 1.4, 1.2, 0.3]), 0.2

    def go(self, q: np.ndarray, gripper: float | None = None) -> None:
        to, grip = np.array(q), self.gripper if gripper is None else gripper
        for share in np.linspace(0.0, 1.0, 12):
            self.walk.see(readings(self.q + share * (to - self.q), self.gripper + share * (grip - self.gripper), self.true))
        self.q, self.gripper = to, grip

    def one(self, joint: int, q: float) -> None:
        to = np.array(self.q)
        to[joint] = q
        self.go(to)

    def zero(self) -> None:
        self.go(np.zeros(5))
        self.walk.confirm()

    def all(self) -> None:
        self.zero()
        for joint in range(5):
            for end in (MODEL.spec.q_max, MODEL.spec.q_min):
                self.one(joint, float(end[joint]))
                self.walk.confirm()
            self.one(joint, 0.2)
        for gripper in (0.0, 1.0):
            self.go(self.q, gripper)
            self.walk.confirm()


def walk() -> Walk:
    return Walk(MODEL, calibration("so101"))


def test_what_a_person_shows_is_found() -> None:
    steps = walk()
    Hands(steps).all()
    assert steps.words is None
    found = steps.calibration
    assert found == replace(TRUE, offset=found.offset, gripper_closed=found.gripper_closed, gripper_open=found.gripper_open)
    np.testing.assert_allclose(found.offset, TRUE.offset, atol=1)
    assert (found.gripper_closed, found.gripper_open) == (2500, 1400)
    np.testing.assert_allclose(steps.ranges, np.column_stack([MODEL.spec.q_min, MODEL.spec.q_max]), atol=0.01)
    assert arms.drive("so101", "/dev/null", found)


def test_a_joint_that_hardly_moved_is_asked_for_again() -> None:
    steps = walk()
    hands = Hands(steps)
    hands.zero()
    asked = steps.words
    hands.one(0, 0.1)
    with pytest.raises(HardwareError, match="shoulder_pan: moved 6 degrees; expected 20 or more; move it as asked"):
        steps.confirm()
    assert steps.words == asked
    hands.one(0, 1.0)
    steps.confirm()
    hands.one(0, 0.6)
    with pytest.raises(HardwareError, match="shoulder_pan: moved -34 degrees"):  # the same side again
        steps.confirm()
    hands.one(0, -1.0)
    steps.confirm()
    assert steps.words and steps.words.startswith("shoulder_lift")


def test_the_gripper_too() -> None:
    steps = walk()
    hands = Hands(steps)
    hands.zero()
    for joint in range(5):
        for q in (1.0, -1.0):
            hands.one(joint, q)
            steps.confirm()
    steps.confirm()
    with pytest.raises(HardwareError, match="gripper: moved 0 degrees; expected 6 or more"):
        steps.confirm()


def test_a_reading_that_jumps_over_the_turn_is_refused_until_it_is_turned_back() -> None:
    steps = walk()
    hands = Hands(steps, replace(TRUE, offset=(3800, *TRUE.offset[1:])))
    hands.zero()
    hands.one(0, 1.5)
    with pytest.raises(HardwareError, match="shoulder_pan: its reading jumps.*turn it back.*mount it again"):
        steps.confirm()
    hands.one(0, 0.4)
    steps.confirm()


def test_a_range_that_begins_at_zero_needs_one_side_only() -> None:
    spec = replace(MODEL.spec, q_min=np.array([0.0, *MODEL.spec.q_min[1:]]))
    steps = Walk(replace(MODEL, spec=spec), calibration("so101"))
    hands = Hands(steps)
    hands.zero()
    for q in (1.0, 0.03):
        hands.one(0, q)
        steps.confirm()


@pytest.mark.parametrize("name", [name for name in arms.names() if arms.find(name)[1].zero])
def test_the_words_are_what_the_model_does(name: str) -> None:
    model = arms.find(name)[1]
    body = model.compile()
    moves: list[np.ndarray] = []
    for joint in model.spec.joints:
        data = mujoco.MjData(body)
        mujoco.mj_forward(body, data)
        carried = int(body.jnt_bodyid[body.joint(joint).id])
        before = data.xmat[carried].reshape(3, 3).copy()
        data.qpos[body.jnt_qposadr[body.joint(joint).id]] = 0.1
        mujoco.mj_forward(body, data)
        moves.append(data.xmat[carried].reshape(3, 3) @ before.T)
    for words, turn in zip(directions(model), moves, strict=True):
        ahead, left = turn[:, 0], turn[:, 1]
        assert ("forward and down" in words) == (ahead[2] < -0.05)
        assert ("up and back" in words) == (ahead[2] > 0.05)
        assert ("to the left" in words) == (ahead[1] > 0.05)
        assert ("to the right" in words) == (ahead[1] < -0.05)
        assert ("roll it clockwise" in words) == (left[2] > 0.05)  # the left side goes up
        assert ("roll it counterclockwise" in words) == (left[2] < -0.05)
