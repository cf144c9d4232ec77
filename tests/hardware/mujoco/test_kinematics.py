"""End-effector deltas: they add up, they keep the tool upright, they stay in the box and in reach."""

from __future__ import annotations

from functools import cache

import mujoco
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from hardware import arms
from hardware.arms.model import TOOL
from hardware.kinematics import Box
from hardware.mujoco.kinematics import EeDelta, EePoseDelta
from hardware.mujoco.robosuite import TABLE_BOX, TOOL_SITE, start
from hardware.types import HardwareError


@cache
def kinematics() -> EeDelta:
    scene = start("Lift")
    return EeDelta(scene.model, scene.joint_ids, TOOL_SITE, scene.home)


def reach(goal: np.ndarray) -> np.ndarray:
    """Joints at `goal`, approached in steps of 8 cm from home."""
    arm = kinematics()
    q = arm._home
    for _ in range(100):
        to_go = goal - arm.position(q)
        if np.linalg.norm(to_go) < 1e-4:
            return q
        q, _ = arm.target(np.append(to_go * min(1.0, 0.08 / np.linalg.norm(to_go)), 0.0), q, 0.0)
    raise AssertionError("did not get there")


unit = st.floats(0.0, 1.0)
delta = st.tuples(*[st.floats(-0.03, 0.03)] * 3)


@settings(max_examples=25)
@given(place=st.tuples(unit, unit, unit), move=delta)
def test_the_tool_moves_by_the_delta_and_keeps_its_orientation(place, move):
    arm = kinematics()
    q = reach(TABLE_BOX.low + np.array(place) * (TABLE_BOX.high - TABLE_BOX.low))
    goal, gripper = arm.target(np.array([*move, 0.3]), q, 1.0)
    np.testing.assert_allclose(arm.position(q) + move, arm.position(goal), atol=5e-5)
    rotation = arm._data.site_xmat[arm._site].reshape(3, 3)
    angle = np.arccos(np.clip((np.trace(rotation.T @ arm.home_rotation) - 1) / 2, -1, 1))
    assert angle < 2e-3
    assert gripper == 0.3
    assert (goal >= arm._low).all()
    assert (goal <= arm._high).all()
    assert np.abs(goal - q).max() < 0.5  # no jump to another branch


turn = st.tuples(*[st.floats(-0.06, 0.06)] * 3)


@settings(max_examples=25)
@given(way=st.lists(st.tuples(delta, turn), min_size=1, max_size=6))
def test_turns_and_moves_add_up_exactly_in_the_worlds_axes(way):
    scene = start("Lift")
    arm = EePoseDelta(scene.model, scene.joint_ids, TOOL_SITE, scene.home)
    q, place, rotation = arm._home, arm.position(arm._home), Rotation.from_matrix(arm.rotation(arm._home))
    for move, about in way:
        q, gripper = arm.target(np.array([*move, *about, 0.3]), q, 1.0)
        place, rotation = place + move, Rotation.from_rotvec(about) * rotation
        assert gripper == 0.3
    np.testing.assert_allclose(arm.position(q), place, atol=5e-5)
    assert (Rotation.from_matrix(arm.rotation(q)) * rotation.inv()).magnitude() < 1e-4
    np.testing.assert_array_equal(arm.hold(q, 0.5), [0, 0, 0, 0, 0, 0, 0.5])
    still, _ = arm.target(arm.hold(q, 0.5), q, 0.5)
    np.testing.assert_allclose(arm.rotation(still), arm.rotation(q), atol=1e-5)


def test_the_position_is_mujocos():
    arm, scene = kinematics(), start("Lift")
    data = mujoco.MjData(scene.model)
    q = scene.home + 0.1
    data.qpos[scene.qpos_index] = q
    mujoco.mj_forward(scene.model, data)
    np.testing.assert_allclose(arm.position(q), data.site(TOOL_SITE).xpos, atol=1e-12)


def test_going_round_in_circles_does_not_let_the_elbow_wander():
    arm = kinematics()
    q, ends = arm._home.copy(), []
    for _ in range(30):
        for move in ((0.03, 0, 0), (0, 0.03, 0), (-0.03, 0, 0), (0, -0.03, 0)):
            for _ in range(4):
                q, _ = arm.target(np.array([*move, 0.0]), q, 0.0)
        ends.append(q)
    np.testing.assert_allclose(ends[-1], ends[10], atol=1e-3)
    np.testing.assert_allclose(arm.position(ends[-1]), arm.position(arm._home), atol=1e-3)


def test_the_same_question_has_the_same_answer():
    arm, action = kinematics(), np.array([0.01, -0.02, 0.015, 1.0])
    first = arm.target(action, arm._home, 0.0)[0]
    arm.target(-action, arm._home + 0.05, 0.0)
    np.testing.assert_array_equal(arm.target(action, arm._home, 0.0)[0], first)


