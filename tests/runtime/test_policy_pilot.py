"""A policy at the controls, and the pilot contract every pilot keeps."""

import numpy as np
import pytest
import torch

from hardware.testing import PilotContract
from hardware.types import ArraySpec, Observation, RobotSpec, Source
from robolearn.core.types import Policy
from robolearn.data.tensors import observation_window
from robolearn.runtime.policy_pilot import PolicyPilot

JOINTS = ArraySpec(("a", "b"), ("rad", "rad"), (-1.0, -1.0), (1.0, 1.0))
SPEC = RobotSpec("toy", {"top": (4, 6)}, {"joint_pos": JOINTS}, JOINTS, "joint_pos", 10.0)


class Echo(Policy):
    """Remembers what it was shown; row k of its n-th plan is (n + k / 10, noise)."""

    def __init__(self):
        super().__init__()
        self.spec, self.history, self.horizon = SPEC, 3, 5
        self.seen, self.notes = [], {}
        self.seed(0)

    def seed(self, seed):
        self.generator = torch.Generator().manual_seed(seed)

    def act(self, obs):
        self.seen.append(obs)
        self.notes = {"uncertainty": 0.5 * len(self.seen)}
        first = len(self.seen) + torch.arange(self.horizon) / 10
        return torch.stack([first, torch.rand(self.horizon, generator=self.generator)], dim=1)[None]


def look(step):
    return Observation(0.1 * step, {"top": np.full((4, 6, 3), step, np.uint8)}, {"joint_pos": np.full(2, step, np.float32)})


class TestContract(PilotContract):
    def make(self):
        return PolicyPilot(Echo(), chunk=2), SPEC, look(0)


def test_it_executes_a_chunk_then_plans_again_and_notes_say_so():
    policy = Echo()
    pilot = PolicyPilot(policy, chunk=3)
    commands = [pilot.decide(look(i)) for i in range(7)]
    np.testing.assert_allclose([c.action[0] for c in commands], [1, 1.1, 1.2, 2, 2.1, 2.2, 3], atol=1e-6)
    assert [c.notes["chunk_position"] for c in commands] == [0, 1, 2, 0, 1, 2, 0]
    assert [c.notes["uncertainty"] for c in commands] == [0.5, 0.5, 0.5, 1.0, 1.0, 1.0, 1.5]
    assert all(c.notes["inference_ms"] >= 0 and c.source == Source.POLICY for c in commands)
    assert [c.time for c in commands] == [look(i).time for i in range(7)]
    assert commands[0].action.dtype == np.float32


def test_the_policy_sees_every_observation_through_the_training_transform():
    policy = Echo()
    pilot = PolicyPilot(policy, chunk=2)
    looks = [look(i) for i in range(5)]
    for observation in looks:
        pilot.decide(observation)
    for seen, upto in zip(policy.seen, (1, 3, 5), strict=True):
        wanted = observation_window(looks[:upto], SPEC, 3)
        assert torch.equal(seen.state, wanted.state)
        assert torch.equal(seen.images["top"], wanted.images["top"])
    assert policy.seen[0].state[0, :, 0].tolist() == [0, 0, 0]
    assert policy.seen[2].state[0, :, 0].tolist() == [2, 3, 4], "between two plans it looks too"


def test_reset_forgets_the_last_episode():
    policy = Echo()
    pilot = PolicyPilot(policy, chunk=4)
    pilot.decide(look(1)), pilot.decide(look(2))
    pilot.reset()
    command = pilot.decide(look(9))
    assert command.notes["chunk_position"] == 0
    assert policy.seen[-1].state[0, :, 0].tolist() == [9, 9, 9]


def test_a_seed_repeats_the_policys_noise():
    pilot = PolicyPilot(Echo(), chunk=1, seed=3)

    def fly():
        pilot.seed(3)
        pilot.reset()
        return [pilot.decide(look(i)).action[1] for i in range(4)]

    first = fly()
    assert first == fly()
    pilot.seed(4)
    assert first != [pilot.decide(look(i)).action[1] for i in range(4)]


def test_more_actions_than_the_policy_predicts_are_refused():
    with pytest.raises(ValueError, match="8 actions per inference; the policy predicts 5"):
        PolicyPilot(Echo(), chunk=8)
