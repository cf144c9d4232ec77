from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from robolearn.core.errors import UserError
from robolearn.data.store import EpisodeStore
from robolearn.data.windows import Windows, restrict, split

LENGTHS = (5, 1, 40)


@pytest.fixture
def episodes(make_episode):
    return [make_episode(rows, rows, success=rows != 5) for rows in LENGTHS]


@pytest.fixture
def store(tmp_path, spec, episodes):
    with EpisodeStore.create(tmp_path / "d.zarr", spec, shard_rows=32) as store:
        for episode in episodes:
            store.append(episode)
    return EpisodeStore.open(store.path)


def located():
    """(episode, row in it) of every sample."""
    return [(e, t) for e, length in enumerate(LENGTHS) for t in range(length)]


def test_every_window_is_what_a_loop_over_the_episode_would_take(store, episodes):
    history, horizon = 3, 4
    windows = Windows(store, history, horizon)
    assert len(windows) == 46
    batch = windows.batch(np.arange(46))
    assert batch.reward is None and batch.future is None and batch.obs.features is None
    for i, (e, t) in enumerate(located()):
        episode = episodes[e]
        past = [max(t - history + 1 + k, 0) for k in range(history)]
        ahead = [t + k for k in range(horizon)]
        state = np.concatenate([episode.state["q"], episode.state["grip"]], 1)
        np.testing.assert_array_equal(batch.obs.state[i], state[past])
        for camera in ("front", "wrist"):
            np.testing.assert_array_equal(batch.obs.images[camera][i], episode.images[camera][past].transpose(0, 3, 1, 2))
        np.testing.assert_array_equal(batch.action[i], episode.action[np.minimum(ahead, len(episode) - 1)])
        assert batch.pad[i].tolist() == [k >= len(episode) for k in ahead]


def test_future_is_the_observation_after_each_action_and_its_mask_tells_the_truth(store, episodes):
    horizon = 3
    features = np.arange(46 * 2, dtype=np.float32).reshape(46, 2)
    store.write_features("net", features)
    windows = Windows(store, 2, horizon, images=False, features_key="net", future=True)
    batch = windows.batch(np.arange(46))
    assert batch.obs.images == {} and batch.future.images == {}
    for i, (e, t) in enumerate(located()):
        episode = episodes[e]
        np.testing.assert_array_equal(batch.obs.features[i, -1], features[i])
        np.testing.assert_array_equal(batch.obs.features[i, 0], features[i if t == 0 else i - 1])
        for k in range(horizon):
            exists = t + k + 1 < len(episode)
            assert bool(batch.future_mask[i, k]) == exists
            assert bool(batch.pad[i, k]) == (t + k >= len(episode))
            if exists:
                np.testing.assert_array_equal(batch.future.state[i, k, :2], episode.state["q"][t + k + 1])
                np.testing.assert_array_equal(batch.future.features[i, k], features[i + k + 1])
            if t + k < len(episode):
                assert batch.reward[i, k] == episode.reward[t + k]
                assert batch.terminal[i, k] == episode.terminal[t + k]
            else:
                assert batch.reward[i, k] == 0 and not batch.terminal[i, k]


def test_nothing_follows_a_terminal_row_even_where_the_log_goes_on(tmp_path, spec, make_episode):
    episode = make_episode(6)
    episode.terminal[2] = True
    with EpisodeStore.create(tmp_path / "t.zarr", spec) as store:
        store.append(episode)
        batch = Windows(store, 1, 3, images=False, future=True).batch(np.arange(6))
    expected = [[1, 1, 0], [1, 0, 0], [0, 0, 0], [1, 1, 0], [1, 0, 0], [0, 0, 0]]
    assert batch.future_mask.int().tolist() == expected


def test_future_images_where_asked_for(store, episodes):
    batch = Windows(store, 1, 2, cameras=("wrist",), future=True, future_images=True).batch(np.array([0]))
    np.testing.assert_array_equal(batch.future.images["wrist"][0], episodes[0].images["wrist"][1:3].transpose(0, 3, 1, 2))


