from __future__ import annotations

import numpy as np
import pytest

from hardware.types import ArraySpec, RobotSpec
from robolearn.core.errors import UserError
from robolearn.data.checks import quality as module
from robolearn.data.checks.quality import (
    action_divergence,
    nearest_elsewhere,
    positive_sided_variance,
    quality,
    state_distance,
    trajectory_quality,
    transition_diversity,
    unique_pairs,
)
from robolearn.data.episode import Episode
from robolearn.data.store import EpisodeStore

PATH = np.linspace(0, 1, 50)[:, None]


def demonstrations(*actions: np.ndarray, states: np.ndarray = PATH) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The same states in every episode, each with its own actions -> state, action, episode."""
    count = len(actions)
    return np.tile(states, (count, 1)), np.concatenate(actions), np.repeat(np.arange(count), len(states))


def test_identical_demonstrations_do_not_diverge():
    state, action, episode = demonstrations(*[np.sin(5 * PATH)] * 4)
    assert (action_divergence(state, action, episode) == 0).all()
    assert (state_distance(state, episode) == 0).all()


def test_two_demonstrations_that_go_two_ways():
    """+1 and -1 in the same state: half of 2 squared is 2, the variance of all is 1; 2 is the unbiased variance of a pair."""
    state, action, episode = demonstrations(np.ones((50, 1)), -np.ones((50, 1)))
    assert action_divergence(state, action, episode) == pytest.approx(np.full(100, 2.0))


def test_many_demonstrations_that_go_two_ways():
    """As many of one as of the other: all of the actions' variance is divergence, whichever neighbour is taken."""
    rng = np.random.default_rng(0)
    states = [PATH + rng.normal(0, 1e-3, PATH.shape) for _ in range(200)]
    action = np.concatenate([np.full((50, 1), (-1.0) ** i) for i in range(200)])
    found = action_divergence(np.concatenate(states), action, np.repeat(np.arange(200), 50))
    assert found is not None and found.mean() == pytest.approx(1.0, abs=0.05)


def test_noise_on_the_actions_is_what_diverges():
    """Actions s + noise: the noise's share of the variance, 0.1^2 / (0.1^2 + 1/12)."""
    rng = np.random.default_rng(0)
    state = rng.uniform(0, 1, (20_000, 1))
    action = state + rng.normal(0, 0.1, state.shape)
    found = action_divergence(state, action, np.repeat(np.arange(100), 200))
    assert found is not None and found.mean() == pytest.approx(0.01 / (0.01 + 1 / 12), rel=0.05)


def test_divergence_tells_the_episode_that_does_otherwise():
    rng = np.random.default_rng(0)
    actions = [np.sin(5 * PATH) + rng.normal(0, 0.01, PATH.shape) for _ in range(9)]
    state, action, episode = demonstrations(*actions, 1 - np.sin(5 * PATH))
    found = action_divergence(state, action, episode)
    assert found is not None
    each = np.bincount(episode, found) / 50
    assert each.argmax() == 9 and each[9] > 3 * np.sort(each)[-2]


def test_transitions():
    """Deterministic: nothing is left. Noise on every step: its share of the steps' variance."""
    rng = np.random.default_rng(0)
    state, action = rng.uniform(0, 1, (20_000, 1)), rng.uniform(0, 1, (20_000, 1))
    episode = np.repeat(np.arange(100), 200)
    exact = transition_diversity(state, action, state + action, episode)
    noisy = transition_diversity(state, action, state + action + rng.normal(0, 0.2, state.shape), episode)
    assert exact is not None and exact.mean() < 0.002
    assert noisy is not None and noisy.mean() == pytest.approx(0.04 / (0.04 + 1 / 12), rel=0.05)


def test_a_row_never_finds_its_own_episode():
    rng = np.random.default_rng(0)
    points, episode = rng.normal(size=(500, 3)), np.repeat(np.arange(10), 50)
    found = nearest_elsewhere(points, episode, seed=4)
    assert found is not None and (episode[found.row] != episode).all()
    assert found.distance == pytest.approx(np.sqrt(((points - points[found.row]) ** 2).mean(axis=1)))
    again = nearest_elsewhere(points, episode, seed=4)
    assert again is not None and (again.row == found.row).all()


def test_a_known_distance():
    state, _, episode = demonstrations(PATH, PATH)
    shifted = state + 0.3 * (episode == 1)[:, None] * [1.0]
    apart = np.concatenate([shifted, np.zeros_like(shifted)], axis=1)  # a second element that never differs
    found = state_distance(apart, episode)
    assert found is not None and found[0] == pytest.approx(0.3 / np.sqrt(2)) and found[-1] == pytest.approx(0.3 / np.sqrt(2))


def test_one_episode_has_nobody_to_differ_from():
    assert action_divergence(PATH, PATH, np.zeros(50, int)) is None
    assert state_distance(PATH, np.zeros(50, int)) is None


def test_without_a_state_nothing_follows_from_it():
    nothing, episode = np.zeros((50, 0)), np.arange(50) // 25
    assert action_divergence(nothing, PATH, episode) is None and state_distance(nothing, episode) is None
    assert transition_diversity(nothing, PATH, nothing, episode) is None


def test_trajectory_quality():
    found = trajectory_quality(np.array([1.0, 2.0, 4.0]), 0.0, 4.0)
    assert found is not None and found.tolist() == [0.25, 0.5, 1.0]
    assert trajectory_quality(np.ones(3), 1.0, 1.0) is None


