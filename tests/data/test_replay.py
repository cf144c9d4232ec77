from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from hardware.types import Source
from robolearn.core.types import Batch, Obs
from robolearn.data.episode import Episode
from robolearn.data.replay import Replay
from robolearn.data.store import EpisodeStore
from robolearn.data.tensors import to_batch
from robolearn.data.windows import Windows

ENDS = {5: (), 1: (0,), 9: (3, 4, 8), 7: (2,)}  # rows of each episode -> which are terminal: none, the last, some on the way


def gripper(spec):
    """The third number of an action is a gripper, which is told where to be."""
    return replace(spec, action=replace(spec.action, names=("x", "y", "grip")))


def joints(spec):
    return replace(spec, action_mode="joint_pos")


@pytest.fixture
def spec(spec):
    """Without cameras: frames are none of a Replay's business."""
    return replace(spec, cameras={})


@pytest.fixture
def episodes(make_episode):
    made = []
    for rows, ended in ENDS.items():
        terminal = np.zeros(rows, bool)
        terminal[list(ended)] = True
        made.append(replace(make_episode(rows, seed=rows), terminal=terminal))
    return made


def stored(path, spec, episodes) -> EpisodeStore:
    with EpisodeStore.create(path, spec) as store:
        for episode in episodes:
            store.append(episode)
    return EpisodeStore.open(path)


def assert_same_bits(got: Batch, expected: Batch):
    for name in ("action", "pad", "reward", "terminal", "future_mask"):
        one, other = getattr(got, name), getattr(expected, name)
        assert one.dtype == other.dtype and torch.equal(one, other), name
    for one, other in ((got.obs, expected.obs), (got.future, expected.future)):
        assert isinstance(one, Obs) and isinstance(other, Obs) and torch.equal(one.state, other.state)
        assert (one.features is None) == (other.features is None)
        assert one.features is None or other.features is None or torch.equal(one.features, other.features)


@pytest.mark.parametrize("change", [lambda spec: spec, gripper, joints])
def test_what_it_shows_is_what_windows_show(tmp_path, spec, episodes, change):
    store = stored(tmp_path / "d.zarr", change(spec), episodes)
    store.write_features("net", np.random.default_rng(0).normal(size=(store.rows, 4)).astype(np.float32))
    for history, horizon, key in ((1, 1, None), (3, 4, "net"), (2, 12, "net")):
        windows = Windows(store, history, horizon, images=False, features_key=key, future=True)
        rows = Replay(store.spec, history, features=4 if key else 0).extend(store, features_key=key)
        assert len(rows) == len(windows) == store.rows and rows.episodes == len(ENDS)
        assert_same_bits(rows.read(np.arange(store.rows), horizon), to_batch(windows.read(np.arange(store.rows))))


def test_added_one_by_one_or_from_a_store_they_are_the_same_rows(tmp_path, spec, episodes):
    store, added = stored(tmp_path / "d.zarr", spec, episodes), Replay(spec, 2)
    for episode in episodes:
        added.add(episode)
    extended, some = Replay(spec, 2).extend(store), Replay(spec, 2).extend(store, np.array([3, 0]))
    for name in ("state", "features", "action", "reward", "terminal", "source", "to_go"):
        np.testing.assert_array_equal(added.column(name), extended.column(name))
    np.testing.assert_array_equal(some.column("action"), np.concatenate([episodes[3].action, episodes[0].action]))
    assert_same_bits(some.read(np.arange(7), 3), extended.read(np.arange(15, 22), 3))


def short(spec, reward, terminal, source=Source.HUMAN) -> Episode:
    rows, rng = len(reward), np.random.default_rng(0)
    state = {name: rng.normal(size=(rows, part.dim)).astype(np.float32) for name, part in spec.state.items()}
    action = rng.normal(size=(rows, 3)).astype(np.float32)
    of = np.asarray(reward, np.float32)
    return Episode(np.arange(rows) / 20.0, {}, state, action, action, of, np.array(terminal, bool), np.full(rows, source, np.uint8))


