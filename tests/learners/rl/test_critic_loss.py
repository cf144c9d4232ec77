from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from robolearn.agents.agent import Agent
from robolearn.core.types import Batch, Obs
from robolearn.learners.rl.critic_loss import critic_loss
from robolearn.learners.rl.pessimism import conservatism
from robolearn.learners.rl.sequences import sequences
from tests.agents.tiny import agent, generator, replay, say
from tests.learners.rl.rows import batch, known


def rows_of(made: Agent) -> int:
    return max(made.config.critic.steps, made.config.model.horizon if made.config.model else 1)


def lossof(made: Agent, drawn: Batch, phase: float = 0.0, weight: torch.Tensor | None = None):
    return critic_loss(made, sequences(drawn, made, rows_of(made), made.config.reward), drawn, generator(), phase, weight)


def stated(preset: str = "iql", v: float = 2.0, **fields) -> Agent:
    """Online heads say 1 and 3, target heads 5 and 4, V says `v`."""
    made = agent(preset, **fields)
    say(made.critic.online, 1.0, 3.0)
    say(made.critic.target, 5.0, 4.0)
    if made.value is not None:
        say(made.value.net, v)
    return made


def test_by_hand_one_step_of_iql():
    made = stated(discount=0.5, critic={"expectile": 0.9})
    reward, ended = torch.tensor([[1.0], [2.0], [4.0]]), torch.tensor([[False], [True], [False]])
    drawn = batch(made, 3, reward=reward, terminal=ended, future_mask=~ended)
    loss, metrics, walked = lossof(made, drawn)
    wanted = torch.tensor([1 + 0.5 * 2, 2.0, 4 + 0.5 * 2])  # 2, 2, 5
    q = torch.stack([(head - wanted).square() for head in (1.0, 3.0)]).mean()
    v = 0.9 * (4.0 - 2.0) ** 2  # the smaller target head above V
    assert float(loss.detach()) == pytest.approx(float(q) + v)
    assert metrics["q"] == pytest.approx(float(q)) and metrics["v"] == pytest.approx(v)
    assert metrics["q_mean"] == 2 and metrics["q_spread"] == pytest.approx(2**0.5)
    torch.testing.assert_close(walked.earned, wanted)
    assert walked.q.tolist() == [2, 2, 2] and walked.counts.tolist() == [1, 1, 1] and not walked.z.requires_grad
    below = stated(v=6.0, critic={"expectile": 0.9})
    assert lossof(below, drawn)[1]["v"] == pytest.approx(0.1 * 2**2)


def test_of_a_cut_off_row_only_v_learns():
    made = stated(discount=0.5)
    cut = torch.tensor([[True], [False]])
    drawn = batch(made, 2, reward=torch.tensor([[100.0], [1.0]]), future_mask=~cut)
    _, metrics, walked = lossof(made, drawn)
    assert metrics["q"] == pytest.approx((1 + 1) / 2) and walked.counts.tolist() == [0, 1]
    assert metrics["v"] == pytest.approx(0.7 * 4)


def test_rows_count_by_their_weight_in_the_bellman_error():
    made = stated(discount=0.0)
    drawn = batch(made, 2, reward=torch.tensor([[1.0], [3.0]]))
    q = lambda weight: lossof(made, drawn, weight=torch.tensor(weight))[1]["q"]  # noqa: E731
    assert q([1.0, 1.0]) == pytest.approx(2) and q([1.0, 0.0]) == pytest.approx(2)
    other = batch(made, 2, reward=torch.tensor([[1.0], [5.0]]))
    q = lambda weight: lossof(made, other, weight=torch.tensor(weight))[1]["q"]  # noqa: E731
    assert q([1.0, 0.0]) == pytest.approx(2) and q([3.0, 1.0]) == pytest.approx((3 * 2 + 10) / 4)


def test_returns_reach_over_several_rows_but_only_the_first_is_learned_without_a_model():
    made = stated("iql", v=0.0, discount=1.0, critic={"steps": 4, "trace": 1.0})
    drawn = batch(made, 1, 4, reward=torch.tensor([[1.0, 2.0, 3.0, 4.0]]))
    _, metrics, walked = lossof(made, drawn)
    assert walked.earned.tolist() == [10.0] and metrics["q"] == pytest.approx((81 + 49) / 2)


def garbage(drawn: Batch) -> Batch:
    """Nonsense past the end of each episode; and after a last row what was seen is the last observation again."""
    other = batch(agent(), len(drawn.action), drawn.action.shape[1], seed=9)
    gone = ~drawn.future_mask
    return replace(
        drawn,
        action=torch.where(drawn.pad[..., None], other.action, drawn.action),
        reward=torch.where(drawn.pad, 1e3 * other.reward, drawn.reward),
        terminal=drawn.terminal | drawn.pad,
        to_go=torch.where(drawn.pad, 1e3 * other.to_go, drawn.to_go),
        future=Obs({}, torch.where(gone[..., None], other.future.state, drawn.future.state)),
    )


