from __future__ import annotations

import pickle
from dataclasses import replace

import numpy as np
import pytest
import torch

from hardware.types import ArraySpec, RobotSpec
from robolearn.core.errors import UserError
from robolearn.data.episode import Episode
from robolearn.data.sampling import Sampler
from robolearn.data.store import EpisodeStore
from robolearn.data.tensors import to_batch
from robolearn.data.windows import Windows, restrict, split

LENGTHS = (5, 1, 40)


@pytest.fixture
def episodes(make_episode):
    return [make_episode(rows, rows, success=rows != 5) for rows in LENGTHS]


@pytest.fixture
def store(tmp_path, spec, episodes):
    with EpisodeStore.create(tmp_path / "d.zarr", spec) as store:
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
    batch = to_batch(windows.read(np.arange(46)))
    assert batch.reward is None and batch.future is None and batch.obs.features is None
    for i, (e, t) in enumerate(located()):
        episode = episodes[e]
        past = [max(t - history + 1 + k, 0) for k in range(history)]
        ahead = [t + k for k in range(horizon)]
        state = np.concatenate([episode.state["q"], episode.state["grip"]], 1)
        np.testing.assert_array_equal(batch.obs.state[i], state[past])
        for camera in ("front", "wrist"):
            np.testing.assert_array_equal(batch.obs.images[camera][i], episode.images[camera][past].transpose(0, 3, 1, 2))
        action = episode.action[np.minimum(ahead, len(episode) - 1)].copy()
        action[np.array(ahead) >= len(episode)] = 0  # the spec's actions are steps: past the end the arm stays
        np.testing.assert_array_equal(batch.action[i], action)
        assert batch.pad[i].tolist() == [k >= len(episode) for k in ahead]


def test_past_the_end_a_position_is_held_a_step_is_not_repeated_and_a_gripper_keeps_what_it_was_told(tmp_path):
    names = ("dx", "gripper")
    for mode, last in (("joint_pos", [[4, 1]] * 2), ("joint_velocity", [[0, 1]] * 2), ("ee_delta", [[0, 1]] * 2)):
        action = ArraySpec(names, ("m", "1"), (-9.0, 0.0), (9.0, 1.0))
        spec = RobotSpec("arm", {}, {"q": ArraySpec(("a",), ("rad",), (-9.0,), (9.0,))}, action, mode, 10.0)
        assert spec.steps.tolist() == [mode != "joint_pos", False]
        with EpisodeStore.create(tmp_path / mode, spec) as store:
            count = np.arange(1, 5, dtype=np.float32)
            done = np.stack([count, np.ones(4, np.float32)], axis=1)
            none = np.zeros(4, np.float32)
            store.append(Episode(np.arange(4) / 10.0, {}, {"q": count[:, None]}, done, done, none, none > 0, np.zeros(4, np.uint8)))
        windows = Windows(EpisodeStore.open(tmp_path / mode), 1, 3)
        assert windows.read([3]).action[0].tolist() == [[4, 1], *last]
        np.testing.assert_array_equal(windows.chunks()[3], windows.read([3]).action[0])
        assert windows.read([1]).action[0].tolist() == [[2, 1], [3, 1], [4, 1]]


def test_future_is_the_observation_after_each_action_and_its_mask_tells_the_truth(store, episodes):
    horizon = 3
    features = np.arange(46 * 2, dtype=np.float32).reshape(46, 2)
    store.write_features("net", features)
    windows = Windows(store, 2, horizon, images=False, features_key="net", future=True)
    batch = to_batch(windows.read(np.arange(46)))
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
        batch = to_batch(Windows(store, 1, 3, images=False, future=True).read(np.arange(6)))
    expected = [[1, 1, 0], [1, 0, 0], [0, 0, 0], [1, 1, 0], [1, 0, 0], [0, 0, 0]]
    assert batch.future_mask.int().tolist() == expected


def test_future_images_where_asked_for(store, episodes):
    batch = to_batch(Windows(store, 1, 2, cameras=("wrist",), future=True, future_images=True).read(np.array([0])))
    np.testing.assert_array_equal(batch.future.images["wrist"][0], episodes[0].images["wrist"][1:3].transpose(0, 3, 1, 2))


