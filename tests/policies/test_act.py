"""ACT: the contract for states, pixels and frozen features; the latent, the mask and the tokens below."""

from dataclasses import dataclass, replace

import pytest
import torch

from robolearn.core.config import TRUSTED
from robolearn.core.errors import UserError
from robolearn.core.types import Obs
from robolearn.models.encoders.base import CameraEncoder, EncoderConfig
from robolearn.models.encoders.cnn import SmallCnnConfig
from robolearn.policies.act import ActConfig
from robolearn.testing import SPEC, PolicyContract

SMALL = {"horizon": 4, "width": 16, "feedforward": 32, "heads": 2, "encoder_layers": 1, "latent": 4, "dropout": 0.0}


class TestStatePolicy(PolicyContract):
    config = ActConfig(**SMALL)


class TestImagePolicy(PolicyContract):
    config = ActConfig(**SMALL, history=2, encoder=SmallCnnConfig(channels=(8, 8), strides=(2, 2), keypoints=4))


class TestPolicyWithFrozenEyes(PolicyContract):
    config = ActConfig(
        **SMALL, encoder=SmallCnnConfig(tune="none", channels=(8,), strides=(2,), keypoints=4), cameras=("wrist",), state=("position",)
    )


@pytest.fixture(autouse=True)
def trust_these_tests(monkeypatch):
    """Checkpoints name the encoder below, and only robolearn's own modules are imported from them."""
    monkeypatch.setattr("robolearn.core.config.TRUSTED", (*TRUSTED, __name__.split(".")[0]))


@dataclass(frozen=True)
class PatchConfig(EncoderConfig):
    def build(self, cameras):
        return Patches(cameras, self)


class Patches(CameraEncoder):
    """Four tokens for each camera: the mean colours of its quarters."""

    def __init__(self, cameras, config):
        super().__init__(cameras, config)
        self.out_dim = 12 * len(cameras)

    @property
    def tokens(self):
        return 4 * len(self.cameras)

    def encode(self, camera, images):
        return torch.nn.functional.adaptive_avg_pool2d(images, 2).flatten(2).transpose(1, 2).flatten(1)


class TestPatchTokens(PolicyContract):
    config = ActConfig(**SMALL, encoder=PatchConfig())

    def test_every_patch_is_a_token_and_they_are_told_apart(self):
        policy, obs = self.build(), self.batch(2).obs
        assert policy.tokens == 8 and policy.net.image.in_features == 3
        image = policy._tokens(policy.condition(obs))[1]
        assert image.shape == (2, 1, 8, 3)
        quarter = obs.images["wrist"][:, :, :, :12, 14:].float().mean((-2, -1)) / 255
        assert torch.allclose(image[:, :, 5], quarter, atol=1e-5)


class TestStateGoal(PolicyContract):
    config = ActConfig(**SMALL, goal="state")

    def batch(self, rows, seed=0):
        batch = super().batch(rows, seed)
        return replace(batch, obs=replace(batch.obs, goal=Obs({}, torch.full((rows, 1, 3), 0.3))))

    def test_the_goal_is_heard(self):
        policy, obs = self.build(), self.batch(2).obs
        other = replace(obs, goal=Obs({}, torch.full((2, 1, 3), -0.7)))
        assert not torch.allclose(policy.act(other), policy.act(obs))


class TestImageGoal(PolicyContract):
    config = ActConfig(**SMALL, goal="image", encoder=PatchConfig(tune="none"))

    def batch(self, rows, seed=0):
        batch = super().batch(rows, seed)
        goal = Obs({name: image[:, -1:].flip(0) for name, image in batch.obs.images.items()}, torch.zeros(rows, 1, 0))
        return replace(batch, obs=replace(batch.obs, goal=goal))

    def test_the_goals_patches_are_tokens_too(self):
        policy, obs = self.build(), self.batch(2).obs
        assert policy.tokens == 16 and policy.net.image.in_features == 3 and policy.net.state.in_features == 3
        image = policy._tokens(policy.condition(obs))[1]
        assert torch.allclose(image[0, :, 8:], image[1, :, :8], atol=1e-5)


def learned(policy, batch, steps=150):
    optimizer = torch.optim.Adam(policy.parameters(), 3e-3)
    for _ in range(steps):
        optimizer.zero_grad()
        policy.loss(batch)[0].backward()
        optimizer.step()
    return policy


