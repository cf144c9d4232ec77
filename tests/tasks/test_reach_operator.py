"""The fake arm's operator does its job, in its own time, and repeats itself only when asked to."""

from __future__ import annotations

import numpy as np

import hardware
from hardware import RobotConfig
from hardware.types import Source
from robolearn.runtime.rollout import rollout
from robolearn.tasks import operator_for, task_for


def episode(seed: int):
    with hardware.open(RobotConfig(body="fake")) as robot:
        return rollout(robot, operator_for(robot, np.random.default_rng(seed)), task_for("fake"), np.random.default_rng(seed + 100))


def test_it_touches_the_target_and_is_recorded_as_scripted():
    episodes = [episode(seed) for seed in range(8)]
    assert sum(e.success for e in episodes) >= 7
    assert all((e.source == Source.SCRIPTED).all() for e in episodes)
    assert len({len(e) for e in episodes}) > 2  # at its own speed


def test_the_same_seed_repeats_the_episode():
    a, b, c = episode(1), episode(1), episode(2)
    np.testing.assert_array_equal(a.action, b.action)
    assert a.action.shape != c.action.shape or (a.action != c.action).any()
