from __future__ import annotations

import copy
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import pytest
import torch
from torch import nn

from robolearn.agents.agent import Agent
from robolearn.agents.config import AgentConfig
from robolearn.core.checkpoint import load_policy, save_checkpoint
from robolearn.core.errors import UserError
from robolearn.core.types import Obs
from robolearn.models.encoders.base import CameraEncoder, EncoderConfig
from tests.agents.tiny import HIGH, IN_SAMPLE, LOW, SPEC, agent, config, generator, latents, look, say

KINDS = ("gaussian", "deterministic", "diffusion", "edit")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("candidates", [1, 3])
def test_actions_are_in_the_robots_units_and_range_and_a_seed_repeats_them(kind, candidates):
    made = agent(actor={"kind": kind, "candidates": candidates, "denoise": 2})
    for explore in (False, True):
        made.explore = explore
        made.seed(3)
        action = made.act(look(40))
        assert action.shape == (40, 1, 2) and action.dtype == torch.float32 and not action.requires_grad
        assert (action >= torch.tensor(LOW) - 1e-6).all() and (action <= torch.tensor(HIGH) + 1e-6).all()
        made.seed(3)
        assert torch.equal(made.act(look(40)), action)


def test_the_middle_of_the_normalised_range_is_the_middle_of_the_robots():
    made = agent(actor={"kind": "deterministic"})
    for said, expected in ((0.0, [0.0, 0.1]), (50.0, HIGH), (-50.0, LOW)):
        say(made.actor.net, said)
        torch.testing.assert_close(made.act(look(1))[0, 0], torch.tensor(expected))


def test_exploring_is_noisy_and_flying_is_not():
    for kind in ("gaussian", "deterministic"):
        made = agent(actor={"kind": kind})
        still = [made.act(look()) for _ in range(2)]
        assert torch.equal(*still)
        made.explore = True
        assert not torch.equal(made.act(look()), made.act(look()))


class Opinion(nn.Module):
    """Two critics: one likes 3 a, the other -a. Their mean is a, their spread 2 |a|."""

    def forward(self, z, action, target=False, heads=None):
        return torch.stack([3 * action[..., 0], -action[..., 0]])


@pytest.mark.parametrize(
    ("fields", "explore", "likes"),
    [
        ({"actor": {"q_reduce": "mean"}}, False, lambda a: a),
        ({"actor": {"q_reduce": "min"}}, False, lambda a: torch.minimum(3 * a, -a)),
        ({"actor": {"q_reduce": "lcb"}, "critic": {"level": [3.0, 0.0]}}, False, lambda a: a - 6 * a.abs()),
        ({"actor": {"q_reduce": "quantile"}, "critic": {"level": [0.0, 1.0]}}, False, lambda a: torch.minimum(3 * a, -a)),
        ({"actor": {"q_reduce": "mean", "ucb": 2.0}}, True, lambda a: a + 4 * a.abs()),
        ({"actor": {"q_reduce": "mean", "ucb": 2.0}}, False, lambda a: a),
    ],
)
def test_of_candidates_the_one_flies_that_critics_like_best(fields, explore, likes):
    made = agent(**{**fields, "actor": {**fields["actor"], "candidates": 16}})
    made.critic = Opinion()
    z = latents(made, 6)
    candidates = made.candidates(z, 16)
    assert candidates.shape == (16, 6, 2)
    made.seed(0)
    chosen = made.propose(z, explore)
    best = likes(candidates[..., 0]).argmax(0)
    torch.testing.assert_close(chosen, candidates[best, torch.arange(6)])


def test_an_edit_actors_candidates_come_with_and_without_their_edit():
    made = agent(actor={"kind": "edit", "candidates": 4, "edit": 0.2, "denoise": 2})
    drawn = made.candidates(latents(made, 6), 4)
    assert drawn.shape == (8, 6, 2)
    assert 0 < (drawn[4:] - drawn[:4]).abs().max() <= 0.2 + 1e-6


def test_it_sees_windows_of_its_history():
    made = agent(history=3)
    obs = look(2, history=5)
    windows = made.inputs(obs)
    x = made.state_norm.normalize(obs.state)
    assert windows.shape == (2, 3, 6) and made.latent == 6
    for c in range(3):
        torch.testing.assert_close(windows[:, c], x[:, c : c + 3].flatten(1))
    last = Obs({}, obs.state[:, 2:])
    made.explore = False
    assert torch.equal(made.act(obs), made.act(last))


@dataclass(frozen=True)
class MeanColourConfig(EncoderConfig):
    tune: Literal["full", "last", "lora", "none"] = "none"

    def build(self, cameras):
        return MeanColour(cameras, self)


class MeanColour(CameraEncoder):
    """The mean of red, green and blue."""

    def __init__(self, cameras, config):
        super().__init__(cameras, config)
        self.out_dim, self.weight = 3, nn.Parameter(torch.ones(()))

    def encode(self, camera, images):
        return images.mean((-1, -2)) * self.weight