@pytest.mark.parametrize("preset", ["ours", "fowm", "moto", "tdmpc2", "iql"])
def test_garbage_past_an_episodes_end_changes_nothing(preset):
    fields = {} if preset != "iql" else {"critic": {"steps": 4, "trace": 0.9}}
    made = agent(preset, **fields)
    torch.nn.init.normal_(made.critic.target.last.weight, std=0.1)
    if made.value is not None:
        torch.nn.init.normal_(made.value.net.last.weight, std=0.1)
    drawn = replay().read(np.arange(48), rows_of(made))
    assert drawn.pad.any() and drawn.terminal.any() and (~drawn.pad[:, 0] & ~drawn.future_mask[:, 0] & ~drawn.terminal[:, 0]).any()
    results = []
    for each in (drawn, garbage(drawn)):
        made.zero_grad()
        made.seed(0)
        loss, metrics, walked = lossof(made, each)
        loss.backward()
        grads = torch.cat([p.grad.flatten() for p in made.parameters() if p.grad is not None])
        results.append((float(loss.detach()), grads, walked.earned[walked.counts > 0], walked.counts))
    for one, two in zip(*results, strict=True):
        torch.testing.assert_close(torch.as_tensor(one), torch.as_tensor(two), rtol=1e-4, atol=1e-5)


def test_value_and_rewards_shape_what_the_encoder_sees():
    made = agent("ours", policy=None, model={"consistency": 0.0, "reward": 0.0, "ends": 0.0}, critic={"loss": "mse"})
    drawn = batch(made, 8, 16)
    loss, metrics, walked = lossof(made, drawn)
    loss.backward()
    assert sum(float(p.grad.abs().sum()) for p in made.model.encoder.parameters()) > 0
    assert walked.z.shape == (8 * 5, 16) and set(metrics) == {"consistency", "reward", "q", "v", "q_mean", "q_spread"}
    torch.testing.assert_close(walked.counts.view(8, 5), 0.5 ** torch.arange(5.0).expand(8, 5))
    assert all(p.grad is None for p in made.actor.parameters()) and all(p.grad is None for p in made.critic.target.parameters())


def test_the_models_value_weight_scales_q_and_v_and_pessimism():
    drawn = batch(agent("ours"), 8, 16)
    total = []
    for value in (0.0, 1.0):
        made = agent("ours", policy=None, model={"value": value}, critic={"pessimism": "cql", "weight": [2.0, 2.0]})
        loss, metrics, _ = lossof(made, drawn)
        total.append(float(loss.detach()))
    assert total[1] - total[0] == pytest.approx(metrics["q"] + metrics["v"] + 2 * metrics["pessimism"], rel=1e-4)


def test_pessimism_goes_from_its_offline_to_its_online_weight():
    made = agent("wsrl")
    drawn = batch(made, 8, to_go=torch.zeros(8, 1))
    full, metrics, _ = lossof(made, drawn, 0.0)
    half, none = lossof(made, drawn, 0.5)[0], lossof(made, drawn, 1.0)
    assert "pessimism" not in none[1]
    torch.testing.assert_close(full - none[0], torch.tensor(5 * metrics["pessimism"]), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(half - none[0], (full - none[0]) / 2, rtol=1e-4, atol=1e-4)
    with pytest.raises(ValueError, match="^batch: no to_go"):
        lossof(made, replace(drawn, to_go=None))


def test_a_gap_is_pushed_down_only_where_the_present_dynamics_would_not_go():
    made = agent("h2o")
    drawn = batch(made, 4)
    push = lambda weight: lossof(made, drawn, 1.0, weight)[1]["pessimism"]  # noqa: E731
    assert push(None) == 0 and push(torch.ones(4)) == 0 and push(torch.full((4,), 3.0)) == 0
    half = torch.tensor([0.25, 1.0, 1.0, 1.0])
    rows = sequences(drawn, made, 1, made.config.reward)
    z, after, action = rows.inputs[:, 0], rows.inputs[:, 1], rows.action[:, 0]
    rng = generator()  # the target's draws come first
    made.actor.learn(made.told(after), rng)
    gap = conservatism(made, z, after, action, made.critic(z, action).detach(), rng)
    assert push(half) == pytest.approx(0.75 * float(gap[0].detach()) / 4, rel=1e-4)


def test_noise_on_the_state_is_smoothed_where_asked():
    made = agent("rorl")
    assert lossof(made, batch(made, 8))[1]["rough"] > 0 and "rough" not in lossof(agent("cql"), batch(made, 8))[1]


def test_known_rows_are_what_the_names_say():
    rows = known([[1.0, 2.0]], terminal=[[0, 1]], followed=[[1, 0]])
    assert rows.grounded.tolist() == [[True, True]] and rows.inputs.shape == (1, 3, 2)
