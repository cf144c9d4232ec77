"""Reach and Push: bodies like any other, whose goal is drawn, seen and told, and `:state`, which says what a camera would show."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest

import hardware
from hardware import RobotConfig
from hardware.mujoco.robosuite import TABLE, TABLE_BOX, assemble, spec, start
from hardware.robot import SafeRobot
from hardware.testing import RobotContract
from hardware.types import Command, HardwareError, Source


@cache
def scene(environment: str):
    return start(environment)  # seconds: once for all tests


def robot_of(body: str, **options) -> SafeRobot:
    return assemble(RobotConfig(body=body, **options), scene(body.split(":")[1]))


class TestReach(RobotContract):
    def make(self) -> SafeRobot:
        return robot_of("robosuite:Reach:state", cameras=("wrist",), image_size=32)


class TestPush(RobotContract):
    def make(self) -> SafeRobot:
        return robot_of("robosuite:Push:state")


@pytest.mark.parametrize(("environment", "things"), TABLE.items())
def test_state_has_no_cameras_unless_named_and_holds_what_they_would_show(environment, things):
    config = RobotConfig(body=f"robosuite:{environment}:state")
    known = hardware.spec_of(config)
    assert known.name == config.body
    assert not known.cameras
    assert list(known.state) == ["joint_pos", "ee_pos", "gripper", *(f"{thing}_pos" for thing in things)]
    assert list(spec(RobotConfig(body=config.body, cameras=("wrist",))).cameras) == ["wrist"]
    assert list(spec(RobotConfig(body=f"robosuite:{environment}")).state) == ["joint_pos", "ee_pos", "gripper"]


@pytest.mark.parametrize("environment", ["Reach", "Push"])
def test_the_state_is_the_simulators(environment):
    with robot_of(f"robosuite:{environment}:state") as robot:
        robot.reset(np.random.default_rng(0))
        seen, known = robot.observe().state, robot.world.privileged()
        for thing in TABLE[environment]:
            np.testing.assert_allclose(seen[f"{thing}_pos"], known[f"{thing}_pos"], atol=1e-6)


def test_a_body_that_has_no_state_variant_says_which_have():
    with pytest.raises(HardwareError) as error:
        hardware.open(RobotConfig(body="robosuite:Door:state"))
    assert "\n" not in str(error.value)
    for part in ("robosuite:Door:state", "robosuite:Reach", "robosuite:Push", "Lift, Stack, Reach, Push with :state"):
        assert part in str(error.value)


def test_balls_hang_in_the_table_box_never_at_the_hand_and_the_seed_decides_where():
    with robot_of("robosuite:Reach:state") as robot:
        goals = []
        for seed in (*range(30), 0):
            robot.reset(np.random.default_rng(seed))
            goals.append(robot.world.privileged()["goal_pos"])
            assert np.linalg.norm(goals[-1] - robot.world.privileged()["tool_pos"]) > 0.09
            assert not robot.world.success()
        np.testing.assert_array_equal(goals[0], goals[-1])
        assert ((TABLE_BOX.low < goals) & (goals < TABLE_BOX.high)).all()
        assert (np.ptp(goals, axis=0) > 0.6 * (TABLE_BOX.high - TABLE_BOX.low)).all()


def test_cube_and_disc_lie_10_to_20_cm_apart_with_room_for_the_hand_behind_the_cube():
    with robot_of("robosuite:Push:state") as robot:
        starts = []
        for seed in (*range(30), 0):
            robot.reset(np.random.default_rng(seed))
            known = robot.world.privileged()
            cube, goal = known["cube_pos"][:2], known["goal_pos"][:2]
            starts.append([cube, goal])
            assert 0.099 < np.linalg.norm(goal - cube) < 0.201
            behind = cube - 0.06 * (goal - cube) / np.linalg.norm(goal - cube)
            assert ((TABLE_BOX.low[:2] < behind) & (behind < TABLE_BOX.high[:2])).all()
            assert not robot.world.success()
        np.testing.assert_array_equal(starts[0], starts[-1])
        assert (starts[0][0] != starts[1][0]).any() and (starts[0][1] != starts[1][1]).any()


def test_reaching_earns_more_the_nearer_the_hand_and_1_inside_the_ball():
    with robot_of("robosuite:Reach:state") as robot:
        robot.reset(np.random.default_rng(1))
        observation, rewards, ways = robot.observe(), [], []
        while not robot.world.success() and len(ways) < 50:
            way = observation.state["goal_pos"] - observation.state["ee_pos"]
            step = np.clip(0.3 * way, -0.015, 0.015)
            robot.send(Command(observation.time, np.append(step, 1.0).astype(np.float32), Source.SCRIPTED))
            observation = robot.observe()
            rewards.append(robot.world.reward())
            ways.append(np.linalg.norm(way))
        assert robot.world.success()
        assert rewards[-1] == 1.0
        assert 0.0 < rewards[0] < max(rewards[:-1]) < 1.0
        assert ways[-2] > 0.03


def test_a_cube_over_its_disc_is_success_and_nearer_is_better():
    with robot_of("robosuite:Push:state") as robot:
        robot.reset(np.random.default_rng(0))
        known, data = robot.world.privileged(), scene("Push").data
        place = scene("Push").model.joint("cube_joint0").qposadr[0]
        rewards = []
        for share in (0.0, 0.4, 1.0):
            qpos = data.qpos.copy()
            qpos[place : place + 2] = known["cube_pos"][:2] + share * (known["goal_pos"] - known["cube_pos"])[:2]
            robot.world.restore(qpos, data.qvel.copy())
            robot.anchor()
            rewards.append(robot.world.reward())
        np.testing.assert_array_equal(robot.world.privileged()["goal_pos"], known["goal_pos"])
        assert robot.world.success()
        assert 0.0 < rewards[0] < rewards[1] < rewards[2] == 1.0


@pytest.mark.parametrize("environment", ["Reach", "Push"])
def test_cameras_see_the_goal_and_nothing_touches_it(environment):
    with robot_of(f"robosuite:{environment}", image_size=64) as robot:
        robot.reset(np.random.default_rng(0))
        world, data = robot.world.scene, robot.world.scene.data
        goal = world.model.body("goal_main")
        before = robot.observe()
        data.mocap_pos[goal.mocapid[0]] += [0.06, -0.06, 0.0]
        world.advance(0.002)
        after = robot._look()
        assert (before.images["agentview"] != after.images["agentview"]).any(axis=2).sum() > 20
        geoms = world.model.geom_bodyid == goal.id
        assert geoms.sum() == 1
        assert not world.model.geom_contype[geoms].any() and not world.model.geom_conaffinity[geoms].any()
        assert robot.world.privileged()["goal_pos"].shape == (3,)