def test_returns_to_go_are_discounted_and_stop_at_what_is_terminal(spec):
    rows = Replay(spec, discount=0.5)
    rows.add(short(spec, [1, 2, 4], [0, 0, 0]))
    rows.add(short(spec, [1, 2, 4], [1, 0, 0]))
    rows.add(short(spec, [8], [1]))
    assert rows.column("to_go").tolist() == [3, 4, 4, 1, 4, 4, 8]
    batch = rows.read(np.array([0, 3]), 2)
    assert batch.to_go is not None and batch.to_go.tolist() == [[3, 4], [1, 4]]


def test_past_the_end_nobody_acts_nothing_is_earned_and_nothing_follows(spec):
    rows = Replay(spec)
    rows.add(short(spec, [1, 2], [0, 0]))
    rows.add(short(spec, [4, 8], [0, 1], Source.PLANNER))
    batch = rows.read(np.array([1, 2]), 3)
    assert batch.pad.tolist() == [[False, True, True], [False, False, True]]
    assert batch.reward is not None and batch.reward.tolist() == [[2, 0, 0], [4, 8, 0]]
    assert batch.terminal is not None and batch.terminal.tolist() == [[False] * 3, [False, True, False]]
    assert batch.future_mask is not None and batch.future_mask.tolist() == [[False] * 3, [True, False, False]]
    assert batch.source is not None and batch.source.tolist() == [[Source.HUMAN, 0, 0], [Source.PLANNER, Source.PLANNER, 0]]
    assert batch.action[0, 1:].eq(0).all() and batch.fresh is None


def test_it_grows_and_forgets_nothing(spec):
    rows, total = Replay(spec), []
    for i in range(60):
        total.append(np.arange(50, dtype=np.float32) + 100 * i)
        rows.add(short(spec, total[-1], np.zeros(50)))
        if i == 0:
            early = rows.read(np.arange(50), 2)
    assert len(rows) == 3000 and rows.episodes == 60
    np.testing.assert_array_equal(rows.column("reward"), np.concatenate(total))
    assert_same_bits(rows.read(np.arange(50), 2), early)
    assert rows.read(np.array([49, 2999]), 2).pad.tolist() == [[False, True]] * 2


def test_every_row_is_as_likely_as_any_other_and_a_seed_repeats(spec):
    rows = Replay(spec)
    for seed in range(3):
        rows.add(short(spec, np.arange(2 + 3 * seed) + 10 * seed, np.zeros(2 + 3 * seed)))
    drawn = rows.draw(3000, 1, np.random.default_rng(0)).reward
    assert drawn is not None and torch.equal(drawn, rows.draw(3000, 1, np.random.default_rng(0)).reward)
    counts = np.unique(drawn.numpy(), return_counts=True)[1]
    assert len(counts) == 15 and np.abs(counts - 200).max() < 4 * np.sqrt(200)


def test_what_a_draw_shows_is_its_own_copy(spec):
    rows = Replay(spec)
    rows.add(short(spec, [1, 2], [0, 1]))
    batch = rows.read(np.array([0]), 2)
    assert batch.reward is not None
    for tensor in (batch.action, batch.reward, batch.obs.state):
        tensor.fill_(7.0)
    assert rows.column("reward").tolist() == [1, 2] and not (rows.column("state") == 7).any()


def test_features_must_be_there_where_they_are_expected_and_nowhere_else(spec):
    episode = short(spec, [1, 2], [0, 0])
    for wanted, given in ((4, None), (4, np.zeros((3, 4))), (4, np.zeros((2, 3))), (0, np.zeros((2, 4)))):
        rows = Replay(spec, features=wanted)
        with pytest.raises(ValueError, match=r"^replay: features .*; expected \(2, "):
            rows.add(episode, given)
        assert len(rows) == rows.episodes == 0


def test_without_rows_nothing_can_be_drawn(spec):
    with pytest.raises(ValueError):
        Replay(spec).draw(4, 1, np.random.default_rng(0))
