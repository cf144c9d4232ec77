"""Goals as every chunk policy is told them: pictures, states, words; the contract with each, and what is their own below."""

from __future__ import annotations

import pkgutil
from dataclasses import replace
from importlib import import_module

import pytest
import torch

import robolearn.policies
from robolearn.core.errors import UserError
from robolearn.core.types import Obs
from robolearn.models.encoders.cnn import SmallCnnConfig
from robolearn.models.language.base import LanguageConfig
from robolearn.models.language.hashed import HashedConfig
from robolearn.policies.bc import BcConfig
from robolearn.policies.chunk import ChunkConfig
from robolearn.policies.consistency import ConsistencyConfig
from robolearn.policies.diffclone import DiffCloneConfig
from robolearn.testing import SPEC, PolicyContract

CNN = SmallCnnConfig(channels=(8,), strides=(2,), keypoints=4, crop=0.8)
SMALL = {"hidden": (32,), "dropout": 0.0, "horizon": 4}
WORDS = HashedConfig(width=6, dim=12)


class TestToldAState(PolicyContract):
    config = BcConfig(**SMALL, goal="state", state=("position",))


class TestToldInWords(PolicyContract):
    config = BcConfig(**SMALL, goal="language", language=WORDS)


class TestShownAPicture(PolicyContract):
    config = BcConfig(**SMALL, goal="image", encoder=CNN, cameras=("wrist",))


class TestShownAPictureWithFrozenEyes(PolicyContract):
    config = BcConfig(**SMALL, goal="image", encoder=replace(CNN, tune="none"))


CONTRACTS = [TestToldAState, TestToldInWords, TestShownAPicture, TestShownAPictureWithFrozenEyes]


def test_without_a_goal_the_condition_is_state_and_features():
    contract = TestShownAPicture()
    contract.config = replace(contract.config, goal="none")
    policy, obs = contract.build().eval(), PolicyContract.batch(contract, 3).obs
    expected = torch.cat([policy.state_norm.normalize(obs.state), policy.encoder(obs.images)], -1)
    assert torch.equal(policy.condition(obs), expected)
    assert not any("words" in name for name in policy.state_dict())


@pytest.mark.parametrize("contract", CONTRACTS)
def test_the_goal_is_the_last_part_of_every_time_step(contract):
    contract = contract()
    policy, obs = contract.build().eval(), contract.batch(3).obs
    with torch.no_grad():
        cond = policy.condition(obs)
        goal = {
            "state": lambda: policy.state_norm.normalize(obs.goal.state),
            "language": lambda: policy.words(obs.goal.features),
            "image": lambda: policy.visual(policy.encoder(obs.goal.images)),
        }[contract.config.goal]()
        alone = replace(contract.config, goal="none", language=None).build(SPEC).row_dim
    assert cond.shape == (3, policy.history, policy.row_dim) and policy.row_dim == alone + goal.shape[-1]
    for step in range(policy.history):
        assert torch.allclose(cond[:, step, alone:], goal[:, 0], atol=1e-6)


@pytest.mark.parametrize("contract", CONTRACTS)
def test_a_policy_that_is_not_told_says_so(contract):
    policy = contract().build()
    with pytest.raises(ValueError, match=f"BcPolicy: the observation has no goal; .* {policy.config.goal}"):
        policy.act(replace(contract().batch(1).obs, goal=None))


@pytest.mark.parametrize("eyes", [CNN, replace(CNN, tune="none")])
def test_features_stand_for_the_goal_picture_and_for_the_observation(eyes):
    contract = TestShownAPicture()
    contract.config = replace(contract.config, encoder=eyes)
    policy, obs = contract.build().eval(), contract.batch(3).obs
    with torch.no_grad():
        seen, wanted = policy.encode(obs), policy.encode(obs.goal)
        live = policy.condition(obs)
        for goal in (obs.goal, replace(obs.goal, images={}, features=wanted)):
            for now in (obs, replace(obs, images={}, features=seen)):
                assert torch.allclose(policy.condition(replace(now, goal=goal)), live, atol=1e-5)


def test_one_random_crop_serves_the_observation_and_its_goal():
    """So that where a thing is and where it shall be can be compared."""
    contract = TestShownAPicture()
    policy, obs = contract.build().train(), contract.batch(8).obs
    now = {name: image[:, -1:] for name, image in obs.images.items()}
    with torch.no_grad():
        cond = policy.condition(replace(obs, goal=Obs(now, torch.zeros(8, 1, 0))))
    features = cond[:, -1, policy.spec.state_dim :].unflatten(-1, (2, -1))
    assert torch.equal(features[:, 0], features[:, 1])
    with torch.no_grad():
        again = policy.condition(replace(obs, goal=Obs(now, torch.zeros(8, 1, 0))))
    assert not torch.allclose(cond, again), "the crop is random"


