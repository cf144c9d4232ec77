from __future__ import annotations

import copy
import math

import pytest
import torch
from torch import Tensor

from hardware.types import Source
from robolearn.agents.agent import Agent
from robolearn.learners.rl.actor_loss import ActorLoss
from robolearn.learners.rl.density import ActionDensity
from tests.agents.tiny import actions, agent, generator, latents, say
from tests.learners.rl.rows import batch

N = 8


def lossof(made: Agent, phase: float = 0.0, density: ActionDensity | None = None, **changes: Tensor):
    """(loss, metrics) of N rows of noise; changes: other z, action, earned, counts or source."""
    rows = {"z": latents(made, N), "action": actions(N), "earned": torch.linspace(-1, 1, N), "counts": torch.ones(N)} | changes
    source = rows.pop("source", torch.full((N,), int(Source.POLICY), dtype=torch.uint8))
    drawn = batch(made, N, source=source[:, None])
    return ActorLoss(made, generator(), density)(rows["z"], rows["action"], rows["earned"], rows["counts"], drawn, phase)


def weights(made: Agent, **given: Tensor) -> Tensor:
    rows = {"z": latents(made, N), "action": actions(N), "earned": torch.linspace(-1, 1, N), "counts": torch.ones(N)} | given
    return ActorLoss(made, generator(), None).weights(**rows)[0]


def rated(preset: str, q: float, v: float, **fields) -> Agent:
    made = agent(preset, **fields)
    say(made.critic.target, *[q] * made.config.critic.heads)
    if made.value is not None:
        say(made.value.net, v)
    return made


@pytest.mark.parametrize(("q", "v", "expected"), [(3.0, 1.0, math.exp(6)), (1.0, 2.0, math.exp(-3)), (1.0, 1.0, 1.0)])
def test_imitation_counts_by_the_exponent_of_the_advantage(q, v, expected):
    made = rated("iql", q, v, actor={"beta": 3.0, "weight_max": 1e4})
    torch.testing.assert_close(weights(made), torch.full((N,), expected))
    loss, metrics = lossof(made)
    errors = made.actor.errors(latents(made, N), actions(N), generator())
    torch.testing.assert_close(loss, expected * errors.mean())
    assert metrics["weight"] == pytest.approx(expected, rel=1e-5) and metrics["bc"] == pytest.approx(float(errors.mean().detach()))


def test_no_row_counts_more_than_the_cap():
    assert weights(rated("iql", 50.0, 0.0)).tolist() == [100.0] * N
    assert weights(rated("iql", 50.0, 0.0, actor={"weight_max": 7.0})).tolist() == [7.0] * N


def test_the_advantage_may_be_of_what_was_earned_or_over_the_policys_own_action():
    earned = torch.linspace(-1, 1, N)
    torch.testing.assert_close(weights(rated("iql", 9.0, 0.5, actor={"beta": 2.0, "advantage": "return"})), (2 * (earned - 0.5)).exp())
    made = agent("awac")
    z, action, rng = latents(made, N), actions(N), generator()
    own = made.actor.sample(z, rng)
    q = lambda a: made.critic(z, a, target=True).amin(0)  # noqa: E731
    torch.testing.assert_close(weights(made), (q(action) - q(own)).exp().detach())


def test_in_standard_deviations_the_rewards_unit_does_not_matter():
    made = rated("ours", 0.0, 0.0, policy=None, actor={"weight_max": 1e3, "beta": 0.5})
    one = weights(made)
    torch.testing.assert_close(weights(made, earned=50 * torch.linspace(-1, 1, N)), one)
    scaled = torch.linspace(-1, 1, N) / torch.linspace(-1, 1, N).std(correction=0)
    torch.testing.assert_close(one, (0.5 * scaled).exp())


def test_without_a_beta_all_rows_count_alike():
    assert weights(agent("td3_bc")).tolist() == [1.0] * N


