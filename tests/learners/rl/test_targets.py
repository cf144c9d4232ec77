from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn

from robolearn.agents.agent import Agent
from robolearn.agents.axes import Reward
from robolearn.agents.critic import reduced
from robolearn.learners.rl.critic_loss import critic_loss
from robolearn.learners.rl.sequences import sequences
from robolearn.learners.rl.targets import returns, target_q, worth
from tests.agents.tiny import agent, generator, latents, replay, say
from tests.learners.rl.rows import batch, known

AHEAD = torch.tensor([[10.0, 20.0, 40.0]])


def of(trace: float, discount: float = 0.5, ahead: torch.Tensor = AHEAD, **masks) -> list[float]:
    return returns(known([[1, 2, 4]], **masks), ahead, discount, trace)[0].tolist()


@pytest.mark.parametrize(
    ("trace", "expected"),
    [
        (0.0, [1 + 5, 2 + 10, 4 + 20]),  # r + gamma W
        (1.0, [1 + 0.5 * (2 + 0.5 * 24), 2 + 0.5 * 24, 24]),  # rewards as far as they are seen
        (0.5, [1 + 0.5 * (0.5 * 10 + 0.5 * 13), 2 + 0.5 * (0.5 * 20 + 0.5 * 24), 24]),
    ],
)
def test_returns_by_hand(trace, expected):
    assert of(trace) == pytest.approx(expected)


def test_nothing_comes_after_a_terminal_row_and_worth_comes_after_a_cut_off_one():
    ended = {"terminal": [[0, 1, 0]], "real": [[1, 1, 0]], "followed": [[1, 0, 0]]}
    assert of(0.0, **ended)[:2] == pytest.approx([1 + 5, 2])
    assert of(1.0, **ended)[:2] == pytest.approx([1 + 0.5 * 2, 2])
    cut = {"real": [[1, 1, 0]], "followed": [[1, 0, 0]]}
    sequence = known([[1, 2, 4]], **cut)
    assert sequence.grounded.tolist() == [[True, False, False]]
    for trace in (0.0, 0.5, 1.0):
        assert of(trace, **cut)[0] == pytest.approx(1 + 5)  # what came of the cut-off row is not known: W alone
    last = known([[1, 2, 4]], **ended)
    assert last.grounded.tolist() == [[True, True, False]]


def test_what_lies_past_the_end_reaches_no_return_before_it():
    ended = {"terminal": [[0, 1, 1]], "real": [[1, 1, 0]], "followed": [[1, 0, 0]]}
    garbage = torch.tensor([[10.0, 1e6, -1e6]])
    for trace in (0.0, 0.7, 1.0):
        assert of(trace, ahead=garbage, **ended)[:2] == pytest.approx(of(trace, **ended)[:2])


def test_with_a_trace_of_one_returns_are_n_step_returns():
    reward = torch.rand(3, 6, generator=generator())
    ahead = torch.rand(3, 6, generator=generator(1))
    got = returns(replace(known([[0.0] * 6] * 3), reward=reward), ahead, 0.9, 1.0)
    for t in range(6):
        steps = reward[:, t:] * 0.9 ** torch.arange(6 - t)
        torch.testing.assert_close(got[:, t], steps.sum(1) + 0.9 ** (6 - t) * ahead[:, -1])


class Forbidden(nn.Module):
    """An actor that must not be asked."""

    def __getattr__(self, name):
        raise AssertionError(f"the actor's {name} was asked for")


@pytest.mark.parametrize("preset", ["iql", "riql", "fowm", "ours", "famo2o"])
def test_in_sample_targets_never_ask_the_actor(preset):
    made = agent(preset)
    made.actor = Forbidden()
    rows = max(made.config.critic.steps, made.config.model.horizon if made.config.model else 1)
    drawn = batch(made, steps=rows)
    loss, _, _ = critic_loss(made, sequences(drawn, made, rows, Reward()), drawn, generator(), 0.0)
    assert loss.isfinite()
    say(made.value.net, 7.0)
    assert worth(made, latents(made), generator()).tolist() == [7.0] * 5


def test_with_the_policy_as_target_the_actor_is_asked():
    made = agent()
    made.actor = Forbidden()
    with pytest.raises(AssertionError, match="was asked for"):
        worth(made, latents(made), generator())


def test_heads_are_reduced_as_the_phase_says():
    made = agent(critic={"heads": 3, "subset": 0, "reduce": ["min", "lcb"], "level": [1.0, 0.5]})
    say(made.critic.target, 1.0, 2.0, 6.0)
    z, a = latents(made, 2), torch.zeros(2, 2)
    assert target_q(made, z, a, generator()).tolist() == [1, 1]
    made.online.fill_(True)
    torch.testing.assert_close(target_q(made, z, a, generator()), torch.full((2,), 3 - 0.5 * (14 / 3) ** 0.5))
    some = agent(critic={"heads": 3, "subset": 1, "reduce": ["mean", "mean"]})
    say(some.critic.target, 1.0, 2.0, 6.0)
    seen = {float(target_q(some, z, a, generator(seed))[0]) for seed in range(30)}
    assert seen == {1.0, 2.0, 6.0}


