"""Diffusion: the contract for state, pixels trained along and frozen features; what is its own below."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from robolearn.core.errors import UserError
from robolearn.core.types import Obs
from robolearn.models.encoders.cnn import SmallCnnConfig
from robolearn.policies.diffusion import DiffusionConfig
from robolearn.testing import SPEC, PolicyContract

SMALL = {"widths": (16, 32), "horizon": 8, "sample_steps": 8}
TOKENS = {"width": 16, "layers": 1, "heads": 2, "dropout": 0.0, "horizon": 8}
CNN = SmallCnnConfig(channels=(8, 8), strides=(2, 2), keypoints=4)


class TestStatePolicy(PolicyContract):
    config = DiffusionConfig(**SMALL)


class TestImagePolicy(PolicyContract):
    config = DiffusionConfig(**SMALL, encoder=CNN)


class TestPolicyWithFrozenEyes(PolicyContract):
    config = DiffusionConfig(
        **SMALL, encoder=SmallCnnConfig(tune="none", channels=(8,), strides=(2,), keypoints=4), cameras=("wrist",), state=("position",)
    )


class TestPredictingTheChunkItself(PolicyContract):
    config = DiffusionConfig(**SMALL, prediction="sample", history=1)


class TestTransformer(PolicyContract):
    config = DiffusionConfig(**TOKENS, net="transformer", causal=True, sampler="ddpm", sample_steps=20, prediction="v_prediction")


class TestDit(PolicyContract):
    config = DiffusionConfig(**TOKENS, net="dit", sampler="dpm", sample_steps=6, prefix=2)


def test_it_learns_two_ways_where_an_average_would_be_neither():
    """From the same state, half the data goes left and half right: samples must do one or the other, and both occur."""
    contract = TestStatePolicy()
    policy = contract.build()
    batch = contract.batch(32)
    side = torch.where(torch.arange(32) % 2 == 0, 0.1, -0.1)
    action = torch.zeros_like(batch.action)
    action[..., 0] = side[:, None]
    policy.action_norm.fit(action.flatten(0, 1))
    optimizer = torch.optim.Adam(policy.parameters(), 5e-3)
    for _ in range(150):
        optimizer.zero_grad()
        policy.loss(replace(batch, action=action))[0].backward()
        optimizer.step()
    samples = policy.sample(contract.batch(1, seed=5).obs, 64)[0, :, :, 0].mean(1)
    assert (samples.abs() > 0.07).float().mean() > 0.8
    assert 0.2 < (samples > 0).float().mean() < 0.8


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (DiffusionConfig(horizon=10), "policy.horizon: 10 actions; 3 widths need a multiple of 4"),
        (DiffusionConfig(horizon=0), "policy.horizon: 0 actions; expected at least 1"),
        (DiffusionConfig(history=0), "policy.history: 0 observations; expected at least 1"),
        (DiffusionConfig(widths=(0,)), r"policy.widths: \(0,\) channels; expected one or more of at least 8"),
        (DiffusionConfig(sample_steps=200), "sample_steps: 200; expected 1 to train_steps = 100"),
        (DiffusionConfig(sampler="dpm", sample_steps=100), "sample_steps: 100 steps are more than the sampler dpm finds in 100"),
        (DiffusionConfig(state=("pose",)), "'pose' is not in the data of contract; valid: position, gripper"),
        (DiffusionConfig(encoder=CNN, cameras=("left",)), "'left' is not in the data of contract; valid: front, wrist"),
    ],
)
def test_a_config_that_cannot_be_built_says_why_in_one_line(config, message):
    with pytest.raises(UserError, match=message) as error:
        config.build(SPEC)
    assert "\n" not in str(error.value)


def test_a_state_policy_carries_no_cameras():
    policy = DiffusionConfig(state=("gripper",)).build(SPEC)
    assert policy.spec.cameras == {} and list(policy.spec.state) == ["gripper"] and policy.spec.action == SPEC.action


def test_cached_features_and_live_images_give_the_same_actions():
    """What was cached in other batch sizes is what the encoder gives at run time, up to the order of float32 sums."""
    contract = TestPolicyWithFrozenEyes()
    policy, obs = contract.build().train(), contract.batch(6, seed=1).obs
    with torch.no_grad():
        one_by_one = torch.stack([policy.encode(_row(obs, i))[0] for i in range(6)])
        together = policy.encode(obs)
    assert torch.allclose(one_by_one, together, atol=1e-5)
    policy.seed(3)
    live = policy.act(obs)
    policy.seed(3)
    cached = policy.act(replace(obs, images={}, features=one_by_one))
    assert torch.allclose(live, cached, atol=1e-4)


def _row(obs, i):
    return Obs({name: image[i : i + 1] for name, image in obs.images.items()}, obs.state[i : i + 1])


@pytest.mark.parametrize("sampler", ["ddim", "ddpm", "dpm"])
@pytest.mark.parametrize("prediction", ["epsilon", "sample", "v_prediction"])
def test_a_perfect_network_leads_to_the_only_chunk_there_is(sampler, prediction):
    policy = DiffusionConfig(**SMALL | {"sample_steps": 12}, sampler=sampler, prediction=prediction).build(SPEC)
    only = torch.linspace(-0.9, 0.9, 24).view(1, 8, 3)

    def perfect(chunk, place):
        signal, amount = policy.schedule.amounts(policy.steps[place].time)
        noise = (chunk - signal * only) / amount
        return {"epsilon": noise, "sample": only, "v_prediction": signal * noise - amount * only}[prediction]

    noise = torch.randn(policy.noises, 4, 8, 3, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(policy.solve(perfect, noise), only.expand(4, -1, -1), atol=1e-4)


def test_gaussian_units_are_not_clipped_at_one_deviation():
    policy = DiffusionConfig(**SMALL, units="gaussian", prediction="sample").build(SPEC)
    rng = np.random.default_rng(0)
    policy.fit_normalizers(rng.normal(size=(4000, 3)), rng.normal(size=(4000, 3)))
    far = torch.full((4, 8, 3), 2.5)  # deviations; the data goes beyond 3
    assert torch.allclose(policy.solve(lambda chunk, place: far, torch.randn(1, 4, 8, 3)), far, atol=1e-5)


def test_the_network_looks_at_the_observations_once_per_chunk():
    contract = TestStatePolicy()
    policy, looks = contract.build(), []
    policy.net.cond_mlp.register_forward_hook(lambda *_: looks.append("cond"))
    policy.net.step_mlp.register_forward_hook(lambda *_: looks.append("step"))
    policy.sample(contract.batch(2).obs, 5)
    assert sorted(looks) == ["cond", "step"]
