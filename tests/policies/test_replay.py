"""Open-loop nearest neighbour: the memory contract of VINN on whole episodes, and that a demonstration is replayed to its end."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from hardware.types import ArraySpec
from robolearn.core.checkpoint import load_policy, save_checkpoint
from robolearn.core.errors import UserError
from robolearn.core.types import Batch, Obs, apply
from robolearn.data.episode import Episode
from robolearn.data.store import EpisodeStore
from robolearn.data.tensors import to_batch
from robolearn.data.windows import Windows
from robolearn.policies.replay import ReplayConfig
from robolearn.testing import SPEC, PolicyContract

LENGTHS = (5, 1, 8)


def episodes(cameras=()):
    """Every row of every episode differs from every other."""
    rng = np.random.default_rng(4)
    for length in LENGTHS:
        yield Episode(
            time=np.arange(length) / 10,
            images={name: rng.integers(0, 256, (length, *SPEC.cameras[name], 3), dtype=np.uint8) for name in cameras},
            state={
                "position": rng.uniform(-1, 1, (length, 2)).astype(np.float32),
                "gripper": rng.uniform(0, 1, (length, 1)).astype(np.float32),
            },
            action=rng.uniform([-0.1, -0.1, 0], [0.1, 0.1, 1], (length, 3)).astype(np.float32),
            requested_action=np.zeros((length, 3), np.float32),
            reward=np.zeros(length, np.float32),
            terminal=np.zeros(length, bool),
            source=np.zeros(length, np.uint8),
        )


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    with EpisodeStore.create(tmp_path_factory.mktemp("replay") / "d.zarr", replace(SPEC, cameras={})) as store:
        for episode in episodes():
            store.append(episode)
    return EpisodeStore.open(store.path)


@pytest.fixture
def windows(store):
    return lambda horizon, stride=1, history=1: Windows(store, history, horizon, stride=stride)


def taught(windows, parts=3, **config):
    """A policy that was shown every window once, in order, in batches of `parts`."""
    policy = ReplayConfig(history=windows.history, horizon=windows.horizon, **config).build(SPEC)
    policy.fit_normalizers(windows.lowdim("state"), windows.lowdim("action"))
    for first in range(0, len(windows), parts):
        policy.memorize(to_batch(windows.read(np.arange(first, min(first + parts, len(windows))))))
    return policy


@pytest.mark.parametrize("parts", [1, 3, 14])
@pytest.mark.parametrize("horizon", [8, 12, 3, 1])
def test_from_any_row_it_replays_what_followed_and_then_holds_the_last(windows, horizon, parts):
    data = windows(horizon)
    everything = to_batch(data.read(np.arange(len(data))))
    policy = taught(data, parts)
    assert torch.allclose(policy.act(everything.obs), everything.action, atol=1e-6), "as the training window has it"
    assert len(policy.memory) == sum(LENGTHS) and policy.memory["action"].shape == (sum(LENGTHS), 3), "one action for each row"


def test_near_a_row_is_as_on_it_and_the_kth_sample_is_the_kth_nearest(windows):
    data = windows(8, history=2)
    batch, policy = to_batch(data.read(np.array([6]))), taught(data)
    obs = replace(batch.obs, state=batch.obs.state + 1e-3)
    assert torch.allclose(policy.act(obs), batch.action, atol=1e-6)
    samples = policy.sample(obs, 20)
    rows = policy.memory.nearest(policy.key(policy.condition(obs)), 14)[1][0]
    everything = to_batch(data.read(rows.numpy())).action
    assert torch.allclose(samples[0, :14], everything, atol=1e-6)
    assert torch.equal(samples[0, 14:], samples[0, :6]), "there are no more than were seen"


def test_it_is_judged_without_the_window_itself(windows):
    data = windows(8)
    batch, policy = to_batch(data.read(np.arange(len(data)))), taught(data)
    keys = policy.key(policy.condition(batch.obs))
    nearest = torch.cdist(keys, keys).fill_diagonal_(torch.inf).argmin(1)
    action = policy.action_norm.normalize(batch.action)
    assert policy.loss(batch)[1]["loss"] == pytest.approx(float((action[nearest] - action).abs().mean()), rel=1e-5)


def test_a_row_of_weight_zero_is_neither_found_nor_replayed(windows):
    data = windows(8)
    batch = to_batch(data.read(np.arange(len(data))))
    policy = ReplayConfig(history=1, horizon=8).build(SPEC)
    policy.fit_normalizers(data.lowdim("state"), data.lowdim("action"))
    weight = torch.ones(len(data))
    weight[9] = 0  # the fourth of the last episode's eight rows
    policy.memorize(replace(batch, weight=weight))
    answer = policy.act(batch.obs)
    start = sum(LENGTHS[:2])
    held = batch.action[start, [0, 1, 2, 2, 2, 2, 2, 2]]
    held[3:, :2] = 0  # steps: nowhere; the gripper keeps what it was told
    assert torch.allclose(answer[start], held, atol=1e-6), "a demonstration ends before it"
    assert torch.allclose(answer[start + 4], batch.action[start + 4], atol=1e-6), "and may begin behind it"
    assert (answer[start + 3] - batch.action[start + 3]).abs().max() > 1e-3
    assert torch.isfinite(policy.sample(batch.obs, 20)).all()


def test_windows_in_another_order_are_refused(windows):
    data = windows(8)
    policy = taught(data)
    with pytest.raises(UserError, match="replay: the windows are not one for each row, in order"):
        policy.memorize(to_batch(data.read(np.array([0, 3]))))
    assert len(policy.memory) == sum(LENGTHS), "nothing is half remembered"
    with pytest.raises(UserError, match="not one for each row, in order"):
        taught(windows(8, stride=2))


def test_a_memory_is_loaded_in_the_size_it_was_saved(windows, tmp_path):
    data = windows(8)
    policy, obs = taught(data), to_batch(data.read(np.array([3, 7]))).obs
    save_checkpoint(tmp_path / "policy.pt", policy, policy.config)
    loaded = load_policy(tmp_path / "policy.pt")
    assert torch.equal(loaded.sample(obs, 3), policy.sample(obs, 3))


class TestContract(PolicyContract):
    """PolicyContract on episodes of one row each. A policy that learns by memory has no gradient: what is asked of that is above."""

    config = ReplayConfig(horizon=4)
    spec = replace(SPEC, action_mode="ee_pos")  # past its one row an episode's position is held

    def build(self, config=None):
        policy = super().build(config)
        policy.memorize(self.shown(64))
        return policy

    def shown(self, rows, seed=0):
        batch = self.batch(rows, seed)
        batch.pad[:, 1:] = True
        return batch

    def test_the_loss_is_finite_and_falls_on_data_it_sees_again(self):
        """In place of steps of an optimizer: the more it has seen, the nearer what it has not seen is."""
        policy, fresh, losses = super().build(), self.batch(64, seed=9), []
        for part in range(40):
            policy.memorize(self.shown(64, seed=100 + part))
            losses.append(policy.loss(fresh)[1]["loss"])
        assert np.isfinite(losses).all() and np.mean(losses[-5:]) < 0.7 * losses[0]

    def test_a_row_of_weight_zero_teaches_nothing(self):
        policy, batch = self.build(), self.batch(4, seed=1)
        judged = [policy.loss(b)[1]["loss"] for b in (replace(batch, weight=torch.tensor([1.0, 1, 0, 0])), _rows(batch, 2), batch)]
        assert judged[0] == pytest.approx(judged[1], rel=1e-5) and judged[0] != pytest.approx(judged[2], rel=1e-3)

    def test_padded_actions_teach_nothing_where_the_config_says_so(self):
        """The first action of a window is never padded; the others are not kept with it."""
        policy, batch = self.build(replace(self.config, mask_pad=True)), self.batch(4, seed=1)
        spoiled = replace(batch, action=torch.cat([batch.action[:, :2], batch.action[:, 2:] + 0.05], 1))
        batch.pad[:, 2:] = True
        assert policy.loss(batch)[1]["loss"] == policy.loss(spoiled)[1]["loss"]


def _rows(batch, count):
    return apply(batch, lambda tensor: tensor[:count])


def test_relative_to_the_state_a_demonstration_is_replayed_from_where_the_arm_is():
    where = ArraySpec(("x", "y"), ("m", "m"), (-1.0, -1.0), (1.0, 1.0))
    policy = ReplayConfig(horizon=3, actions="delta").build(replace(SPEC, state={"position": where}, action=where, action_mode="ee_pos"))
    state = torch.tensor([[0.0, 0.0], [0.1, 0.0], [0.1, 0.2]])
    target = torch.tensor([[0.1, 0.0], [0.1, 0.2], [0.4, 0.2]])
    chunks = target[torch.tensor([[0, 1, 2], [1, 2, 2], [2, 2, 2]])]
    policy.fit_normalizers(state.numpy(), chunks.numpy())
    pad = torch.tensor([[False, False, False], [False, False, True], [False, True, True]])
    policy.memorize(Batch(Obs({}, state.unsqueeze(1)), chunks, pad))
    shift = torch.tensor([0.0, -0.03])
    for row in range(3):
        answer = policy.act(Obs({}, (state[row] + shift).reshape(1, 1, 2)))[0]
        assert torch.allclose(answer, chunks[row] + shift, atol=1e-6)


def test_an_arm_without_a_state_needs_a_camera():
    blind = replace(SPEC, state={"none": ArraySpec((), (), (), ())})
    with pytest.raises(UserError, match="policy.state_weight: 1.0 for 0 numbers"):
        ReplayConfig().build(blind)