def test_cameras_are_seen_through_a_frozen_encoder_or_its_cached_features():
    spec = replace(SPEC, cameras={"front": (4, 4), "wrist": (4, 4)})
    made = AgentConfig(encoder=MeanColourConfig(), cameras=("front",)).build(spec)
    assert list(made.spec.cameras) == ["front"] and made.latent == 5 and made.encoder is not None
    assert not any(p.requires_grad for p in made.encoder.parameters())
    for norm, dim in ((made.state_norm, 2), (made.feature_norm, 3), (made.action_norm, 2)):
        assert norm is not None
        norm.fit(torch.randn(50, dim, generator=generator()))
    frames = torch.randint(256, (2, 1, 3, 4, 4), dtype=torch.uint8, generator=generator())
    obs = Obs({"front": frames}, look(2).state)
    cached = Obs({}, obs.state, frames.float().mean((-1, -2)) / 255)
    torch.testing.assert_close(made.inputs(obs), made.inputs(cached))
    torch.testing.assert_close(made.act(obs), made.act(cached))
    with pytest.raises(UserError, match="^agent: encoder.tune"):
        AgentConfig(encoder=MeanColourConfig(tune="full")).build(spec)


def test_a_policy_told_its_beta_needs_a_value_whatever_the_target():
    made = agent("famo2o")
    assert made.value is not None and made.beta is not None and made.actor.net.layers[0].weight.shape[1] == 2 + made.beta.told
    assert agent(actor={"betas": [1, 5], "q": [0, 0], "bc": [1, 1]}).value is not None
    assert agent().value is None and agent("awac").value is None and agent("iql").value is not None


def planning(**fields) -> Agent:
    return agent("ours", **fields)


def test_a_planner_flies_what_it_found_says_why_and_repeats():
    made = planning()
    made.release.fill_(1.0)
    action = made.act(look(1))
    assert action.shape == (1, 3, 2) and set(made.notes) >= {"uncertainty", "critic_doubt", "gain", "own_plan", "iterations"}
    assert all(np.isfinite(v) for v in made.notes.values()) and made.notes["iterations"] == 2
    made.reset()
    made.seed(0)
    assert torch.equal(made.act(look(1)), action)


def test_without_a_better_plan_it_flies_the_policys_own():
    made = planning(planner={"caution": {"dynamics": 0.0}})
    made.act(look(1))  # rewards and values begin at nothing: no plan is better than another
    assert made.notes["own_plan"] == 1 and made.notes["gain"] == 0


def test_rows_of_a_batch_are_planned_apart():
    made = agent("tdmpc2")  # its search begins with the last plan
    made.reset()
    both = made.act(look(2))
    made.reset()
    made.seed(0)
    torch.testing.assert_close(made.act(Obs({}, look(2).state[:1])), both[:1])
    made.reset()
    second = made.act(Obs({}, look(2).state[1:]))
    torch.testing.assert_close(second, both[1:])


def test_an_episode_begins_without_the_last_ones_plan():
    made = agent("tdmpc2")
    first = made.act(look(1))
    made.seed(0)
    assert not torch.equal(made.act(look(1)), first)
    made.reset()
    made.seed(0)
    assert torch.equal(made.act(look(1)), first)


def test_a_planner_without_a_ramp_is_free_from_the_start():
    assert float(agent("fowm").release) == 1 and float(agent("ours").release) == 0


@pytest.mark.parametrize("preset", ["ours", "iql", "expo", "selfi"])
def test_a_checkpoint_brings_the_same_agent_back(tmp_path, preset):
    made = agent(preset)
    with torch.no_grad():
        for p in made.parameters():
            p += 0.01 * torch.randn(p.shape, generator=generator())
    made.online.fill_(True)
    made.release.fill_(0.5)
    if made.critic.base is not None:
        made.critic.rebase()
    save_checkpoint(tmp_path / "policy.pt", made, made.config)
    back = load_policy(tmp_path / "policy.pt", SPEC)
    assert isinstance(back, Agent) and back.config == made.config and bool(back.online) and float(back.release) == 0.5
    for explore in (False, True):
        for each in (made, back):
            each.seed(7)
            each.reset()
            each.explore = explore
        assert torch.equal(made.act(look(1)), back.act(look(1)))
    z, a = latents(made), torch.zeros(5, 2)
    assert torch.equal(made.critic(z, a), back.critic(z, a))


def test_half_precision_says_nearly_the_same():
    made = agent("ours", policy=None)
    z = latents(made)
    with torch.no_grad(), made.precision:
        exact = made.actor.best(z, generator())
    half = copy.deepcopy(made)
    half.config = config("ours", policy=None, update={"precision": "bfloat16"})
    with torch.no_grad(), half.precision:
        rough = half.actor.best(z, generator())
    assert not torch.equal(rough, exact) and (rough - exact).abs().max() < 0.05
    assert half.act(look(1)).dtype == torch.float32


