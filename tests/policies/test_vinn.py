"""VINN: the contract, with memory where others have gradients; the weighted mean, the votes and what is refused below."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from robolearn.core.checkpoint import load_policy, save_checkpoint
from robolearn.core.errors import UserError
from robolearn.core.types import Obs, apply
from robolearn.models.encoders.cnn import SmallCnnConfig
from robolearn.policies.vinn import VinnConfig
from robolearn.testing import SPEC, PolicyContract

CNN = SmallCnnConfig(tune="none", channels=(8,), strides=(2,), keypoints=4)


class MemoryContract(PolicyContract):
    """PolicyContract, but a policy that learns by memory has no gradient: what is asked of it there is asked of the answers here."""

    def build(self, config=None):
        policy = super().build(config)
        policy.memorize(self.batch(64))
        return policy

    def forgetful(self, config=None):
        """One that has seen nothing yet."""
        return super().build(config)

    def test_the_loss_is_finite_and_falls_on_data_it_sees_again(self):
        """In place of steps of an optimizer: the more it has seen, the nearer what it has not seen is."""
        policy, fresh, losses = self.forgetful(), self.batch(64, seed=9), []
        for part in range(40):
            policy.memorize(self.batch(64, seed=100 + part))
            losses.append(policy.loss(fresh)[1]["loss"])
        assert np.isfinite(losses).all()
        assert np.mean(losses[-5:]) < 0.7 * losses[0]

    def test_a_row_of_weight_zero_teaches_nothing(self):
        self._teaches_nothing(self.config, weight=torch.tensor([1.0, 1.0, 0.0, 0.0]))

    def test_padded_actions_teach_nothing_where_the_config_says_so(self):
        pad = torch.zeros(4, self.config.horizon, dtype=torch.bool)
        pad[2:] = True
        self._teaches_nothing(replace(self.config, mask_pad=True), pad=pad)

    def _teaches_nothing(self, config, **last_two):
        """Remembered with them or without, it answers and is judged alike; without the mark it is not."""
        batch, asked, answers = self.batch(4, seed=3), self.batch(6, seed=1), []
        for seen in (replace(batch, **last_two), _rows(batch, 2), batch):
            policy = self.forgetful(config)
            policy.memorize(seen)
            answers.append((policy.act(asked.obs), policy.loss(asked)[1]["loss"]))
        assert torch.equal(answers[0][0], answers[1][0]) and answers[0][1] == answers[1][1]
        assert not torch.equal(answers[0][0], answers[2][0]) and answers[0][1] != answers[2][1]
        policy = self.forgetful(config)
        policy.memorize(batch)
        fewer = [policy.loss(judged)[1]["loss"] for judged in (replace(batch, **last_two), _rows(batch, 2))]
        assert fewer[0] == pytest.approx(fewer[1], rel=1e-5)

    def test_it_learns_by_memory_alone(self):
        policy = self.forgetful()
        assert policy.learns_by == "memory"
        with pytest.raises(RuntimeError, match="train the policy first"):
            policy.act(self.batch(1).obs)

    def test_a_memory_is_loaded_in_the_size_it_was_saved(self, tmp_path):
        policy, obs = self.build(), self.batch(2, seed=1).obs
        policy.memorize(self.batch(7, seed=2))
        save_checkpoint(tmp_path / "policy.pt", policy, self.config)
        loaded = load_policy(tmp_path / "policy.pt")
        assert len(loaded.memory) == len(policy.memory) == 71 and torch.equal(loaded.act(obs), policy.act(obs))


def _rows(batch, count):
    return apply(batch, lambda tensor: tensor[:count])


class TestStatePolicy(MemoryContract):
    config = VinnConfig(horizon=4, neighbours=3)


class TestFrozenEyes(MemoryContract):
    config = VinnConfig(horizon=4, neighbours=2, encoder=CNN, cameras=("wrist",), image_weight=0.01)  # its images say nothing


def by_hand(policy, obs, config):
    """softmax(-distance / temperature) over the nearest, in plain loops."""
    keys, chunks = policy.memory["key"], policy.memory["chunk"]
    answers = []
    for key in policy.key(policy.condition(obs)):
        distance = torch.stack([(key - other).norm() for other in keys])
        near = distance.argsort()[: config.neighbours]
        weight = torch.exp(-distance[near] / config.temperature)
        answers.append(sum(w * chunks[i] for w, i in zip(weight / weight.sum(), near, strict=True)))
    return policy.action_norm.unnormalize(torch.stack(answers))


@pytest.mark.parametrize("neighbours", [1, 5, 64, 500])
@pytest.mark.parametrize("temperature", [0.01, 1.0])
def test_the_answer_is_the_weighted_mean_of_the_neighbours(neighbours, temperature):
    contract = TestStatePolicy()
    config = VinnConfig(horizon=4, neighbours=neighbours, temperature=temperature)
    policy, obs = contract.build(config), contract.batch(5, seed=1).obs
    assert torch.allclose(policy.act(obs), by_hand(policy, obs, config), atol=1e-5)


def test_the_distance_counts_each_part_by_its_weight_not_by_its_size():
    contract = TestFrozenEyes()
    contract.config = config = replace(contract.config, history=2, state=("position",), state_weight=2.0, image_weight=0.5)
    policy, batch = contract.build(), contract.batch(2, seed=1)
    cond = policy.condition(batch.obs)
    key, gap = policy.key(cond), (cond[0] - cond[1]).square()
    assert float((key[0] - key[1]).square().sum()) == pytest.approx(float(2 * gap[:, :2].mean() + 0.5 * gap[:, 2:].mean()), rel=1e-4)
    blind = contract.build(replace(config, image_weight=0.0))
    dark = replace(batch.obs, images={name: torch.zeros_like(image) for name, image in batch.obs.images.items()})
    assert torch.equal(blind.act(dark), blind.act(batch.obs)) and not torch.equal(policy.act(dark), policy.act(batch.obs))


def test_one_neighbour_repeats_what_was_done_and_is_judged_without_the_window_itself():
    contract = TestStatePolicy()
    config = VinnConfig(horizon=4, neighbours=1)
    policy, batch = contract.build(config), contract.batch(64)
    assert torch.allclose(policy.act(batch.obs), batch.action, atol=1e-6), "the training windows themselves"
    nearest = torch.cdist(policy.memory["key"], policy.memory["key"]).fill_diagonal_(torch.inf).argmin(1)
    chunk = policy.memory["chunk"]
    assert policy.loss(batch)[1]["loss"] == pytest.approx(float((chunk[nearest] - chunk).abs().mean()), rel=1e-5)


def test_a_padded_action_has_no_vote_and_where_nothing_else_is_left_the_last_is_held():
    contract = TestStatePolicy()
    config = VinnConfig(horizon=4, neighbours=2, mask_pad=True, temperature=100.0)
    policy, batch = contract.forgetful(config), contract.batch(2)
    batch.pad[0, 2:] = True
    batch.pad[1, 3:] = True
    policy.memorize(batch)
    answer = policy.act(batch.obs)[0]
    assert torch.allclose(answer[:2], batch.action[:, :2].mean(0), atol=1e-3)
    assert torch.allclose(answer[2], batch.action[1, 2], atol=1e-5)
    assert torch.allclose(answer[3], batch.action[:, 3].mean(0), atol=1e-3)


def test_a_weight_is_a_share_of_the_vote():
    contract = TestStatePolicy()
    policy, batch = contract.forgetful(VinnConfig(horizon=4, temperature=1e6)), contract.batch(2)
    policy.memorize(replace(batch, weight=torch.tensor([3.0, 1.0])))
    assert torch.allclose(policy.act(batch.obs)[0], 0.75 * batch.action[0] + 0.25 * batch.action[1], atol=1e-5)


def test_further_samples_are_single_neighbours_drawn_by_weight():
    contract = TestStatePolicy()
    config = VinnConfig(horizon=4, neighbours=3, temperature=0.5)
    policy, obs = contract.build(config), contract.batch(1, seed=1).obs
    samples = policy.action_norm.normalize(policy.sample(obs, 401, torch.Generator().manual_seed(0)))[0]
    weight, rows = policy._neighbours(policy.condition(obs))
    assert torch.allclose(policy.action_norm.unnormalize(samples[:1]), policy.act(obs), atol=1e-6)
    which = torch.cdist(samples[1:].flatten(1), policy.memory["chunk"][rows[0]].flatten(1))
    assert which.amin(1).max() < 1e-3
    shares = torch.bincount(which.argmin(1), minlength=3) / 400
    assert torch.allclose(shares, weight[0], atol=0.08)


def test_goals_count_in_the_distance():
    contract = TestStatePolicy()
    policy = replace(contract.config, goal="state", neighbours=1).build(SPEC)
    batch = contract.batch(2)
    batch = replace(batch, obs=replace(batch.obs, state=torch.zeros_like(batch.obs.state)))
    goal = Obs({}, torch.tensor([[[0.5, 0.5, 0.5]], [[-0.5, -0.5, -0.5]]]))
    policy.fit_normalizers(np.random.default_rng(0).uniform(-1, 1, (9, 3)), batch.action.flatten(0, 1).numpy())
    policy.memorize(replace(batch, obs=replace(batch.obs, goal=goal)))
    asked = replace(batch.obs, goal=Obs({}, goal.state.flip(0) * 0.8))
    assert torch.allclose(policy.act(asked), batch.action.flip(0), atol=1e-6)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (VinnConfig(neighbours=0), "policy.neighbours: 0 windows; expected at least 1"),
        (VinnConfig(temperature=0.0), "policy.temperature: 0.0; expected above 0"),
        (VinnConfig(state_weight=-1.0), "policy.state_weight: -1.0 for 3 numbers.*none below 0"),
        (VinnConfig(state_weight=0.0), "policy.image_weight: 1.0 for 0 numbers.*one above 0 that has numbers"),
        (VinnConfig(encoder=replace(CNN, tune="full")), "policy.encoder.tune: 'full'; nothing is tuned by looking up, valid: none"),
    ],
)
def test_a_config_that_cannot_be_built_says_why_in_one_line(config, message):
    with pytest.raises(UserError, match=message) as error:
        config.build(SPEC)
    assert "\n" not in str(error.value)
