from __future__ import annotations

import threading

import numpy as np
import pytest
import torch

from robolearn.data.loader import Batches, Sampler
from robolearn.data.store import EpisodeStore
from robolearn.data.windows import Windows


@pytest.fixture
def windows(tmp_path, spec, make_episode):
    with EpisodeStore.create(tmp_path / "d.zarr", spec) as store:
        for rows in (9, 4, 10):
            store.append(make_episode(rows, rows))
    return Windows(store, 2, 2, cameras=("wrist",))


def test_an_epoch_shows_every_index_once():
    sampler = Sampler(10, 4, np.random.default_rng(0))
    drawn = np.concatenate([next(sampler) for _ in range(5)])  # 20 = two epochs, the third batch spans both
    assert sorted(drawn[:10]) == sorted(drawn[10:]) == list(range(10))
    assert drawn[:10].tolist() != drawn[10:].tolist()
    assert len(next(Sampler(3, 8, np.random.default_rng(0)))) == 8


def test_weights_decide_how_often():
    sampler = Sampler(3, 1000, np.random.default_rng(0), np.array([0.0, 0.25, 0.75]))
    counts = np.bincount(next(sampler), minlength=3)
    assert counts[0] == 0 and 200 < counts[1] < 300


@pytest.mark.parametrize("weights", [None, np.full(23, 1 / 23)])
@pytest.mark.parametrize("prefetch", [0, 3])
def test_a_resumed_stream_goes_on_with_the_next_sample(windows, weights, prefetch):
    def fresh(seed: int) -> Batches:
        return Batches(windows, 5, np.random.default_rng(seed), prefetch=prefetch, weights=weights)

    with fresh(0) as whole:
        actions = [next(whole).action for _ in range(12)]
    assert not torch.equal(actions[0], actions[1])
    with fresh(0) as first:
        for _ in range(7):
            next(first)
        state = first.state_dict()
    with fresh(99) as second:
        next(second)
        second.load_state_dict(state)
        for expected in actions[7:]:
            assert torch.equal(next(second).action, expected)


def test_reading_ahead_changes_nothing_and_ends(windows):
    before = threading.active_count()
    with Batches(windows, 6, np.random.default_rng(1), prefetch=0) as plain, Batches(windows, 6, np.random.default_rng(1)) as ahead:
        for _ in range(8):
            one, other = next(plain), next(ahead)
            assert torch.equal(one.action, other.action) and torch.equal(one.obs.images["wrist"], other.obs.images["wrist"])
        ahead.close()
        assert torch.equal(next(plain).action, next(ahead).action)  # closed, and taken up again where it was
    assert threading.active_count() == before


def test_the_order_is_not_disturbed_by_who_else_draws(windows):
    rng = np.random.default_rng(5)
    with Batches(windows, 6, rng, prefetch=2) as batches:
        rng.random(100)
        got = [next(batches).action for _ in range(3)]
    with Batches(windows, 6, np.random.default_rng(5), prefetch=0) as batches:
        assert all(torch.equal(action, next(batches).action) for action in got)


def test_an_error_in_the_thread_reaches_the_reader(windows, monkeypatch):
    monkeypatch.setattr(windows, "batch", lambda indices: 1 / 0)
    with Batches(windows, 6, np.random.default_rng(5)) as batches, pytest.raises(ZeroDivisionError):
        next(batches)


def test_a_state_of_other_data_is_refused(windows):
    state = Sampler(5, 2, np.random.default_rng(0)).state_dict()
    with pytest.raises(ValueError, match="saved over 5 samples, now there are 23"):
        Batches(windows, 2, np.random.default_rng(0)).load_state_dict(state)