def test_wide_nets_alone_are_halved_where_the_processor_likes_it(monkeypatch):
    monkeypatch.setattr("robolearn.models.precision.has_bfloat16", lambda device: True)
    halved = lambda width: agent(critic={"width": width}).precision._enabled  # noqa: E731
    assert halved(256) and not halved(255)


def test_a_world_that_does_not_do_what_was_expected_surprises():
    of = agent("fowm")
    seen, still = look(1), torch.zeros(2)
    of.act(seen)
    assert of.notes["surprise"] == 0  # nothing was expected yet
    of.executed(still)  # what was executed counts, not what was asked for
    assert of._before is not None and of.model is not None
    z = of._before[0]
    expected = of.model.error(z, of.action_norm.normalize(still).view(1, 1, 2), z)
    of.act(seen)  # nothing moved
    torch.testing.assert_close(torch.tensor(of.notes["surprise"]), expected[0] / of.model.error_median[0])
    assert of.notes["novelty"] >= of.notes["surprise"]
    of.executed(still)
    of.reset()
    of.act(seen)
    assert of.notes["surprise"] == 0


def chunked(**fields):
    return agent(**{**IN_SAMPLE, "policy": {}, **fields})


def test_with_a_chunk_policy_it_answers_with_the_policys_chunks_and_a_seed_repeats_them():
    made = chunked(history=2)
    assert made.policy is not None and made.horizon == made.policy.horizon == 4
    made.seed(5)
    chunks = made.act(look(3, 2))
    made.policy.seed(6)  # the agent's seed and one more: their draws are not the same numbers
    assert torch.equal(chunks, made.policy.act(look(3, 2)))
    assert chunks.shape == (3, 4, 2)


def test_a_planner_begins_with_the_policys_chunks_and_answers_with_as_many_actions_as_it_looks_ahead():
    made = chunked(model={}, planner={"search": {"execute": "best", "iterations": 0}, "caution": {"critics": 0, "dynamics": 0}})
    assert made.policy is not None
    made.seed(5)  # rewards and values begin at nothing: no plan is better than another
    plan = made.act(look(1))
    made.policy.seed(6)
    assert plan.shape == (1, 3, 2) and made.notes["own_plan"] == 1
    torch.testing.assert_close(plan, made.policy.sample(look(1), 4)[:, 0, :3])


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"critic": {"target": "policy"}}, "agent: policy: given, and critic.target: policy"),
        ({"actor": {"q": [1, 1]}}, "agent: policy: given; actor.q, density"),
        (
            {"actor": {**IN_SAMPLE["actor"], "advantage": "policy"}},
            "agent: policy: given, and actor.advantage: policy; valid value, return",
        ),
        ({"policy": {"goal": "state"}}, "agent: policy.goal: state"),
        ({"policy": {"history": 3}}, "agent.policy.history: 3, but agent.history: 1"),
        (
            {"model": {}, "planner": {"search": {"horizon": 5}}},
            "agent: planner.search.horizon: 5 decisions; its policy proposes",
        ),
        ({"model": {}, "planner": {"terminal": "q"}}, "agent: policy: given, and planner.terminal: q; valid v"),
    ],
)
def test_what_a_chunk_policy_does_not_go_with_is_refused_in_one_line(fields, message):
    with pytest.raises(UserError) as error:
        chunked(**fields)
    assert str(error.value).startswith(message)


def test_a_policy_begins_anew_with_the_units_and_the_eyes_it_had():
    made = chunked()
    assert made.policy is not None
    before = {name: value.clone() for name, value in made.policy.state_dict().items()}
    made.new_actor()
    after = made.policy.state_dict()
    kept = {name for name in before if torch.equal(before[name], after[name])}
    assert {name for name in before if name.startswith(("state_norm", "action_norm", "limit"))} <= kept
    assert not any(name.endswith("weight") and value.ndim > 1 and name in kept for name, value in before.items())


def test_surprise_walks_through_all_that_was_done_since_the_last_plan():
    made = chunked(model={}, planner={"search": {"horizon": 2}})
    assert made.model is not None
    made.act(look(1))
    assert made.notes["surprise"] == 0.0  # nothing was expected
    done = [torch.tensor([0.1, 0.0]), torch.tensor([-0.1, 0.2])]
    z = made.encode(made.inputs(look(1)))[:, -1]
    now = made.encode(made.inputs(look(1, seed=1)))[:, -1]
    for action in done:
        made.executed(action)
    made.model.error_median.copy_(torch.tensor([1.0, 0.5]))
    expected = made.model.error(z, made.action_norm.normalize(torch.stack(done))[None], now) / 0.5
    made.act(look(1, seed=1))
    assert made.notes["surprise"] == pytest.approx(float(expected))
    for _ in range(3):  # more than a plan has
        made.executed(done[0])
    made.act(look(1))
    assert made.notes["surprise"] == 0.0
