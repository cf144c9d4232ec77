from dataclasses import replace

import pytest
import torch

from robolearn.core.errors import UserError
from robolearn.models.encoders.cnn import SmallCnnConfig
from robolearn.policies.diffusion import DiffusionConfig
from robolearn.policies.regression import RegressionConfig
from robolearn.testing import SPEC, PolicyContract

SMALL = {"widths": (16, 32), "horizon": 8}


class TestStatePolicy(PolicyContract):
    config = RegressionConfig(**SMALL)


class TestImagePolicy(PolicyContract):
    config = RegressionConfig(**SMALL, error="huber", encoder=SmallCnnConfig(channels=(8, 8), strides=(2, 2), keypoints=4))


def test_its_network_is_diffusions():
    """Else it would be no baseline of it: the same parameters by name and shape."""
    ours, theirs = (
        {name: p.shape for name, p in config.build(SPEC).named_parameters()}
        for config in (RegressionConfig(**SMALL), DiffusionConfig(**SMALL))
    )
    assert ours == theirs


@pytest.mark.parametrize(("units", "held"), [("range", True), ("gaussian", False)])
def test_only_a_range_has_an_edge_to_hold(units, held):
    contract = TestStatePolicy()
    policy = contract.build(replace(contract.config, units=units))
    with torch.no_grad():
        policy.net.head.bias += 5
    chunk = policy.action_norm.normalize(policy.act(contract.batch(2).obs))
    assert (chunk.abs().max() <= 1 + 1e-4) == held


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (RegressionConfig(horizon=10), "policy.horizon: 10 actions; 3 widths need a multiple of 4"),
        (RegressionConfig(widths=(4,)), r"policy.widths: \(4,\) channels; expected one or more of at least 8"),
    ],
)
def test_a_config_that_cannot_be_built_says_why(config, message):
    with pytest.raises(UserError, match=message):
        config.build(SPEC)
