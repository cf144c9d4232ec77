"""Tasks: what ends an episode and what does not."""

from __future__ import annotations

import numpy as np
import pytest

import hardware
from hardware import RobotConfig, arms
from hardware.mujoco.robosuite import ENVIRONMENTS
from robolearn.core.errors import UserError
from robolearn.runtime.rollout import rollout
from robolearn.tasks import operator_for, task_for
from robolearn.tasks.reach_operator import ReachOperator


def test_every_body_has_a_task_and_state_only_bodies_share_it():
    for body in (*(f"robosuite:{name}" for name in ENVIRONMENTS), "pusht", "fake"):
        assert task_for(body).instruction
    assert {task_for(f"reach:{arm}") for arm in arms.names()} == {task_for("reach:ur5e")}
    assert task_for("pusht:state") == task_for("pusht")
    assert task_for("robosuite:Push:state") == task_for("robosuite:Push")
    assert task_for("robosuite:Lift:pose") == task_for("robosuite:Lift")


def test_an_unknown_body_is_one_line_with_the_valid_ones():
    with pytest.raises(UserError) as error:
        task_for("robosuite:Lfit")
    assert "robosuite:Lfit" in str(error.value)
    assert "robosuite:Lift" in str(error.value)
    assert "\n" not in str(error.value)


def test_success_is_terminal_and_reward_is_the_worlds():
    task = task_for("fake")
    with hardware.open(RobotConfig(body="fake")) as robot:
        task.reset(robot, np.random.default_rng(0))
        early = task.judge(robot, robot.observe())
        assert (early.success, early.terminal) == (False, False)
        observation = robot.observe()
        robot.arm.place(robot.world.privileged()["q_target"])
        done = task.judge(robot, observation)
        assert (done.success, done.terminal) == (True, True)
        assert done.reward > early.reward


def test_a_robot_without_a_world_is_never_judged():
    with hardware.open(RobotConfig(body="fake")) as robot:
        robot.arm.place(robot.world.privileged()["q_target"])
        robot.world = None
        outcome = task_for("fake").judge(robot, robot.observe())
        assert (outcome.reward, outcome.success, outcome.terminal) == (0.0, False, False)


def test_the_time_limit_truncates_and_is_not_terminal():
    class Idle(ReachOperator):
        def decide(self, observation):
            command = super().decide(observation)
            return type(command)(command.time, observation.state["joint_pos"], command.source)

    with hardware.open(RobotConfig(body="fake")) as robot:
        episode = rollout(robot, Idle(robot, np.random.default_rng(0)), task_for("fake"), np.random.default_rng(0))
        assert len(episode) == 50
        assert not episode.terminal.any()
        assert episode.meta["truncated"]
        assert not episode.success


def test_no_operator_for_a_body_says_which_have_one():
    with hardware.open(RobotConfig(body="pusht:state")) as robot, pytest.raises(UserError, match=r"pusht.*robosuite:Lift, .*fake"):
        operator_for(robot, np.random.default_rng(0))
