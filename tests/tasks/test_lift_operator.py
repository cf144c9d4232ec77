"""The scripted Lift operator: mostly lifts the cube, sometimes fails, always for a reason drawn from its own generator."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest

from hardware import RobotConfig
from hardware.mujoco.robosuite import assemble, start
from hardware.types import Source
from robolearn.data.episode import Episode
from robolearn.runtime.rollout import rollout
from robolearn.tasks import operator_for, task_for
from robolearn.tasks.hand import HandStyle
from robolearn.tasks.lift_operator import LiftOperator


@cache
def scene():
    return start("Lift")


def fly(seed: int, style: HandStyle | None = None, rate_hz: float = 10.0) -> tuple[Episode, LiftOperator]:
    with assemble(RobotConfig(cameras=(), rate_hz=rate_hz), scene()) as robot:
        operator = LiftOperator(robot, np.random.default_rng(seed), style)
        return rollout(robot, operator, task_for("robosuite:Lift"), np.random.default_rng(seed + 100)), operator


CAREFUL = HandStyle(aim_error=0.001, misjudge_chance=0.0, noise_share=0.02, noise_floor=0.001)


def test_an_operator_who_never_misjudges_lifts_every_time():
    episodes = [fly(seed, CAREFUL)[0] for seed in range(5)]
    assert all(e.success for e in episodes)
    assert all(e.terminal[-1] and not e.terminal[:-1].any() for e in episodes)
    assert all(e.reward[-1] == 1.0 and e.reward[0] < 0.5 for e in episodes)
    assert all((e.source == Source.SCRIPTED).all() for e in episodes)
    assert len({len(e) for e in episodes}) > 1


def test_it_is_as_good_at_twice_the_rate():
    episode, _ = fly(0, CAREFUL, rate_hz=20.0)
    assert episode.success
    assert len(episode) == pytest.approx(2 * len(fly(0, CAREFUL)[0]), rel=0.5)


def test_one_who_always_misjudges_and_gives_up_fails_and_runs_out_of_time():
    style = HandStyle(misjudge_chance=1.0, misjudge_error=(0.05, 0.06), give_up_chance=1.0)
    episode, operator = fly(0, style)
    assert not episode.success
    assert operator.phase == "give up"
    assert episode.meta["truncated"]
    assert len(episode) == 80


def test_one_who_misjudges_first_and_corrects_himself_still_lifts():
    class Learns(LiftOperator):
        attempts = 0

        def reset(self):
            super().reset()
            self.attempts = 1
            self._error = np.array([0.05, 0.0])  # the fingers close beside the cube

        def _begin_attempt(self):
            super()._begin_attempt()
            self.attempts += 1
            self._error = np.zeros(2)

    with assemble(RobotConfig(cameras=()), scene()) as robot:
        operator = Learns(robot, np.random.default_rng(3), HandStyle(speed=(0.19, 0.2), grip_s=(0.3, 0.3), give_up_chance=0.0))
        episode = rollout(robot, operator, task_for("robosuite:Lift"), np.random.default_rng(1))
        assert operator.attempts == 2
        assert episode.success
        gripper = episode.action[:, 3] > 0.5
        assert (np.diff(gripper.astype(int)) != 0).sum() >= 3  # closed on nothing, opened, closed on the cube


def test_the_default_hand_is_unsteady_and_no_two_episodes_are_alike():
    first, again, other = fly(5)[0], fly(5)[0], fly(6)[0]
    np.testing.assert_array_equal(first.action, again.action)
    np.testing.assert_array_equal(first.state["joint_pos"], again.state["joint_pos"])
    length = min(len(first), len(other))
    assert (first.action[:length] != other.action[:length]).any()
    wobble = np.diff(first.requested_action[:, :3], axis=0)
    assert np.abs(wobble).max() > 1e-3


def test_it_is_the_one_operator_for_gives_for_lift_and_needs_the_simulator():
    robot = assemble(RobotConfig(cameras=()), scene())
    assert isinstance(operator_for(robot, np.random.default_rng(0)), LiftOperator)
    robot.world = None
    with pytest.raises(ValueError, match="no world"):
        LiftOperator(robot, np.random.default_rng(0))


@pytest.mark.slow
def test_it_succeeds_about_as_often_as_a_person_learning_to_teleoperate():
    episodes = [fly(seed)[0] for seed in range(24)]
    assert 16 <= sum(e.success for e in episodes) <= 23  # 83 % over 120
    assert 30 <= np.mean([len(e) for e in episodes]) <= 60
    assert not any(e.meta["stopped"] for e in episodes)