def test_a_choice_of_inputs(store, spec, episodes):
    windows = Windows(store, 1, 1, cameras=("wrist",), state_keys=("grip",))
    assert windows.spec == restrict(spec, ("wrist",), ("grip",))
    batch = windows.batch(np.array([7]))
    assert list(batch.obs.images) == ["wrist"] and batch.obs.state.shape == (1, 1, 1)
    np.testing.assert_array_equal(windows.lowdim("state"), store.lowdim("state/grip"))
    assert Windows(store, 2, 1, cameras=(), state_keys=()).batch(np.array([7])).obs.state.shape == (1, 2, 0)
    with pytest.raises(UserError, match="cameras: 'left' is not in the data of test arm; valid: front, wrist"):
        restrict(spec, ("left",))
    with pytest.raises(UserError, match="state: 'speed' .* valid: q, grip"):
        Windows(store, 1, 1, state_keys=("speed",))


def test_a_choice_of_episodes(store, episodes):
    good = Windows(store, 1, 1, episodes=lambda meta: meta["success"], images=False)
    assert len(good) == 41
    np.testing.assert_array_equal(good.lowdim("action"), np.concatenate([episodes[1].action, episodes[2].action]))
    np.testing.assert_array_equal(good.batch(np.array([0])).action[0], episodes[1].action)
    assert len(Windows(store, 1, 1, episodes=[[0, 1]])) == 6
    with pytest.raises(UserError, match="no episode to learn from"):
        Windows(store, 1, 1, episodes=lambda meta: False)


def test_splits_take_whole_episodes(store):
    train, validation = split(store, 0.1, np.random.default_rng(0))
    assert len(validation[0]) == 1 and sorted([*train[0], *validation[0]]) == [0, 1, 2]
    parts = [Windows(store, 1, 1, episodes=part, images=False).lowdim("action") for part in (train, validation)]
    assert sum(map(len, parts)) == 46
    assert not set(map(bytes, parts[0])) & set(map(bytes, parts[1]))
    assert split(store, 0, np.random.default_rng(0))[1][0].size == 0
    assert len(split(store, 1, np.random.default_rng(0))[0][0]) == 1  # never all of them


def test_several_stores_are_one(tmp_path, store, spec, make_episode):
    other_episode = make_episode(9, 77)
    with EpisodeStore.create(tmp_path / "o.zarr", spec) as other:
        other.append(other_episode)
    both = Windows([store, other], 2, 3)
    assert len(both) == 55
    batch = both.batch(np.array([54, 3, 46, 0]))
    alone = Windows(store, 2, 3).batch(np.array([3, 0]))
    np.testing.assert_array_equal(batch.obs.images["front"][[1, 3]], alone.obs.images["front"])
    np.testing.assert_array_equal(batch.obs.images["front"][2, 1], other_episode.images["front"][0].transpose(2, 0, 1))
    np.testing.assert_array_equal(batch.action[0], np.repeat(other_episode.action[8:], 3, 0))
    weights = both.weights(mix=(0.5, 0.5))
    assert weights[46:].sum() == pytest.approx(0.5) and weights.sum() == pytest.approx(1)
    with (
        EpisodeStore.create(tmp_path / "s.zarr", replace(spec, rate_hz=5.0)) as slow,
        pytest.raises(UserError, match="rate_hz: 20.0 != 5.0"),
    ):
        Windows([store, slow], 1, 1)


def test_weights_by_episode(store):
    weights = Windows(store, 1, 1, images=False).weights(episode=lambda meta: 3.0 if meta["success"] else 1.0)
    np.testing.assert_allclose(weights, np.repeat([1, 3, 3], LENGTHS) / (5 + 3 * 41))
    with pytest.raises(ValueError, match="weights"):
        Windows(store, 1, 1).weights(episode=lambda meta: 0.0)


def test_frames_in_ram_are_the_frames_on_disk(store):
    indices = np.array([0, 44, 5, 6, 6])
    on_disk = Windows(store, 3, 2).batch(indices)
    assert not store._held
    in_ram = Windows(store, 3, 2, ram_limit_mb=1).batch(indices)
    assert set(store._held) == {"front", "wrist"}
    for camera in ("front", "wrist"):
        assert torch.equal(on_disk.obs.images[camera], in_ram.obs.images[camera])


def test_a_ceiling_too_low_holds_nothing(store):
    Windows(store, 3, 2, ram_limit_mb=0.01)
    assert not store._held
