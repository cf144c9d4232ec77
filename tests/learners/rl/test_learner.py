from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from robolearn.agents.agent import Agent
from robolearn.core.checkpoint import load_state, save_state
from robolearn.core.types import Batch, Obs
from robolearn.learners.rl.bonus import Novelty, SuccessClassifier, disagreement, state_entropy
from robolearn.learners.rl.dynamics_ratio import DynamicsRatio
from robolearn.learners.rl.learner import AgentLearner
from robolearn.learners.rl.sequences import sequences
from tests.agents.tiny import actions, agent, generator, latents, look, replay, say
from tests.learners.rl.rows import batch


def learner(preset: str | None = None, seed: int = 0, **fields) -> AgentLearner:
    return AgentLearner(agent(preset, seed, **fields), generator(seed))


def drawn(of: AgentLearner, seed: int, fresh: bool = True) -> Batch:
    """Rows of whole episodes, half of them fresh."""
    rows = replay(8)
    batch = rows.read(np.random.default_rng(seed).integers(len(rows), size=16), of.rows)
    return replace(batch, fresh=(torch.arange(16) % 2 == 0) & fresh)


def weights(of: AgentLearner) -> dict[str, torch.Tensor]:
    extras = {f"extras.{name}.{key}": value for name, part in of._extras.items() for key, value in part.state_dict().items()}
    return {name: value.clone() for name, value in (of.agent.state_dict() | extras).items()}


def go_online(of: AgentLearner) -> None:
    of.agent.online.fill_(True)
    of.new_optimizers()


@pytest.mark.parametrize("preset", ["iql", "ours", "spot", "expo", "h2o", "famo2o", "tdmpc2"])
def test_the_update_after_a_round_trip_is_the_one_that_would_have_followed(tmp_path, preset):
    one = learner(preset)
    for seed in range(2):
        one.update(drawn(one, seed, fresh=False))
    go_online(one)
    for seed in range(2, 4):
        one.update(drawn(one, seed))
    save_state(tmp_path / "state.pt", one.state_dict())
    expected = [one.update(drawn(one, seed)) for seed in (4, 5)]
    other = learner(preset, seed=7)
    other.load_state_dict(load_state(tmp_path / "state.pt"))
    assert [other.update(drawn(other, seed)) for seed in (4, 5)] == expected
    assert (other.updates, other.online_updates, other.actor_updates) == (6, 4, one.actor_updates)
    for name, value in weights(one).items():
        assert torch.equal(value, weights(other)[name]), name
    for each in (one, other):
        each.agent.explore = True
    assert torch.equal(one.agent.act(look(1)), other.agent.act(look(1)))  # its noise goes on, too


@pytest.mark.parametrize("preset", ["iql", "moto", "sac"])
def test_losses_fall_on_rows_it_sees_again(preset):
    one = learner(preset)
    rows = drawn(one, 0)
    for part in (one.optimizers["critic"], one.optimizers["actor"]):
        for group in part.param_groups:
            group["lr"] = 3e-3
    first = one.update(rows)
    for _ in range(60):
        last = one.update(rows)
    assert last["q"] < first["q"] and last.get("bc", -1) < first.get("bc", 0)
    if one.agent.model is not None:
        assert last["reward"] < first["reward"] and last["ends"] < first["ends"]


@pytest.mark.parametrize("field", ["reward", "action", "state"])
def test_what_is_not_finite_is_not_learned_from(field):
    one = learner("iql")
    before, rows = weights(one), drawn(one, 0)
    bad = {
        "reward": lambda: replace(rows, reward=torch.full_like(rows.reward, torch.nan)),
        "action": lambda: replace(rows, action=torch.full_like(rows.action, torch.nan)),
        "state": lambda: replace(rows, obs=Obs({}, torch.full_like(rows.obs.state, torch.inf))),
    }
    with pytest.raises(FloatingPointError, match="^critic: the loss is .* at update 0; lower"):
        one.update(bad[field]())
    for name, value in weights(one).items():
        assert torch.equal(value, before[name]), name


