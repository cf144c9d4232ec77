"""Flow matching: the contract for each network, and what is its own."""

import pytest
import torch

from robolearn.core.errors import UserError
from robolearn.policies.flow import SCALE, FlowConfig
from robolearn.testing import SPEC, PolicyContract
from tests.policies.test_denoising import two_ways

TOKENS = {"width": 16, "layers": 1, "heads": 2, "dropout": 0.0, "horizon": 8}


class TestUNet(PolicyContract):
    config = FlowConfig(widths=(16, 32), horizon=8, sample_steps=8)


class TestTransformer(PolicyContract):
    config = FlowConfig(**TOKENS, net="transformer", solver="midpoint", sample_steps=4, time="beta")


class TestDit(PolicyContract):
    config = FlowConfig(**TOKENS, net="dit", time="logit_normal", prefix=2)


def test_it_learns_two_ways_where_an_average_would_be_neither():
    policy, obs = two_ways(TestUNet.config)
    samples = policy.sample(obs, 64)[0, :, :, 0].mean(1)
    assert (samples.abs() > 0.07).float().mean() > 0.8
    assert 0.2 < (samples > 0).float().mean() < 0.8


@pytest.mark.parametrize(("solver", "steps", "error"), [("euler", 200, 0.01), ("midpoint", 10, 0.006)])
def test_the_solver_follows_the_velocity(solver, steps, error):
    """dx/dt = x leads from x to e * x; the midpoint rule gets closer with a tenth of the looks."""
    policy = FlowConfig(widths=(8,), units="gaussian", solver=solver, sample_steps=steps).build(SPEC)
    policy.limit.fill_(3.0)
    seen = []

    def velocity(chunk, place):
        seen.append(float(1 - policy.times[place] / SCALE))
        return chunk

    noise = torch.ones(1, 2, 16, 3)
    assert torch.allclose(policy.solve(velocity, noise), noise[0] * torch.e, atol=error)
    assert seen == pytest.approx([place / len(seen) for place in range(len(seen))], abs=1e-6)


@pytest.mark.parametrize(("time", "mean", "half"), [("uniform", 0.5, 0.5), ("beta", 0.3996, 0.646), ("logit_normal", 0.5, 0.5)])
def test_the_times_are_distributed_as_named(time, mean, half):
    """Beta(1.5, 1) has the mean 0.6, and 1 - 0.5^1.5 of it lies above one half."""
    policy = FlowConfig(widths=(8,), time=time).build(SPEC)
    times = policy._times(20000)
    assert ((times >= 0) & (times <= 1)).all()
    assert times.mean() == pytest.approx(mean, abs=0.01)
    assert (times < 0.5).float().mean() == pytest.approx(half, abs=0.015)
    spread = {"uniform": 0.289, "beta": 0.262, "logit_normal": 0.208}[time]
    assert times.std() == pytest.approx(spread, abs=0.01)


def test_steps_that_are_none_are_refused():
    with pytest.raises(UserError, match="policy.sample_steps: 0 steps; expected at least 1"):
        FlowConfig(sample_steps=0).build(SPEC)
