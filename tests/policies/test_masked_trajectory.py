"""Masked trajectories: the contract; a point that learns to be sent somewhere, to say what moved it, and to go on from a prefix."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from hardware.types import ArraySpec, Observation, Source
from robolearn.core.errors import UserError
from robolearn.core.types import Batch, Obs, Past
from robolearn.data.episode import Episode
from robolearn.data.store import EpisodeStore
from robolearn.data.tensors import to_batch
from robolearn.data.windows import Windows
from robolearn.learners.imitation import Imitation, ImitationConfig
from robolearn.models.encoders.cnn import SmallCnnConfig
from robolearn.policies.masked_trajectory import MaskedTrajectoryConfig
from robolearn.runtime.policy_pilot import PolicyPilot
from robolearn.testing import SPEC, PolicyContract

SMALL = {"history": 2, "horizon": 4, "width": 32, "layers": 1, "heads": 2}
EYES = SmallCnnConfig(tune="none", channels=(8,), strides=(2,), keypoints=4)
HORIZON = 4


class TestStatePolicy(PolicyContract):
    config = MaskedTrajectoryConfig(**SMALL, masks=("act",))


class TestPolicyWithFrozenEyes(PolicyContract):
    config = MaskedTrajectoryConfig(**SMALL, encoder=EYES, cameras=("wrist",), state=("position",), masks=("inverse",))
    feature_dim = 8


class TestGoals(PolicyContract):
    config = MaskedTrajectoryConfig(**SMALL, goal="state", masks=("reach",))


class TestTellingReturnsAndPrefixes(PolicyContract):
    config = MaskedTrajectoryConfig(**SMALL, returns=True, masks=("act", "prefix"))


def journeys(rows: int, seed: int = 0) -> Batch:
    """First rows of episodes: a point at rest, sent at a random velocity (x, y) that nothing seen so far tells; it goes there."""
    generator = torch.Generator().manual_seed(seed)
    velocity = torch.zeros(rows, 3)
    velocity[:, :2] = 0.2 * torch.rand(rows, 2, generator=generator) - 0.1
    batch = TestStatePolicy().batch(rows)
    action = velocity[:, None].expand(-1, HORIZON, -1)
    past = batch.obs.past
    assert past is not None
    begun = Past(
        torch.zeros_like(past.action),
        10 * velocity[:, :1].expand(-1, 2),  # what is earned is how far to the right it goes
        torch.zeros_like(past.step),
        torch.tensor([[False, True]]).expand(rows, -1),
    )
    obs = Obs({}, torch.zeros(rows, 2, 3), past=begun)
    return replace(batch, obs=obs, action=action, reward=torch.zeros(rows, HORIZON), future=Obs({}, action.cumsum(1)))


@pytest.fixture(scope="module")
def traveller():
    """Trained on journeys with every mask; never told a goal."""
    return trained(masks=("act", "prefix", "reach", "inverse", "forward", "random"), updates=200)


def trained(updates: int, **settings):
    torch.manual_seed(0)
    policy = MaskedTrajectoryConfig(**SMALL | settings).build(SPEC)
    policy.fit_normalizers(journeys(64).future.state.flatten(0, 1).numpy(), journeys(64).action.flatten(0, 1).numpy())
    learner = Imitation(policy, ImitationConfig(lr=5e-3, warmup=10, schedule="constant", precision="float32"))
    for seed in range(updates):
        learner.update(journeys(64, seed))
    return learner.policy


def test_it_reaches_a_goal_it_never_saw(traveller):
    batch = journeys(16, seed=10**6)
    goal = Obs({}, batch.future.state[:, -1:])
    sent = traveller.act(replace(batch.obs, goal=goal))
    assert (sent - batch.action).abs().max() < 0.03
    left = traveller.act(batch.obs)
    assert left.abs().max() < 0.05, "not told where to go, it answers with the mean of where people went"


def test_it_says_which_actions_lie_between_observations_and_where_actions_lead(traveller):
    """Inverse and forward dynamics: the same network, asked by another mask."""
    batch = journeys(16, seed=10**6)
    with torch.no_grad():
        parts, exists = traveller._trajectory(batch)
        states, actions = (
            traveller.net(list(parts.values()), traveller.masks[mask] & exists, exists)[k] for mask, k in (("forward", 0), ("inverse", 1))
        )
    assert (states[:, 2:, :2] - parts["state"][:, 2:, :2]).abs().max() < 0.25
    assert (actions[:, 1:-1, :2] - parts["action"][:, 1:-1, :2]).abs().max() < 0.25


def test_it_goes_on_from_the_actions_that_are_on_their_way(traveller):
    batch = journeys(16, seed=10**6)
    chunk = traveller.sample(batch.obs, 1, prefix=batch.action[:, :1])[:, 0]
    assert torch.allclose(chunk[:, :1], batch.action[:, :1], atol=1e-6)
    assert (chunk - batch.action).abs().max() < 0.03
    assert MaskedTrajectoryConfig(**SMALL).build(SPEC).prefix == 0, "what it was not trained for it cannot be told"


def test_it_earns_what_is_asked_for():
    policy = trained(updates=80, masks=("act",), returns=True)
    obs = journeys(1).obs
    assert policy.target == pytest.approx(1.0, abs=0.01)
    for wanted in (-0.5, 0.5, policy.target):
        past = replace(obs.past, to_go=torch.full((1, 2), wanted))
        assert (policy.act(replace(obs, past=past))[0, :, 0] - wanted / 10).abs().max() < 0.03


def test_a_goal_beyond_the_horizon_is_learned_where_batches_bring_it():
    """It lies four times as far as the point gets within the chunk."""

    def far(batch: Batch) -> Batch:
        return replace(batch, obs=replace(batch.obs, goal=Obs({}, 4 * batch.future.state[:, -1:])))

    torch.manual_seed(0)
    policy = MaskedTrajectoryConfig(**SMALL, goal="state", masks=("reach",)).build(SPEC)
    policy.fit_normalizers(journeys(64).future.state.flatten(0, 1).numpy(), journeys(64).action.flatten(0, 1).numpy())
    learner = Imitation(policy, ImitationConfig(lr=5e-3, warmup=10, schedule="constant", precision="float32"))
    for seed in range(80):
        learner.update(far(journeys(64, seed)))
    batch = far(journeys(16, seed=10**6))
    assert (learner.policy.act(batch.obs) - batch.action).abs().max() < 0.03


def test_a_goal_shown_by_a_picture_says_nothing_about_the_state():
    contract = TestPolicyWithFrozenEyes()
    policy, obs = contract.build(), contract.batch(3).obs
    goal = Obs({}, torch.zeros(3, 1, 0), torch.randn(3, 1, 8))
    known, exists = policy.condition(replace(obs, goal=goal))[..., -6:].bool().unflatten(-1, (2, 3)).unbind(2)
    assert known[:, -1].tolist() == exists[:, -1].tolist() == [[False, True, False]] * 3
    assert not torch.equal(policy.act(replace(obs, goal=goal)), policy.act(obs))
    live = Obs({name: image[:, -1:] for name, image in obs.images.items()}, torch.zeros(3, 1, 0))
    seen = Obs({}, live.state, policy.encode(live))
    assert torch.allclose(policy.act(replace(obs, goal=live)), policy.act(replace(obs, goal=seen)), atol=1e-5)


@pytest.mark.parametrize("mask", ["random", "act", "reach", "inverse", "forward"])
def test_what_comes_after_the_end_is_neither_seen_nor_learned(mask):
    contract = TestStatePolicy()
    contract.config = MaskedTrajectoryConfig(**SMALL, masks=(mask,), mask_pad=True, returns=True)
    policy, batch = contract.build().eval(), contract.batch(8)
    ended = torch.tensor([False, False, True, True]).expand(8, -1)
    batch = replace(batch, pad=ended, future_mask=~torch.tensor([False, True, True, True]).expand(8, -1))

    def gradient(batch: Batch) -> torch.Tensor:
        policy.zero_grad()
        policy.seed(1)
        policy.loss(batch)[0].backward()
        return torch.cat([p.grad.flatten() for p in policy.parameters() if p.grad is not None])

    before = gradient(batch)
    noise = torch.randn(8, 4, 3)
    action = torch.where(ended.unsqueeze(-1), noise, batch.action)
    state = torch.where(batch.future_mask.unsqueeze(-1), batch.future.state, noise)
    reward = torch.where(batch.future_mask, batch.reward, 7.0)
    assert torch.allclose(gradient(replace(batch, action=action, future=Obs({}, state), reward=reward)), before, atol=1e-6)
    assert not torch.allclose(gradient(replace(batch, action=batch.action + 0.1)), before, atol=1e-3)


def test_a_store_and_a_pilot_bring_all_it_needs(tmp_path):
    """The windows of a store teach it, and a pilot that flies it tells it what was done and earned, and what is on its way."""
    spec = replace(SPEC, cameras={})
    rng = np.random.default_rng(0)

    def episode(rows: int) -> Episode:
        def column(part: ArraySpec) -> np.ndarray:
            return rng.uniform(part.low, part.high, (rows, part.dim)).astype(np.float32)

        action = column(spec.action)
        return Episode(
            time=np.arange(rows) / spec.rate_hz,
            images={},
            state={name: column(part) for name, part in spec.state.items()},
            action=action,
            requested_action=action,
            reward=np.ones(rows, np.float32),
            terminal=np.arange(rows) == rows - 1,
            source=np.full(rows, Source.SCRIPTED, np.uint8),
        )

    store = EpisodeStore.create(tmp_path / "d.zarr", spec)
    store.extend([episode(3), episode(9)])
    windows = Windows(store, 2, HORIZON, past=True, future=True)
    policy = MaskedTrajectoryConfig(**SMALL, returns=True, masks=("random", "act", "prefix", "inverse")).build(spec)
    policy.fit_normalizers(windows.lowdim("state"), windows.lowdim("action"))
    batch = to_batch(windows.read(np.arange(len(windows))))
    loss, metrics = policy.train().loss(batch)
    assert torch.isfinite(loss) and set(metrics) == {"loss", "loss_state", "loss_return", "loss_action"}
    assert policy.target == 9.0 and policy.returns.longest == 8
    with torch.no_grad():
        assert torch.isfinite(policy._trajectory(batch)[0]["return"]).all()
        earned = policy._trajectory(batch)[0]["return"][3] * 9  # the second episode's first row: 9 to come, then one less each row
    assert torch.allclose(earned[1:, 0], torch.tensor([9.0, 8, 7, 6, 5]))
    pilot = PolicyPilot(policy, chunk=2, prefix=1)
    seen = episode(6)
    for row in range(6):
        command = pilot.decide(Observation(row / 10, {}, {name: value[row] for name, value in seen.state.items()}))
        assert command.action.shape == (3,) and np.isfinite(command.action).all()
        pilot.feedback(command.action, 1.0)


def test_a_batch_or_an_observation_that_lacks_something_is_named():
    contract = TestStatePolicy()
    policy, batch = contract.build(), contract.batch(2)
    with pytest.raises(ValueError, match="masked_trajectory: obs.past is missing"):
        policy.act(replace(batch.obs, past=None))
    with pytest.raises(ValueError, match="masked_trajectory: the batch lacks past or future"):
        policy.loss(replace(batch, future=None))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"encoder": SmallCnnConfig()}, "policy.encoder.tune: full; masked_trajectory learns from features of what came after"),
        ({"heads": 3}, "policy.heads: 3; expected a divisor of width = 128"),
        ({"masks": ()}, r"policy.masks: \[\]; expected at least one of random, act, prefix, reach, inverse, forward"),
        ({"goal": "state", "masks": ("act",)}, r"policy.masks: \['act'\]; expected .*, and reach where there is a goal"),
        ({"shown": (0.9, 0.8)}, r"policy.shown: \(0.9, 0.8\) of the tokens; expected two shares, 0 < first <= second <= 1"),
        ({"shown": (0.0, 0.8)}, r"policy.shown: \(0.0, 0.8\) of the tokens"),
    ],
)
def test_a_config_that_cannot_be_built_says_why(settings, message):
    with pytest.raises(UserError, match=message) as error:
        MaskedTrajectoryConfig(**settings).build(SPEC)
    assert "\n" not in str(error.value)
