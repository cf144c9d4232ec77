from __future__ import annotations

import pytest
import torch

from robolearn.models.ensemble import EnsembleMlp
from robolearn.worldmodels.dynamics import ModelConfig, WorldModel

SMALL = {"latent": 16, "group": 8, "width": 32, "encoder_width": 32}


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def model(**fields) -> WorldModel:
    torch.manual_seed(0)
    return WorldModel(ModelConfig(**{**SMALL, **fields}), inputs=2, action=1)


def latents(of: WorldModel, rows: int = 10) -> torch.Tensor:
    return of.encode(torch.randn(rows, 2, generator=rng(1))).detach()


def moves(*shape: int) -> torch.Tensor:
    return torch.rand(*shape, 1, generator=rng(2)) * 2 - 1


def test_heads_differ_at_initialisation():
    made = model(heads=4)
    z, a = latents(made), moves(10)
    ahead = made.step(z.expand(4, -1, -1), a.expand(4, -1, -1))
    for k in range(4):
        for other in range(k):
            assert (ahead[k] - ahead[other]).abs().mean() > 0.01
    spread = made.spread(z, a)
    torch.testing.assert_close(spread, ahead.var(0, correction=0).mean(-1))
    assert spread.min() > 0
    one = model(heads=1)
    assert one.spread(z, a).eq(0).all()


def test_all_heads_at_once_are_a_loop_over_heads():
    torch.manual_seed(0)
    ensemble = EnsembleMlp(5, 3, 8, 2)
    x = torch.randn(5, 7, 3, generator=rng())
    got = ensemble(x)
    for k in range(5):
        one = EnsembleMlp(1, 3, 8, 2)
        one.load_state_dict({n: w if "norms" in n else w[k : k + 1] for n, w in ensemble.state_dict().items()})
        torch.testing.assert_close(one(x[k : k + 1]), got[k : k + 1])
        torch.testing.assert_close(ensemble.all(x[k])[k], got[k])
    some = torch.tensor([4, 0, 4])
    torch.testing.assert_close(ensemble(x[some], some), got[some])
    torch.testing.assert_close(ensemble.all(x[0], some), ensemble.all(x[0])[some])


def test_every_heads_first_layer_is_as_wide_as_its_own_fan_in_asks():
    torch.manual_seed(0)
    for layer in EnsembleMlp(6, 400, 200, 50).layers:
        std = layer.weight.detach().std((1, 2))
        torch.testing.assert_close(std, torch.full((6,), layer.weight.shape[1] ** -0.5), rtol=0.15, atol=0)


@pytest.mark.parametrize("squash", ["simnorm", "sigmoid"])
def test_latents_are_bounded_however_far_off_the_inputs(squash):
    made = model(squash=squash)
    z = made.encode(1e4 * torch.randn(20, 3, 2, generator=rng()))
    assert z.shape == (20, 3, 16) and z.min() >= 0 and z.max() <= 1 and z.isfinite().all()
    z = made.step(z[:, 0].expand(3, -1, -1), 100 * moves(20).expand(3, -1, -1))
    assert z.min() >= 0 and z.max() <= 1
    groups = z.unflatten(-1, (8, 2)).sum(-2)
    assert torch.allclose(groups, torch.ones(())) == (squash == "simnorm")


@torch.no_grad()
def test_a_walk_is_open_loop_and_each_row_is_walked_by_one_head():
    made = model(heads=2)
    z, a, goal = latents(made, 4), moves(4, 3), latents(made, 12).view(4, 3, 16)
    walked, apart = made.walk(z, a, goal)
    assert torch.equal(walked[:, 0], z)
    for row in range(4):
        heads = [z[row], z[row]]
        for t in range(3):
            torch.testing.assert_close(walked[row, t], heads[row % 2])
            heads = [made.squash(made.dynamics.all(torch.cat([h, a[row, t]])[None])[k, 0]) for k, h in enumerate(heads)]
            torch.testing.assert_close(apart[row, t], torch.stack([(h - goal[row, t]).square().mean() for h in heads]).mean())


@pytest.mark.parametrize("rewards", ["two_hot", "mse"])
def test_before_it_learns_nothing_is_earned_and_the_end_is_a_coin(rewards):
    made = model(rewards=rewards)
    za = torch.cat([latents(made), moves(10)], -1)
    reward, ends = made.outcomes(za)
    assert reward.abs().max() < 1e-5 and ends.eq(0.5).all()
    assert model(ends=0.0).outcomes(za)[1].eq(0).all()
    torch.nn.init.normal_(made.outcome.last.weight)
    for one, many in zip(made.outcomes(za), made.outcomes(za.view(2, 5, -1)), strict=True):
        torch.testing.assert_close(one.view(2, 5), many)
    assert not torch.equal(made.outcomes(za)[0] > 0, made.outcomes(za)[1] > 0.5)  # two answers, not one


def sequence(made: WorldModel, seed: int = 0, rows: int = 4, steps: int = 3):
    """Noise, as the learner hands it over."""
    draw = rng(seed)
    z, goal = made.encode(torch.randn(rows, 2, generator=draw)), made.encode_target(torch.randn(rows, steps, 2, generator=draw))
    action, reward = torch.rand(rows, steps, 1, generator=draw), torch.randn(rows, steps, generator=draw)
    return z, action, goal, reward


def total(made: WorldModel, z, action, goal, reward, terminal, real, followed) -> tuple[dict[str, float], torch.Tensor]:
    walked, apart = made.walk(z, action, goal)
    terms = made.losses(torch.cat([walked, action], -1), apart, reward, terminal, real, followed)
    made.zero_grad()
    sum(weight * mean for weight, mean in terms.values()).backward()
    grads = torch.cat([p.grad.flatten() for p in made.parameters() if p.grad is not None])
    return {name: float(mean.detach()) for name, (_, mean) in terms.items()}, grads


