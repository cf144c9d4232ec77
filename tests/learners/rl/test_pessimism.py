from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from robolearn.agents.agent import Agent
from robolearn.learners.rl.critic_loss import _scaled_returns
from robolearn.learners.rl.pessimism import conservatism, fickleness, roughness, unseen
from tests.agents.tiny import actions, agent, generator, latents, say


class Bowl(nn.Module):
    """Q of two heads by hand: the first is best at the left, the second likes nothing in particular. L: the first latent lifts both."""

    def __init__(self):
        super().__init__()
        self.lift = nn.Parameter(torch.zeros(2))

    def forward(self, z, action, target=False, heads=None):
        left = -2 * (action - torch.tensor([-0.5, 0.3])).square().sum(-1)
        return torch.stack([left + self.lift[0], 0.5 + 0 * left + self.lift[1]]) + z[..., 0]


def bowl(samples: int, **fields) -> Agent:
    """A policy that does nearly anything, so that weighing by likelihood works with few draws."""
    made = agent(critic={"samples": samples, **fields})
    made.critic = Bowl()
    say(made.actor.net, 0.0)
    made.actor.net.last.bias.data[..., 2:] = math.atanh(2 * (0 + 5) / 6 - 1)  # deviation 1 before it is squashed
    return made


def log_integral(q) -> float:
    """log of the integral of exp Q over the square of actions, on a grid."""
    side = torch.linspace(-1, 1, 401)
    grid = torch.stack(torch.meshgrid(side, side, indexing="ij"), -1)
    return float(torch.trapezoid(torch.trapezoid(q(grid).exp(), side, dim=1), side, dim=0).log())


@torch.no_grad()
def test_conservatism_is_what_brute_force_says():
    made = bowl(samples=4000)
    z = torch.tensor([[0.0, 0.0], [2.0, 1.0]])
    action = torch.tensor([[-0.5, 0.3], [0.5, -0.3]])
    q = made.critic(z, action)
    got = conservatism(made, z, z.flip(0), action, q, generator())
    first = log_integral(lambda a: -2 * (a - torch.tensor([-0.5, 0.3])).square().sum(-1))
    second = 0.5 + math.log(4)  # of the same worth everywhere: the square's area
    for row, lift in enumerate((0.0, 2.0)):
        expected = ((first + lift - float(q[0, row])) + (second + lift - float(q[1, row]))) / 2
        assert float(got[row]) == pytest.approx(expected, abs=0.05)


@torch.no_grad()
def test_a_lift_of_all_actions_changes_nothing_and_of_the_datas_action_lowers_it():
    made = bowl(samples=50)
    z, action = torch.randn(6, 2, generator=generator()), actions(6)
    plain = conservatism(made, z, z, action, made.critic(z, action), generator())
    lifted = conservatism(made, z + torch.tensor([5.0, 0.0]), z, action, made.critic(z, action) + 5, generator())
    torch.testing.assert_close(lifted, plain)
    torch.testing.assert_close(conservatism(made, z, z, action, made.critic(z, action) + 1, generator()), plain - 1)


def test_cal_ql_pushes_the_policys_actions_no_lower_than_returns():
    made = bowl(samples=20)
    z, action = torch.zeros(6, 2), actions(6)
    q = made.critic(z, action).detach()
    terms = lambda floor: conservatism(made, z, z, action, q, generator(), floor)  # noqa: E731
    plain = terms(None)
    torch.testing.assert_close(terms(torch.full((6,), -50.0)), plain)  # returns lower than all Q: plain CQL
    assert (terms(torch.full((6,), 0.2)) > plain).all()
    with torch.no_grad():  # returns higher than all Q: only random actions are still pushed down
        draw = generator()
        anywhere = (2 * torch.rand(120, 2, generator=draw) - 1).view(20, 6, 2)
        logs = [made.actor.learn(z.repeat(20, 1), draw)[1].view(20, 6) for _ in range(2)]
        q_any = made.critic(z.expand(20, 6, 2), anywhere)
        parts = torch.cat([q_any + 2 * math.log(2), *((3.0 - p).expand(2, 20, 6) for p in logs)], 1)
        expected = (parts.logsumexp(1) - math.log(60) - q).mean(0)
    torch.testing.assert_close(terms(torch.full((6,), 3.0)), expected)
    for floor, pushed in ((-50.0, 1.0), (50.0, 0.0)):
        made.critic.zero_grad()
        terms(torch.full((6,), floor)).mean().backward()
        torch.testing.assert_close(made.critic.lift.grad, torch.full((2,), pushed / 2), atol=1e-4, rtol=0)