def test_the_actor_learns_every_so_often_and_only_where_it_may():
    one = learner("spot")  # actor_every: 2
    moved = []
    for seed in range(4):
        before = weights(one)
        one.update(drawn(one, seed))
        moved.append(any(not torch.equal(value, before[name]) for name, value in weights(one).items() if name.startswith("actor.")))
    assert moved == [False, True, False, True] and (one.updates, one.actor_updates, one.online_updates) == (4, 2, 0)
    one.update(drawn(one, 5), actor=False)
    one.update(drawn(one, 6), actor=False)
    assert one.actor_updates == 2


def test_each_part_learns_from_its_own_loss_alone():
    one = learner("ours")
    before = weights(one)
    one.update(drawn(one, 0), actor=False)
    moved = {name.split(".")[0] for name, value in weights(one).items() if not torch.equal(value, before[name])}
    assert moved == {"critic", "value", "model"}
    walked = {name for name, value in weights(one).items() if not torch.equal(value, before[name]) and name.startswith("critic")}
    assert any("target" in name for name in walked) and "critic.spread_range" in walked
    assert all(p.requires_grad for p in one.agent.critic.online.parameters())
    assert not any(p.requires_grad for p in one.agent.critic.target.parameters())


def test_phases_go_from_offline_to_online_along_the_ramp():
    one = learner("iql", update={"ramp": 4})
    phases = [one.phase]
    one.agent.online.fill_(True)
    for seed in range(6):
        phases.append(one.phase)
        one.update(drawn(one, seed))
    assert phases == [0, 0.25, 0.5, 0.75, 1, 1, 1]
    at_once = learner("iql")
    at_once.agent.online.fill_(True)
    assert at_once.phase == 1


def test_the_range_of_values_counts_only_rows_that_are_there():
    one = learner("ours", critic={"loss": "mse"})
    rows = replay(8).read(np.arange(7, 64, 8), one.rows)  # the last row of each episode: all else lies past its end
    noise = batch(one.agent, 8, one.rows, seed=4)
    other = replace(rows, action=torch.where(rows.pad[..., None], 50 * noise.action, rows.action))
    ranges = []
    for each in (rows, other):
        one = learner("ours", critic={"loss": "mse"})
        one.update(each, actor=False)
        ranges.append(float(one.agent.critic.spread_range))
    assert ranges[0] == pytest.approx(ranges[1]) and ranges[0] != 1


def test_calibration_is_the_median_of_what_heads_disagree_about_where_they_should_agree():
    one, held_out = learner("ours"), replay(4, first=70)
    said = one.calibrate(held_out)
    made = one.agent
    z = made.encode(made.inputs(Obs({}, torch.from_numpy(held_out.column("state"))[:, None])))[:, 0]
    spread = made.model.spread(z, made.action_norm.normalize(torch.from_numpy(held_out.column("action"))).clamp(-1, 1))
    assert said == pytest.approx(float(spread.median())) == float(made.model.spread_median)


def test_the_margin_is_how_far_expected_returns_were_from_those_that_were_earned():
    one, held_out = learner("ours"), replay(4, first=70)
    made = one.agent
    assert made.model is not None and made.value is not None
    assert float(made.model.return_error) == 1.0  # not measured: the policy's own plan
    say(made.value.net, 2.0)  # rewards begin at nothing: every plan is expected to earn what its end is worth
    made.critic.spread_range.fill_(4.0)
    one.config = replace(one.config, reward=replace(one.config.reward, shift=0.0), critic=replace(one.config.critic, trace=1.0))
    one.calibrate(held_out)
    gamma, ahead = one.config.discount, one.config.planner.search.horizon
    wrong = []
    for start in range(0, len(held_out), 8):  # episodes of eight rows; every other one is cut off, and goes on
        reward, ended = held_out.column("reward")[start : start + 8], held_out.column("terminal")[start + 7]
        known = 8 if ended else 7  # nothing was seen after the last row of one that was cut off
        alive = float(1 - 0.5) if made.config.model and made.config.model.ends else 1.0  # an untaught model gives every step an even chance
        for t in range(known - ahead + 1):
            earned = sum(gamma ** (i - t) * reward[i] for i in range(t, known)) + (0 if ended else gamma ** (known - t) * 2.0)
            wrong.append(gamma**ahead * alive**ahead * 2.0 - earned)
    assert float(made.model.return_error) == pytest.approx(float(np.sqrt(np.mean(np.square(wrong)))) / 4.0, rel=1e-4)


