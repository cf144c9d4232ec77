"""Hierarchical behaviour cloning: the contract; a low level that goes where it is sent; IRIS takes the way that is rewarded."""

from dataclasses import replace

import pytest
import torch

from robolearn.core.errors import UserError
from robolearn.core.types import Batch, Obs
from robolearn.learners.imitation import Imitation, ImitationConfig
from robolearn.models.encoders.cnn import SmallCnnConfig
from robolearn.policies.hbc import HbcConfig
from robolearn.testing import SPEC, PolicyContract

SMALL = {"horizon": 4, "hidden": (64,), "latent": 4, "modes": 4, "proposals": 32}


class TestStatePolicy(PolicyContract):
    config = HbcConfig(**SMALL)


class TestPolicyWithFrozenEyes(PolicyContract):
    config = HbcConfig(
        **SMALL,
        encoder=SmallCnnConfig(tune="none", channels=(8,), strides=(2,), keypoints=4),
        cameras=("wrist",),
        state=("position",),
    )
    feature_dim = 8


class TestGoals(PolicyContract):
    config = HbcConfig(**SMALL, goal="state")


class TestIris(PolicyContract):
    config = HbcConfig(**SMALL, values=True)


def branches(rows: int, seed: int = 0, rewarded: float = 1.0) -> Batch:
    """A point at the fork: most people go right (x), one in four goes left, at one of many speeds (y); left earns a reward at the end."""
    generator = torch.Generator().manual_seed(seed)
    batch = TestStatePolicy().batch(rows)
    left = torch.rand(rows, generator=generator) < 0.25
    action = torch.zeros(rows, 4, 3)
    action[..., 0] = torch.where(left, -0.1, 0.1)[:, None]
    action[..., 1] = (0.1 * torch.rand(rows, generator=generator) - 0.05)[:, None]
    reward = torch.zeros(rows, 4)
    reward[:, -1] = torch.where(left, rewarded, 0.0)
    obs = Obs({}, torch.zeros(rows, 2, 3))
    return replace(batch, obs=obs, action=action, reward=reward, future=Obs({}, action.cumsum(1)))


def at_the_ends(rows: int, seed: int) -> Batch:
    """The same episodes, seen from where they end: the last row, after which nothing comes."""
    batch = branches(rows, seed)
    state = batch.future.state[:, -1:].expand(-1, 2, -1)
    reward = torch.zeros_like(batch.reward)
    reward[:, 0] = batch.reward[:, -1]
    return replace(
        batch,
        obs=Obs({}, state),
        reward=reward,
        pad=torch.tensor([[False, True, True, True]]).expand(rows, -1),
        future=Obs({}, state[:, -1:].expand(-1, 4, -1)),
        future_mask=torch.zeros(rows, 4) > 0,
    )


def trained(updates: int, *sources, **settings):
    torch.manual_seed(0)
    policy = HbcConfig(**SMALL | {"mask_pad": True, "discount": 0.9} | settings).build(SPEC)
    batch = branches(64)
    policy.fit_normalizers(batch.future.state.flatten(0, 1).numpy(), batch.action.flatten(0, 1).numpy())
    learner = Imitation(policy, ImitationConfig(lr=5e-3, warmup=10, schedule="constant", precision="float32"))
    for seed in range(updates):
        for source in sources:
            learner.update(source(64, seed))
    return learner.policy


@pytest.fixture(scope="module")
def follower():
    return trained(150, branches)


def test_the_low_level_goes_where_it_is_sent(follower):
    batch = branches(16, seed=10**6)
    cond = follower.condition(batch.obs).flatten(1)
    subgoal = follower.state_norm.normalize(batch.future.state[:, -1])
    with torch.no_grad():
        sent = follower.outside(follower._chunks(cond, subgoal).unsqueeze(1), batch.obs)[:, 0]
    assert (sent - batch.action).abs().max() < 0.02


def test_proposals_are_where_people_went_as_often_as_they_went_there(follower):
    subgoals = follower.state_norm.unnormalize(follower.propose(torch.zeros(1, follower.cond_dim), 400, torch.Generator().manual_seed(0)))
    side = subgoals[0, :, 0].detach()
    assert ((side.abs() - 0.4).abs() < 0.2).float().mean() > 0.9, "left or right, and nowhere between"
    assert 0.1 < (side < 0).float().mean() < 0.45
    chunks = follower.sample(branches(1).obs, 100)[0, :, :, 0]
    assert (chunks.abs() > 0.07).float().mean() > 0.85 and ((chunks > 0).all(1) | (chunks < 0).all(1)).float().mean() > 0.9


def test_iris_takes_the_branch_that_is_rewarded_and_hbc_the_one_that_is_common(follower):
    chooser = trained(150, branches, at_the_ends, values=True)
    obs = branches(1).obs
    lefts = [(policy.sample(obs, 50)[0, :, :, 0].mean(1) < 0).float().mean() for policy in (follower, chooser)]
    assert lefts[0] < 0.45 and lefts[1] > 0.95


def test_where_the_episode_ends_before_its_last_observation_is_the_subgoal():
    contract = TestStatePolicy()
    policy, batch = contract.build().eval(), contract.batch(6)
    batch = replace(batch, future_mask=torch.tensor([[True, True, False, False]]).expand(6, -1))

    def loss(step: int) -> float:
        state = batch.future.state.clone()
        state[:, step] += 0.5
        policy.seed(0)
        return policy.loss(replace(batch, future=Obs({}, state)))[1]["loss"]

    policy.seed(0)
    before = policy.loss(batch)[1]["loss"]
    assert loss(1) != pytest.approx(before)
    assert loss(0) == loss(2) == loss(3) == before


def test_the_value_learns_in_training_only():
    contract = TestIris()
    policy, batch = contract.build(), contract.batch(4)
    policy.eval().loss(batch)
    assert policy.value.scale == 0
    policy.train().loss(batch)
    assert policy.value.scale == batch.reward.max()


def test_a_batch_without_a_future_is_named():
    contract = TestStatePolicy()
    with pytest.raises(ValueError, match="hbc: the batch lacks the future"):
        contract.build().loss(replace(contract.batch(2), future=None))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"encoder": SmallCnnConfig()}, "policy.encoder.tune: full; hbc learns from features of what came after"),
        ({"latent": 0}, "policy.latent: 0"),
        ({"modes": 0}, "policy.modes: 0"),
        ({"proposals": 0}, "policy.proposals: 0"),
        ({"discount": 1.0}, "policy.discount: 1.0; expected more than 0 and less than 1"),
        ({"expectile": 0.0}, "policy.expectile: 0.0; expected more than 0 and less than 1"),
    ],
)
def test_a_config_that_cannot_be_built_says_why(settings, message):
    with pytest.raises(UserError, match=message):
        HbcConfig(**settings).build(SPEC)
