from __future__ import annotations

import math

import pytest
import torch

from robolearn.agents.axes import Critic
from robolearn.agents.critic import QHeads, Value, reduced
from robolearn.models.expectile_value import expectile_loss
from tests.agents.tiny import actions, generator, say

Q = torch.tensor([[1.0, 4.0], [3.0, 0.0], [2.0, 2.0]])  # three heads, two rows


@pytest.mark.parametrize(
    ("how", "level", "expected"),
    [
        ("min", 1.0, [1, 0]),
        ("mean", 1.0, [2, 2]),
        ("lcb", 2.0, [2 - 2 * math.sqrt(2 / 3), 2 - 2 * math.sqrt(8 / 3)]),
        ("quantile", 0.0, [1, 0]),
        ("quantile", 0.25, [1.5, 1]),
        ("quantile", 0.5, [2, 2]),
        ("pair_min", 1.0, [4 / 3, 2 / 3]),  # of (1, 3), (1, 2), (3, 2): 1, 1, 2; of (4, 0), (4, 2), (0, 2): 0, 2, 0
    ],
)
def test_heads_become_one_value(how, level, expected):
    torch.testing.assert_close(reduced(Q, how, level), torch.tensor(expected, dtype=torch.float32))


def test_the_mean_of_pairs_minima_lies_between_the_minimum_and_the_mean():
    q = torch.randn(6, 40, generator=generator())
    low, pairs, mean = (reduced(q, how) for how in ("min", "pair_min", "mean"))
    assert (low < pairs).all() and (pairs < mean).all()
    torch.testing.assert_close(reduced(q[:2], "pair_min"), q[:2].amin(0))


def test_an_expectile_is_lenient_to_one_side():
    torch.testing.assert_close(expectile_loss(torch.tensor([2.0, -2.0, 0.0]), 0.9), torch.tensor([3.6, 0.4, 0.0]))
    values = torch.tensor([0.0, 1.0, 5.0])
    grid = torch.linspace(0, 5, 5001)
    best = lambda tau: float(grid[expectile_loss(values[:, None] - grid, tau).sum(0).argmin()])  # noqa: E731
    assert best(0.5) == pytest.approx(2, abs=0.01) and best(0.9) == pytest.approx((0.9 * 5 + 0.1 * 1) / 1.1, abs=0.01)


def heads(**fields) -> QHeads:
    torch.manual_seed(0)
    return QHeads(Critic(width=16, **fields), 3, 2)


Z, A = torch.randn(40, 3, generator=generator()), actions(40)


def test_heads_differ_at_initialisation():
    q = heads(heads=5)(Z, A)
    assert q.shape == (5, 40)
    apart = torch.cdist(q, q) / math.sqrt(40)
    assert (apart + torch.eye(5) > 0.1).all()


def test_two_hot_heads_say_nothing_at_first_and_differ_once_they_learn():
    critic = heads(heads=3, loss="two_hot")
    assert critic(Z, A).abs().max() < 1e-5
    for _ in range(20):
        loss = critic.loss(Z, A, Z[:, 0])[0].mean()
        loss.backward()
        for p in critic.online.parameters():
            p.data -= 0.5 * p.grad
            p.grad = None
    assert critic(Z, A).std(0).min() > 0


def test_the_target_follows_by_tau():
    critic = heads(tau=0.1)
    before = critic(Z, A, target=True)
    torch.testing.assert_close(before, critic(Z, A))
    old = [p.clone() for p in critic.target.parameters()]
    for p in critic.online.parameters():
        p.data += 1.0
    assert torch.equal(critic(Z, A, target=True), before)
    for _ in range(3):
        critic.follow()
    for p, was in zip(critic.target.parameters(), old, strict=True):
        torch.testing.assert_close(p, was + (1 - 0.9**3))
        assert not p.requires_grad


def test_some_heads_are_asked_and_the_answers_are_theirs():
    critic = heads(heads=5, subset=2)
    rng = generator()
    drawn = [critic.some(rng) for _ in range(200)]
    assert all(d is not None and len(set(d.tolist())) == 2 for d in drawn)
    assert {int(i) for d in drawn if d is not None for i in d} == set(range(5))
    assert heads(heads=5, subset=0).some(rng) is None and heads(heads=2, subset=2).some(rng) is None
    asked = torch.tensor([3, 1])
    for target in (False, True):
        torch.testing.assert_close(critic(Z, A, target=target, heads=asked), critic(Z, A, target=target)[asked])
    many = critic(Z.view(4, 10, 3), A.view(4, 10, 2))
    torch.testing.assert_close(many, critic(Z, A).view(5, 4, 10))


def test_a_huber_loss_counts_large_errors_less():
    for kind, expected in (("mse", [9.0, 0.25]), ("huber", [2.5, 0.125])):
        critic = heads(loss=kind)
        say(critic.online, 3.0, 0.5)
        errors, values = critic.loss(Z, A, torch.zeros(40))
        torch.testing.assert_close(values, torch.tensor([[3.0], [0.5]]).expand(2, 40))
        torch.testing.assert_close(errors, torch.tensor(expected)[:, None].expand(2, 40))


@pytest.mark.parametrize("kind", ["mse", "two_hot", "huber"])
def test_every_loss_teaches_the_value(kind):
    critic = heads(loss=kind)
    wanted = 3 * Z[:, 0] - 2 * A[:, 1]
    optimizer = torch.optim.Adam(critic.online.parameters(), 1e-2)
    for _ in range(300):
        optimizer.zero_grad()
        critic.loss(Z, A, wanted)[0].mean().backward()
        optimizer.step()
    assert (critic(Z, A) - wanted).square().mean() < 0.05 * wanted.var()


def test_a_residual_critic_begins_with_what_it_knew_and_keeps_it_as_its_base():
    critic = heads(residual=True)
    known = critic(Z, A).detach()
    for p in critic.target.parameters():
        p.data *= 0.5  # it lags behind
    critic.rebase()
    for target in (False, True):
        torch.testing.assert_close(critic(Z, A, target=target), known)
    asked = torch.tensor([1])
    torch.testing.assert_close(critic(Z, A, heads=asked), known[asked])
    say(critic.online, 1.0, 2.0)
    torch.testing.assert_close(critic(Z, A) - known, torch.tensor([[1.0], [2.0]]).expand(2, 40))
    critic.loss(Z, A, known[0])[0].mean().backward()
    assert critic.base is not None and all(p.grad is None for p in critic.base.parameters())
    assert any(p.grad is not None and p.grad.abs().sum() > 0 for p in critic.online.parameters())
    copy = heads(residual=True)
    copy.load_state_dict(critic.state_dict())
    torch.testing.assert_close(copy(Z, A), critic(Z, A))


def test_a_plain_critic_has_no_base_and_a_residual_one_does_without_it_offline():
    assert heads().base is None
    critic = heads(residual=True)
    say(critic.base, 100.0, 100.0)
    assert critic(Z, A).abs().max() < 50


def test_the_range_is_of_the_middle_nine_tenths():
    critic = heads()
    critic.track(torch.arange(101.0), 1.0)
    assert float(critic.spread_range) == pytest.approx(90)
    critic.track(torch.zeros(10), 0.5)
    assert float(critic.spread_range) == pytest.approx(45, abs=0.1)
    for _ in range(60):
        critic.track(torch.zeros(10), 0.5)
    assert float(critic.spread_range) >= 1e-3  # it divides


def test_a_value_begins_at_nothing_and_has_one_number_a_row():
    value = Value(3, 16, layer_norm=True)
    assert value(Z.view(4, 10, 3)).shape == (4, 10) and value(Z).abs().max() == 0