def test_only_the_critics_learn_from_conservatism():
    made = agent()
    z, action = latents(made), actions(5)
    conservatism(made, z, z, action, made.critic(z, action), generator()).mean().backward()
    assert all(p.grad is None for p in made.actor.parameters()) and all(p.grad is None for p in made.critic.target.parameters())
    assert any(p.grad is not None and p.grad.abs().sum() > 0 for p in made.critic.online.parameters())


@pytest.mark.parametrize("kind", ["gaussian", "deterministic", "diffusion", "edit"])
def test_every_actor_can_be_distrusted(kind):
    made = agent(actor={"kind": kind, "denoise": 2})
    z, action = latents(made), actions(5)
    for term in (conservatism(made, z, z, action, made.critic(z, action), generator()), unseen(made, z, generator())):
        assert term.shape == (5,) and term.isfinite().all()


def test_returns_are_scaled_and_shifted_no_higher_than_they_are():
    to_go = torch.tensor([[1.0, -2.0]])
    lower = agent(discount=0.9, reward={"scale": 10.0, "shift": -5.0})
    torch.testing.assert_close(_scaled_returns(lower, to_go), torch.tensor([[10.0 - 50, -20.0 - 50]]))
    higher = agent(discount=0.9, reward={"scale": 10.0, "shift": 5.0})
    torch.testing.assert_close(_scaled_returns(higher, to_go), torch.tensor([[10.0, -20.0]]))


def test_unseen_actions_are_worth_the_heads_lower_bound():
    made = agent(critic={"level": [1.0, 0.0]})
    say(made.critic.online, 1.0, 3.0)  # mean 2, spread 1
    z = latents(made)
    torch.testing.assert_close(unseen(made, z, generator()), torch.full((5,), (0.0**2 + 2.0**2) / 2))
    made.online.fill_(True)
    torch.testing.assert_close(unseen(made, z, generator()), torch.full((5,), (1.0**2 + 1.0**2) / 2))
    unseen(made, z, generator()).sum().backward()
    torch.testing.assert_close(made.critic.online.last.bias.grad.flatten(), torch.tensor([-5.0, 5.0]))  # towards the bound, which stays


def test_a_rise_under_noise_counts_four_times_a_fall():
    made = agent(critic={"smooth": 1.0, "smooth_noise": 0.1})

    class Slope(nn.Module):
        def forward(self, z, action, target=False, heads=None):
            return torch.stack([z[..., 0], 3 * z[..., 0]])

    made.critic = Slope()
    z, action = torch.zeros(2000, 2), actions(2000)
    got = roughness(made, z, action, generator())
    change = 0.1 * (2 * torch.rand(2000, 2, generator=generator()) - 1)[:, 0]
    torch.testing.assert_close(got, torch.where(change > 0, 0.8, 0.2) * change.square() * (1 + 9) / 2)
    assert got.max() <= 0.8 * 0.01 * 5 and got[change > 0].mean() / got[change < 0].mean() == pytest.approx(4, rel=0.2)


def test_a_policy_is_fickle_where_noise_changes_it():
    made = agent(critic={"smooth_noise": 0.3})
    z = latents(made, 50)
    small = agent(critic={"smooth_noise": 0.03})
    assert 0 < fickleness(small, z, generator()).mean() < 0.1 * fickleness(made, z, generator()).mean()
    say(made.actor.net, 0.3)  # does the same everywhere
    assert fickleness(made, z, generator()).abs().max() < 1e-6
