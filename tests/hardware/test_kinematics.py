from __future__ import annotations

import numpy as np
import pytest

from hardware.fake import tip
from hardware.kinematics import Box, JointPosition

BOX = Box(np.array([0.05, -0.3, -0.1]), np.array([0.45, 0.3, 0.1]))
INSIDE = np.array([-0.6, 1.2])


def test_distance_to_a_box() -> None:
    assert BOX.distance(np.array([0.1, 0.0, 0.0])) == 0.0
    assert BOX.distance(np.array([0.45 + 0.3, 0.3 + 0.4, 0.0])) == pytest.approx(0.5)


def test_hold_is_the_action_whose_target_is_where_the_arm_is() -> None:
    for gripper in (False, True):
        kinematics = JointPosition(2, gripper=gripper)
        action = kinematics.hold(INSIDE, 0.4)
        assert action.shape == (3 if gripper else 2,)
        q, opening = kinematics.target(action, INSIDE, 0.4)
        np.testing.assert_array_equal(q, INSIDE)
        assert opening == 0.4


def test_an_action_that_ends_inside_is_left_alone() -> None:
    goal = INSIDE + 0.05
    clipped, changed = JointPosition(2, position=tip).clip(goal, INSIDE, BOX)
    assert not changed
    np.testing.assert_array_equal(clipped, goal)


def test_an_action_that_ends_outside_stops_at_the_edge_and_keeps_its_direction() -> None:
    rng, kinematics, cut = np.random.default_rng(0), JointPosition(2, position=tip), 0
    for _ in range(200):
        goal = rng.uniform([-1.8, 0.1], [1.2, 2.6])
        clipped, changed = kinematics.clip(goal, INSIDE, BOX)
        assert BOX.distance(tip(clipped)) < 1e-6
        if changed:
            cut += 1
            way, whole = clipped - INSIDE, goal - INSIDE
            assert abs(way[0] * whole[1] - way[1] * whole[0]) < 1e-9
            assert np.linalg.norm(way) <= np.linalg.norm(whole)
            further = INSIDE + way + 0.01 * whole / np.linalg.norm(whole)
            assert BOX.distance(tip(further)) > 0
    assert cut > 20


def test_from_outside_it_may_come_in_but_not_go_further_out() -> None:
    kinematics = JointPosition(2, position=tip)
    outside = np.array([0.0, 0.11])  # stretched out: x beyond the box
    depth = BOX.distance(tip(outside))
    assert depth > 0.04
    inward, changed = kinematics.clip(INSIDE, outside, BOX)
    assert not changed
    np.testing.assert_array_equal(inward, INSIDE)
    stay, changed = kinematics.clip(np.array([0.0, 0.0]), outside, BOX)
    assert changed
    assert BOX.distance(tip(stay)) <= depth + 1e-6


def test_without_forward_kinematics_there_is_nothing_to_clip() -> None:
    kinematics = JointPosition(2)
    assert kinematics.position(INSIDE) is None
    assert kinematics.clip(np.array([9.0, 9.0]), INSIDE, BOX)[1] is False
