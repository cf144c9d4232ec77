from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from robolearn.core.errors import UserError
from robolearn.data.checks.duplicates import NEAR, twins
from robolearn.data.store import EpisodeStore


@pytest.fixture
def make_store(spec, tmp_path):
    def make(name, episodes, its_spec=spec):
        with EpisodeStore.create(tmp_path / name, its_spec) as store:
            for episode in episodes:
                store.append(episode)
        return store

    return make


def slow(episode, factor: float):
    """The same with noise of `factor` standard deviations added to the states: white noise of size 1 before."""
    noise = np.random.default_rng(9)
    state = {k: v + factor * noise.normal(size=v.shape).astype(np.float32) for k, v in episode.state.items()}
    return replace(episode, state=state)


def test_a_copy_is_found_whatever_its_pictures_and_meta(make_store, make_episode):
    copy = replace(make_episode(30, 1), images=make_episode(30, 5).images, meta={"other": 1})
    found = twins(make_store("a.zarr", [make_episode(30, 1), make_episode(30, 2), copy]))
    assert [(t.index, t.exact, t.distance) for t in found if t and t.exact] == [(2, True, 0.0), (0, True, 0.0)]
    assert found[1] is not None and not found[1].near


def test_the_same_episode_in_training_and_test(make_store, make_episode):
    train = make_store("train.zarr", [make_episode(20 + i, i) for i in range(6)])
    test = make_store("test.zarr", [make_episode(23, 3), make_episode(40, 77)])
    found = twins(train, test)
    assert [(t.store, t.index) for t in found if t and t.near] == [(str(test.path), 0)]
    assert found[3] is not None and found[3].exact
    assert all(t is not None and not t.near for t in twins(train))  # without the test set there is none


def test_distance_is_in_shares_of_the_ranges(make_store, make_episode):
    """White noise of deviation s on N(0, 1) states moves each by s; the range of a normal from 1 to 99 % is 4.65."""
    one = make_episode(32, 1)
    others = [make_episode(300, i) for i in range(2, 5)]  # for a well known range
    for s in (0.01, 0.2):
        found = twins(make_store(f"{s}.zarr", [one, slow(one, s), *others]))[0]
        assert found is not None and found.index == 1 and not found.exact
        assert found.distance == pytest.approx(s / 4.65 * np.sqrt(3 / 6), rel=0.15)  # three of six elements are states
        assert found.near == (found.distance < NEAR) == (s == 0.01)


def test_one_episode_has_no_twin(make_store, make_episode):
    assert twins(make_store("a.zarr", [make_episode(5)])) == [None]
    assert [t and t.index for t in twins(make_store("b.zarr", [make_episode(1), make_episode(1, 2)]))] == [1, 0]


def test_a_store_of_another_robot(make_store, make_episode, spec):
    other = replace(spec, state={"q": spec.state["q"]})
    episode = make_episode(5)
    mine = make_store("mine.zarr", [episode])
    theirs = make_store("theirs.zarr", [replace(episode, state={"q": episode.state["q"]})], other)
    with pytest.raises(UserError, match=r"theirs.zarr: cannot be compared with .*mine.zarr: grip is absent, not grip"):
        twins(mine, theirs)