def masks(ends: list[int], terminal: bool, steps: int = 3) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """(terminal, real, followed) of sequences whose episode has its last row at `ends`."""
    at, last = torch.arange(steps)[None], torch.tensor(ends)[:, None]
    return (at == last) & terminal, at <= last, at < last


@pytest.mark.parametrize("terminal", [True, False], ids=["terminal", "cut off"])
def test_garbage_past_an_episodes_end_changes_nothing(terminal):
    made, ends = model(), [0, 1, 2, 1]
    ended, real, followed = masks(ends, terminal)
    z, action, goal, reward = sequence(made)
    expected = total(made, z, action, goal, reward, ended, real, followed)
    _, other_action, other_goal, other_reward = sequence(made, seed=9)
    z, action, goal, reward = sequence(made)
    action, reward = torch.where(real[..., None], action, other_action), torch.where(real, reward, 50 * other_reward)
    goal = torch.where(followed[..., None], goal, other_goal)  # what is shown after the last row is the last row again
    got = total(made, z, action, goal, reward, ended | ~real, real, followed)
    assert got[0] == pytest.approx(expected[0])
    torch.testing.assert_close(got[1], expected[1])


def test_the_last_row_of_an_episode_teaches_what_it_earned_and_whether_it_ended():
    made = model(rewards="mse")
    z, action, goal, reward = sequence(made, rows=1, steps=1)
    for terminal in (True, False):
        terms, _ = total(made, z, action, goal, reward, *masks([0], terminal, 1))
        z = sequence(made, rows=1, steps=1)[0]
        assert terms["consistency"] == 0 and terms["reward"] == pytest.approx(float(reward.square()))
        assert terms["ends"] == pytest.approx(0.6931, abs=1e-3)
    made.outcome.last.bias.data[..., -1] = 3.0  # it thinks that episodes end
    sure = total(made, sequence(made, rows=1, steps=1)[0], action, goal, reward, *masks([0], True, 1))[0]["ends"]
    wrong = total(made, sequence(made, rows=1, steps=1)[0], action, goal, reward, *masks([0], False, 1))[0]["ends"]
    assert sure == pytest.approx(0.0486, abs=1e-3) and wrong == pytest.approx(3.0486, abs=1e-3)


def test_later_steps_fade():
    made = model(rewards="mse", rho=0.5, ends=0.0)
    z, action, goal, _ = sequence(made, rows=2)
    reward = torch.tensor([[1.0, 2.0, 4.0], [1.0, 2.0, 4.0]])
    terms, _ = total(made, z, action, goal, reward, *masks([2, 0], False))
    assert set(terms) == {"consistency", "reward"}
    assert terms["reward"] == pytest.approx((1 + 0.5 * 4 + 0.25 * 16 + 1) / (1 + 0.5 + 0.25 + 1))


def test_a_target_encoder_follows_slowly_and_is_what_the_walk_aims_at():
    made, plain = model(target_encoder=0.5), model()
    x = torch.randn(5, 2, generator=rng())
    assert made.target_encoder is not None and plain.target_encoder is None
    for each in (made, plain):
        before = each.encode_target(x)
        for p in each.encoder.parameters():
            p.data += 0.3 * torch.randn(p.shape, generator=rng())
        assert torch.equal(each.encode_target(x), before) == (each is made) and not each.encode_target(x).requires_grad
    old, new = (next(e.parameters()).detach().clone() for e in (made.target_encoder, made.encoder))
    made.follow()
    plain.follow()
    torch.testing.assert_close(next(made.target_encoder.parameters()), (old + new) / 2)


def world(rows: int, seed: int):
    """x moves by 0.3 a; pays -|x|; ends right of 0.8."""
    draw = rng(seed)
    action = torch.rand(rows, 4, 1, generator=draw) * 2 - 1
    x = torch.rand(rows, 1, 1, generator=draw) * 2 - 1
    path = torch.cat([x, x + 0.3 * action.cumsum(1)], 1)
    inputs = torch.cat([path, path.square()], -1)
    ended = path[:, 1:, 0] > 0.8
    real = (ended.cumsum(1) - ended.int()) == 0
    return inputs, action, -path[:, 1:, 0].abs(), ended, real, real & ~ended


@pytest.mark.parametrize(("rewards", "squash"), [("two_hot", "simnorm"), ("mse", "sigmoid")])
def test_a_small_world_is_learned_some_steps_ahead(rewards, squash):
    made = model(rewards=rewards, squash=squash, heads=2, horizon=4)
    optimizer = torch.optim.Adam(made.parameters(), 5e-3, fused=True)
    for i in range(150):
        inputs, action, reward, ended, real, followed = world(64, 100 + i)
        walked, apart = made.walk(made.encode(inputs[:, 0]), action, made.encode_target(inputs[:, 1:]))
        terms = made.losses(torch.cat([walked, action], -1), apart, reward, ended, real, followed)
        optimizer.zero_grad()
        sum(weight * mean for weight, mean in terms.values()).backward()
        optimizer.step()
    with torch.no_grad():
        inputs, action, reward, ended, real, _ = world(400, 0)
        walked, _ = made.walk(made.encode(inputs[:, 0]), action, made.encode_target(inputs[:, 1:]))
        za = torch.cat([walked, action], -1)
        said, ends = made.outcomes(za)
        off = (said - reward).square()
        assert off[real].mean() < 0.3 * reward[real].var()
        assert off[:, 3][real[:, 3]].mean() < 0.4 * reward[real].var()  # three steps without looking
        assert ends[real & ended].mean() > 0.6 and ends[real & ~ended].mean() < 0.15