def test_a_choice_of_inputs(store, spec, episodes):
    windows = Windows(store, 1, 1, cameras=("wrist",), state_keys=("grip",))
    assert windows.spec == restrict(spec, ("wrist",), ("grip",))
    batch = to_batch(windows.read(np.array([7])))
    assert list(batch.obs.images) == ["wrist"] and batch.obs.state.shape == (1, 1, 1)
    np.testing.assert_array_equal(windows.lowdim("state"), store.lowdim("state/grip"))
    assert to_batch(Windows(store, 2, 1, cameras=(), state_keys=()).read(np.array([7]))).obs.state.shape == (1, 2, 0)
    with pytest.raises(UserError, match="cameras: 'left' is not in the data of test arm; valid: front, wrist"):
        restrict(spec, ("left",))
    with pytest.raises(UserError, match="state: 'speed' .* valid: q, grip"):
        Windows(store, 1, 1, state_keys=("speed",))


def test_a_choice_of_episodes(store, episodes):
    good = Windows(store, 1, 1, episodes=lambda meta: meta["success"], images=False)
    assert len(good) == 41
    np.testing.assert_array_equal(good.lowdim("action"), np.concatenate([episodes[1].action, episodes[2].action]))
    np.testing.assert_array_equal(to_batch(good.read(np.array([0]))).action[0], episodes[1].action)
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
    batch = to_batch(both.read(np.array([54, 3, 46, 0])))
    alone = to_batch(Windows(store, 2, 3).read(np.array([3, 0])))
    np.testing.assert_array_equal(batch.obs.images["front"][[1, 3]], alone.obs.images["front"])
    np.testing.assert_array_equal(batch.obs.images["front"][2, 1], other_episode.images["front"][0].transpose(2, 0, 1))
    np.testing.assert_array_equal(batch.action[0], [other_episode.action[8], [0] * 3, [0] * 3])
    assert [group.tolist() for group in both.groups()] == [list(range(46)), list(range(46, 55))]
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
    on_disk = to_batch(Windows(store, 3, 2).read(indices))
    assert not store._held
    in_ram = to_batch(Windows(store, 3, 2, cache_mb=1).read(indices))
    assert set(store._held) == {"front", "wrist"}
    for camera in ("front", "wrist"):
        assert torch.equal(on_disk.obs.images[camera], in_ram.obs.images[camera])


def test_a_ceiling_holds_what_fits_and_reads_the_rest(store):
    row = sum(h * w * 3 for h, w in store.spec.cameras.values())
    indices = np.array([0, 44, 9, 10, 11, 3])
    expected = Windows(store, 2, 1).read(indices)
    partly = Windows(store, 2, 1, cache_mb=10.5 * row / 1e6).read(indices)
    assert {name: len(frames) for name, frames in store._held.items()} == {"front": 10, "wrist": 10}
    for camera in store.spec.cameras:
        np.testing.assert_array_equal(partly.obs.images[camera], expected.obs.images[camera])


def test_a_decoded_file_is_shared_and_found_again(store, tmp_path, monkeypatch):
    expected = store.frames("front", np.arange(46))
    folder = tmp_path / "cache"
    for _ in range(2):
        opened = EpisodeStore.open(store.path)
        Windows(opened, 1, 1, cache_mb=1, cache_folder=folder)
        assert isinstance(opened._held["front"], np.memmap)
        np.testing.assert_array_equal(opened.frames("front", np.arange(46)), expected)
        assert len(list(folder.iterdir())) == 2  # one for each camera
    monkeypatch.setattr("robolearn.data.features.shutil.disk_usage", lambda path: type("usage", (), {"free": 1000}))
    with pytest.raises(UserError, match="disk full: 0.0 MB are needed"):
        Windows(EpisodeStore.open(store.path), 1, 1, cache_mb=1, cache_folder=tmp_path / "small")
    assert list((tmp_path / "small").iterdir()) == []


