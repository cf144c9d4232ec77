"""The gate at the controls: what is flown above the threshold, and that all of it passes the governor."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

import hardware
from hardware import RobotConfig
from hardware.types import Command, Observation, Source
from robolearn.agents.agent import Agent
from robolearn.agents.config import AgentConfig
from robolearn.core.config import from_dict
from robolearn.core.errors import UserError
from robolearn.planning.gate import Gate, GateConfig
from robolearn.runtime.async_pilot import AsyncPilot
from robolearn.runtime.gated_pilot import GatedPilot
from robolearn.runtime.policy_pilot import PolicyPilot
from robolearn.runtime.rollout import rollout
from robolearn.tasks import task_for

BODY = RobotConfig(body="fake:state")
TINY = {
    "preset": "ours",
    "critic": {"width": 8},
    "actor": {"width": 8},
    "model": {"latent": 8, "width": 8, "encoder_width": 8},
    "policy": {"widths": [8, 8, 8], "sample_steps": 2},
    "planner": {"search": {"samples": 4, "proposals": 3, "elites": 3}},
}


class Hand:
    """A person who always says the same."""

    verdict: str | None = None
    asked = 0

    def reset(self) -> None: ...

    def decide(self, observation: Observation) -> Command:
        self.asked += 1
        return Command(observation.time, np.array([-0.6, 1.2], np.float32), Source.HUMAN)


@pytest.fixture(scope="module")
def agent() -> Agent:
    agent = from_dict(AgentConfig, TINY).build(hardware.spec_of(BODY))
    state, action = agent.spec.state, agent.spec.action
    low, high = (np.concatenate([np.array(getattr(part, side)) for part in state.values()]) for side in ("low", "high"))
    agent.state_norm.fit(np.array([low, high]))
    agent.action_norm.fit(np.array([action.low, action.high]))
    assert agent.policy is not None
    agent.policy.fit_normalizers(np.array([low, high]), np.array([action.low, action.high]))
    return agent


def at_rest(agent: Agent) -> dict[str, np.ndarray]:
    return {name: np.zeros(part.dim, np.float32) for name, part in agent.spec.state.items()}


def planner(agent: Agent) -> PolicyPilot:
    return PolicyPilot(agent, 1, source=Source.PLANNER)


def fly(pilot: GatedPilot):
    with hardware.open(BODY) as robot:
        return rollout(robot, pilot, replace(task_for("fake:state"), time_limit_s=1.0), np.random.default_rng(0))


def test_below_the_threshold_the_plan_is_flown(agent):
    pilot = GatedPilot(planner(agent), Gate(GateConfig(), threshold=1e9))
    episode = fly(pilot)
    assert set(episode.source) == {Source.PLANNER}
    assert (episode.notes["gate"] == 0).all()
    assert not pilot.gate.log


def test_above_it_the_robot_holds_and_the_triggers_are_logged(agent):
    pilot = GatedPilot(planner(agent), Gate(GateConfig(patience=3), threshold=-1.0))
    episode = fly(pilot)
    assert set(episode.source) == {Source.NONE}
    assert len(pilot.gate.log) == len(episode)
    joints = episode.state["joint_pos"]
    assert np.abs(joints - joints[0]).max() < 1e-3  # it did not move
    assert (episode.notes["gate"][:3] == 2).all()
    assert (episode.notes["gate"][3:] == 3).all()  # out of patience: it asks, and nobody is there


def test_the_human_is_asked_when_holding_did_not_help(agent):
    hand = Hand()
    episode = fly(GatedPilot(planner(agent), Gate(GateConfig(patience=2), threshold=-1.0), human=hand))
    assert hand.asked == len(episode) - 2
    assert (episode.source[2:] == Source.HUMAN).all()


def test_who_took_over_has_answered(agent):
    pilot = GatedPilot(planner(agent), Gate(GateConfig(patience=0), threshold=-1.0))
    assert set(fly(pilot).notes["gate"]) == {3.0} and pilot.gate.asking
    pilot.forget()
    assert not pilot.gate.asking


def make_strange(pilot: GatedPilot) -> None:
    """Its plans are strange, the policy's own actions are not."""
    planned = pilot.pilot.decide

    def strange(observation: Observation) -> Command:
        command = planned(observation)
        return Command(command.time, command.action, command.source, {**command.notes, "novelty": 0.6, "policy_novelty": 0.4})

    pilot.pilot.decide = strange


def test_a_familiar_action_of_the_policys_own_is_flown_instead_of_a_strange_plan(agent):
    pilot = GatedPilot(planner(agent), Gate(GateConfig(), threshold=0.5))
    make_strange(pilot)
    episode = fly(pilot)
    assert set(episode.source) == {Source.POLICY}


def test_beside_the_loop_too_what_is_judged_belongs_to_the_chunk_that_is_flown(agent):
    """The planner thinks of the next plan meanwhile; its notes and the policy's own actions of before are kept."""
    beside = AsyncPilot(agent, 3, source=Source.PLANNER)  # it asks again at the third decision
    pilot = GatedPilot(beside, Gate(GateConfig(), threshold=0.5))
    make_strange(pilot)
    seen, later = (Observation(time, {}, at_rest(agent)) for time in (0.0, 0.1))
    pilot.reset()
    first = pilot.decide(seen)
    own = beside._chunks[-1].thought.own
    agent.own = torch.full_like(agent.own, 9.0)  # as the next plan leaves it
    assert first.source == Source.POLICY
    np.testing.assert_array_equal(first.action, own[0])
    np.testing.assert_array_equal(pilot.decide(later).action, own[1])
    beside.close()


def test_a_gate_without_a_planner_is_refused():
    plain = AgentConfig().build(hardware.spec_of(BODY))
    with pytest.raises(UserError, match="gate: given, but agent.planner is null"):
        GatedPilot(planner(plain), Gate(GateConfig(), threshold=1.0))
