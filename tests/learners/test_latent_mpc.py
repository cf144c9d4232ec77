"""A point on a line: small enough that what the losses should do can be worked out by hand."""

from dataclasses import replace

import pytest
import torch

from hardware.types import ArraySpec, RobotSpec
from robolearn.core.types import Batch, Obs
from robolearn.learners.imitation import Imitation
from robolearn.learners.latent_mpc import LatentMpc, LatentMpcConfig
from robolearn.worldmodels.latent import LatentConfig, LatentWorldModel

SPEC = RobotSpec("point", {}, {"x": ArraySpec(("x",), ("m",), (-1,), (1,))}, ArraySpec(("dx",), ("m",), (-1,), (1,)), "ee_delta", 10.0)
HORIZON = 5


class KeepsWeights(Imitation):
    """Stands where the policy's learner does, and shows what it was given."""

    def __init__(self):
        pass

    def update(self, batch: Batch) -> dict[str, float]:
        self.batch = batch
        return {"policy_loss": 0.0}


@pytest.fixture
def learner() -> LatentMpc:
    torch.manual_seed(0)
    model = LatentWorldModel(LatentConfig(latent=16, width=32), SPEC, feature_dim=1, history=1)
    for norm in (model.feature_norm, model.state_norm, model.action_norm):
        norm.fit(torch.tensor([[-1.0], [1.0]]))
    config = LatentMpcConfig(reward_shift=0.0, trace=1.0)
    return LatentMpc(model, KeepsWeights(), config, torch.Generator().manual_seed(0))


def walk(rows: int, seed: int = 0) -> Batch:
    """x moves by 0.2 a per step; reward is -|x|; nothing ends."""
    generator = torch.Generator().manual_seed(seed)
    action = torch.rand(rows, HORIZON, 1, generator=generator) * 2 - 1
    x = torch.rand(rows, 1, 1, generator=generator) * 2 - 1
    path = torch.cat([x, x + 0.2 * action.cumsum(1)], 1).clamp(-1, 1)
    none = torch.zeros(rows, HORIZON, dtype=torch.bool)
    return Batch(
        Obs({}, path[:, :1], path[:, :1].clone()),
        action,
        none,
        reward=-path[:, 1:, 0].abs(),
        terminal=none,
        future=Obs({}, path[:, 1:], path[:, 1:].clone()),
        future_mask=~none,
    )


def test_every_loss_falls_on_a_world_it_can_learn(learner):
    first, _ = learner.model_loss(walk(256, seed=9))
    for i in range(60):
        learner.update_model(walk(64, seed=100 + i))
    last, metrics = learner.model_loss(walk(256, seed=9))
    assert last < 0.8 * first
    assert all(value == value for value in metrics.values())


def test_rows_past_the_end_change_nothing(learner):
    batch = walk(8)
    pad = torch.zeros(8, HORIZON, dtype=torch.bool)
    pad[:, 3:] = True
    followed = ~pad
    followed[:, 2] = False  # the last real row was cut off: nothing was seen after it
    batch = replace(batch, pad=pad, future_mask=followed)
    garbage = replace(
        batch,
        reward=torch.where(pad, 1e3, batch.reward),
        action=torch.where(pad[..., None], 0.99, batch.action),
        future=Obs(
            {},
            torch.where(followed[..., None], batch.future.state, 0.5),
            torch.where(followed[..., None], batch.future.features, -0.5),
        ),
    )
    state = learner.generator.get_state()
    clean, _ = learner.model_loss(batch)
    learner.generator.set_state(state)
    dirty, _ = learner.model_loss(garbage)
    torch.testing.assert_close(clean, dirty)
    torch.testing.assert_close(learner.advantage(batch), learner.advantage(garbage))


def test_the_advantage_is_the_rewards_plus_the_value_ahead_minus_the_value_now(learner):
    batch, model, gamma = walk(4), learner.model, learner.config.discount
    torch.nn.init.normal_(model.value.layers[-1].weight)
    value = lambda features: model.value.all(model.encode(Obs({}, features, features)))[0, :, 0]  # noqa: E731
    earned = sum(gamma**t * batch.reward[:, t] for t in range(HORIZON))
    expected = earned + gamma**HORIZON * value(batch.future.features[:, -1:]) - value(batch.obs.features)
    torch.testing.assert_close(learner.advantage(batch), expected)


def test_nothing_is_hoped_for_after_a_terminal_row_but_much_after_a_cut(learner):
    torch.nn.init.constant_(learner.model.value.layers[-1].bias, 7.0)
    batch = walk(4)
    pad, terminal = torch.zeros(4, HORIZON, dtype=torch.bool), torch.zeros(4, HORIZON, dtype=torch.bool)
    pad[:, 2:], terminal[:, 1] = True, True
    followed = torch.zeros_like(pad)
    followed[:, 0] = True
    gamma = learner.config.discount
    now = learner.model.value.all(learner.model.encode(batch.obs))[0, :, 0]
    ended = replace(batch, pad=pad, terminal=terminal, future_mask=followed)
    torch.testing.assert_close(learner.advantage(ended), batch.reward[:, 0] + gamma * batch.reward[:, 1] - now)
    cut = replace(ended, terminal=torch.zeros_like(terminal))
    ahead = learner.model.value.all(learner.model.encode(Obs({}, batch.future.state[:, :1], batch.future.features[:, :1])))[0, :, 0]
    torch.testing.assert_close(learner.advantage(cut), batch.reward[:, 0] + gamma * ahead - now)


def test_without_a_trace_the_return_is_one_step_and_the_value(learner):
    torch.nn.init.normal_(learner.model.value.layers[-1].weight)
    batch = walk(4)
    learner.config = replace(learner.config, trace=0.0)
    returns, value, grounded = learner.returns(batch)
    assert grounded.all()
    torch.testing.assert_close(returns[:, :-1], batch.reward[:, :-1] + learner.config.discount * value[:, 1:])


def test_better_rows_weigh_more_and_weights_average_to_one(learner):
    batch = walk(64)
    learner.update_policy(batch)
    weight, advantage = learner.imitation.batch.weight, learner.advantage(batch)
    assert weight.mean().item() == pytest.approx(1.0, abs=1e-5)
    assert weight[advantage.argmax()] > weight[advantage.argmin()]


def test_heads_agree_more_where_they_were_trained(learner):
    for i in range(80):
        learner.update_model(walk(64, seed=i))
    assert learner.calibrate(walk(256, seed=5000)) > 0
    near = walk(256, seed=6000)
    z = learner.model.encode(near.obs)
    inside = learner.model.imagine(z[:1], near.action[:64]).spread[:, 0].mean()
    outside = learner.model.imagine(z[:1], 6 * near.action[:64].sign()).spread[:, 0].mean()
    assert outside > inside


def test_a_batch_without_a_future_is_refused(learner):
    with pytest.raises(ValueError, match="future=True"):
        learner.model_loss(replace(walk(4), future=None, future_mask=None))