def test_the_policys_entropy_counts_where_it_is_asked_for():
    made, plain = agent(critic={"entropy": True}), agent(critic={"entropy": False})
    for each in (made, plain):
        say(each.critic.target, 3.0, 3.0)
    z = latents(made)
    _, log_prob = made.actor.learn(z, generator())
    torch.testing.assert_close(worth(made, z, generator()), 3 - 0.1 * log_prob.detach())
    assert worth(plain, z, generator()).tolist() == [3.0] * 5


def test_td3s_target_action_is_noisy_but_not_too_much():
    made = agent(actor={"kind": "deterministic"})
    z = latents(made)
    expected = target_q(made, z, made.actor.smoothed(z, rng := generator()), rng)
    torch.testing.assert_close(worth(made, z, generator()), expected)


def test_a_diffusion_policys_target_is_what_it_would_do_not_a_glance_at_it():
    made = agent("edp")
    z, rng = latents(made), generator()
    torch.testing.assert_close(worth(made, z, generator()), target_q(made, z, made.actor.sample(z, rng), rng))


def test_the_best_of_n_is_the_best_of_the_candidates():
    made = agent("expo")
    z = latents(made)
    made.seed(0)
    candidates, rng = made.candidates(z, 8), generator()
    q = target_q(made, z.expand(16, *z.shape), candidates, rng)
    made.seed(0)
    got = worth(made, z, generator())
    torch.testing.assert_close(got, q.amax(0))
    assert (got >= q).all()


def constant(reward: float, q: float, penalty: float = 0.0, heads: int = 3) -> Agent:
    fields = {
        "critic": {"expansion_penalty": penalty, "reduce": ["mean", "mean"]},
        "model": {"rewards": "mse", "heads": heads, "horizon": 3},
    }
    made = agent("moto", **fields)
    say(made.critic.target, *[q] * made.config.critic.heads)
    made.model.outcome.last.bias.data[..., 0] = reward
    made.model.outcome.last.bias.data[..., 1] = -50.0  # nothing ends
    return made


def test_expanded_over_a_model_worth_is_its_rewards_and_then_q():
    made = constant(2.0, 10.0)
    got = worth(made, latents(made), generator())
    gamma = made.config.discount
    torch.testing.assert_close(got, torch.full((5,), 2 * (1 + gamma + gamma**2) + 10 * gamma**3))
    doubted = worth(constant(2.0, 10.0, penalty=0.5), latents(made), generator())
    assert (doubted < got).all()
    torch.testing.assert_close(worth(constant(2.0, 10.0, penalty=0.5, heads=1), latents(made), generator()), got)
    made.model.outcome.last.bias.data[..., 1] = 50.0
    torch.testing.assert_close(worth(made, latents(made), generator()), torch.full((5,), 2.0))


def test_sequences_are_normalised_and_say_what_counts():
    made = agent(history=2, reward={"scale": 10.0, "shift": -1.0})
    drawn = replay(history=2).read(torch.arange(20).numpy(), 3)
    got = sequences(drawn, made, 3, made.config.reward)
    assert got.inputs.shape == (20, 4, 4)
    path = torch.cat([drawn.obs.state, drawn.future.state], 1)
    for t in range(4):
        torch.testing.assert_close(got.inputs[:, t], made.state_norm.normalize(path[:, t : t + 2]).flatten(1))
    torch.testing.assert_close(got.action, made.action_norm.normalize(drawn.action).clamp(-1, 1))
    torch.testing.assert_close(got.reward[got.real], 10 * drawn.reward[~drawn.pad] - 1)
    assert torch.equal(got.real, ~drawn.pad) and torch.equal(got.followed, drawn.future_mask)
    assert not (got.grounded & ~got.real).any() and (got.terminal & got.grounded).sum() == got.terminal.sum() > 0
    with pytest.raises(ValueError, match="^batch: no reward"):
        sequences(replace(drawn, future=None), made, 3, made.config.reward)


def test_past_a_terminal_row_on_the_way_nothing_is_real():
    made = agent()
    drawn = batch(made, rows=1, steps=4)
    ended = torch.tensor([[False, True, False, False]])
    got = sequences(replace(drawn, terminal=ended, future_mask=torch.tensor([[True, False, False, False]])), made, 4, Reward())
    assert got.real.tolist() == [[True, True, False, False]]  # a walk does not know where the next attempt begins


def test_the_mean_of_all_heads_is_the_reduction_it_says():
    made = agent(critic={"heads": 4, "subset": 0, "reduce": ["mean", "mean"]})
    z = latents(made)
    a = torch.zeros(5, 2)
    torch.testing.assert_close(target_q(made, z, a, generator()), reduced(made.critic(z, a, target=True), "mean"))
