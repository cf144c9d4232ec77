"""Room between an arm's parts: capsules cover the meshes, bounds hold, and a governor that looks ahead touches nothing."""

from __future__ import annotations

import mujoco
import numpy as np
import pytest

from hardware.arms.model import ArmModel, limits, robosuite, with_hand
from hardware.clearance import Inside, Surroundings
from hardware.governor import Governor, Limits
from hardware.kinematics import Box, JointPosition
from hardware.mujoco.apart import SEEN, Apart, ArmGeometry
from hardware.types import ArmSpec, ArmState, ArraySpec, Command, Source

TABLE_Z = -0.02
PANDA = ArmModel(
    ArmSpec(
        "panda",
        tuple(f"joint{i}" for i in range(1, 8)),
        "rad",
        **limits(
            q_min=[-2.9, -1.76, -2.9, -3.07, -2.9, -0.01, -2.9],
            q_max=[2.9, 1.76, 2.9, -0.07, 2.9, 3.75, 2.9],
            v_max=[1.5] * 7,
            a_max=[8.0] * 7,
            j_max=[400.0] * 7,
            home=[0.0, 0.2, 0.0, -2.4, 0.0, 2.6, 0.8],
        ),
        rate_hz=100.0,
    ),
    with_hand(robosuite("panda"), 0.12, 0.06),
    elbow=("link4",),
)
XARM = ArmModel(
    ArmSpec(
        "xarm7",
        tuple(f"joint{i}" for i in range(1, 8)),
        "rad",
        **limits(
            q_min=[-6.2, -2.0, -6.2, -0.19, -6.2, -1.6, -6.2],
            q_max=[6.2, 2.0, 6.2, 3.9, 6.2, 3.1, 6.2],
            v_max=[2.0] * 7,
            a_max=[15.0] * 7,
            j_max=[400.0] * 7,
            home=[0.0, -0.3, 0.0, 0.9, 0.0, 1.2, 0.0],
        ),
        rate_hz=100.0,
    ),
    with_hand(robosuite("xarm7"), 0.17, 0.06),
    elbow=("link4",),
)
ARMS = pytest.mark.parametrize("arm", [PANDA, XARM], ids=lambda arm: arm.spec.name)


def poses(arm: ArmModel, count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).uniform(arm.spec.q_min, arm.spec.q_max, (count, len(arm.spec.joints)))


def meshes(arm: ArmModel, table_z: float) -> tuple[mujoco.MjModel, mujoco.MjData]:
    """The arm as it is shaped, over the table."""
    spec = mujoco.MjSpec.from_string(arm.mjcf())
    spec.worldbody.add_geom(type=mujoco.mjtGeom.mjGEOM_PLANE, size=[0, 0, 1], pos=[0, 0, table_z])
    model = spec.compile()
    return model, mujoco.MjData(model)


@ARMS
def test_rooms_shrink_no_quicker_than_they_may(arm: ArmModel) -> None:
    geometry, rng = ArmGeometry(arm, TABLE_Z), np.random.default_rng(1)
    for q in poses(arm, 2000):
        step = rng.normal(0, 0.02, len(q))
        before, after = geometry.rooms(q), geometry.rooms(q + step)
        apart = before > 0  # how deep parts overlap follows no such rule
        assert (before - after <= geometry.pair_reach @ np.abs(step) + 1e-9)[apart].all()
        moved = np.linalg.norm(geometry.tool(q + step) - geometry.tool(q))
        assert moved <= geometry.tool_reach @ np.abs(step) + 1e-9


@ARMS
def test_what_has_room_does_not_touch_as_meshes_either(arm: ArmModel) -> None:
    geometry, (model, data) = ArmGeometry(arm, TABLE_Z), meshes(arm, TABLE_Z)
    free = 0
    for q in poses(arm, 400, seed=2):
        if (geometry.rooms(q) > 0).all():
            free += 1
            data.qpos[:] = q
            mujoco.mj_forward(model, data)
            touching = {tuple(sorted(model.body(model.geom_bodyid[g]).name for g in (c.geom1, c.geom2))) for c in data.contact}
            assert touching <= geometry.unseen
    assert free > 20