@pytest.mark.parametrize("contract", [TestToldAState, TestToldInWords, TestShownAPicture])
def test_it_learns_what_only_the_goal_tells(contract):
    """Four goals, an action for each; the observations say nothing about it."""
    contract = contract()
    policy, batch = contract.build(), contract.batch(64)
    action = torch.tensor([[-0.1, -0.1, 0.0], [-0.1, 0.1, 1.0], [0.1, -0.1, 1.0], [0.1, 0.1, 0.0]])[:, None].expand(-1, policy.horizon, -1)
    which = torch.arange(64) % 4
    policy.action_norm.fit(action.flatten(0, 1))
    batch = replace(batch, obs=replace(batch.obs, goal=_goals(batch.obs.goal, which)), action=action[which])
    optimizer = torch.optim.Adam(policy.parameters(), 1e-2)
    for _ in range(120):
        optimizer.zero_grad()
        policy.loss(batch)[0].backward()
        optimizer.step()
    fresh = contract.batch(16, seed=7).obs  # other observations, the same goals
    answer = policy.act(replace(fresh, goal=_goals(batch.obs.goal, which[:16])))
    assert ((answer - action[which[:16]]).abs() / torch.tensor([0.2, 0.2, 1.0])).mean() < 0.1


def _goals(like: Obs, which: torch.Tensor) -> Obs:
    """One of four for each row: a corner, or a bright spot in it, or one of the first four embeddings."""
    images = {name: torch.full_like(image[: len(which)], 40) for name, image in like.images.items()}
    for image in images.values():
        for row, corner in enumerate(which.tolist()):
            top, left = 14 * (corner // 2), 18 * (corner % 2)
            image[row, :, :, top : top + 10, left : left + 10] = 250
    state = torch.stack([which // 2, which % 2], dim=-1)[:, None] * 1.6 - 0.8 if like.state.shape[-1] else like.state[: len(which)]
    return Obs(images, state, None if like.features is None else like.features[which])


def _kinds() -> dict[str, type]:
    """The config of every policy there is, by its module."""
    found = {}
    for module in pkgutil.iter_modules(robolearn.policies.__path__):
        for cls in vars(import_module(f"robolearn.policies.{module.name}")).values():
            own = isinstance(cls, type) and cls.__module__.endswith(f".{module.name}") and "build" in vars(cls)
            if own and issubclass(cls, ChunkConfig) and cls not in (ChunkConfig, DiffCloneConfig, ConsistencyConfig):
                found[module.name] = cls  # DiffClone's own test has a goal; a student of consistency has its teacher's
    return found


@pytest.mark.parametrize("name", _kinds())
def test_every_policy_heeds_its_goal(name):
    contract = PolicyContract()
    contract.config = _kinds()[name](goal="state")
    policy, batch, other = contract.build(), contract.batch(8), contract.batch(8, seed=3)
    if policy.learns_by == "memory":
        policy.memorize(batch)
    else:
        assert torch.isfinite(policy.loss(batch)[0])
    answers = []
    for goal in (batch.obs.goal, batch.obs.goal, other.obs.goal):
        policy.seed(0)
        answers.append(policy.act(replace(batch.obs, goal=goal)))
    assert torch.equal(answers[0], answers[1]) and not torch.equal(answers[0], answers[2])


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (BcConfig(goal="image"), "policy.goal: image; a picture needs an encoder, and policy.encoder is null"),
        (BcConfig(goal="language"), "policy.language: null, and policy.goal is language; words need .* text encoder"),
        (BcConfig(language=WORDS), "policy.language: given, and policy.goal is none"),
        (
            BcConfig(goal="language", language=LanguageConfig()),
            "policy.language.dim: 0 numbers, .* robolearn train fills it in; expected at least 1",
        ),
    ],
)
def test_a_goal_that_cannot_be_had_is_one_line(config, message):
    with pytest.raises(UserError, match=message) as error:
        config.build(SPEC)
    assert "\n" not in str(error.value)
    with pytest.raises(UserError, match="policy.goal: state; robot 'blind' shows none"):
        BcConfig(goal="state").build(replace(SPEC, name="blind", state={}))
