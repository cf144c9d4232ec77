"""The operators of Can and Square: careful ones do it every time, hasty ones fail for reasons of their own, and the arm is never forced."""

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

CAN, SQUARE = "robosuite:PickPlaceCan", "robosuite:NutAssemblySquare:pose"
CAREFUL = HandStyle(aim_error=0.001, misjudge_chance=0.0, noise_share=0.02, noise_floor=0.001, speed=(0.19, 0.2), hover=(0.04, 0.05))


@cache
def scene(environment: str):
    return start(environment)


def fly(body: str, seed: int, style: HandStyle) -> tuple[Episode, list[str]]:
    phases: list[str] = []
    with assemble(RobotConfig(body=body, cameras=()), scene(body.split(":")[1])) as robot:
        operator = operator_for(robot, np.random.default_rng(seed))
        operator.style = style
        operator.reset()
        episode = rollout(robot, operator, task_for(body), np.random.default_rng(seed), lambda step: phases.append(operator.phase))
    return episode, phases


@pytest.mark.parametrize("body", [CAN, SQUARE])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_a_careful_one_puts_it_there_without_the_governor_having_to_step_in(body, seed):
    episode, phases = fly(body, seed, CAREFUL)
    assert episode.success
    assert list(dict.fromkeys(phases))[:6] == ["approach", "down", "close", "lift", "carry", "lower"]
    assert (episode.source == Source.SCRIPTED).all()
    assert not episode.meta["interventions"]


@pytest.mark.parametrize("body", [CAN, SQUARE])
def test_one_who_closes_beside_it_notices_and_gives_up(body):
    style = HandStyle(misjudge_chance=1.0, misjudge_error=(0.12, 0.13), give_up_chance=1.0)
    episode, phases = fly(body, 0, style)
    assert not episode.success
    assert phases[-1] == "give up"
    assert episode.meta["truncated"]


def test_a_can_that_is_lost_on_the_way_is_fetched_again():
    body = CAN
    with assemble(RobotConfig(body=body, cameras=()), scene("PickPlaceCan")) as robot:
        operator = operator_for(robot, np.random.default_rng(0))
        operator.style = HandStyle(**{**vars(CAREFUL), "give_up_chance": 0.0})
        operator.reset()
        attempts, begin = [], operator._begin_attempt
        operator._begin_attempt = lambda: (attempts.append(operator.phase), begin())
        decide, dropped = operator.decide, []

        def clumsy(observation):
            command = decide(observation)
            if operator.phase == "lift" and len(dropped) < 8:
                dropped.append(command.time)
                command.action[-1] = 1.0  # the fingers open for most of a second
            return command

        operator.decide = clumsy
        episode = rollout(robot, operator, task_for(body), np.random.default_rng(0))
    assert attempts[0] == "approach"  # the episode's beginning
    assert "lift" in attempts[1:]
    assert episode.success


@pytest.mark.long
@pytest.mark.parametrize("body", [CAN, SQUARE])
def test_they_succeed_about_as_often_as_a_person_learning_to_teleoperate(body):
    episodes = [fly(body, seed, HandStyle())[0] for seed in range(12)]
    assert 5 <= sum(e.success for e in episodes) <= 11
    assert not any(e.meta["stopped"] for e in episodes)