def test_the_latent_tells_two_ways_apart_where_the_state_cannot():
    """Half the data goes left and half right from the same state. Without a latent L1's best answer is one of them (or between)."""
    contract = TestStatePolicy()
    contract.config = ActConfig(**SMALL, kl_weight=0.01)
    policy, batch = contract.build(), contract.batch(32)
    side = torch.where(torch.arange(32) % 2 == 0, 0.1, -0.1)
    action = torch.zeros_like(batch.action)
    action[..., 0] = side[:, None]
    policy.action_norm.fit(action.flatten(0, 1))
    learned(policy, replace(batch, action=action))
    samples = policy.sample(contract.batch(1, seed=5).obs, 64)[0, :, :, 0].mean(1)
    assert 0.2 < (samples > 0).float().mean() < 0.8 and (samples.abs() > 0.05).float().mean() > 0.7


def test_at_test_the_latent_is_zero_and_further_samples_draw_it():
    contract = TestStatePolicy()
    policy, obs = contract.build(), contract.batch(2).obs
    policy.seed(1)
    first = policy.act(obs)
    policy.seed(2)
    assert torch.equal(policy.act(obs), first), "no noise in acting"
    samples = policy.sample(obs, 3, torch.Generator().manual_seed(0))
    assert torch.allclose(samples[:, 0], first, atol=1e-6)
    assert not torch.allclose(samples[:, 1], samples[:, 2])
    state, image = policy._tokens(policy.condition(obs))
    assert torch.allclose(policy.action_norm.normalize(first), policy.net(state, image, torch.zeros(2, 4)).clamp(-1, 1), atol=1e-5)


def test_the_loss_is_the_papers():
    """L1 over the actions that are not padded, plus kl_weight times KL(q || N(0, I)), which torch.distributions knows."""
    contract = TestStatePolicy()
    contract.config = replace(contract.config, kl_weight=2.5)
    policy, batch = contract.build().eval(), contract.batch(5)
    batch.pad[:, 3:] = True
    batch.pad[0, 1:] = True
    action = policy.action_norm.normalize(batch.action)
    state, image = policy._tokens(policy.condition(batch.obs))
    mean, log_variance = policy.posterior(state, action, batch.pad)
    q = torch.distributions.Normal(mean, (log_variance / 2).exp())
    divergence = torch.distributions.kl_divergence(q, torch.distributions.Normal(0.0, 1.0)).sum(-1, keepdim=True)
    policy.seed(4)
    noise = torch.randn(mean.shape, generator=policy.generator)
    l1 = (policy.net(state, image, mean + q.stddev * noise) - action).abs().mean(-1)
    wanted = (l1 + 2.5 * divergence)[~batch.pad].mean()
    policy.seed(4)
    loss, metrics = policy.loss(batch)
    assert loss.item() == pytest.approx(wanted.item(), rel=1e-5) and metrics["loss"] == pytest.approx(loss.item())


@pytest.mark.parametrize("mask_pad", [True, False])
def test_padded_actions_reach_the_posterior_only_where_they_are_taught(mask_pad):
    contract = TestStatePolicy()
    policy, batch = contract.build(replace(contract.config, mask_pad=mask_pad)).eval(), contract.batch(4)
    batch.pad[:, 2:] = True
    spoiled = batch.action.clone()
    spoiled[:, 2:] += 0.05
    losses = []
    for action in (batch.action, spoiled):
        policy.seed(0)
        losses.append(policy.loss(replace(batch, action=action))[0].item())
    assert (losses[0] == pytest.approx(losses[1], rel=1e-6)) == mask_pad


def test_the_posterior_is_trained_and_not_used_at_test():
    contract = TestStatePolicy()
    policy, batch = contract.build(), contract.batch(4)
    policy.loss(batch)[0].backward()
    assert all(p.grad is not None for p in policy.parameters())
    before = policy.act(batch.obs)
    for p in policy.posterior.parameters():
        p.data.fill_(7.0)
    assert torch.equal(policy.act(batch.obs), before)


def test_targets_beyond_one_deviation_are_not_cut_off():
    contract = TestStatePolicy()
    policy, batch = contract.build(replace(contract.config, units="gaussian")), contract.batch(4)
    policy.net.head.bias.data.fill_(3.0)
    policy.net.head.weight.data.zero_()
    assert torch.allclose(policy.action_norm.normalize(policy.act(batch.obs)), torch.tensor(3.0), atol=1e-4)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (ActConfig(width=30, heads=4), "policy.width: 30 features; 4 heads need a multiple of 4"),
        (ActConfig(heads=0), "policy.heads: 0"),
        (ActConfig(latent=0), "policy.latent: 0"),
        (ActConfig(decoder_layers=0), "policy.decoder_layers: 0"),
        (ActConfig(horizon=0), "policy.horizon: 0 actions; expected at least 1"),
    ],
)
def test_a_config_that_cannot_be_built_says_why_in_one_line(config, message):
    with pytest.raises(UserError, match=message) as error:
        config.build(SPEC)
    assert "\n" not in str(error.value)