def rewarded(of: AgentLearner) -> torch.Tensor:
    return of._rewarded(sequences(drawn(of, 0), of.agent, of.rows, of.config.reward)).reward


@pytest.mark.parametrize("bonus", ["entropy", "ensemble", "novelty"])
def test_a_bonus_is_added_online_only(bonus):
    one = learner(reward={"bonus": bonus, "bonus_weight": 0.5})
    offline = rewarded(one)
    one.agent.online.fill_(True)
    online = rewarded(one)
    assert (online > offline).all()
    one.config = learner(reward={"bonus": bonus, "bonus_weight": 1.0}).config
    if bonus != "novelty":  # whose mean moves
        torch.testing.assert_close(rewarded(one) - offline, 2 * (online - offline))


def test_bonuses_by_hand():
    z = torch.tensor([[0.0], [1.0], [3.0], [10.0]])
    away = torch.tensor([1.0, 1.0, 2.0, 7.0])  # to the nearest other
    torch.testing.assert_close(state_entropy(z, k=1), (away / away.mean()).log1p())
    made = agent()
    say(made.critic.online, 1.0, 5.0)
    made.critic.spread_range.fill_(4.0)
    torch.testing.assert_close(disagreement(made, latents(made), actions(5)), torch.full((5,), 0.5))
    torch.manual_seed(0)
    novel = Novelty(2)
    seen, optimizer = torch.randn(64, 2, generator=generator()), torch.optim.Adam(novel.guess.parameters(), 1e-2)
    for _ in range(100):
        optimizer.zero_grad()
        novel.errors(seen).mean().backward()
        optimizer.step()
    assert novel.errors(seen + 20).mean() > 5 * novel.errors(seen).mean() and all(p.grad is None for p in novel.goal.parameters())


def test_a_classifier_gives_the_reward_where_it_is_the_source():
    one = learner(reward={"source": "classifier", "scale": 10.0, "shift": -1.0})
    assert rewarded(one).tolist() == [[4.0]] * 16  # a half chance, at first
    torch.manual_seed(0)
    rare, net = torch.arange(200) < 10, SuccessClassifier(2, 2, 32)
    z, action = torch.randn(200, 2, generator=generator()) + 3 * rare[:, None], actions(200)
    optimizer = torch.optim.Adam(net.parameters(), 1e-2)
    for _ in range(60):
        optimizer.zero_grad()
        net.loss(z, action, rare.float()).backward()
        optimizer.step()
    chance = net(z, action)
    assert chance[rare].mean() > 0.8 and chance[~rare].mean() < 0.2 and not chance.requires_grad


def test_old_rows_count_by_how_likely_the_present_dynamics_made_them():
    torch.manual_seed(0)
    ratio, rng = DynamicsRatio(1, 1, 32), generator()
    optimizer = torch.optim.Adam(ratio.parameters(), 1e-2)
    for _ in range(150):
        z, a, fresh = torch.randn(128, 1, generator=rng), torch.rand(128, 1, generator=rng), torch.rand(128, generator=rng) < 0.5
        after = z + torch.where(fresh[:, None], a, -a)  # the sign of an action has changed since
        optimizer.zero_grad()
        ratio.loss(z, a, after, fresh).backward()
        optimizer.step()
    z, a = torch.randn(50, 1, generator=rng), torch.full((50, 1), 0.8)
    assert ratio(z, a, z + a).mean() > 5 and ratio(z, a, z - a).mean() < 0.3
    one = learner("h2o")
    rows = drawn(one, 0)
    known = sequences(rows, one.agent, one.rows, one.config.reward)
    assert one._likely(known, rows) is None  # offline there is nothing to compare with
    one.agent.online.fill_(True)
    torch.nn.init.normal_(one.ratio.led.last.weight)
    weight = one._likely(known, rows)
    assert weight[rows.fresh].eq(1).all() and (weight[~rows.fresh] != 1).any() and weight.min() >= 0.1 and weight.max() <= 10


def test_half_precision_learns_too():
    made = learner("ours", update={"precision": "bfloat16"})
    metrics = made.update(drawn(made, 0))
    assert all(np.isfinite(v) for v in metrics.values())
    assert isinstance(made.agent, Agent) and all(p.dtype == torch.float32 for p in made.agent.parameters())
