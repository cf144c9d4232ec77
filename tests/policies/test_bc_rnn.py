from dataclasses import replace

import pytest
import torch

from robolearn.core.errors import UserError
from robolearn.learners.imitation import Imitation, ImitationConfig
from robolearn.models.encoders.cnn import SmallCnnConfig
from robolearn.policies.bc_rnn import BcRnnConfig
from robolearn.testing import SPEC
from tests.policies.test_every_step import SeesPast

SMALL = {"history": 4, "hidden": 32, "layers": 2}


class TestMixture(SeesPast):
    config = BcRnnConfig(**SMALL)


class TestMixtureOverChunks(SeesPast):
    config = BcRnnConfig(**SMALL, horizon=4, modes=2)


class TestPlainRegressionFromImages(SeesPast):
    config = BcRnnConfig(**SMALL, modes=0, error="l1", encoder=SmallCnnConfig(channels=(8,), strides=(2,), keypoints=4))


def test_it_remembers_what_it_saw_steps_ago():
    """The right action is told in the first of four observations only."""
    contract = TestMixture()
    contract.config = BcRnnConfig(history=4, hidden=32, modes=0)
    policy, batch = contract.build(), contract.batch(64)
    side = torch.where(torch.arange(64) % 2 == 0, 0.1, -0.1)
    state = torch.zeros_like(batch.obs.state)
    state[:, 0, 0] = 10 * side
    action = side[:, None, None].expand(64, 1, 3)
    assert batch.obs.past is not None
    past = replace(batch.obs.past, action=action.expand(64, 4, 3).clone())
    batch = replace(batch, obs=replace(batch.obs, state=state, past=past), action=action)
    policy.action_norm.fit(torch.tensor([[-0.1] * 3, [0.1] * 3]))
    learner = Imitation(policy, ImitationConfig(lr=1e-2, warmup=5, schedule="constant", precision="float32"))
    for _ in range(80):
        learner.update(batch)
    assert (policy.act(replace(batch.obs, past=None))[:, 0, 0] - side).abs().max() < 0.02


def test_it_learns_in_bfloat16():
    contract = TestMixture()
    policy, batch = contract.build(), contract.batch(16)
    learner = Imitation(policy, ImitationConfig(lr=5e-3, warmup=5, schedule="constant", precision="bfloat16"))
    losses = [learner.update(batch)["loss"] for _ in range(40)]
    assert losses[-1] < 0.7 * losses[0]


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (BcRnnConfig(modes=-1), "policy.modes: -1 Gaussians; expected at least 0"),
        (BcRnnConfig(hidden=0), "policy.hidden: 0 numbers; expected at least 1"),
        (BcRnnConfig(layers=0), "policy.layers: 0 layers; expected at least 1"),
    ],
)
def test_a_config_that_cannot_be_built_says_why(config, message):
    with pytest.raises(UserError, match=message):
        config.build(SPEC)
