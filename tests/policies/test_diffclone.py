"""DiffClone: the contract with everything on; actions as far as the data's go; the transition head learns and teaches the policy."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from robolearn.cli import parse
from robolearn.core.errors import UserError
from robolearn.core.types import Obs
from robolearn.experiments.train import Config
from robolearn.models.encoders.cnn import SmallCnnConfig
from robolearn.policies.diffclone import DiffCloneConfig
from robolearn.policies.diffusion import DiffusionConfig
from robolearn.testing import SPEC, PolicyContract

EYES = SmallCnnConfig(tune="none", channels=(8,), strides=(2,), keypoints=4)
SMALL = {"widths": (16, 32), "kernel": 3, "horizon": 8, "sample_steps": 10, "head": 16, "encoder": EYES}


class TestDiffClone(PolicyContract):
    config = DiffCloneConfig(**SMALL)
    feature_dim = 16  # 4 keypoints of 2 cameras


class TestWithoutTransitions(PolicyContract):
    config = DiffCloneConfig(**{**SMALL, "encoder": replace(EYES, tune="full")}, transition=0.0, cameras=("wrist",))


class TestFromStates(PolicyContract):
    config = DiffCloneConfig(**{**SMALL, "encoder": None}, transition=0.0, goal="state")


def test_an_action_may_lie_beyond_one_deviation():
    """What the entry could not say: four in ten demonstrated actions lie further than one standard deviation from their mean."""
    contract = TestFromStates()
    contract.config = replace(contract.config, train_steps=50, sample_steps=25)
    policy, batch = contract.build(), contract.batch(64)
    size = torch.where(torch.arange(64) % 8 == 0, 0.1, -0.01)[:, None]  # 2.6 deviations one way, 0.4 the other
    action = torch.zeros_like(batch.action)
    action[..., 0] = size
    batch = replace(batch, obs=replace(batch.obs, goal=Obs({}, 4 * size[:, None].expand(-1, 1, 3))))
    policy.fit_normalizers(batch.obs.state[:, -1].numpy(), action.flatten(0, 1).numpy())
    optimizer = torch.optim.Adam(policy.parameters(), 3e-3)
    for _ in range(150):
        optimizer.zero_grad()
        policy.loss(replace(batch, action=action))[0].backward()
        optimizer.step()
    drawn = policy.act(batch.obs)[..., 0]
    assert (drawn[::8] > 0.08).float().mean() > 0.8
    assert drawn.max() <= 0.1 + 1e-6 and drawn.min() >= -0.01 - 1e-6  # and no action that nobody took


def test_a_checkpoint_knows_how_far_the_actions_went():
    policy = TestFromStates().build()
    loaded = TestFromStates.config.build(SPEC)
    loaded.load_state_dict(policy.state_dict())
    assert torch.equal(loaded.limit, policy.limit) and (loaded.limit > 1).all()
    assert torch.equal(loaded.reach.abs().amax(0), loaded.limit)


def test_what_a_transition_moved_is_read_from_two_features():
    contract = TestDiffClone()
    policy, batch = contract.build().train(), contract.batch(64)
    now = torch.randn(64, 1, 16, generator=torch.Generator().manual_seed(0))
    after = torch.randn(64, 8, 16, generator=torch.Generator().manual_seed(1))
    change = 0.01 * (policy.feature_norm.normalize(after[:, 0]) - policy.feature_norm.normalize(now[:, 0]))[:, :3]
    change[:, 2] = 0.0  # a gripper that stands still
    state = batch.obs.state[:, -1:] + change[:, None]
    batch = replace(
        batch,
        obs=replace(batch.obs, images={}, features=now, goal=Obs({}, torch.zeros(64, 1, 0), now)),
        future=Obs({}, state.expand(-1, 8, -1), after),
    )
    first = float(policy.unexplained(batch).detach())
    optimizer = torch.optim.Adam(policy.parameters(), 3e-3)
    for _ in range(80):
        optimizer.zero_grad()
        loss, metrics = policy.loss(batch)
        loss.backward()
        optimizer.step()
    assert metrics["transition"] < 0.15 * first
    assert metrics["loss"] == pytest.approx(metrics["denoising"] + 0.1 * metrics["transition"], rel=1e-5)
    assert policy.look[0][0].weight.grad.abs().sum() > 0


def test_rows_without_a_next_one_and_weighted_ones_teach_no_transition():
    contract = TestDiffClone()
    policy, batch, other = contract.build().eval(), contract.batch(4), contract.batch(4, seed=5)
    mask = batch.future_mask.clone()
    mask[2:] = False
    spoiled = replace(batch.future, state=torch.cat([batch.future.state[:2], other.future.state[2:]]))
    weight = torch.tensor([1.0, 1.0, 0.0, 0.0])
    with torch.no_grad():
        for change in ({"future_mask": mask}, {"weight": weight}):
            clean, altered = (policy.unexplained(replace(batch, **change, future=future)) for future in (batch.future, spoiled))
            assert torch.equal(clean, altered)
        assert not torch.equal(policy.unexplained(batch), policy.unexplained(replace(batch, future=spoiled)))
        assert policy.unexplained(replace(batch, future_mask=torch.zeros_like(mask))) == 0


def test_the_next_observation_must_be_there():
    contract = TestDiffClone()
    assert contract.build().sees_future and not TestWithoutTransitions().build().sees_future
    with pytest.raises(ValueError, match="lacks the features of what came after"):
        contract.build().loss(replace(contract.batch(2), future=None))


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (DiffCloneConfig(**{**SMALL, "encoder": replace(EYES, tune="full")}), r"need a frozen encoder \(policy.encoder.tune: none\)"),
        (DiffCloneConfig(**{**SMALL, "encoder": None}, goal="state"), "policy.transition: learns from features of what came after"),
        (DiffCloneConfig(**SMALL, transition=-1.0), "policy.transition: -1.0 of the denoising error; expected at least 0"),
        (DiffCloneConfig(**{**SMALL, "head": 0}), "policy.head: 0 numbers; expected at least 1"),
    ],
)
def test_a_config_that_cannot_be_built_says_why_in_one_line(config, message):
    with pytest.raises(UserError, match=message) as error:
        config.build(SPEC)
    assert "\n" not in str(error.value)


def test_the_defaults_are_the_entrys():
    config = DiffCloneConfig()
    assert isinstance(config, DiffusionConfig) and config.encoder is not None and config.encoder.frozen
    assert (config.history, config.horizon, config.goal, config.units) == (1, 16, "image", "gaussian")
    assert (config.widths, config.kernel, config.sampler, config.train_steps, config.sample_steps) == ((256, 512, 1024), 5, "ddpm", 100, 50)


def test_the_example_config_is_valid():
    config = parse("train", Config, ["configs/train/lift_diffclone.yaml"])
    assert isinstance(config.policy, DiffCloneConfig) and config.policy.goal == "image" and config.policy.units == "gaussian"
    assert config.policy.encoder.frozen and config.policy.encoder.depth == 50