def garbage(made: Agent, half: Tensor) -> dict[str, Tensor]:
    """The rows where `half` is false hold nonsense."""
    return {
        "z": torch.where(half[:, None], latents(made, N), latents(made, N, seed=5)),
        "action": torch.where(half[:, None], actions(N), actions(N, seed=5)),
        "earned": torch.where(half, torch.linspace(-1, 1, N), torch.tensor(1e4)),
    }


@pytest.mark.parametrize("preset", ["iql", "moto", "td3_bc", "sac", "fowm", "rorl", "tdmpc2", "famo2o"])
def test_rows_that_do_not_count_change_nothing(preset):
    made, counts = agent(preset), (torch.arange(N) < 5).float()
    made.critic.spread_range.fill_(2.0)
    torch.nn.init.normal_(made.critic.online.last.weight, std=0.1)
    grads = []
    for rows in ({}, garbage(made, counts.bool())):
        made.zero_grad()
        loss, _ = lossof(made, counts=counts, **rows)
        loss.backward()
        grads.append(torch.cat([p.grad.flatten() for p in made.actor.parameters() if p.grad is not None]))
    assert grads[0].abs().sum() > 0
    torch.testing.assert_close(grads[1], grads[0])


def test_only_what_the_planner_flew_is_imitated_for_its_sake():
    made, plain = agent("fowm", actor={"planner": 0.5}), agent("fowm")
    source = torch.tensor([Source.PLANNER, Source.POLICY, Source.HUMAN, Source.PLANNER, *[Source.SCRIPTED] * 4], dtype=torch.uint8)
    counts = torch.linspace(0.2, 1, N)
    loss, without = (lossof(each, source=source, counts=counts)[0] for each in (made, plain))
    flown = counts * (source == Source.PLANNER)
    errors = made.actor.errors(latents(made, N), actions(N), generator())
    torch.testing.assert_close(loss - without, 0.5 * (errors * flown).sum() / counts.sum())
    nobody = torch.full((N,), int(Source.HUMAN), dtype=torch.uint8)
    torch.testing.assert_close(lossof(made, source=nobody)[0], lossof(plain, source=nobody)[0])


def test_the_planners_rows_of_a_sequence_are_told_row_by_row():
    made, plain = agent("fowm", actor={"planner": 0.5}), agent("fowm")
    source = torch.tensor([[Source.PLANNER] * 5 + [Source.POLICY] * 11, [Source.POLICY] * 16], dtype=torch.uint8)
    z, action, earned, counts = latents(made, 10), actions(10), torch.zeros(10), torch.ones(10)
    total = [
        ActorLoss(each, generator(), None)(z, action, earned, counts, batch(each, 2, 16, source=source), 0.0)[0] for each in (made, plain)
    ]
    errors = made.actor.errors(z, action, generator())
    torch.testing.assert_close(total[0] - total[1], 0.5 * errors[:5].sum() / 10)


def test_critics_draw_the_actor_and_learn_nothing_themselves():
    made = agent(actor={"temperature": 0.0001, "fixed_temperature": True})
    z = latents(made, 64)
    made.critic.requires_grad_(False)
    optimizer = torch.optim.Adam(made.actor.parameters(), 1e-2)
    worth = lambda: float(made.critic(z, made.actor.best(z, generator())).amin(0).mean().detach())  # noqa: E731
    before = worth()
    for seed in range(60):
        loss, _ = ActorLoss(made, generator(seed), None)(z, actions(64), torch.zeros(64), torch.ones(64), batch(made, 64), 0.0)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert worth() > before + 0.1 and all(p.grad is None for p in made.critic.parameters())


def test_the_value_is_divided_by_its_size_or_its_range():
    losses = []
    for scale, expected in (("none", -4.0), ("abs", -1.0), ("range", -2.0)):
        made = agent(actor={"kind": "deterministic", "q_scale": scale})
        say(made.critic.online, 4.0, 5.0)
        made.critic.spread_range.fill_(2.0)
        losses.append(float(lossof(made)[0].detach()))
        assert losses[-1] == pytest.approx(expected)


