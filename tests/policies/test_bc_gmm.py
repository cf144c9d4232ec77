from dataclasses import replace

import pytest
import torch

from robolearn.core.errors import UserError
from robolearn.models.encoders.cnn import SmallCnnConfig
from robolearn.policies.bc_gmm import BcGmmConfig
from robolearn.testing import SPEC, PolicyContract


class TestStatePolicy(PolicyContract):
    config = BcGmmConfig(hidden=(64, 64), horizon=1)


class TestChunkPolicy(PolicyContract):
    config = BcGmmConfig(hidden=(64, 64), horizon=4, modes=3)


class TestImagePolicy(PolicyContract):
    config = BcGmmConfig(hidden=(64,), horizon=4, modes=2, encoder=SmallCnnConfig(channels=(8, 8), strides=(2, 2), keypoints=4))


def test_it_learns_two_ways_and_keeps_to_the_one_it_began():
    """From the same state half the data goes left and half right: both occur, and no chunk changes its mind on the way."""
    contract = TestChunkPolicy()
    policy, batch = contract.build(), contract.batch(64)
    side = torch.where(torch.arange(64) % 2 == 0, 0.1, -0.1)
    action = torch.zeros_like(batch.action)
    action[..., 0] = side[:, None]
    batch = replace(batch, action=action)
    policy.action_norm.fit(action.flatten(0, 1))
    optimizer = torch.optim.Adam(policy.parameters(), 3e-3)
    for _ in range(200):
        optimizer.zero_grad()
        policy.loss(batch)[0].backward()
        optimizer.step()
    samples = policy.sample(contract.batch(1, seed=5).obs, 64)[0, :, :, 0]
    assert (samples.abs() > 0.09).float().mean() > 0.9
    assert (samples.sign() == samples[:, :1].sign()).all()
    assert 0.2 < (samples[:, 0] > 0).float().mean() < 0.8


def test_padded_actions_have_no_say_within_a_chunk():
    policy, batch = TestChunkPolicy().build(replace(TestChunkPolicy.config, mask_pad=True)).eval(), TestChunkPolicy().batch(4)
    batch = replace(batch, pad=torch.tensor([False, False, True, True]).expand(4, 4))
    other = torch.where(batch.pad.unsqueeze(-1), torch.tensor(3.0), batch.action)
    assert policy.loss(batch)[1] == policy.loss(replace(batch, action=other))[1]


def test_no_mixture_without_a_component():
    with pytest.raises(UserError, match="policy.modes: 0 Gaussians; expected at least 1"):
        BcGmmConfig(modes=0).build(SPEC)
