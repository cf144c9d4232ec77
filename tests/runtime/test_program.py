"""A program answers as its policy does, given the noise that the policy drew; as a graph, too."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from robolearn.models.encoders.cnn import SmallCnnConfig
from robolearn.policies.act import ActConfig
from robolearn.policies.bc_gmm import BcGmmConfig
from robolearn.policies.bc_rnn import BcRnnConfig
from robolearn.policies.decision_transformer import DecisionTransformerConfig
from robolearn.policies.diffusion import DiffusionConfig
from robolearn.policies.flow import FlowConfig
from robolearn.policies.hbc import HbcConfig
from robolearn.policies.masked_trajectory import MaskedTrajectoryConfig
from robolearn.policies.replay import ReplayConfig
from robolearn.policies.vinn import VinnConfig
from robolearn.runtime.program import Draws, Program, observation
from robolearn.testing import PolicyContract

CNN = SmallCnnConfig(channels=(8,), strides=(2,), keypoints=4)
SMALL = {"horizon": 4, "widths": (8, 16)}
POLICIES = {
    "act": ActConfig(horizon=4, width=16, heads=2),
    "bc_gmm": BcGmmConfig(horizon=4),
    "bc_rnn": BcRnnConfig(history=3, horizon=1),
    "diffusion": DiffusionConfig(**SMALL, sample_steps=2, encoder=CNN, goal="image"),
    "ddpm": DiffusionConfig(**SMALL, train_steps=5, sample_steps=3, sampler="ddpm", goal="state"),
    "dit": DiffusionConfig(**SMALL, net="dit", width=16, layers=1, heads=2, sample_steps=2, sampler="dpm"),
    "flow": FlowConfig(**SMALL, encoder=CNN, cameras=("wrist",)),
    "hbc": HbcConfig(horizon=4),
    "decision_transformer": DecisionTransformerConfig(history=3, horizon=2, width=16, heads=2),
    "masked_trajectory": MaskedTrajectoryConfig(history=3, horizon=2, width=16, heads=2, goal="state"),
    "replay": ReplayConfig(horizon=4),
    "vinn": VinnConfig(horizon=4),
}


def made(name: str):
    class Contract(PolicyContract):
        config = POLICIES[name]

    contract = Contract()
    policy = contract.build()
    if policy.learns_by == "memory":
        policy.memorize(contract.batch(64))
    return policy


@pytest.mark.parametrize("name", POLICIES)
def test_with_the_noise_that_was_drawn_it_gives_the_same_actions(name):
    policy = made(name)
    program = Program(policy, batch=2)
    inputs = program.seen(np.random.default_rng(1))
    policy.seed(5)
    with Draws() as draws:
        wanted = policy.act(observation(inputs))
    torch.testing.assert_close(program(inputs | draws.made), wanted, rtol=0, atol=1e-6)
    if not draws.made or "chance_0" not in draws.made:  # a choice is read off a uniform number, and so another one
        policy.seed(5)
        torch.testing.assert_close(policy.act(observation(inputs)), wanted, rtol=0, atol=1e-6)


@pytest.mark.filterwarnings("ignore:The tensor attributes self.policy.rnn:UserWarning")
@pytest.mark.parametrize("name", POLICIES)
def test_the_graph_computes_what_it_does(name):
    program = Program(made(name))
    first, second = (program.example(np.random.default_rng(seed)) for seed in (1, 2))
    with torch.no_grad():
        graph = torch.export.export(program, (first,)).module()
    for inputs in (first, second):
        torch.testing.assert_close(graph(inputs), program(inputs), rtol=1e-5, atol=1e-6)
    assert not torch.equal(graph(first), graph(second))


def test_a_choice_is_as_likely_as_its_weight():
    weights = torch.tensor([[1.0, 0.0, 3.0], [0.0, 2.0, 2.0]])
    with Draws() as draws:
        picked = torch.multinomial(weights, 4000, replacement=True, generator=torch.Generator().manual_seed(0))
    shares = torch.stack([(picked == k).float().mean(-1) for k in range(3)], dim=-1)
    torch.testing.assert_close(shares, weights / 4, atol=0.03, rtol=0)
    assert list(draws.made) == ["chance_0"] and shares[0, 1] == shares[1, 0] == 0


def test_the_largest_number_below_one_picks_the_last_that_may_be_picked():
    with Draws({"chance_0": torch.full((1, 1), 1 - 2**-24)}):
        assert torch.multinomial(torch.full((1, 7), 1 / 7), 1).item() == 6
    with Draws({"chance_0": torch.zeros(1, 1)}):
        assert torch.multinomial(torch.tensor([[0.0, 1.0]]), 1).item() == 1


def test_other_randomness_and_the_policy_s_own_draws_are_left_alone():
    policy = made("diffusion")
    before = policy.generator.get_state()
    program = Program(policy)
    program(program.example(np.random.default_rng(0)))
    state = policy.generator.get_state()
    program(program.example(np.random.default_rng(1)))
    assert torch.equal(policy.generator.get_state(), state) and torch.equal(before, state)