def test_phases_are_mixed_on_the_way():
    made = agent(actor={"kind": "deterministic", "q": [0.0, 1.0], "bc": [2.0, 0.0]})
    say(made.critic.online, 4.0, 5.0)
    error = float(made.actor.errors(latents(made, N), actions(N), generator()).mean().detach())
    for phase in (0.0, 0.25, 1.0):
        assert float(lossof(made, phase)[0].detach()) == pytest.approx(2 * (1 - phase) * error - 4 * phase, rel=1e-5)


def test_the_temperature_rises_where_the_policy_is_too_sure():
    made = agent()
    for bias, sign in ((-3.0, -1), (3.0, 1)):  # narrow: entropy below its goal; wide: above
        say(made.actor.net, 0.0)
        made.actor.net.last.bias.data[..., 2:] = bias
        made.zero_grad()
        loss, metrics = lossof(made)
        loss.backward()
        assert made.log_temperature.grad is not None and math.copysign(1, float(made.log_temperature.grad)) == sign
        assert float(made.log_temperature.grad) == pytest.approx(metrics["entropy"] + 1, rel=1e-4)  # its goal: minus 1 nat, of two
    fixed, free = agent("tdmpc2"), agent("hil_serl")
    for each in (fixed, free):
        lossof(each)[0].backward()
    assert fixed.log_temperature.grad is None and free.log_temperature.grad is not None
    assert float(fixed.temperature) == pytest.approx(1e-4) and float(free.temperature.detach()) == pytest.approx(0.01)


def test_the_density_keeps_the_actor_where_data_is():
    torch.manual_seed(0)
    made = agent("spot")
    density = ActionDensity(made.latent, 2, 16)
    z = latents(made, N)
    own = made.actor.best(z, generator())
    with_density, without = (lossof(made, density=d)[0] for d in (density, None))
    torch.testing.assert_close(with_density - without, -0.05 * density.elbo(z, own, generator()).mean())


def test_a_density_learns_where_actions_are():
    torch.manual_seed(0)
    density = ActionDensity(2, 2, 32)
    optimizer = torch.optim.Adam(density.parameters(), 3e-3)
    z, rng = torch.zeros(128, 2), generator()
    side = lambda: 0.7 * (2 * torch.randint(2, (128, 1), generator=rng) - 1).float().expand(-1, 2)  # noqa: E731
    for _ in range(300):
        optimizer.zero_grad()
        (-density.elbo(z, side(), rng).mean()).backward()
        optimizer.step()
    likely, unlikely = (density.elbo(z, a, generator()).mean() for a in (side(), torch.tensor([[0.7, -0.7]]).expand(128, -1)))
    assert likely > unlikely + 0.2


def test_a_family_learns_with_every_beta_and_only_the_picker_picks():
    made = agent("famo2o")
    assert made.beta is not None
    torch.nn.init.normal_(made.beta.net.last.weight, std=0.1)
    rows = ActorLoss(made, generator(), None)
    z, action = latents(made, N), actions(N)
    weight, told = rows.weights(z, action, torch.zeros(N), torch.ones(N))
    betas = made.beta.draw(N, generator(), z.device)
    advantage = made.critic(z, action, target=True).amin(0) - made.value(z)
    torch.testing.assert_close(told, made.beta.beside(z, betas))
    torch.testing.assert_close(weight, (betas * advantage).exp().clamp(max=100).detach())
    made.critic.requires_grad_(False)
    picked = rows._picked(z, torch.ones(N))
    picked.backward()
    assert all(p.grad is None for p in made.actor.parameters()) and all(p.requires_grad for p in made.actor.parameters())
    assert sum(float(p.grad.abs().sum()) for p in made.beta.parameters() if p.grad is not None) > 0
    before = copy.deepcopy(made)
    optimizer = torch.optim.Adam(made.beta.parameters(), 1e-2)
    for _ in range(40):
        optimizer.zero_grad()
        (-rows._picked(z, torch.ones(N))).backward()
        optimizer.step()
    assert rows._picked(z, torch.ones(N)) > ActorLoss(before, generator(), None)._picked(z, torch.ones(N))
    assert (made.beta(z) >= 1).all() and (made.beta(z) <= 5).all()