@ARMS
def test_it_is_at_home_with_room(arm: ArmModel) -> None:
    geometry = ArmGeometry(arm, TABLE_Z)
    rooms = geometry.rooms(arm.spec.home)
    assert rooms.min() > 0.03
    assert rooms.max() <= SEEN
    assert len(geometry.unseen) <= 5  # neighbours only


def test_what_is_surely_left_is_left() -> None:
    geometry = ArmGeometry(PANDA, TABLE_Z)
    box = Box(np.array([0.1, -0.5, 0.0]), np.array([0.8, 0.5, 1.0]))
    around = Surroundings([Inside("walls", box, geometry.tool, 0.01, geometry.tool_reach), Apart(geometry)], 7)
    rng = np.random.default_rng(3)
    for q in PANDA.spec.home + rng.normal(0, 0.3, (300, 7)):
        anchor = around.rooms(q)
        near = q + rng.uniform(-0.05, 0.05, 7)
        bound = around.least(near)
        real = np.concatenate([[Inside("walls", box, geometry.tool, 0.01, geometry.tool_reach).at(near)[0]], Apart(geometry).at(near)])
        assert (real >= bound - 1e-9)[anchor > 0].all()


def test_between_two_poses_said_to_be_clear_there_is_room() -> None:
    geometry = ArmGeometry(PANDA, TABLE_Z)
    around, rng, clear = Surroundings([Apart(geometry)], 7), np.random.default_rng(4), 0
    for q in PANDA.spec.home + rng.normal(0, 0.4, (300, 7)):
        low, high = q - rng.uniform(0, 0.05, 7), q + rng.uniform(0, 0.05, 7)
        if around.clear(0.5 * (low + high), 0.5 * (high - low)):
            clear += 1
            assert all((Apart(geometry).at(rng.uniform(low, high)) >= -1e-9).all() for _ in range(10))
    assert clear > 30  # it is not always in doubt


@ARMS
def test_16_on_a_collision_course_the_arm_stops_before_it_touches(arm: ArmModel) -> None:
    """Row 16 of the fault table, with the meshes as judges: targets in each other and in the table."""
    geometry, (model, data), spec = ArmGeometry(arm, TABLE_Z), meshes(arm, TABLE_Z), arm.spec
    action = ArraySpec((*spec.joints, "gripper"), ("rad",) * 7 + ("1",), (*spec.q_min, 0.0), (*spec.q_max, 1.0))
    kinematics = JointPosition(7, gripper=True, position=geometry.tool, reach=geometry.tool_reach)
    governor = Governor(spec, Limits(), action, kinematics, 0.1, [Apart(geometry)])
    bad = [q for q in poses(arm, 400, seed=4) if geometry.rooms(q).min() < 0]
    now, q = 0.0, spec.home.copy()
    goal = q
    governor.reset(now, q, 0.0)
    for tick in range(4000):
        now = tick * governor.dt
        if tick % 10 == 0:
            if tick % 200 == 0:
                goal = spec.home if tick % 400 == 0 else bad.pop()
            governor.admit(Command(now, np.append(goal, 0.5).astype(np.float32), Source.SCRIPTED), now)
        q = governor.step(now, ArmState(now, tick, q, np.zeros(7), 0.0)).q
        data.qpos[:] = q
        mujoco.mj_forward(model, data)
        touching = {tuple(sorted(model.body(model.geom_bodyid[g]).name for g in (c.geom1, c.geom2))) for c in data.contact}
        assert touching <= geometry.unseen, (tick, touching)
    assert governor.interventions["collision_brake"] >= 3
    assert governor.stopped is None
