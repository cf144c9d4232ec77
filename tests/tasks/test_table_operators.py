"""The operators of Reach and Push do it nearly every time, in their own time, and force nothing past the governor."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest

import hardware
from hardware import RealConfig, RobotConfig
from hardware.mujoco.robosuite import assemble, start
from hardware.testing import LimitProbe
from hardware.types import Source
from robolearn.core.errors import UserError
from robolearn.data.episode import Episode
from robolearn.runtime.rollout import rollout
from robolearn.tasks import operator_for, task_for
from robolearn.tasks.hand import HandStyle

REACH, PUSH = "robosuite:Reach:state", "robosuite:Push:state"


@cache
def scene(environment: str):
    return start(environment)


def fly(body: str, seed: int, style: HandStyle | None = None) -> tuple[Episode, list[str], LimitProbe]:
    phases: list[str] = []
    with assemble(RobotConfig(body=body), scene(body.split(":")[1])) as robot:
        probe = LimitProbe.attach(robot)
        operator = operator_for(robot, np.random.default_rng(seed))
        operator.style = style or operator.style
        episode = rollout(robot, operator, task_for(body), np.random.default_rng(seed), lambda step: phases.append(operator.phase))
    return episode, phases, probe


@pytest.mark.parametrize("body", [REACH, PUSH])
def test_they_succeed_in_most_episodes_within_every_limit(body):
    flown = [fly(body, seed) for seed in range(5)]
    assert sum(episode.success for episode, _, _ in flown) >= 4
    assert len({len(episode) for episode, _, _ in flown}) > 2
    for episode, _, probe in flown:
        assert (episode.source == Source.SCRIPTED).all()
        assert not episode.meta["stopped"]
        assert probe.setpoints >= 10 * len(episode)
        assert not probe.violations


@pytest.mark.parametrize("arm", ["ur5e", "so101"])
def test_the_same_operator_reaches_with_a_real_arm_in_simulation(arm):
    won = []
    with hardware.open(RobotConfig(f"reach:{arm}", cameras=())) as robot:
        for seed in range(6):
            operator = operator_for(robot, np.random.default_rng([seed, 1]))
            episode = rollout(robot, operator, task_for(f"reach:{arm}"), np.random.default_rng(seed))
            assert (episode.source == Source.SCRIPTED).all()
            assert not episode.meta["stopped"]
            won.append(episode.success)
    assert sum(won) >= 4


def test_it_needs_steps_of_the_tool_and_a_simulator():
    joints = RobotConfig("reach:so101", arm=RealConfig())
    with hardware.open(joints) as robot:
        with pytest.raises(UserError, match="robot.arm.actions: joint_pos; the scripted operator of reach:so101 needs ee_delta"):
            operator_for(robot, np.random.default_rng(0))
        robot.world = None
        with pytest.raises(UserError, match="needs a simulator's state, 'so101' has none; valid: a person's device, or reach:so101"):
            operator_for(robot, np.random.default_rng(0))


def test_the_cube_is_pushed_not_carried_and_comes_nearer_its_disc():
    episode, phases, _ = fly(PUSH, 2)
    assert episode.success
    assert list(dict.fromkeys(phases))[:3] == ["approach", "down", "push"]
    assert episode.action[:, 3].max() == 0.0
    assert episode.state["cube_pos"][:, 2].max() < 0.84
    way = np.linalg.norm(episode.state["cube_pos"][:, :2] - episode.state["goal_pos"][:, :2], axis=1)
    assert way[0] > 0.1 and way[-1] < 0.07


def test_the_same_seed_repeats_the_episode_and_another_does_not():
    first, again, other = (fly(REACH, seed)[0] for seed in (3, 3, 4))
    np.testing.assert_array_equal(first.action, again.action)
    np.testing.assert_array_equal(first.state["goal_pos"], again.state["goal_pos"])
    assert (first.state["goal_pos"][0] != other.state["goal_pos"][0]).all()


def test_a_hand_that_stops_beside_the_ball_notices_and_gives_up():
    episode, phases, _ = fly(REACH, 0, HandStyle(misjudge_chance=1.0, misjudge_error=(0.06, 0.07), give_up_chance=1.0))
    assert not episode.success
    assert phases[-1] == "give up"
    assert episode.meta["truncated"]
    assert len(episode) == 50
