from __future__ import annotations

import pytest
import torch

from robolearn.agents.agent import Agent
from robolearn.agents.critic import reduced
from robolearn.agents.imagination import Imagination
from robolearn.planning.caution import Caution
from tests.agents.tiny import actions, agent, generator, latents

HEADS, HORIZON, PLANS = 3, 4, 6
DOUBT = Caution(1.0, 1.0, 1.0)


def build(**actor) -> Agent:
    """A world model whose every part says something, and a policy that moves about."""
    built = agent("ours", policy=None, critic={"loss": "mse", "subset": 0}, model={"rewards": "mse"}, actor=actor)
    with torch.no_grad():
        for p in built.parameters():
            p += 0.1 * torch.randn(p.shape, generator=generator(1))
    return built


@pytest.fixture
def made() -> Agent:
    return build()


@torch.no_grad()
def imagined(of: Agent, caution: Caution = DOUBT, terminal: str = "v"):
    return Imagination(of, caution, terminal).imagine(latents(of, 1), actions(PLANS, HORIZON))


@torch.no_grad()
def test_every_head_walks_every_plan_alone(made):
    model, z0, plans = made.model, latents(made, 1), actions(PLANS, HORIZON)
    got = imagined(made)
    for n in range(PLANS):
        z, alive = z0.expand(HEADS, -1), torch.ones(HEADS)
        for h in range(HORIZON):
            a = plans[n, h].expand(HEADS, -1)
            za = torch.cat([z, a], -1)
            reward, ends = model.outcomes(za)
            torch.testing.assert_close(got.reward[:, n, h], reward)
            torch.testing.assert_close(got.alive[:, n, h], alive)
            torch.testing.assert_close(got.q_std[n, h], made.critic(z.mean(0, keepdim=True), a[:1]).std(correction=0))
            alive = alive * (1 - ends)
            z = torch.stack([model.squash(model.dynamics(za.expand(HEADS, -1, -1))[k, k]) for k in range(HEADS)])
            torch.testing.assert_close(got.spread[n, h], z.var(0, correction=0).mean())
        torch.testing.assert_close(got.value[:, n], alive * made.value(z))
    assert got.spread.min() > 0 and got.q_std.shape == (PLANS, HORIZON)


@torch.no_grad()
def test_where_the_policy_goes_on_the_critics_say_what_the_end_is_worth():
    made = build(kind="deterministic", noise=0.0, q_reduce="mean")
    got = imagined(made, terminal="q")
    z = latents(made, 1).expand(HEADS, PLANS, -1)
    alive = torch.ones(HEADS, PLANS)
    for h in range(HORIZON):
        a = actions(PLANS, HORIZON)[:, h].expand(HEADS, -1, -1)
        alive = alive * (1 - made.model.outcomes(torch.cat([z, a], -1))[1])
        z = made.model.step(z, a)
    action = made.actor.net.all(z.flatten(0, 1))[0].tanh().unflatten(0, (HEADS, PLANS))
    torch.testing.assert_close(got.value, alive * reduced(made.critic(z, action), "mean"))
    assert got.q_std.shape == (PLANS, HORIZON + 1)
    torch.testing.assert_close(got.q_std[:, -1], made.critic(z.mean(0), action[0]).std(0, correction=0))


@torch.no_grad()
def test_doubts_that_nobody_asks_for_are_not_computed(made):
    asked = []
    made.critic.online.layers[0].register_forward_hook(lambda *_: asked.append(1))
    bold = imagined(made, Caution(1.0, 0.0, 0.0))
    assert not asked and bold.q_std.eq(0).all() and bold.spread.eq(0).all()
    ends, full = imagined(made, Caution(1.0, 1.0, 1.0, ends_only=True)), imagined(made)
    torch.testing.assert_close(ends.q_std[:, [0, -1]], full.q_std[:, [0, -1]])
    assert len(asked) == 2 and ends.q_std[:, 1:-1].eq(0).all() and full.q_std.min() > 0
    for name in ("reward", "alive", "value"):
        assert torch.equal(getattr(bold, name), getattr(full, name)) and torch.equal(getattr(ends, name), getattr(full, name))


