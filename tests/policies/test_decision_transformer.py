"""Decision Transformer: the contract; two behaviours told apart by nothing but the return that is asked for."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from robolearn.core.errors import UserError
from robolearn.core.types import Batch, Obs, Past
from robolearn.learners.imitation import Imitation, ImitationConfig
from robolearn.models.encoders.cnn import SmallCnnConfig
from robolearn.policies.decision_transformer import DecisionTransformerConfig
from robolearn.testing import SPEC, PolicyContract

SMALL = {"history": 4, "horizon": 3, "width": 32, "layers": 1, "dropout": 0.0}


class TestStatePolicy(PolicyContract):
    config = DecisionTransformerConfig(**SMALL)


class TestImagePolicy(PolicyContract):
    config = DecisionTransformerConfig(**SMALL, encoder=SmallCnnConfig(channels=(8, 8), strides=(2, 2), keypoints=4))


class TestGoals(PolicyContract):
    config = DecisionTransformerConfig(**SMALL, goal="state")


def two_behaviours(rows: int = 32) -> Batch:
    """First rows of episodes: half of them go left and earn 1, the others go right and earn 10. Only the return tells which."""
    contract = TestStatePolicy()
    batch = contract.batch(rows)
    right = torch.arange(rows) % 2 == 1
    side = torch.where(right, 0.1, -0.1)[:, None, None]
    obs = batch.obs
    assert obs.past is not None
    step, real = torch.zeros(rows, 4, dtype=torch.int64), torch.arange(4).expand(rows, -1) == 3
    past = Past(torch.zeros_like(obs.past.action), torch.where(right, 10.0, 1.0)[:, None].expand(-1, 4), step, real)
    action = side.expand(-1, 3, 3) * torch.tensor([1.0, 0, 0])
    return replace(batch, obs=replace(obs, state=torch.zeros_like(obs.state), past=past), action=action)


def trained(batch: Batch, updates: int = 60, **settings):
    contract = TestStatePolicy()
    contract.config = DecisionTransformerConfig(**SMALL | settings)
    policy = contract.build()
    policy.action_norm.fit(torch.tensor([[-0.1] * 3, [0.1] * 3]))
    learner = Imitation(policy, ImitationConfig(lr=3e-3, warmup=5, schedule="constant", precision="float32"))
    for _ in range(updates):
        learner.update(batch)
    return learner.policy


def asked_for(obs: Obs, to_go: float) -> Obs:
    assert obs.past is not None
    return replace(obs, past=replace(obs.past, to_go=torch.full_like(obs.past.to_go, to_go)))


def test_it_does_what_earned_the_return_that_is_asked_for():
    batch = two_behaviours()
    policy = trained(batch)
    for to_go, side in ((1.0, -0.1), (10.0, 0.1), (policy.target, 0.1)):
        assert torch.allclose(policy.act(asked_for(batch.obs, to_go))[..., 0], torch.tensor(side), atol=0.03)


def test_the_best_return_of_an_episode_travels_with_the_weights(tmp_path):
    from robolearn.core.checkpoint import load_policy, save_checkpoint

    batch = two_behaviours()
    past = batch.obs.past
    assert past is not None
    step = torch.arange(4).expand(32, -1)
    late = replace(past, step=step, real=step >= 0, to_go=past.to_go + 50 * step)  # more to come later than an episode has as a whole
    policy = trained(replace(batch, obs=replace(batch.obs, past=late)), updates=2)
    save_checkpoint(tmp_path / "policy.pt", policy, policy.config)
    loaded = load_policy(tmp_path / "policy.pt")
    assert policy.target == loaded.target == 10.0
    assert loaded.returns.scale == 160.0 and loaded.returns.longest == 3
    assert DecisionTransformerConfig(**SMALL).build(SPEC).target == 0.0, "before training"


def test_rows_of_weight_zero_and_rows_before_the_episode_set_no_target():
    batch = two_behaviours()
    good = trained(replace(batch, weight=(torch.arange(32) % 2 == 0).float()), updates=1)
    assert good.target == 1.0
    past = batch.obs.past
    assert past is not None
    unreal = replace(past, step=past.step + past.real.long())
    assert trained(replace(batch, obs=replace(batch.obs, past=unreal)), updates=1).returns.best == -np.inf


def test_every_real_step_of_the_history_learns_and_no_other():
    """With the newest action's chunk right already, what is left of the loss comes from the steps before it."""
    contract = TestStatePolicy()
    policy, batch = contract.build().eval(), contract.batch(4)
    past = batch.obs.past
    assert past is not None

    def loss(oldest: float, real: bool) -> float:
        action = past.action.clone()
        action[:, 0] = oldest
        flags = torch.ones_like(past.real)
        flags[:, 0] = real
        return policy.loss(replace(batch, obs=replace(batch.obs, past=replace(past, action=action, real=flags))))[1]["loss"]

    assert loss(0.0, True) != pytest.approx(loss(0.1, True))
    assert loss(0.0, False) == pytest.approx(loss(0.1, False))


def test_the_answer_looks_at_the_actions_taken_and_at_nothing_before_the_episode():
    contract = TestStatePolicy()
    policy, obs = contract.build(), contract.batch(2).obs
    assert obs.past is not None
    real = torch.tensor([[False, True, True, True]] * 2)
    obs = replace(obs, past=replace(obs.past, real=real))

    def changed(step: int, part: str) -> torch.Tensor:
        assert obs.past is not None
        value = getattr(obs.past, part).clone()
        value[:, step] += 1
        return policy.act(replace(obs, past=replace(obs.past, **{part: value})))

    now = policy.act(obs)
    for part in ("action", "to_go"):
        assert torch.equal(changed(0, part), now) and not torch.equal(changed(1, part), now)
    assert torch.equal(changed(3, "action"), now), "the newest action is not known yet"
    assert not torch.equal(changed(3, "to_go"), now)


def test_time_stands_still_beyond_the_longest_training_episode():
    batch = TestStatePolicy().batch(16)
    past = batch.obs.past
    assert past is not None

    def answers(**settings) -> tuple[torch.Tensor, ...]:
        policy = trained(batch, 2, **settings)
        longest = int(policy.returns.longest)
        assert longest == past.step.max() > 8
        steps = (1, 2, longest - 1, longest, longest + 1, 10**6)
        return tuple(policy.act(replace(batch.obs, past=replace(past, step=torch.full_like(past.step, step)))) for step in steps)

    first, second, before, longest, after, never = answers()
    assert not torch.equal(first, second) and not torch.equal(before, longest)
    assert torch.equal(longest, after) and torch.equal(longest, never)
    first, second, before, *_ = answers(steps=3)
    assert not torch.equal(first, second) and torch.equal(second, before), "no more steps are told apart than the config says"


def test_without_a_past_it_says_what_is_missing():
    contract = TestStatePolicy()
    policy, batch = contract.build(), contract.batch(1)
    with pytest.raises(ValueError, match="decision_transformer: obs.past is missing"):
        policy.act(replace(batch.obs, past=None))


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (DecisionTransformerConfig(heads=3), "policy.heads: 3; expected a divisor of width = 128"),
        (DecisionTransformerConfig(heads=0), "policy.heads: 0; expected a divisor of width = 128"),
        (DecisionTransformerConfig(steps=0), "policy.steps: 0 rows of an episode; expected at least 1"),
    ],
)
def test_a_config_that_cannot_be_built_says_why(config, message):
    with pytest.raises(UserError, match=message):
        config.build(SPEC)
