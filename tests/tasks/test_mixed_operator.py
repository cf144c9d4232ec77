"""Mixed quality: one skill per episode, from failures to clean work, repeatable, and still nothing but commands to the governor."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest

import hardware
from hardware import RobotConfig
from hardware.mujoco.robosuite import assemble, start
from hardware.testing import LimitProbe, PilotContract
from hardware.types import Source
from robolearn.core.errors import UserError
from robolearn.data.episode import Episode
from robolearn.runtime.rollout import rollout
from robolearn.tasks import MixedOperator, operator_for, task_for

BODY = "robosuite:Reach:state"


@cache
def scene():
    return start("Reach")


def mixed(robot, seed: int) -> MixedOperator:
    rng = np.random.default_rng([seed, 1])
    return MixedOperator(operator_for(robot, rng), robot, rng)


def fly(seed: int) -> tuple[Episode, float]:
    with assemble(RobotConfig(body=BODY), scene()) as robot:
        probe, operator = LimitProbe.attach(robot), mixed(robot, seed)
        episode = rollout(robot, operator, task_for(BODY), np.random.default_rng(seed))
    assert not probe.violations
    assert not episode.meta["stopped"]
    return episode, operator.skill


class TestMixed(PilotContract):
    def make(self):
        with assemble(RobotConfig(body=BODY), scene()) as robot:
            robot.reset(np.random.default_rng(0))
            return mixed(robot, 0), robot.spec, robot.observe()


@cache
def flown() -> list[tuple[Episode, float]]:
    return [fly(seed) for seed in range(20)]


def test_there_are_successes_and_failures_and_the_skilful_have_more_of_the_former():
    success, skill = np.array([e.success for e, _ in flown()]), np.array([skill for _, skill in flown()])
    assert 0.25 < success.mean() < 0.8
    assert skill.min() < 0.2 and skill.max() > 0.8
    assert success[skill > 0.5].mean() > success[skill < 0.5].mean() + 0.2
    assert all((e.source == Source.SCRIPTED).all() for e, _ in flown())


def test_the_seed_decides_skill_and_every_action():
    (first, skill), (again, same) = flown()[2], fly(2)
    assert skill == same
    np.testing.assert_array_equal(first.action, again.action)
    assert skill != flown()[3][1]


def test_the_clumsy_idle_give_up_and_waver_and_an_expert_is_the_operator_itself():
    with assemble(RobotConfig(body=BODY), scene()) as robot:
        robot.reset(np.random.default_rng(0))
        seen = robot.observe()
        stops, strays = [], []
        for clumsy in (0.0, 1.0):
            operator = mixed(robot, 5)
            operator._clumsy, operator._drift = clumsy, operator._drift * clumsy
            operator._patience_s = np.inf
            wanted = []
            decide = operator.operator.decide
            operator.operator.decide = lambda observation, decide=decide, wanted=wanted: wanted.append(decide(observation)) or wanted[-1]
            done = []
            for k in range(60):
                done.append(operator.decide(type(seen)(seen.time + 0.1 * k, seen.images, seen.state)).action[:3])
            stops.append(int((np.abs(done).max(axis=1) == 0).sum()))
            strays.append(float(np.abs(np.array(done) - [command.action[:3] for command in wanted]).max()))
        assert stops[0] == 0 and strays[0] < 1e-7
        assert stops[1] >= 3 and strays[1] > 0.003
        assert operator.decide(type(seen)(seen.time + 6.0, seen.images, seen.state)).source == Source.SCRIPTED


def test_actions_that_are_positions_are_refused_in_one_line():
    with hardware.open(RobotConfig(body="fake")) as robot, pytest.raises(UserError, match="mixed needs a body whose actions are steps"):
        mixed(robot, 0)
