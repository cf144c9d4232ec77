"""Servos in simulated time."""

from __future__ import annotations

import numpy as np
import pytest

from hardware import arms
from hardware.mujoco.servoed import GRIPPER_S, ServoedArm


@pytest.mark.parametrize("name", ["so101", "ur5e"])
def test_it_goes_where_it_is_told_and_stands_there(name: str) -> None:
    body = ServoedArm(arms.find(name)[1])
    np.testing.assert_array_equal(body.q, body.arm.spec.home)
    body.goal = body.arm.spec.home + 0.1
    body.advance(200)
    np.testing.assert_allclose(body.q, body.goal, atol=1e-3)
    np.testing.assert_allclose(body.dq, 0.0, atol=1e-2)
    assert (body.steps, body.contacts) == (200, 0)


def test_the_same_calls_lead_to_the_same_place_however_time_is_cut() -> None:
    whole, parts = (ServoedArm(arms.find("so101")[1]) for _ in range(2))
    whole.goal = parts.goal = whole.arm.spec.home + 0.2
    whole.advance(50)
    for _ in range(10):
        parts.advance(5)
    np.testing.assert_array_equal(whole.q, parts.q)


def test_the_gripper_takes_its_time_unless_it_is_jammed() -> None:
    body = ServoedArm(arms.find("so101")[1])
    body.gripper_goal, steps = 1.0, round(GRIPPER_S / body.model.opt.timestep)
    body.advance(steps // 2)
    assert body.gripper == pytest.approx(0.5)
    body.jammed = True
    body.advance(steps)
    assert body.gripper == pytest.approx(0.5)


def test_held_joints_stand_still_and_unpowered_ones_fall() -> None:
    body = ServoedArm(arms.find("so101")[1])
    body.powered, body.held = False, True
    body.advance(100)
    np.testing.assert_array_equal(body.q, body.arm.spec.home)
    body.held = False
    body.advance(100)
    assert np.abs(body.q - body.arm.spec.home).max() > 0.1