def test_unique_pairs_are_counted():
    state, action = np.array([[0.05], [0.06], [0.15], [0.95], [0.95]]), np.array([[0.0], [0.0], [0.0], [0.0], [0.99]])
    low, high = np.zeros(2), np.ones(2)
    assert unique_pairs(state, action, low, high) == 4
    assert unique_pairs(state, action, low, high, bins=1) == 1
    assert unique_pairs(state + 7, action, low, high) == 2  # beyond the grid counts as its end
    assert unique_pairs(np.arange(1000)[:, None] / 1000, np.zeros((1000, 1)), low, high) == 10
    assert unique_pairs(np.zeros((5, 0)), np.array([[0.0], [0.0], [0.5], [1.0], [1.0]]), np.zeros(1), np.ones(1)) == 3


def test_return_spread():
    assert positive_sided_variance(np.ones(5)) == 0
    assert positive_sided_variance(np.array([0.0, 1.0])) == 0.125
    assert positive_sided_variance(np.array([0.0] * 9 + [1.0])) == pytest.approx(0.9**2 / 10)  # one good among ten
    assert positive_sided_variance(np.array([1.0] * 9 + [0.0])) == pytest.approx(0.1**2 * 0.9)  # one bad among ten


# Of a whole store ------------------------------------------------------------------------------------------------------

SPEC = RobotSpec("point", {}, {"p": ArraySpec(("x",), ("m",), (0.0,), (1.0,))}, ArraySpec(("dx",), ("m",), (-1.0,), (1.0,)), "delta", 10.0)


def make_store(path, episodes: list[tuple[np.ndarray, np.ndarray, float]]) -> EpisodeStore:
    """episodes: (state (T, 1), action (T, 1), reward at the end)."""
    with EpisodeStore.create(path, SPEC) as store:
        for state, action, reward in episodes:
            rows = len(state)
            store.append(
                Episode(
                    time=np.arange(rows) / 10,
                    images={},
                    state={"p": state.astype(np.float32)},
                    action=action.astype(np.float32),
                    requested_action=action.astype(np.float32),
                    reward=np.eye(rows, dtype=np.float32)[-1] * np.float32(reward),
                    terminal=np.zeros(rows, bool),
                    source=np.full(rows, 2, np.uint8),
                )
            )
    return store


def test_all_measures_of_a_store(tmp_path):
    store = make_store(tmp_path / "a.zarr", [(PATH, np.sin(5 * PATH), reward) for reward in (0, 0, 1, 2)])
    found = {m.name: m for m in quality(store)}
    assert found["action divergence"].value == 0 and found["transition diversity"].value == 0 and found["state distance"].value == 0
    assert found["TQ"].value == pytest.approx(3 / 8)
    assert found["TQ"].episodes is not None and found["TQ"].episodes.tolist() == [0, 0, 0.5, 1]
    assert found["return spread"].value == pytest.approx((0.125**2 + 0.625**2) / 4)
    pairs = found["unique pairs"].value
    assert pairs is not None and 10 <= pairs <= 50 and found["unique pairs per row"].value == pytest.approx(pairs / 200)
    assert all(m.source.split(" ")[0] in ("Belkhale", "Schweighofer", "Hong") for m in found.values())


def test_against_a_reference(tmp_path):
    half = make_store(tmp_path / "half.zarr", [(PATH[:25], np.zeros((25, 1)), 1), (PATH[:25], np.zeros((25, 1)), 2)])
    full = make_store(tmp_path / "full.zarr", [(PATH, np.zeros((50, 1)), 5), (PATH, np.zeros((50, 1)), 0)])
    found = {m.name: m.value for m in quality(half, full)}
    assert found["SACo"] == pytest.approx(0.5) and "unique pairs" not in found
    assert found["TQ"] == pytest.approx(1.5 / 5)
    assert {m.name: m.value for m in quality(full, half)}["SACo"] == pytest.approx(2.0)


def test_what_is_not_defined_says_why(tmp_path):
    found = {m.name: m for m in quality(make_store(tmp_path / "a.zarr", [(PATH, PATH, 1)]))}
    assert found["action divergence"].value is None and "takes two episodes" in found["action divergence"].meaning
    assert found["TQ"].value is None and "all returns are equal" in found["TQ"].meaning and "return spread" not in found


def test_a_large_store_is_thinned_the_same_way_every_time(tmp_path, monkeypatch):
    rng = np.random.default_rng(0)
    store = make_store(tmp_path / "a.zarr", [(rng.uniform(size=(100, 1)), rng.uniform(size=(100, 1)), 0) for _ in range(8)])
    monkeypatch.setattr(module, "MOST_ROWS", 200)
    one, two, other = (quality(store, seed=seed)[0] for seed in (0, 0, 1))
    assert one.value == two.value != other.value
    assert "200 of 792 rows" in one.source


def test_one_row_each_and_another_robot(tmp_path):
    tiny = make_store(tmp_path / "a.zarr", [(np.zeros((1, 1)), np.zeros((1, 1)), 0), (np.ones((1, 1)), np.ones((1, 1)), 1)])
    found = {m.name: m.value for m in quality(tiny)}
    assert found["action divergence"] is None and found["TQ"] == 0.5  # there is no transition to look at
    other = RobotSpec("b", {}, {}, SPEC.action, "delta", 10.0)
    EpisodeStore.create(tmp_path / "b.zarr", other).close()
    with pytest.raises(UserError, match="cannot be compared"):
        quality(tiny, EpisodeStore.open(tmp_path / "b.zarr"))