@torch.no_grad()
def test_nothing_is_worth_anything_once_the_episode_is_over(made):
    made.model.outcome.last.weight[..., -1] = 0
    made.model.outcome.last.bias[..., -1] = 50
    got = imagined(made)
    assert got.alive[..., 0].eq(1).all() and got.alive[..., 1:].eq(0).all() and got.value.eq(0).all()


@torch.no_grad()
def test_the_first_proposal_is_the_policys_own_plan_and_the_others_explore(made):
    z0 = latents(made, 1)
    look_ahead = Imagination(made, DOUBT)
    plans = look_ahead.proposals(z0, 5, HORIZON)
    assert plans.shape == (5, HORIZON, 2) and plans.abs().max() <= 1
    made.seed(0)
    assert torch.equal(look_ahead.proposals(z0, 5, HORIZON), plans)
    z = z0
    for h in range(HORIZON):
        torch.testing.assert_close(plans[0, h], made.actor.best(z, generator())[0])
        z = made.model.step(z.expand(HEADS, -1, -1), plans[:1, h].expand(HEADS, -1, -1))[0]
    assert (torch.cdist(plans[:, 0], plans[:, 0]) + torch.eye(5) > 1e-4).all()


@torch.no_grad()
def test_proposals_take_the_heads_by_turns():
    made = build(kind="deterministic", noise=0.0)  # all would be the same plan, if heads agreed
    plans = Imagination(made, DOUBT).proposals(latents(made, 1), 6, HORIZON)
    torch.testing.assert_close(plans[:3], plans[3:])
    torch.testing.assert_close(plans[0, 0], plans[1, 0])
    assert (torch.pdist(plans[:3].flatten(1)) > 1e-2).all()


@torch.no_grad()
def test_the_judge_scores_with_the_agents_own_units(made):
    z, plans = latents(made, 1), actions(PLANS, HORIZON)
    judge = lambda: Imagination(made, Caution(0.0, 1.0, 0.0, margin=0.0)).judge(z, plans).total  # noqa: E731
    one = judge()
    assert one[0] == 0 and one.unique().numel() == PLANS
    made.critic.spread_range.fill_(10.0)
    torch.testing.assert_close(judge(), one / 10)
    dynamics = lambda: Imagination(made, Caution(0.0, 0.0, 1.0, margin=0.0)).judge(z, plans).model_doubt  # noqa: E731
    doubt = dynamics()
    made.model.spread_median.fill_(2.0)
    torch.testing.assert_close(dynamics(), doubt / 2)


@torch.no_grad()
@pytest.mark.parametrize("terminal", ["v", "q"])
@pytest.mark.parametrize("caution", [DOUBT, Caution(0.5, 0.1, 0.1, relative=False), Caution(0.0, 0.1, 0.0, units="raw", ends_only=True)])
def test_asked_for_the_best_it_finds_the_same_ones_with_no_more_work(made, caution, terminal):
    look_ahead, z, plans = Imagination(made, caution, terminal), latents(made, 1), actions(200, HORIZON)
    work = []
    made.critic.online.layers[0].register_forward_hook(lambda _, given, __: work.append(given[0].shape[1]))
    made.seed(0)
    exact = look_ahead.judge(z, plans).total
    asked = {0: sum(work)}
    for elites in (1, 10, 199, 200, 300):
        work.clear()
        made.seed(0)
        got, count = look_ahead.judge(z, plans, elites).total, min(elites, 200)
        assert exact.isfinite().all() and torch.equal(got.topk(count).indices, exact.topk(count).indices)
        torch.testing.assert_close(got.topk(count).values, exact.topk(count).values)
        torch.testing.assert_close(got[0], exact[0])  # the policy's own plan is always known
        known = got.isfinite()
        torch.testing.assert_close(got[known], exact[known])
        asked[elites] = sum(work)
    assert max(asked.values()) == asked[0]
    if caution.critics < 1:  # where the spread can change little, few are asked
        assert asked[10] < 0.7 * asked[0]


def test_an_agent_without_a_model_imagines_nothing():
    with pytest.raises(AssertionError):
        Imagination(agent("iql"), DOUBT)
