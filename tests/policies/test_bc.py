from dataclasses import replace

import pytest
import torch

from robolearn.core.errors import UserError
from robolearn.models.encoders.cnn import SmallCnnConfig
from robolearn.policies.bc import BcConfig
from robolearn.testing import PolicyContract


class TestStatePolicy(PolicyContract):
    config = BcConfig(hidden=(64, 64), dropout=0.0, horizon=4)


class TestImagePolicy(PolicyContract):
    config = BcConfig(
        hidden=(64,), dropout=0.0, horizon=4, error="huber", encoder=SmallCnnConfig(channels=(8, 8), strides=(2, 2), keypoints=4)
    )


def test_it_can_be_left_to_the_cameras_alone_but_must_see_something():
    encoder = SmallCnnConfig(channels=(8,), strides=(2,), keypoints=4)
    contract = TestStatePolicy()
    contract.config = BcConfig(hidden=(16,), horizon=4, state=("none",), encoder=encoder)
    policy, batch = contract.build(), contract.batch(3)
    assert policy.spec.state_dim == 0 == batch.obs.state.shape[-1] and policy.row_dim == policy.encoder.out_dim
    assert policy.act(batch.obs).shape == (3, 4, 3) and torch.isfinite(policy.loss(batch)[0])
    with pytest.raises(UserError, match="policy.state: none, and no encoder: the policy would see nothing"):
        BcConfig(state=("none",)).build(contract.spec)
    with pytest.raises(UserError, match="state: 'none' is not in the data"):
        BcConfig(state=("none", "position")).build(contract.spec)


def test_it_has_one_answer():
    contract = TestStatePolicy()
    samples = contract.build().sample(contract.batch(2).obs, 3)
    assert torch.equal(samples[:, 0], samples[:, 2])


def test_l1_takes_the_median_and_mse_the_mean():
    """Of one action seen once and another seen twice."""
    answers = {}
    for error in ("l1", "mse"):
        contract = TestStatePolicy()
        contract.config = BcConfig(hidden=(16,), dropout=0.0, horizon=1, error=error)
        policy, batch = contract.build(), contract.batch(3)
        state = torch.zeros_like(batch.obs.state)
        batch = replace(batch, obs=replace(batch.obs, state=state), action=torch.tensor([0.1, -0.1, -0.1])[:, None, None].expand(3, 1, 3))
        policy.action_norm.fit(torch.tensor([[-0.1] * 3, [0.1] * 3]))
        optimizer = torch.optim.Adam(policy.parameters(), 1e-2)
        for _ in range(250):
            optimizer.zero_grad()
            policy.loss(batch)[0].backward()
            optimizer.step()
        answers[error] = policy.act(batch.obs)[0, 0, 0].item()
    assert abs(answers["l1"] + 0.1) < 0.01
    assert abs(answers["mse"] + 0.1 / 3) < 0.01