def test_a_stride_skips_rows_in_history_and_chunk(store, episodes):
    window = Windows(store, 3, 3, stride=4, images=False).read([21])
    first = 6  # the third episode's first row
    np.testing.assert_array_equal(window.action[0], episodes[2].action[[15, 19, 23]])
    np.testing.assert_array_equal(window.obs.state[0, :, :2], episodes[2].state["q"][[7, 11, 15]])
    start = Windows(store, 3, 3, stride=4, images=False).read([first + 1])
    np.testing.assert_array_equal(start.obs.state[0, :, :2], episodes[2].state["q"][[0, 0, 1]])
    with pytest.raises(ValueError, match="stride 1 with future"):
        Windows(store, 1, 1, stride=2, future=True)


@pytest.mark.parametrize("stride", [1, 3])
def test_chunks_are_the_actions_of_all_samples(store, stride):
    windows = Windows(store, 2, 5, stride=stride, images=False, episodes=[[0, 2]])
    assert np.array_equal(windows.chunks(), windows.read(np.arange(len(windows))).action)


def test_latency_shows_the_frame_a_slower_camera_would_have_shown(tmp_path, spec, make_episode):
    episode = make_episode(30)
    taken = episode.time - 0.003  # the wrist camera's own stamps
    taken[10] = taken[9]  # and one frame that came twice
    with EpisodeStore.create(tmp_path / "late.zarr", spec) as late:
        late.append(replace(episode, image_time={"wrist": taken}))
    windows = Windows(late, 1, 1, latency_s={"wrist": 0.1, "front": -0.05})
    rows = np.arange(30)
    seen = windows.read(rows).obs.images
    wrist = [max(np.flatnonzero(taken <= now - 0.1), default=0) for now in episode.time]
    front = [max(np.flatnonzero(episode.time <= now + 0.05), default=0) for now in episode.time]
    np.testing.assert_array_equal(seen["wrist"][:, 0], episode.images["wrist"][wrist])
    np.testing.assert_array_equal(seen["front"][:, 0], episode.images["front"][front])
    with pytest.raises(UserError, match="latency_s: no camera 'left'; valid: front, wrist"):
        Windows(late, 1, 1, latency_s={"left": 0.1})


def test_torchs_own_loader_reads_a_batch_at_a_time(store):
    sampler = Sampler(46, 8, np.random.default_rng(0))
    order = [next(sampler) for _ in range(4)]
    windows = Windows(store, 2, 3)
    # A mere fork would hold what other tests have locked here.
    apart = {"num_workers": 2, "multiprocessing_context": "forkserver", "timeout": 60}
    loader = torch.utils.data.DataLoader(windows, batch_sampler=order, collate_fn=to_batch, **apart)  # pyright: ignore
    for batch, indices in zip(loader, order, strict=True):
        assert torch.equal(batch.action, to_batch(windows.read(indices)).action)
        assert torch.equal(batch.obs.images["front"], to_batch(windows.read(indices)).obs.images["front"])


def test_a_spawned_worker_reads_the_same_rows(store, make_episode):
    windows = Windows(store, 2, 3)
    expected = windows.read([0, 7, 45])
    with EpisodeStore.open(store.path, "a") as more:
        more.append(make_episode(4, 99))
    copied = pickle.loads(pickle.dumps(windows))
    assert len(copied) == 46 and len(copied.stores[0]) == 3  # the same snapshot
    np.testing.assert_array_equal(copied.read([0, 7, 45]).obs.images["front"], expected.obs.images["front"])


def test_episodes_are_named_for_each_store(store):
    for episodes, message in (([np.array(1)], "one list of indices for each store"), ([[0], [1]], "one list of"), ([[0, 3]], "0 to 2")):
        with pytest.raises(ValueError, match=message):
            Windows(store, 1, 1, images=False, episodes=episodes)


def test_odd_ceilings_and_latencies(store):
    assert len(Windows(store, 1, 1, cache_mb=np.inf)) == 46 and len(store._held["front"]) == 46
    with pytest.raises(UserError, match="latency_s: front: nan s; expected a finite number"):
        Windows(store, 1, 1, latency_s={"front": np.nan})
    long = Windows(store, 1, 1, latency_s={"front": 1e9}, images=False)
    assert long._seen["front"].tolist() == [0] * 5 + [5] + [6] * 40
