"""A double's physics and what it shares with a test."""

from __future__ import annotations

import time

import numpy as np
import pytest

from hardware.arms.model import ArmModel, limits, robosuite
from hardware.doubles.chain import Chain
from hardware.doubles.panel import Panel
from hardware.types import ArmSpec

UR = ArmModel(
    spec=ArmSpec(
        "ur5e",
        ("shoulder_pan_joint", "shoulder_lift_joint", "elbow_joint", "wrist_1_joint", "wrist_2_joint", "wrist_3_joint"),
        "rad",
        **limits(q_min=[-6.28] * 6, q_max=[6.28] * 6, v_max=[3] * 6, a_max=[10] * 6, j_max=[100] * 6, home=[0, -1.6, 1.6, -1.6, -1.6, 0]),
        rate_hz=500.0,
    ),
    mjcf=robosuite("ur5e"),
)


@pytest.fixture
def panel():
    panel = Panel(6)
    yield panel
    panel.close()


def wait_for(chain: Chain, goal: np.ndarray, seconds: float = 20.0) -> np.ndarray:
    ends = time.monotonic() + seconds
    q = chain.measure()[0]
    while np.abs(q - goal).max() > 0.01 and time.monotonic() < ends:
        time.sleep(0.01)
        q = chain.measure()[0]
    return q


def test_the_servos_go_where_they_are_told_and_hold_there(panel: Panel) -> None:
    chain = Chain(UR, panel)
    goal = UR.spec.home + 0.2
    chain.servo(goal, 1.0)
    np.testing.assert_allclose(wait_for(chain, goal), goal, atol=0.01)
    np.testing.assert_allclose(panel.q, goal, atol=0.01)
    assert panel.writes == 1


def test_nan_moves_nothing(panel: Panel) -> None:
    chain = Chain(UR, panel)
    chain.servo(np.full(6, np.nan))
    np.testing.assert_array_equal(chain.goal, UR.spec.home)


def test_faults_are_felt(panel: Panel) -> None:
    chain = Chain(UR, panel)
    panel.hold = 1
    chain.servo(UR.spec.home + 0.3)
    time.sleep(0.1)
    np.testing.assert_array_equal(chain.measure()[0], UR.spec.home)
    panel.corrupt = 2
    assert [panel.take("corrupt") for _ in range(3)] == [True, True, False]


def test_a_panel_is_seen_by_its_name_and_knows_its_fields(panel: Panel) -> None:
    other = Panel(6, panel.name)
    panel.estop = 1
    panel.publish(np.full(6, 0.5), np.zeros(6), np.zeros(6))
    assert other.estop == 1
    assert (other.q == 0.5).all()
    other.close()
    with pytest.raises(AttributeError, match="stop; valid: mute"):
        panel.stop = 1  # pyright: ignore[reportAttributeAccessIssue]


def test_an_arm_that_is_held_stands_and_goes_on_from_rest(panel: Panel) -> None:
    chain = Chain(UR, panel)
    chain.servo(UR.spec.home + 0.5)
    while np.abs(chain.measure()[1]).max() < 0.5:
        time.sleep(0.002)
    panel.hold = 1
    time.sleep(0.02)  # ten steps of its physics
    where, speed, _ = chain.measure()
    assert np.abs(speed).max() == np.abs(panel.dq).max() == 0.0
    time.sleep(0.02)
    np.testing.assert_array_equal(chain.measure()[0], where)
    panel.hold = 0
    np.testing.assert_allclose(wait_for(chain, UR.spec.home + 0.5), UR.spec.home + 0.5, atol=0.01)
