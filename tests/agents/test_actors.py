from __future__ import annotations

import math

import pytest
import torch

from robolearn.agents.actors import LOG_STD, DeterministicActor, DiffusionActor, EditActor, GaussianActor
from robolearn.agents.adaptive import BetaPicker
from tests.agents.tiny import actions, generator, say

Z = torch.randn(50, 3, generator=generator())


def gaussian(action: int = 2) -> GaussianActor:
    torch.manual_seed(0)
    return GaussianActor(3, action, 16)


def moments(actor: GaussianActor, mean: float, std: float) -> GaussianActor:
    """Everywhere the same Gaussian before it is squashed."""
    low, high = LOG_STD
    share = (math.log(std) - low) / (high - low)
    say(actor.net, 0.0)
    actor.net.last.bias.data[..., :] = torch.tensor([mean, math.atanh(2 * share - 1)]).repeat_interleave(actor.net.last.bias.shape[-1] // 2)
    return actor


@torch.no_grad()
@pytest.mark.parametrize(("mean", "std"), [(0.0, 0.5), (1.0, 0.7), (-2.0, 0.2)])
def test_the_density_of_a_gaussian_actor_is_one_in_all(mean, std):
    actor = moments(gaussian(1), mean, std)
    grid = torch.linspace(-0.999, 0.999, 40001)[:, None]
    density = actor.log_prob(torch.zeros(len(grid), 3), grid).exp()
    assert float(torch.trapezoid(density, grid[:, 0])) == pytest.approx(1, abs=2e-3)
    drawn = actor.sample(torch.zeros(20000, 3), generator())
    below = float(torch.trapezoid(density * (grid[:, 0] < math.tanh(mean)), grid[:, 0]))
    assert below == pytest.approx(0.5, abs=1e-2) and (drawn < math.tanh(mean)).float().mean() == pytest.approx(0.5, abs=0.02)


def test_what_a_gaussian_actor_does_is_as_likely_as_it_says():
    actor = gaussian()
    action, log_prob = actor.learn(Z, generator())
    mean, log_std = actor._moments(Z)
    by_hand = (torch.distributions.Normal(mean, log_std.exp()).log_prob(action.atanh()) - (1 - action.square()).log()).sum(-1)
    inside = action.abs().amax(1) < 0.99  # nearer to the end a float32 does not tell where it came from
    assert inside.sum() > 25
    for said in (by_hand, actor.log_prob(Z, action), -2 * actor.errors(Z, action, generator())):
        torch.testing.assert_close(log_prob[inside], said[inside], atol=1e-3, rtol=1e-3)
    assert actor.log_prob(Z, torch.ones(50, 2)).isfinite().all()


def test_without_exploring_it_does_the_middle_and_with_a_seed_it_repeats():
    actor = moments(gaussian(), 0.3, 0.5)
    torch.testing.assert_close(actor.best(Z, generator()), torch.full((50, 2), math.tanh(0.3)))
    one, same, other = (actor.sample(Z, generator(seed)) for seed in (0, 0, 1))
    assert torch.equal(one, same) and not torch.equal(one, other) and one.abs().max() < 1


def test_the_divergence_is_the_mean_of_both_ways():
    actor = gaussian()
    m, s = actor._moments(Z[:25])
    n, t = actor._moments(Z[25:])
    p, q = torch.distributions.Normal(m, s.exp()), torch.distributions.Normal(n, t.exp())
    kl = torch.distributions.kl_divergence
    torch.testing.assert_close(actor.divergence(Z[:25], Z[25:]), (kl(p, q) + kl(q, p)).sum(-1) / 2, rtol=1e-4, atol=1e-5)
    assert actor.divergence(Z, Z).abs().max() < 1e-5


def test_a_deterministic_actor_has_noise_of_its_size_within_the_range():
    actor = DeterministicActor(3, 1, 16, noise=0.1)
    say(actor.net, 0.0)
    z = torch.zeros(4000, 3)
    assert actor.best(z, generator()).eq(0).all()
    assert float(actor.sample(z, generator()).std()) == pytest.approx(0.1, rel=0.1)
    assert float(actor.smoothed(z, generator()).std()) == pytest.approx(0.2, rel=0.1)
    loud = DeterministicActor(3, 1, 16, noise=1.0)
    say(loud.net, 0.0)
    assert loud.smoothed(z, generator()).abs().max() == 0.5  # clipped, as TD3 does
    assert loud.sample(z, generator()).abs().max() == 1.0
    say(loud.net, 3.0)
    assert loud.smoothed(z, generator()).max() == 1.0


def test_a_deterministic_actor_errs_by_the_mean_squared_distance():
    actor = DeterministicActor(3, 2, 16, noise=0.1)
    say(actor.net, math.atanh(0.5))
    error = actor.errors(Z[:1], torch.tensor([[0.0, -0.5]]), generator())
    torch.testing.assert_close(error, torch.tensor([(0.25 + 1.0) / 2]))
    action, log_prob = actor.learn(Z, generator())
    assert log_prob.eq(0).all() and action.requires_grad


def test_a_diffusion_actor_learns_two_ways_and_not_their_middle():
    torch.manual_seed(0)
    actor, rng = DiffusionActor(2, 1, 32, draws=10), generator()
    optimizer = torch.optim.Adam(actor.parameters(), 3e-3)
    z = torch.zeros(128, 2)
    for _ in range(500):
        action = torch.where(torch.rand(128, 1, generator=rng) < 0.3, -0.6, 0.6)
        optimizer.zero_grad()
        actor.errors(z, action, rng).mean().backward()
        optimizer.step()
    drawn = actor.sample(torch.zeros(1000, 2), generator(1))
    assert ((drawn.abs() - 0.6).abs() < 0.2).float().mean() > 0.85
    assert 0.2 < (drawn < 0).float().mean() < 0.4
    assert torch.equal(drawn, actor.sample(torch.zeros(1000, 2), generator(1)))


def test_a_diffusion_actor_is_drawn_through_one_call_not_a_chain():
    torch.manual_seed(0)
    actor = DiffusionActor(3, 2, 16, draws=5)
    assert not actor.sample(Z, generator()).requires_grad
    action, log_prob = actor.learn(Z, generator())
    assert action.requires_grad and action.abs().max() <= 1 and log_prob.eq(0).all()
    near, _ = actor.learn(Z, generator(), actions(50))
    assert not torch.equal(near, action) and near.requires_grad
    calls = []
    actor.net.layers[0].register_forward_hook(lambda *_: calls.append(torch.is_grad_enabled()))
    actor.learn(Z, generator())
    assert calls == [False] * 5 + [True]
    calls.clear()
    actor.learn(Z, generator(), actions(50))  # from the data's action nothing has to be drawn
    assert calls == [True]


def edit() -> EditActor:
    torch.manual_seed(0)
    return EditActor(3, 2, 16, draws=3, size=0.2)


def grads(module: torch.nn.Module) -> float:
    return sum(float(p.grad.abs().sum()) for p in module.parameters() if p.grad is not None)


def test_the_base_of_an_edit_only_imitates_and_the_edit_only_follows_the_critics():
    actor = edit()
    action, _ = actor.learn(Z, generator())
    (-action.sum()).backward()
    assert grads(actor.base) == 0 and grads(actor.edit) > 0
    actor.zero_grad()
    actor.errors(Z, actions(50), generator()).mean().backward()
    assert grads(actor.base) > 0 and grads(actor.edit) == 0


def test_an_edit_is_small_and_stays_in_range():
    actor = edit()
    base, edited = actor.both(Z, generator())
    assert 0 < (edited - base).abs().max() <= 0.2 + 1e-6 and edited.abs().max() <= 1
    torch.testing.assert_close(base, actor.base.sample(Z, generator()))
    torch.testing.assert_close(actor.best(Z, generator()), edited)
    torch.testing.assert_close(actor.learn(Z, generator())[0], edited)


@pytest.mark.parametrize(
    "make",
    [gaussian, edit, lambda: DeterministicActor(3, 2, 16, 0.1), lambda: DiffusionActor(3, 2, 16, 3)],
    ids=["gaussian", "edit", "deterministic", "diffusion"],
)
def test_imitation_brings_every_actor_near_the_data(make):
    torch.manual_seed(0)
    actor, rng = make(), generator()
    optimizer = torch.optim.Adam(actor.parameters(), 1e-2)
    wanted = 0.5 * torch.stack([Z[:, 0].sin(), -Z[:, 1].tanh()], 1)
    for _ in range(150):
        optimizer.zero_grad()
        actor.errors(Z, wanted, rng).mean().backward()
        optimizer.step()
    base = actor.base if isinstance(actor, EditActor) else actor
    assert (base.best(Z, rng) - wanted).abs().mean() < 0.15


def test_a_picked_beta_lies_in_its_range_and_is_told_apart():
    torch.manual_seed(0)
    picker = BetaPicker((1.0, 5.0), 3, 16)
    torch.testing.assert_close(picker(Z), torch.full((50,), 3.0))  # the middle, at first
    for said, expected in ((-50.0, 1.0), (50.0, 5.0)):
        say(picker.net, said)
        torch.testing.assert_close(picker(Z), torch.full((50,), expected))
    drawn = picker.draw(2000, generator(), torch.device("cpu"))
    assert 1 <= drawn.min() < 1.1 and 4.9 < drawn.max() <= 5 and float(drawn.mean()) == pytest.approx(3, abs=0.1)
    beside = picker.beside(Z[:5], torch.linspace(1, 5, 5))
    assert beside.shape == (5, 3 + picker.told) and torch.equal(beside[:, :3], Z[:5])
    assert (torch.cdist(beside[:, 3:], beside[:, 3:]) + torch.eye(5)).min() > 0.5