def test_out_of_reach_is_an_error_not_a_surprise():
    with pytest.raises(HardwareError, match="out of the arm's reach"):
        kinematics().target(np.array([1.5, 0.0, 0.0, 0.0]), kinematics()._home, 0.0)


def test_hold_changes_nothing():
    arm = kinematics()
    q = reach(np.array([0.0, 0.1, 0.9]))
    np.testing.assert_allclose(arm.position(arm.target(arm.hold(q, 0.4), q, 0.4)[0]), arm.position(q), atol=2e-5)
    assert arm.hold(q, 0.4)[3] == 0.4


@given(move=delta)
def test_clip_ends_in_the_box_or_changes_nothing(move):
    arm, q = kinematics(), kinematics()._home
    here = arm.position(q)
    box = Box(here - 0.01, here + np.array([0.01, 0.02, 0.005]))
    action = np.array([*move, 0.7])
    clipped, changed = arm.clip(action, q, box)
    end = here + clipped[:3]
    assert (end >= box.low - 1e-9).all()
    assert (end <= box.high + 1e-9).all()
    assert clipped[3] == 0.7
    assert changed == bool(box.distance(here + action[:3]) > 1e-6)
    if not changed:
        np.testing.assert_allclose(clipped, action, atol=1e-6)


def test_from_outside_the_box_one_may_only_come_nearer():
    arm, q = kinematics(), kinematics()._home
    here = arm.position(q)
    box = Box(here + 0.05, here + 0.2)
    outward, changed = arm.clip(np.array([-0.02, -0.02, -0.02, 1.0]), q, box)
    np.testing.assert_allclose(outward[:3], 0.0, atol=1e-9)
    assert changed
    inward, changed = arm.clip(np.array([0.02, 0.02, 0.02, 1.0]), q, box)
    np.testing.assert_allclose(inward[:3], 0.02, atol=1e-9)
    assert not changed


@cache
def five_joints() -> EeDelta:
    arm = arms.find("so101")[1]
    model = arm.compile()
    return EeDelta(model, np.array([model.joint(name).id for name in arm.spec.joints]), TOOL, arm.spec.home)


@settings(max_examples=25)
@given(way=st.lists(st.tuples(*[st.floats(-0.01, 0.01)] * 3), min_size=1, max_size=5))
def test_five_joints_keep_the_place_exactly_and_the_orientation_nearly(way):
    arm = five_joints()
    q, place = arm._home, arm.position(arm._home)
    for move in way:
        q, _ = arm.target(np.array([*move, 0.0]), q, 0.0)
        place = place + move
    np.testing.assert_allclose(arm.position(q), place, atol=5e-5)
    still, _ = arm.target(arm.hold(q, 0.0), q, 0.0)
    np.testing.assert_allclose(still, q, atol=2e-3)  # it does not go on turning
    arm.position(q)
    turned = Rotation.from_matrix(arm._data.site_xmat[arm._site].reshape(3, 3)) * Rotation.from_matrix(arm.home_rotation).inv()
    assert turned.magnitude() < 0.2  # position alone would let it turn by twice that


def test_five_joints_turn_as_little_as_they_can():
    """Aside by 10 cm the base turns by 0.4 rad; wrist and roll take most of that back."""
    arm = five_joints()
    q = arm._home
    for _ in range(10):
        q, _ = arm.target(np.array([0.0, 0.01, 0.0, 0.0]), q, 0.0)
    assert abs(q[0]) > 0.35
    arm.position(q)
    turned = Rotation.from_matrix(arm._data.site_xmat[arm._site].reshape(3, 3)) * Rotation.from_matrix(arm.home_rotation).inv()
    assert turned.magnitude() < 0.15
    assert arm._exact == slice(0, 3)


def test_a_joint_at_its_limit_stays_there_and_the_others_do_the_rest():
    arm = arms.find("so101")[1]
    model = arm.compile()
    low, high = arm.spec.q_min.copy(), arm.spec.q_max.copy()
    high[3] = arm.spec.home[3] + 0.1  # upwards the wrist would bend by 0.3 to keep the tool's tilt
    kinematics = EeDelta(model, np.array([model.joint(name).id for name in arm.spec.joints]), TOOL, arm.spec.home, (low, high))
    q, start = arm.spec.home, kinematics.position(arm.spec.home)
    for _ in range(6):
        q, _ = kinematics.target(np.array([0.0, 0.0, 0.01, 0.0]), q, 0.0)
        assert (q <= high).all()
    np.testing.assert_allclose(kinematics.position(q), start + [0.0, 0.0, 0.06], atol=5e-5)
    assert q[3] == high[3]
